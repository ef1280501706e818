//! Retention: whole days go, oldest first, and the ledger says so.
//!
//! The declaration (a day marked expired, and a row with the digest over what went) commits before tables are dropped;
//! what is interrupted between the two, or finds a table in use, is finished the next time. The newest day is never
//! removed for its size: a cap below one day's size is kept as well as it can be.

use auditflow_event::Timestamp;
use auditflow_wire::Digest;
use sqlx::{AssertSqlSafe, PgConnection};

use super::error::failed;
use super::partitions::{self, date};
use super::unit::{Unit, reading, writing};
use super::{PostgresStore, checkpoints, rows_at_most};
use crate::store::{Limits, Pruning, Result};

/// What had not been read or analysed in all that time never will be. A number that came after a checkpoint had counted
/// it lost is like the others that the checkpoint stands for.
const RETIRE: &str = "UPDATE ledger SET analysed = 1, unread = FALSE, checkpointed = seq <= coalesce(
        (SELECT last FROM checkpoint c WHERE c.node = ledger.node AND c.epoch = ledger.epoch), 0)
    WHERE day = $1";

/// A row of `pruning`.
type Row = (i64, String, i64, i64, i64, i64, [u8; 32]);

/// See `LedgerStore::retain`.
pub(super) async fn retain(store: &PostgresStore, limits: Limits, now: Timestamp) -> Result<Vec<Pruning>> {
    let due = reading!(store, sql => due(sql, limits, now))?;
    let pruned = writing!(store, unit => expire(unit, &due, limits, now))?;
    reading!(store, sql => async {
        partitions::finish(sql).await?;
        partitions::make_ahead(sql, now).await
    })?;
    Ok(pruned)
}

/// Every declared pruning, newest first.
pub(super) async fn declared(connection: &mut PgConnection, limit: usize) -> Result<Vec<Pruning>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT day, reason, decided_at, batches, events, bytes, digest FROM pruning ORDER BY id DESC LIMIT $1",
    )
    .bind(rows_at_most(limit))
    .fetch_all(connection)
    .await
    .map_err(failed("reading prunings"))?;
    Ok(rows.into_iter().map(pruning).collect())
}

/// Which days are beyond the limits, and beyond which.
async fn due(
    connection: &mut PgConnection,
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<(i64, &'static str)>> {
    let attempt = "looking for days to prune";
    // What was made ahead and holds nothing neither goes nor counts as the newest.
    let sql = format!(
        "SELECT day, ({})::bigint FROM partition
         WHERE expired_at IS NULL AND EXISTS (SELECT 1 FROM ledger l WHERE l.day = partition.day) ORDER BY day",
        partitions::SIZE
    );
    let mut kept: Vec<(i64, i64)> =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut *connection).await.map_err(failed(attempt))?;
    let database: i64 =
        sqlx::query_scalar("SELECT pg_total_relation_size('ledger') + pg_total_relation_size('detection')
            + pg_total_relation_size('alert') + pg_total_relation_size('fold') + pg_total_relation_size('forked_batch')")
            .fetch_one(connection)
            .await
            .map_err(failed(attempt))?;
    // A day is as old as its end.
    let seconds = now.as_micros().div_euclid(1_000_000);
    let oldest_day = (seconds - i64::try_from(limits.max_age_seconds).unwrap_or(i64::MAX)).div_euclid(86_400);
    let mut due: Vec<_> =
        kept.extract_if(.., |(day, _)| *day < oldest_day).map(|(day, _)| (day, "age")).collect();
    let total = kept.iter().map(|(_, bytes)| bytes.unsigned_abs()).sum::<u64>();
    if let [(oldest, _), _, ..] = &kept[..]
        && total.saturating_add(database.unsigned_abs()) > limits.max_bytes
    {
        due.push((*oldest, "bytes"));
    }
    Ok(due)
}

async fn expire(
    unit: &mut Unit<'_>,
    due: &[(i64, &'static str)],
    limits: Limits,
    now: Timestamp,
) -> Result<Vec<Pruning>> {
    let attempt = "declaring a pruning";
    let mut pruned = Vec::new();
    for (day, reason) in due {
        let marked =
            sqlx::query("UPDATE partition SET expired_at = $2 WHERE day = $1 AND expired_at IS NULL")
                .bind(day)
                .bind(now.as_micros())
                .execute(unit.sql())
                .await
                .map_err(failed(attempt))?;
        if marked.rows_affected() == 0 {
            continue;
        }
        // Before rows are retired: one that a checkpoint stands for goes with that.
        let digest = digest_of(unit.sql(), *day).await?;
        sqlx::query(RETIRE).bind(day).execute(unit.sql()).await.map_err(failed(attempt))?;
        let row: Row = sqlx::query_as(
            "INSERT INTO pruning (day, reason, decided_at, batches, events, bytes, digest)
             SELECT $1, $2, $3, count(*), coalesce(sum(events), 0)::bigint, coalesce(sum(payload_bytes), 0)::bigint, $4
             FROM ledger WHERE day = $1 AND eviction IS NULL
             RETURNING day, reason, decided_at, batches, events, bytes, digest",
        )
        .bind(day)
        .bind(*reason)
        .bind(now.as_micros())
        .bind(digest.as_bytes())
        .fetch_one(unit.sql())
        .await
        .map_err(failed(attempt))?;
        pruned.push(pruning(row));
    }
    checkpoints::release(unit.sql()).await?;
    let age = i64::try_from(limits.max_age_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    let horizon = now.as_micros().saturating_sub(age);
    for (sql, before) in [
        ("DELETE FROM forked_batch WHERE received_at < $1", horizon),
        ("DELETE FROM arrival WHERE minute < $1", horizon.div_euclid(60_000_000)),
    ] {
        sqlx::query(sql).bind(before).execute(unit.sql()).await.map_err(failed(attempt))?;
    }
    Ok(pruned)
}

/// BLAKE3 over the digests of the day's payload batches, in order of arrival.
async fn digest_of(connection: &mut PgConnection, day: i64) -> Result<Digest> {
    let digests: Vec<[u8; 32]> =
        sqlx::query_scalar("SELECT digest FROM ledger WHERE day = $1 AND eviction IS NULL ORDER BY id")
            .bind(day)
            .fetch_all(connection)
            .await
            .map_err(failed("naming what is pruned"))?;
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(&digest);
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

fn pruning((day, reason, decided_at, batches, events, bytes, digest): Row) -> Pruning {
    Pruning {
        day: date(day),
        part: 0,
        reason,
        decided_at: Timestamp::from_micros(decided_at),
        batches: batches.unsigned_abs(),
        events: events.unsigned_abs(),
        bytes: bytes.unsigned_abs(),
        digest: Digest::from_bytes(digest),
    }
}
