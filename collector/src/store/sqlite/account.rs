//! What a stored batch changes besides its row: losses found and made good, losses declared, clocks, coverage, flags.
//!
//! Fed by `store` inside its transaction; every function here adds to sums and flags and decides nothing.

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{
    BootId, EpochId, Judgement, Loss, Span, TimeRange, UnknownPredecessor, facts::Clocks, header::Link,
};
use rusqlite::{Connection, params};

use super::error::failed;
use super::ledger::key_parameters;
use super::nodes;
use super::writer::Unit;
use crate::store::{BatchKey, Change, FlagKind, NewBatch, NewFlag, NewPayload, Result};

/// Records what a judgement found besides its verdict.
pub(super) fn note(
    connection: &Connection,
    key: &BatchKey,
    link: &Link,
    judgement: &Judgement,
    at: Timestamp,
) -> Result<()> {
    for number in &judgement.broken {
        let detail = "does not continue the batch stored below it".to_owned();
        let flag = NewFlag {
            node: key.node,
            epoch: key.epoch,
            seq: Some(*number),
            kind: FlagKind::BrokenLink,
            detail,
            at,
        };
        nodes::raise(connection, &flag)?;
    }
    record_lost(connection, key.node, key.epoch, &judgement.lost, at)?;
    recover(connection, key, &judgement.recovered, at)?;
    if let Link::Unknown { why, .. } = link
        && is_suspicious(connection, key, *why)?
    {
        let (node, epoch, detail) = (key.node, key.epoch, why.as_str().to_owned());
        let flag = NewFlag { node, epoch, seq: None, kind: FlagKind::UnknownPredecessor, detail, at };
        nodes::raise(connection, &flag)?;
    }
    Ok(())
}

/// Whether an epoch that names no predecessor is worth telling: a first start of a new node is not, and neither is
/// the new epoch that a fork was answered with.
fn is_suspicious(connection: &Connection, key: &BatchKey, why: UnknownPredecessor) -> Result<bool> {
    match why {
        UnknownPredecessor::Forked => Ok(false),
        UnknownPredecessor::SpoolCorrupt | UnknownPredecessor::SpoolMissing => Ok(true),
        // Later epochs may have come first, the urgent batches of one even before the batch that names its predecessor:
        // only another one that is known to begin without a predecessor contradicts this one.
        UnknownPredecessor::FirstStart => connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM epoch e
                 WHERE e.node = ?1 AND e.epoch <> ?2 AND e.predecessor IS NULL AND (
                     EXISTS (SELECT 1 FROM ledger l WHERE l.node = ?1 AND l.epoch = e.epoch AND l.seq = 1)
                     OR EXISTS (SELECT 1 FROM fold f WHERE f.node = ?1 AND f.epoch = e.epoch AND f.first = 1)
                     OR EXISTS (SELECT 1 FROM checkpoint c WHERE c.node = ?1 AND c.epoch = e.epoch)))",
            )
            .and_then(|mut query| {
                query.query_row([key.node.as_bytes(), key.epoch.as_bytes()], |row| row.get(0))
            })
            .map_err(failed("looking for earlier epochs")),
    }
}

pub(super) fn record_lost(
    connection: &Connection,
    node: NodeId,
    epoch: EpochId,
    lost: &[Span],
    at: Timestamp,
) -> Result<()> {
    for span in lost {
        connection
            .execute(
                "INSERT INTO lost_range (node, epoch, first, last, recorded_at) VALUES (?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT DO UPDATE SET last = max(last, excluded.last)",
                params![
                    node.as_bytes(),
                    epoch.as_bytes(),
                    span.first().as_i64(),
                    span.last().as_i64(),
                    at.as_micros()
                ],
            )
            .map_err(failed("recording a loss"))?;
        let detail = format!("batches {span} never came and the node holds them no more");
        nodes::raise(
            connection,
            &NewFlag { node, epoch, seq: Some(span.first()), kind: FlagKind::Gap, detail, at },
        )?;
    }
    Ok(())
}

/// Numbers recorded lost came after all: the record is cut to what is still lost; a gap that is whole again is closed.
fn recover(connection: &Connection, key: &BatchKey, recovered: &[Span], at: Timestamp) -> Result<()> {
    let attempt = "amending a loss";
    let (node, epoch, _) = key_parameters(key);
    for span in recovered {
        let (first, last) = (span.first().as_i64(), span.last().as_i64());
        let overlapping: Vec<(i64, i64, i64)> = connection
            .prepare_cached(
                "DELETE FROM lost_range WHERE node = ?1 AND epoch = ?2 AND first <= ?4 AND last >= ?3
                 RETURNING first, last, recorded_at",
            )
            .and_then(|mut statement| {
                let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                statement.query_map(params![node, epoch, first, last], read)?.collect()
            })
            .map_err(failed(attempt))?;
        for (from, to, recorded_at) in overlapping {
            for (low, high) in [(from, first - 1), (last + 1, to)] {
                if low <= high {
                    connection
                        .execute(
                            "INSERT INTO lost_range (node, epoch, first, last, recorded_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                            params![node, epoch, low, high, recorded_at],
                        )
                        .map_err(failed(attempt))?;
                }
            }
        }
    }
    if !recovered.is_empty() {
        connection
            .execute(
                "UPDATE flag SET closed_at = ?3, closed_by = 'collector' WHERE node = ?1 AND epoch = ?2 AND kind = 'gap'
                    AND closed_at IS NULL AND NOT EXISTS
                    (SELECT 1 FROM lost_range l WHERE l.node = ?1 AND l.epoch = ?2)",
                params![node, epoch, at.as_micros()],
            )
            .map_err(failed(attempt))?;
    }
    Ok(())
}

/// Adds up what a new batch declares and carries.
pub(super) fn account(unit: &mut Unit<'_>, batch: &NewBatch, key: &BatchKey) -> Result<()> {
    let at = batch.received_at;
    let Some(facts) = &batch.signed.header.facts else {
        let version = batch.signed.header.version;
        let detail =
            format!("schema version {version} is newer than this release: it is judged after an upgrade");
        let flag = NewFlag {
            node: key.node,
            epoch: key.epoch,
            seq: None,
            kind: FlagKind::UnknownVersion,
            detail,
            at,
        };
        nodes::raise(unit.main, &flag)?;
        unit.changes.push(Change::BatchStored { node: key.node, events: 0 });
        return Ok(());
    };
    losses(unit.main, key.node, &facts.losses, at)?;
    clocks(unit.main, key.node, &facts.clocks)?;
    nodes::cover(unit.main, key.node, &batch.coverage)?;
    if matches!(batch.payload, NewPayload::Evicted(_)) {
        evicted(unit.main, key.node, facts.events.into(), at)?;
    } else if batch.terms.is_none() && facts.events > 0 {
        let kind = if batch.unread { FlagKind::UnknownVersion } else { FlagKind::Unreadable };
        let detail = "its payload can't be read; it is kept verbatim".to_owned();
        let flag = NewFlag { node: key.node, epoch: key.epoch, seq: Some(key.seq), kind, detail, at };
        nodes::raise(unit.main, &flag)?;
    }
    nodes::arrived(unit.main, key.node, facts.events, facts.times.map(TimeRange::end), at)?;
    unit.changes.push(Change::BatchStored { node: key.node, events: facts.events });
    Ok(())
}

pub(super) fn losses(connection: &Connection, node: NodeId, losses: &[Loss], at: Timestamp) -> Result<()> {
    for loss in losses {
        nodes::lose(connection, node, loss.source.as_str(), loss.reason.as_str(), loss.count, at)?;
    }
    Ok(())
}

pub(super) fn evicted(connection: &Connection, node: NodeId, events: u64, at: Timestamp) -> Result<()> {
    nodes::lose(connection, node, "agent", "evicted", Some(events), at)
}

/// Takes a boot's clock facts in. Batches of a boot whose step becomes known are due for analysis again.
pub(super) fn clocks(connection: &Connection, node: NodeId, clocks: &Clocks) -> Result<()> {
    if clocks.boot == BootId::UNKNOWN {
        return Ok(());
    }
    let before = nodes::clock_shift(connection, node, clocks.boot)?;
    for fact in &clocks.facts {
        let since_boot = i64::try_from(fact.boottime_micros).unwrap_or(i64::MAX);
        let offset = fact.wall.as_micros().saturating_sub(since_boot);
        nodes::clock_fact(connection, node, clocks.boot, fact.synchronised, since_boot, offset)?;
    }
    if nodes::clock_shift(connection, node, clocks.boot)? != before {
        connection
            .execute(
                "UPDATE ledger SET analysed = 2 WHERE node = ?1 AND boot = ?2 AND analysed = 1 AND events > 0
                    AND eviction IS NULL",
                params![node.as_bytes(), clocks.boot.as_bytes()],
            )
            .map_err(failed("marking a boot's batches for another look"))?;
    }
    Ok(())
}
