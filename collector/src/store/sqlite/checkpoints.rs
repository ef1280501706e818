//! Checkpoints in SQLite: which rows may be replaced, and replacing them.
//!
//! Fed by `proof::checkpoint`, which proves the rows and signs. What is asked here was asked a moment ago as well:
//! inside the transaction it is looked at once more, so that a row that got its payload after all, or is due for
//! analysis again, stays.

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BatchSeq, EpochId, SignedCheckpoint, Span};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::error::{damaged, failed};
use super::{ledger, space};
use crate::store::{Limits, Replaceable, Result};

/// Microseconds.
const DAY: i64 = 86_400_000_000;
/// Rows that one checkpoint takes in at most: what one transaction deletes.
const ROWS: usize = 1024;
/// A batch's row that must stay: its payload is kept, something is due on it, or it has come too recently (`?6`).
const STAYS: &str = "(p.expired_at IS NULL OR l.unread = 1 OR l.analysed <> 1 OR l.received_at >= ?6)";

/// See `LedgerStore::replaceable`.
pub(super) fn replaceable(
    connection: &Connection,
    directory: &std::path::Path,
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<Replaceable>> {
    let horizon = if presses(connection, directory, limits)? {
        i64::MAX
    } else {
        let age = i64::try_from(limits.header_age_seconds()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        // A whole day goes at once: each checkpoint is a synced commit.
        now.as_micros().saturating_sub(age).div_euclid(DAY).saturating_mul(DAY)
    };
    // A fold has no payload: it is as old as the payloads that came with it.
    let folds_before = horizon.min(kept_since(connection)?);
    let attempt = "looking for rows to replace";
    let sql = "SELECT e.node, e.epoch, e.through, coalesce(c.last, 0) FROM epoch e
        LEFT JOIN checkpoint c ON c.node = e.node AND c.epoch = e.epoch WHERE e.through > coalesce(c.last, 0)";
    let mut query = connection.prepare_cached(sql).map_err(failed(attempt))?;
    let mut epochs = query.query([]).map_err(failed(attempt))?;
    let mut found = Vec::new();
    while let Some(row) = epochs.next().map_err(failed(attempt))? {
        let bad = || damaged::<rusqlite::Error>("epoch");
        let node = NodeId::from_bytes(row.get(0).map_err(bad())?);
        let epoch = EpochId::from_bytes(row.get(1).map_err(bad())?);
        let range = (row.get(3).map_err(bad())?, row.get(2).map_err(bad())?);
        if let Some((through, since)) = run(connection, node, epoch, range, [horizon, folds_before])? {
            found.push(Replaceable { node, epoch, through, since });
        }
    }
    found.sort_by_key(|replaceable| replaceable.since);
    Ok(found)
}

/// See `LedgerStore::replace`.
pub(super) fn replace(
    connection: &Connection,
    checkpoint: &SignedCheckpoint,
    after: Option<BatchSeq>,
) -> Result<bool> {
    let attempt = "replacing rows by a checkpoint";
    let said = checkpoint.unverified();
    let (node, epoch) = (said.node.as_bytes(), said.epoch.as_bytes());
    let (before, last) = (after.map_or(0, BatchSeq::as_i64), said.last.number.as_i64());
    if last_of(connection, said.node, said.epoch)? != after || last <= before {
        return Ok(false);
    }
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM epoch WHERE node = ?1 AND epoch = ?2 AND through >= ?5)
            AND NOT EXISTS (SELECT 1 FROM ledger l JOIN partition p ON p.id = l.partition
                WHERE l.node = ?1 AND l.epoch = ?2 AND l.seq BETWEEN ?3 + 1 AND ?5 AND {STAYS})
            AND NOT EXISTS (SELECT 1 FROM fold WHERE node = ?1 AND epoch = ?2 AND first <= ?5 AND last > ?5)",
    );
    // Its age was looked at before; the fourth parameter is not used.
    let place: [&dyn ToSql; 6] = [node, epoch, &before, &0_i64, &last, &i64::MAX];
    let free: bool = connection
        .prepare_cached(&sql)
        .and_then(|mut query| query.query_row(place, |row| row.get(0)))
        .map_err(failed(attempt))?;
    if !free {
        return Ok(false);
    }
    let (digest, signed) = (said.last.digest.as_bytes(), checkpoint.as_bytes());
    let place = params![node, epoch, before, last];
    connection
        .execute(
            "INSERT OR REPLACE INTO checkpoint (node, epoch, last, digest, signed, made_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![node, epoch, last, digest, signed, said.time.as_micros()],
        )
        .and_then(|_| {
            connection.execute(
                "UPDATE ledger SET checkpointed = 1 WHERE node = ?1 AND epoch = ?2 AND seq > ?3 AND seq <= ?4
                    AND EXISTS (SELECT 1 FROM detection d WHERE d.batch = ledger.id)",
                place,
            )
        })
        .and_then(|_| {
            connection.execute(
                "DELETE FROM ledger WHERE node = ?1 AND epoch = ?2 AND seq > ?3 AND seq <= ?4 AND checkpointed = 0",
                place,
            )
        })
        .and_then(|_| {
            let sql = "DELETE FROM fold WHERE node = ?1 AND epoch = ?2 AND last > ?3 AND last <= ?4";
            connection.execute(sql, place)
        })
        .and_then(|_| {
            let sql = "DELETE FROM lost_range WHERE node = ?1 AND epoch = ?2 AND last <= ?3";
            connection.execute(sql, params![node, epoch, last])
        })
        .map_err(failed(attempt))?;
    Ok(true)
}

/// See `LedgerStore::checkpoint`.
pub(super) fn stored(
    connection: &Connection,
    node: NodeId,
    epoch: EpochId,
) -> Result<Option<SignedCheckpoint>> {
    let sql = "SELECT signed FROM checkpoint WHERE node = ?1 AND epoch = ?2";
    let parameters: [&dyn ToSql; 2] = [node.as_bytes(), epoch.as_bytes()];
    let bytes = super::alerts::optional::<Vec<u8>>(connection, sql, &parameters)?;
    bytes.map(|bytes| SignedCheckpoint::parse(&bytes).map_err(damaged("checkpoint"))).transpose()
}

/// See `LedgerStore::lost`.
pub(super) fn lost(connection: &Connection, node: NodeId, epoch: EpochId) -> Result<Vec<Span>> {
    let read = |row: &Row<'_>| Ok(Span::new(ledger::seq(row, 0)?, ledger::seq(row, 1)?));
    let spans: Vec<Option<Span>> = connection
        .prepare_cached("SELECT first, last FROM lost_range WHERE node = ?1 AND epoch = ?2 ORDER BY first")
        .and_then(|mut query| query.query_map([node.as_bytes(), epoch.as_bytes()], read)?.collect())
        .map_err(failed("listing lost numbers"))?;
    Ok(spans.into_iter().flatten().collect())
}

/// Removes rows that a checkpoint stands for and on which no detection rests any more.
pub(super) fn release(connection: &Connection) -> Result<()> {
    connection
        .execute(
            "DELETE FROM ledger WHERE checkpointed = 1 AND NOT EXISTS (SELECT 1 FROM detection d WHERE d.batch = ledger.id)",
            [],
        )
        .map_err(failed("removing replaced rows"))?;
    Ok(())
}

/// Whether headers have to go before their time.
fn presses(connection: &Connection, directory: &std::path::Path, limits: Limits) -> Result<bool> {
    let main = space::of(connection, directory)?;
    let payloads = super::retention::payload_bytes(connection, &directory.join("payload"))?;
    Ok(main.used > limits.ledger_bytes() && main.needed().saturating_add(payloads) > limits.max_bytes)
}

/// When the oldest batch came whose payload is still kept.
fn kept_since(connection: &Connection) -> Result<i64> {
    let sql = "SELECT l.received_at FROM partition p JOIN ledger l ON l.partition = p.id
        WHERE p.expired_at IS NULL ORDER BY p.day, p.part, l.id LIMIT 1";
    Ok(super::alerts::optional::<i64>(connection, sql, &[])?.unwrap_or(i64::MAX))
}

/// How far an epoch's rows after `after` may go, at most through `through`, and when the first of them came.
fn run(
    connection: &Connection,
    node: NodeId,
    epoch: EpochId,
    (after, through): (i64, i64),
    [horizon, folds_before]: [i64; 2],
) -> Result<Option<(BatchSeq, Timestamp)>> {
    let attempt = "looking for rows to replace";
    let sql = format!(
        "SELECT l.seq, l.seq, l.received_at, {STAYS} FROM ledger l JOIN partition p ON p.id = l.partition
         WHERE l.node = ?1 AND l.epoch = ?2 AND l.seq > ?3 AND l.seq <= ?5 ORDER BY l.seq LIMIT ?4",
    );
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let place: [&dyn ToSql; 6] =
        [node.as_bytes(), epoch.as_bytes(), &after, &(ROWS as i64), &through, &horizon];
    let mut rows: Vec<(i64, i64, i64, bool)> = Vec::new();
    let mut query = connection.prepare_cached(&sql).map_err(failed(attempt))?;
    for row in query.query_map(place, read).map_err(failed(attempt))? {
        let row = row.map_err(failed(attempt))?;
        rows.push(row);
        // What lies above one that stays stays too.
        if row.3 {
            break;
        }
    }
    let whole = rows.len() < ROWS && rows.last().is_none_or(|row| !row.3);
    let end = if whole { through } else { rows.last().map_or(after, |row| row.0) };
    let sql = "SELECT first, last, received_at, received_at >= ?6 FROM fold
        WHERE node = ?1 AND epoch = ?2 AND last > ?3 AND first <= ?5 ORDER BY first LIMIT ?4";
    let place: [&dyn ToSql; 6] =
        [node.as_bytes(), epoch.as_bytes(), &after, &(ROWS as i64), &end, &folds_before];
    let folds = connection
        .prepare_cached(sql)
        .and_then(|mut query| query.query_map(place, read)?.collect::<rusqlite::Result<Vec<_>>>())
        .map_err(failed(attempt))?;
    rows.extend(folds);
    rows.sort_unstable();
    let mut found: Option<(i64, i64)> = None;
    for (_, last, received_at, _) in rows.into_iter().take_while(|row| !row.3).take(ROWS) {
        let (reached, since) = found.unwrap_or((last, received_at));
        found = Some((reached.max(last), since));
    }
    Ok(found.and_then(|(last, since)| {
        let number = u64::try_from(last).ok().and_then(BatchSeq::new)?;
        Some((number, Timestamp::from_micros(since)))
    }))
}

fn last_of(connection: &Connection, node: NodeId, epoch: EpochId) -> Result<Option<BatchSeq>> {
    connection
        .prepare_cached("SELECT last FROM checkpoint WHERE node = ?1 AND epoch = ?2")
        .and_then(|mut query| {
            query.query_row([node.as_bytes(), epoch.as_bytes()], |row| ledger::seq(row, 0)).optional()
        })
        .map_err(failed("looking a checkpoint up"))
}
