//! Checkpoints in PostgreSQL: which rows may be replaced, and replacing them.
//!
//! Fed by `proof::checkpoint`, which proves the rows and signs. What is asked here was asked a moment ago as well:
//! inside the transaction it is looked at once more, so that a row that got its payload after all, or is due for
//! analysis again, stays.

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BatchSeq, EpochId, SignedCheckpoint, Span};
use sqlx::{AssertSqlSafe, PgConnection};

use super::error::{damaged, failed};
use super::{ledger, partitions, store};
use crate::store::{Limits, Replaceable, Result};

/// Microseconds.
const DAY: i64 = 86_400_000_000;
/// Rows that one checkpoint takes in at most: what one transaction deletes.
const ROWS: usize = 1024;
/// A batch's row that must stay: its payload is kept, something is due on it, or it has come too recently.
macro_rules! stays {
    ($horizon:literal) => {
        concat!("(p.expired_at IS NULL OR l.unread OR l.analysed <> 1 OR l.received_at >= ", $horizon, ")")
    };
}

/// See `LedgerStore::replaceable`.
pub(super) async fn replaceable(
    connection: &mut PgConnection,
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<Replaceable>> {
    let horizon = if presses(connection, limits).await? {
        i64::MAX
    } else {
        let age = i64::try_from(limits.header_age_seconds()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        // A whole day goes at once: each checkpoint is a synced commit.
        now.as_micros().saturating_sub(age).div_euclid(DAY).saturating_mul(DAY)
    };
    // A fold has no payload: it is as old as the payloads that came with it.
    let folds_before = horizon.min(kept_since(connection).await?);
    let epochs: Vec<([u8; 16], [u8; 16], i64, i64)> = sqlx::query_as(
        "SELECT e.node, e.epoch, coalesce(c.last, 0), e.through FROM epoch e
         LEFT JOIN checkpoint c ON c.node = e.node AND c.epoch = e.epoch WHERE e.through > coalesce(c.last, 0)",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("looking for rows to replace"))?;
    let mut found = Vec::new();
    for (node, epoch, after, through) in epochs {
        let place = (NodeId::from_bytes(node), EpochId::from_bytes(epoch));
        if let Some((through, since)) =
            run(connection, place, (after, through), [horizon, folds_before]).await?
        {
            found.push(Replaceable { node: place.0, epoch: place.1, through, since });
        }
    }
    found.sort_by_key(|replaceable| replaceable.since);
    Ok(found)
}

/// See `LedgerStore::replace`.
pub(super) async fn replace(
    connection: &mut PgConnection,
    checkpoint: &SignedCheckpoint,
    after: Option<BatchSeq>,
) -> Result<bool> {
    let attempt = "replacing rows by a checkpoint";
    let said = checkpoint.unverified();
    let (node, epoch) = (said.node.as_bytes(), said.epoch.as_bytes());
    let (before, last) = (after.map_or(0, BatchSeq::as_i64), said.last.number.as_i64());
    store::lock_nodes(connection, [said.node]).await?;
    let known: Option<i64> = sqlx::query_scalar(
        "SELECT coalesce((SELECT last FROM checkpoint c WHERE c.node = e.node AND c.epoch = e.epoch), 0)
         FROM epoch e WHERE e.node = $1 AND e.epoch = $2 FOR UPDATE OF e",
    )
    .bind(node)
    .bind(epoch)
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    if known != Some(before) || last <= before {
        return Ok(false);
    }
    let free: bool = sqlx::query_scalar(concat!(
        "SELECT EXISTS (SELECT 1 FROM epoch WHERE node = $1 AND epoch = $2 AND through >= $4)
            AND NOT EXISTS (SELECT 1 FROM ledger l JOIN partition p ON p.day = l.day
                WHERE l.node = $1 AND l.epoch = $2 AND l.seq > $3 AND l.seq <= $4 AND ",
        stays!("9223372036854775807"),
        ") AND NOT EXISTS (SELECT 1 FROM fold WHERE node = $1 AND epoch = $2 AND first <= $4 AND last > $4)"
    ))
    .bind(node)
    .bind(epoch)
    .bind(before)
    .bind(last)
    .fetch_one(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    if !free {
        return Ok(false);
    }
    sqlx::query(
        "INSERT INTO checkpoint (node, epoch, last, digest, signed, made_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node, epoch) DO UPDATE SET last = excluded.last, digest = excluded.digest,
            signed = excluded.signed, made_at = excluded.made_at",
    )
    .bind(node)
    .bind(epoch)
    .bind(last)
    .bind(said.last.digest.as_bytes())
    .bind(checkpoint.as_bytes())
    .bind(said.time.as_micros())
    .execute(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    for sql in [
        // Locks the rows first, so that no detection comes to rest on one that is about to go.
        "WITH held AS (SELECT id FROM ledger WHERE node = $1 AND epoch = $2 AND seq > $3 AND seq <= $4 ORDER BY id FOR UPDATE)
         UPDATE ledger l SET checkpointed = TRUE FROM held
         WHERE l.id = held.id AND EXISTS (SELECT 1 FROM detection d WHERE d.batch = l.id)",
        "DELETE FROM ledger WHERE node = $1 AND epoch = $2 AND seq > $3 AND seq <= $4 AND NOT checkpointed",
        "DELETE FROM fold WHERE node = $1 AND epoch = $2 AND last > $3 AND last <= $4",
        "DELETE FROM lost_range WHERE node = $1 AND epoch = $2 AND last <= $4 AND $3 = $3",
    ] {
        sqlx::query(sql)
            .bind(node)
            .bind(epoch)
            .bind(before)
            .bind(last)
            .execute(&mut *connection)
            .await
            .map_err(failed(attempt))?;
    }
    Ok(true)
}

/// See `LedgerStore::checkpoint`.
pub(super) async fn stored(
    connection: &mut PgConnection,
    node: NodeId,
    epoch: EpochId,
) -> Result<Option<SignedCheckpoint>> {
    let bytes: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT signed FROM checkpoint WHERE node = $1 AND epoch = $2")
            .bind(node.as_bytes())
            .bind(epoch.as_bytes())
            .fetch_optional(connection)
            .await
            .map_err(failed("reading a checkpoint"))?;
    bytes.map(|bytes| SignedCheckpoint::parse(&bytes).map_err(damaged("checkpoint"))).transpose()
}

/// See `LedgerStore::lost`.
pub(super) async fn lost(connection: &mut PgConnection, node: NodeId, epoch: EpochId) -> Result<Vec<Span>> {
    let spans: Vec<(i64, i64)> =
        sqlx::query_as("SELECT first, last FROM lost_range WHERE node = $1 AND epoch = $2 ORDER BY first")
            .bind(node.as_bytes())
            .bind(epoch.as_bytes())
            .fetch_all(connection)
            .await
            .map_err(failed("listing lost numbers"))?;
    let spans: Vec<Option<Span>> = spans
        .into_iter()
        .map(|(first, last)| Ok(Span::new(ledger::number(first)?, ledger::number(last)?)))
        .collect::<Result<_>>()?;
    Ok(spans.into_iter().flatten().collect())
}

/// Removes rows that a checkpoint stands for and on which no detection rests any more.
pub(super) async fn release(connection: &mut PgConnection) -> Result<()> {
    sqlx::query(
        "DELETE FROM ledger WHERE checkpointed AND NOT EXISTS (SELECT 1 FROM detection d WHERE d.batch = ledger.id)",
    )
    .execute(connection)
    .await
    .map_err(failed("removing replaced rows"))?;
    Ok(())
}

/// Whether headers have to go before their time. Tables do not shrink when rows go, so their size is what they hold at
/// most: new rows take the room.
async fn presses(connection: &mut PgConnection, limits: Limits) -> Result<bool> {
    let sql = format!(
        "SELECT coalesce(pg_total_relation_size('ledger') + pg_total_relation_size('fold')
                + pg_total_relation_size('forked_batch'), 0)::bigint,
            coalesce((SELECT sum({}) FROM partition WHERE expired_at IS NULL), 0)::bigint",
        partitions::SIZE
    );
    let (ledger, payloads): (i64, i64) = sqlx::query_as(AssertSqlSafe(sql))
        .fetch_one(connection)
        .await
        .map_err(failed("measuring the store"))?;
    let (ledger, payloads) = (ledger.unsigned_abs(), payloads.unsigned_abs());
    Ok(ledger > limits.ledger_bytes() && ledger.saturating_add(payloads) > limits.max_bytes)
}

/// When the oldest batch came whose payload is still kept.
async fn kept_since(connection: &mut PgConnection) -> Result<i64> {
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT l.received_at FROM partition p JOIN ledger l ON l.day = p.day
         WHERE p.expired_at IS NULL ORDER BY p.day, l.id LIMIT 1",
    )
    .fetch_optional(connection)
    .await
    .map_err(failed("looking for the oldest payload"))?;
    Ok(found.unwrap_or(i64::MAX))
}

/// How far an epoch's rows after `after` may go, at most through `through`, and when the first of them came.
async fn run(
    connection: &mut PgConnection,
    (node, epoch): (NodeId, EpochId),
    (after, through): (i64, i64),
    [horizon, folds_before]: [i64; 2],
) -> Result<Option<(BatchSeq, Timestamp)>> {
    let attempt = "looking for rows to replace";
    let batches: Vec<(i64, i64, i64, bool)> = sqlx::query_as(concat!(
        "SELECT l.seq, l.seq, l.received_at, ",
        stays!("$6"),
        " FROM ledger l JOIN partition p ON p.day = l.day
          WHERE l.node = $1 AND l.epoch = $2 AND l.seq > $3 AND l.seq <= $5 ORDER BY l.seq LIMIT $4"
    ))
    .bind(node.as_bytes())
    .bind(epoch.as_bytes())
    .bind(after)
    .bind(ROWS as i64)
    .bind(through)
    .bind(horizon)
    .fetch_all(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    let folds: Vec<(i64, i64, i64, bool)> = sqlx::query_as(
        "SELECT first, last, received_at, received_at >= $6 FROM fold
         WHERE node = $1 AND epoch = $2 AND last > $3 AND first <= $5 ORDER BY first LIMIT $4",
    )
    .bind(node.as_bytes())
    .bind(epoch.as_bytes())
    .bind(after)
    .bind(ROWS as i64)
    .bind(through)
    .bind(folds_before)
    .fetch_all(connection)
    .await
    .map_err(failed(attempt))?;
    let Some((last, since)) = reach(batches, folds, after, through) else { return Ok(None) };
    Ok(Some((ledger::number(last)?, Timestamp::from_micros(since))))
}

/// How far rows may go in one checkpoint, and when the first of them came. Each is its first and last number, when it
/// came and whether it stays; what lies above one that stays stays too.
fn reach(
    mut rows: Vec<(i64, i64, i64, bool)>,
    folds: Vec<(i64, i64, i64, bool)>,
    after: i64,
    through: i64,
) -> Option<(i64, i64)> {
    // Of batches beyond those that were looked at nothing is known.
    let end = if rows.len() < ROWS { through } else { rows.last().map_or(after, |row| row.0) };
    rows.extend(folds.into_iter().filter(|fold| fold.0 <= end));
    rows.sort_unstable();
    let mut found: Option<(i64, i64)> = None;
    for (_, last, received_at, _) in rows.into_iter().take_while(|row| !row.3).take(ROWS) {
        let (reached, since) = found.unwrap_or((last, received_at));
        found = Some((reached.max(last), since));
    }
    found
}
