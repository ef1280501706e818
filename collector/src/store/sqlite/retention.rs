//! Retention: whole payload files go, oldest first, and the ledger says so.
//!
//! The declaration (the ledger's rows point at a partition that is marked expired, and a row names the digest over
//! what went) commits before a file is removed; a crash between the two leaves a file that the next start removes.
//! The newest file is never removed for its size: a cap below one part's size is kept as well as it can be. What the
//! ledger takes counts, and what it has no use for goes before any payload does.

use std::path::Path;

use auditflow_event::Timestamp;
use auditflow_wire::Digest;
use rusqlite::{Connection, Row, params};

use super::error::failed;
use super::partitions::PartitionId;
use super::readers::Reader;
use super::writer::Unit;
use super::{SqliteStore, checkpoints, space};
use crate::store::{Limits, Pruning, Result, StoreError};

const SELECT: &str = "SELECT p.day, p.part, r.reason, r.decided_at, r.batches, r.events, r.bytes, r.digest
    FROM pruning r JOIN partition p ON p.id = r.partition";

/// What had not been read or analysed in all that time never will be. A number that came after a checkpoint had counted
/// it lost is like the others that the checkpoint stands for.
const RETIRE: &str = "UPDATE ledger SET analysed = 1, unread = 0, checkpointed = seq <= coalesce(
        (SELECT last FROM checkpoint c WHERE c.node = ledger.node AND c.epoch = ledger.epoch), 0)
    WHERE partition = ?1";

/// See `LedgerStore::retain`.
pub(super) async fn retain(store: &SqliteStore, limits: Limits, now: Timestamp) -> Result<Vec<Pruning>> {
    give_space_back(store, limits).await?;
    let directory = store.directory();
    let due = store.readers().read(move |reader| due(&reader.main, &directory, limits, now)).await?;
    let expired = store.writer().write(0, move |unit| expire(unit, &due, limits, now)).await?;
    let directory = store.payload_directory();
    store.readers().forget_partitions();
    for (partition, _) in &expired {
        partition.remove(&directory)?;
    }
    Ok(expired.into_iter().map(|(_, pruning)| pruning).collect())
}

/// Removes files whose pruning was declared and then interrupted.
pub(super) fn finish(connection: &Connection, directory: &Path) -> Result<()> {
    for (partition, _) in partitions(connection, true)? {
        partition.remove(directory)?;
    }
    Ok(())
}

/// Every declared pruning, newest first.
pub(super) fn declared(connection: &Connection, limit: usize) -> Result<Vec<Pruning>> {
    let sql = format!("{SELECT} ORDER BY r.id DESC LIMIT ?1");
    connection
        .prepare_cached(&sql)
        .and_then(|mut query| query.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], read)?.collect())
        .map_err(failed("reading prunings"))
}

/// What all payload files take on the disk.
pub(super) fn payload_bytes(connection: &Connection, directory: &Path) -> Result<u64> {
    let kept = partitions(connection, false)?;
    Ok(kept.iter().map(|(partition, bytes)| size(*partition, *bytes, directory)).sum())
}

/// Shrinks the ledger's file as far as the byte cap needs it and free pages allow.
async fn give_space_back(store: &SqliteStore, limits: Limits) -> Result<()> {
    let mut given = false;
    loop {
        let directory = store.directory();
        let beyond = move |reader: &mut Reader| {
            let main = space::of(&reader.main, &directory)?;
            let payloads = payload_bytes(&reader.main, &directory.join("payload"))?;
            let beyond = main.file.saturating_add(payloads).saturating_sub(limits.max_bytes);
            Ok(beyond.min(main.free))
        };
        let beyond = store.readers().read(beyond).await?;
        if beyond == 0 {
            break;
        }
        given = true;
        if store.writer().write(0, move |unit| space::give_back(unit.main, beyond)).await? {
            break;
        }
    }
    if !given {
        return Ok(());
    }
    let directory = store.directory();
    let settled = tokio::task::spawn_blocking(move || space::settle(&directory)).await;
    settled.map_err(|error| StoreError::Failed { attempt: "shrinking the store", source: error.into() })?
}

/// Which partitions are beyond the limits, and beyond which.
fn due(
    connection: &Connection,
    directory: &Path,
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<(PartitionId, &'static str)>> {
    let payloads = directory.join("payload");
    let mut kept = partitions(connection, false)?;
    // A day is as old as its end.
    let seconds = now.as_micros().div_euclid(1_000_000);
    let oldest_day = (seconds - i64::try_from(limits.max_age_seconds).unwrap_or(i64::MAX)).div_euclid(86_400);
    let mut due: Vec<_> = kept
        .extract_if(.., |(partition, _)| partition.day < oldest_day)
        .map(|(partition, _)| (partition, "age"))
        .collect();
    let sizes = kept.iter().map(|(partition, bytes)| size(*partition, *bytes, &payloads));
    let total = sizes.sum::<u64>().saturating_add(space::of(connection, directory)?.file);
    if let [(oldest, _), _, ..] = &kept[..]
        && total > limits.max_bytes
    {
        due.push((*oldest, "bytes"));
    }
    Ok(due)
}

/// What a partition takes on disk; what it holds, if its files can't be looked at.
fn size(partition: PartitionId, bytes: u64, directory: &Path) -> u64 {
    let of = |path: &Path| std::fs::metadata(path).map(|file| file.len());
    let [payloads, index] = partition.paths(directory);
    let Ok(main) = of(&payloads) else { return bytes };
    let wal = |path: &Path| {
        let mut name = path.to_owned().into_os_string();
        name.push("-wal");
        of(name.as_ref()).unwrap_or(0)
    };
    main + of(&index).unwrap_or(0) + wal(&payloads) + wal(&index)
}

/// Partitions that are expired or not, oldest first, with the payload bytes they were given.
fn partitions(connection: &Connection, expired: bool) -> Result<Vec<(PartitionId, u64)>> {
    let sql =
        "SELECT id, day, part, bytes FROM partition WHERE (expired_at IS NOT NULL) = ?1 ORDER BY day, part";
    let read = |row: &Row<'_>| {
        let partition = PartitionId { id: row.get(0)?, day: row.get(1)?, part: row.get(2)? };
        Ok((partition, row.get::<_, i64>(3)? as u64))
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut query| query.query_map([expired], read)?.collect())
        .map_err(failed("listing partitions"))
}

fn expire(
    unit: &mut Unit<'_>,
    due: &[(PartitionId, &'static str)],
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<(PartitionId, Pruning)>> {
    let attempt = "declaring a pruning";
    let mut expired = Vec::new();
    for (partition, reason) in due {
        let marked = unit
            .main
            .execute(
                "UPDATE partition SET expired_at = ?2 WHERE id = ?1 AND expired_at IS NULL",
                params![partition.id, now.as_micros()],
            )
            .map_err(failed(attempt))?;
        if marked == 0 {
            continue;
        }
        unit.main.execute(RETIRE, [partition.id]).map_err(failed(attempt))?;
        let digest = digest_of(unit.main, partition.id)?;
        unit.main
            .execute(
                "INSERT INTO pruning (partition, reason, decided_at, batches, events, bytes, digest)
                 SELECT id, ?2, ?3, batches, events, bytes, ?4 FROM partition WHERE id = ?1",
                params![partition.id, reason, now.as_micros(), digest.as_bytes()],
            )
            .map_err(failed(attempt))?;
        let sql = format!("{SELECT} WHERE r.id = last_insert_rowid()");
        let pruning = unit.main.query_row(&sql, [], read).map_err(failed(attempt))?;
        unit.partitions.release(*partition);
        expired.push((*partition, pruning));
    }
    checkpoints::release(unit.main)?;
    let age = i64::try_from(limits.max_age_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    let horizon = now.as_micros().saturating_sub(age);
    unit.main
        .execute("DELETE FROM forked_batch WHERE received_at < ?1", [horizon])
        .map_err(failed(attempt))?;
    unit.main
        .execute("DELETE FROM arrival WHERE minute < ?1", [horizon.div_euclid(60_000_000)])
        .map_err(failed(attempt))?;
    Ok(expired)
}

/// BLAKE3 over the digests of the partition's payload batches, in order of arrival.
fn digest_of(connection: &Connection, partition: i64) -> Result<Digest> {
    let attempt = "naming what is pruned";
    let sql = "SELECT digest FROM ledger WHERE partition = ?1 AND eviction IS NULL ORDER BY id";
    let mut query = connection.prepare_cached(sql).map_err(failed(attempt))?;
    let mut rows = query.query([partition]).map_err(failed(attempt))?;
    let mut hasher = blake3::Hasher::new();
    while let Some(row) = rows.next().map_err(failed(attempt))? {
        hasher.update(&row.get::<_, [u8; 32]>(0).map_err(failed(attempt))?);
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

fn read(row: &Row<'_>) -> rusqlite::Result<Pruning> {
    let partition = PartitionId { id: 0, day: row.get(0)?, part: row.get(1)? };
    Ok(Pruning {
        day: partition.date(),
        part: partition.part,
        reason: row.get(2)?,
        decided_at: Timestamp::from_micros(row.get(3)?),
        batches: row.get::<_, i64>(4)? as u64,
        events: row.get::<_, i64>(5)? as u64,
        bytes: row.get::<_, i64>(6)? as u64,
        digest: Digest::from_bytes(row.get(7)?),
    })
}
