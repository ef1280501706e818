//! What a stored batch changes besides its row: losses found and made good, losses declared, clocks, coverage, flags.
//!
//! Fed by `store` inside its transaction; every function here adds to sums and flags and decides nothing.

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BootId, EpochId, Judgement, Span, header::Link};
use rusqlite::{Connection, params};

use super::error::failed;
use super::ledger::key_parameters;
use super::nodes;
use super::writer::Unit;
use crate::store::judge::Suspicion;
use crate::store::tally::{ClockFacts, Tally, broken_links, gap};
use crate::store::{BatchKey, FlagKind, NewFlag, Result};

/// Records what a judgement found besides its verdict.
pub(super) fn note(
    connection: &Connection,
    key: &BatchKey,
    link: &Link,
    judgement: &Judgement,
    at: Timestamp,
) -> Result<()> {
    for flag in broken_links(key, judgement, at) {
        nodes::raise(connection, &flag)?;
    }
    record_lost(connection, key.node, key.epoch, &judgement.lost, at)?;
    recover(connection, key, &judgement.recovered, at)?;
    if let Link::Unknown { why, .. } = link {
        let suspicious = match Suspicion::of(*why) {
            Suspicion::No => false,
            Suspicion::Yes => true,
            Suspicion::IfNotTheFirst => has_another_first(connection, key)?,
        };
        if suspicious {
            let (node, epoch, detail) = (key.node, key.epoch, why.as_str().to_owned());
            let flag = NewFlag { node, epoch, seq: None, kind: FlagKind::UnknownPredecessor, detail, at };
            nodes::raise(connection, &flag)?;
        }
    }
    Ok(())
}

/// Whether another epoch of the node is known to begin without a predecessor.
fn has_another_first(connection: &Connection, key: &BatchKey) -> Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM epoch e
             WHERE e.node = ?1 AND e.epoch <> ?2 AND e.predecessor IS NULL AND (
                 EXISTS (SELECT 1 FROM ledger l WHERE l.node = ?1 AND l.epoch = e.epoch AND l.seq = 1)
                 OR EXISTS (SELECT 1 FROM fold f WHERE f.node = ?1 AND f.epoch = e.epoch AND f.first = 1)
                 OR EXISTS (SELECT 1 FROM checkpoint c WHERE c.node = ?1 AND c.epoch = e.epoch)))",
        )
        .and_then(|mut query| query.query_row([key.node.as_bytes(), key.epoch.as_bytes()], |row| row.get(0)))
        .map_err(failed("looking for earlier epochs"))
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
        nodes::raise(connection, &gap(node, epoch, *span, at))?;
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

/// Writes sums, and keeps what is to be told.
pub(super) fn write(unit: &mut Unit<'_>, tally: Tally) -> Result<()> {
    let connection = unit.main;
    for ((node, source, reason), lost) in &tally.losses {
        nodes::lose(connection, *node, source, reason, *lost)?;
    }
    for ((node, boot), facts) in &tally.clocks {
        clock(connection, *node, *boot, *facts)?;
    }
    for (node, said) in &tally.coverage {
        nodes::cover(connection, *node, said)?;
    }
    for flag in &tally.flags {
        nodes::raise(connection, flag)?;
    }
    for (node, arrived) in &tally.arrived {
        nodes::arrived(connection, *node, *arrived)?;
    }
    for ((minute, node), events) in &tally.minutes {
        nodes::count_arrival(connection, *minute, *node, *events)?;
    }
    unit.changes.extend(tally.changes);
    Ok(())
}

/// Takes a boot's clock facts in. Batches of a boot whose step becomes known are due for analysis again.
fn clock(connection: &Connection, node: NodeId, boot: BootId, facts: ClockFacts) -> Result<()> {
    let before = nodes::clock_shift(connection, node, boot)?;
    for (synchronised, fact) in [(false, facts.unsynced), (true, facts.synced)] {
        if let Some((since_boot, offset)) = fact {
            nodes::clock_fact(connection, node, boot, synchronised, since_boot, offset)?;
        }
    }
    if nodes::clock_shift(connection, node, boot)? != before {
        connection
            .execute(
                "UPDATE ledger SET analysed = 2 WHERE node = ?1 AND boot = ?2 AND analysed = 1 AND events > 0
                    AND eviction IS NULL",
                params![node.as_bytes(), boot.as_bytes()],
            )
            .map_err(failed("marking a boot's batches for another look"))?;
    }
    Ok(())
}
