//! What stored batches change besides their rows: losses found and made good, and the sums of a `Tally`.
//!
//! Fed by `store` inside its transaction, which holds the locks of every node named here.

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BootId, Span, header::Link};
use sqlx::PgConnection;

use super::error::failed;
use super::nodes;
use super::rows::{Note, Writing};
use super::unit::Unit;
use crate::store::judge::{Place, Suspicion};
use crate::store::tally::{ClockFacts, Lost, Tally, broken_links, gap};
use crate::store::{BatchKey, FlagKind, NewFlag, Result};

/// Writes what a call's judgements found and its sums.
pub(super) async fn write(unit: &mut Unit<'_>, writing: &Writing<'_>) -> Result<()> {
    for note in &writing.notes {
        write_note(unit.sql(), note).await?;
    }
    write_tally(unit.sql(), &writing.tally).await?;
    unit.changes.extend(writing.tally.changes.iter().cloned());
    Ok(())
}

/// Writes sums.
pub(super) async fn write_tally(connection: &mut PgConnection, tally: &Tally) -> Result<()> {
    for ((node, source, reason), lost) in &tally.losses {
        lose(connection, *node, source, reason, *lost).await?;
    }
    for ((node, boot), facts) in &tally.clocks {
        clock(connection, *node, *boot, *facts).await?;
    }
    for (node, said) in &tally.coverage {
        nodes::cover(connection, *node, said).await?;
    }
    for flag in &tally.flags {
        nodes::raise(connection, flag).await?;
    }
    for (node, arrived) in &tally.arrived {
        nodes::arrived(connection, *node, *arrived).await?;
    }
    let (mut minutes, mut of, mut events) = (Vec::new(), Vec::new(), Vec::new());
    for ((minute, node), count) in &tally.minutes {
        minutes.push(*minute);
        of.push(*node.as_bytes());
        events.push(nodes::count(*count));
    }
    if minutes.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO arrival (minute, node, events)
         SELECT * FROM UNNEST($1::bigint[], $2::bytea[], $3::bigint[])
         ON CONFLICT (minute, node) DO UPDATE SET events = arrival.events + excluded.events",
    )
    .bind(minutes)
    .bind(of)
    .bind(events)
    .execute(connection)
    .await
    .map_err(failed("counting arrivals"))?;
    Ok(())
}

/// Records numbers that are missing for good.
pub(super) async fn record_lost(
    connection: &mut PgConnection,
    (node, epoch): Place,
    span: Span,
    at: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO lost_range (node, epoch, first, last, recorded_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (node, epoch, first) DO UPDATE SET last = greatest(lost_range.last, excluded.last)",
    )
    .bind(node.as_bytes())
    .bind(epoch.as_bytes())
    .bind(span.first().as_i64())
    .bind(span.last().as_i64())
    .bind(at.as_micros())
    .execute(connection)
    .await
    .map_err(failed("recording a loss"))?;
    Ok(())
}

async fn write_note(connection: &mut PgConnection, note: &Note<'_>) -> Result<()> {
    let (key, at) = (&note.key, note.at);
    for flag in broken_links(key, &note.judgement, at) {
        nodes::raise(connection, &flag).await?;
    }
    for span in &note.judgement.lost {
        record_lost(connection, (key.node, key.epoch), *span, at).await?;
        nodes::raise(connection, &gap(key.node, key.epoch, *span, at)).await?;
    }
    recover(connection, key, &note.judgement.recovered, at).await?;
    if let Link::Unknown { why, .. } = note.link {
        let suspicious = match Suspicion::of(*why) {
            Suspicion::No => false,
            Suspicion::Yes => true,
            Suspicion::IfNotTheFirst => has_another_first(connection, key).await?,
        };
        if suspicious {
            let (node, epoch, detail) = (key.node, key.epoch, why.as_str().to_owned());
            let flag = NewFlag { node, epoch, seq: None, kind: FlagKind::UnknownPredecessor, detail, at };
            nodes::raise(connection, &flag).await?;
        }
    }
    Ok(())
}

/// Whether another epoch of the node is known to begin without a predecessor.
async fn has_another_first(connection: &mut PgConnection, key: &BatchKey) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM epoch e
         WHERE e.node = $1 AND e.epoch <> $2 AND e.predecessor IS NULL AND e.state <> '' AND (
             EXISTS (SELECT 1 FROM ledger l WHERE l.node = $1 AND l.epoch = e.epoch AND l.seq = 1)
             OR EXISTS (SELECT 1 FROM fold f WHERE f.node = $1 AND f.epoch = e.epoch AND f.first = 1)
             OR EXISTS (SELECT 1 FROM checkpoint c WHERE c.node = $1 AND c.epoch = e.epoch)))",
    )
    .bind(key.node.as_bytes())
    .bind(key.epoch.as_bytes())
    .fetch_one(connection)
    .await
    .map_err(failed("looking for earlier epochs"))
}

/// Numbers recorded lost came after all: the record is cut to what is still lost; a gap that is whole again is closed.
async fn recover(
    connection: &mut PgConnection,
    key: &BatchKey,
    recovered: &[Span],
    at: Timestamp,
) -> Result<()> {
    let attempt = "amending a loss";
    for span in recovered {
        let cut: Vec<(i64, i64, i64)> = sqlx::query_as(
            "DELETE FROM lost_range WHERE node = $1 AND epoch = $2 AND first <= $4 AND last >= $3
             RETURNING first, last, recorded_at",
        )
        .bind(key.node.as_bytes())
        .bind(key.epoch.as_bytes())
        .bind(span.first().as_i64())
        .bind(span.last().as_i64())
        .fetch_all(&mut *connection)
        .await
        .map_err(failed(attempt))?;
        for (from, to, recorded_at) in cut {
            for (first, last) in [(from, span.first().as_i64() - 1), (span.last().as_i64() + 1, to)] {
                if first <= last {
                    put_back(connection, key, (first, last, recorded_at)).await?;
                }
            }
        }
    }
    if recovered.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE flag SET closed_at = $3, closed_by = 'collector' WHERE node = $1 AND epoch = $2 AND kind = 'gap'
            AND closed_at IS NULL AND NOT EXISTS (SELECT 1 FROM lost_range l WHERE l.node = $1 AND l.epoch = $2)",
    )
    .bind(key.node.as_bytes())
    .bind(key.epoch.as_bytes())
    .bind(at.as_micros())
    .execute(connection)
    .await
    .map_err(failed(attempt))?;
    Ok(())
}

async fn put_back(
    connection: &mut PgConnection,
    key: &BatchKey,
    (first, last, recorded_at): (i64, i64, i64),
) -> Result<()> {
    sqlx::query("INSERT INTO lost_range (node, epoch, first, last, recorded_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(key.node.as_bytes())
        .bind(key.epoch.as_bytes())
        .bind(first)
        .bind(last)
        .bind(recorded_at)
        .execute(connection)
        .await
        .map_err(failed("amending a loss"))?;
    Ok(())
}

async fn lose(
    connection: &mut PgConnection,
    node: NodeId,
    source: &str,
    reason: &str,
    lost: Lost,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO loss (node, source, reason, count, unknown, last_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node, source, reason) DO UPDATE SET unknown = loss.unknown + excluded.unknown,
            last_at = excluded.last_at, count = CASE WHEN loss.count > 9223372036854775807 - excluded.count
                THEN 9223372036854775807 ELSE loss.count + excluded.count END",
    )
    .bind(node.as_bytes())
    .bind(source)
    .bind(reason)
    .bind(lost.count)
    .bind(lost.unknown)
    .bind(lost.last_at)
    .execute(connection)
    .await
    .map_err(failed("adding up losses"))?;
    Ok(())
}

/// Takes a boot's clock facts in. Batches of a boot whose step becomes known are due for analysis again.
async fn clock(connection: &mut PgConnection, node: NodeId, boot: BootId, facts: ClockFacts) -> Result<()> {
    let before = nodes::clock_shift(connection, node, boot).await?;
    for (fact, sql) in [
        (
            facts.unsynced,
            "INSERT INTO clock (node, boot, unsynced_at, unsynced) VALUES ($1, $2, $3, $4)
             ON CONFLICT (node, boot) DO UPDATE SET unsynced_at = excluded.unsynced_at, unsynced = excluded.unsynced
             WHERE clock.unsynced_at IS NULL OR clock.unsynced_at > excluded.unsynced_at",
        ),
        (
            facts.synced,
            "INSERT INTO clock (node, boot, synced_at, synced) VALUES ($1, $2, $3, $4)
             ON CONFLICT (node, boot) DO UPDATE SET synced_at = excluded.synced_at, synced = excluded.synced
             WHERE clock.synced_at IS NULL OR clock.synced_at > excluded.synced_at",
        ),
    ] {
        let Some((since_boot, offset)) = fact else { continue };
        sqlx::query(sql)
            .bind(node.as_bytes())
            .bind(boot.as_bytes())
            .bind(since_boot)
            .bind(offset)
            .execute(&mut *connection)
            .await
            .map_err(failed("noting a clock"))?;
    }
    if nodes::clock_shift(connection, node, boot).await? != before {
        sqlx::query(
            "UPDATE ledger SET analysed = 2 WHERE node = $1 AND boot = $2 AND analysed = 1 AND events > 0
                AND eviction IS NULL",
        )
        .bind(node.as_bytes())
        .bind(boot.as_bytes())
        .execute(connection)
        .await
        .map_err(failed("marking a boot's batches for another look"))?;
    }
    Ok(())
}
