//! Partitions: `payload_<day>` with payloads and `batch_<day>` with what finds them, by day of first receipt.
//!
//! They are made ahead, so that nobody waits at midnight, and where a day is met that nobody expected. Making one takes
//! no lock that storing or searching would wait for: the table is made by itself and attached. A day that retention has
//! dropped stays closed: what comes on it after all (a clock that was set back) is filed under the next one that is open.

use std::collections::BTreeSet;

use auditflow_event::Timestamp;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::error::failed;
use super::schema::LOCK;
use crate::store::Result;

/// Days that are made ahead.
const AHEAD: i64 = 3;
/// Microseconds.
const DAY: i64 = 86_400_000_000;
/// What every partitioned table's name begins with.
const TABLES: [&str; 2] = ["payload", "batch"];

/// The day of a time.
pub(super) fn day_of(time: Timestamp) -> i64 {
    time.as_micros().div_euclid(DAY)
}

/// A day, as `2026-11-23`.
pub(super) fn date(day: i64) -> String {
    let date = chrono::DateTime::from_timestamp(day.saturating_mul(86_400), 0).unwrap_or_default();
    date.format("%Y-%m-%d").to_string()
}

/// The open day that takes what comes on `day`: that one, or the next that has not expired. Made if need be, in a
/// transaction of its own.
pub(super) async fn open_day(connection: &mut PgConnection, day: i64) -> Result<i64> {
    let mut day = day;
    loop {
        match state(connection, day).await? {
            Some(true) => return Ok(day),
            Some(false) => day += 1,
            None => make(connection, day).await?,
        }
    }
}

/// Keeps days from being closed until the transaction ends. False: one of them is closed already.
pub(super) async fn stay_open(
    connection: &mut PgConnection,
    days: impl IntoIterator<Item = &i64>,
) -> Result<bool> {
    let days: BTreeSet<i64> = days.into_iter().copied().collect();
    let days: Vec<i64> = days.into_iter().collect();
    let open = sqlx::query(
        "SELECT 1 FROM partition WHERE day = ANY($1) AND expired_at IS NULL ORDER BY day FOR SHARE",
    )
    .bind(&days)
    .fetch_all(connection)
    .await
    .map_err(failed("keeping a day open"))?;
    Ok(open.len() == days.len())
}

/// Makes today's and the next days' partitions.
pub(super) async fn make_ahead(connection: &mut PgConnection, now: Timestamp) -> Result<()> {
    let today = day_of(now);
    for day in today..=today + AHEAD {
        if state(connection, day).await?.is_none() {
            make(connection, day).await?;
        }
    }
    Ok(())
}

/// Drops the tables of days that are declared expired. One that is in use now is dropped next time.
pub(super) async fn finish(connection: &mut PgConnection) -> Result<()> {
    let attempt = "looking for expired days";
    let days: Vec<i64> = sqlx::query_scalar(
        "SELECT day FROM partition WHERE expired_at IS NOT NULL
            AND (to_regclass('payload_' || day) IS NOT NULL OR to_regclass('batch_' || day) IS NOT NULL)
         ORDER BY day",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    for day in days {
        if let Err(error) = drop_tables(connection, day).await {
            tracing::warn!(day = date(day), %error, "an expired day is still in use; it is dropped later");
        }
    }
    Ok(())
}

/// Whether a day is open; none: it was never made.
async fn state(connection: &mut PgConnection, day: i64) -> Result<Option<bool>> {
    sqlx::query_scalar("SELECT expired_at IS NULL FROM partition WHERE day = $1")
        .bind(day)
        .fetch_optional(connection)
        .await
        .map_err(failed("looking for a day's partition"))
}

async fn make(connection: &mut PgConnection, day: i64) -> Result<()> {
    let attempt = "making a day's partition";
    let mut transaction = connection.begin().await.map_err(failed(attempt))?;
    // Of several processes that meet a new day, one makes it.
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *transaction)
        .await
        .map_err(failed(attempt))?;
    if state(&mut transaction, day).await?.is_none() {
        for table in TABLES {
            let sql = format!(
                "CREATE TABLE {table}_{name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE);
                 ALTER TABLE {table}_{name} ADD CHECK (day >= {day} AND day < {next});
                 ALTER TABLE {table} ATTACH PARTITION {table}_{name} FOR VALUES FROM ({day}) TO ({next})",
                name = name(day),
                next = day + 1,
            );
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed(attempt))?;
        }
        sqlx::query("INSERT INTO partition (day) VALUES ($1)")
            .bind(day)
            .execute(&mut *transaction)
            .await
            .map_err(failed(attempt))?;
    }
    transaction.commit().await.map_err(failed(attempt))
}

async fn drop_tables(connection: &mut PgConnection, day: i64) -> Result<()> {
    let attempt = "dropping a day's payloads";
    let mut transaction = connection.begin().await.map_err(failed(attempt))?;
    // Whoever stores waits behind this as long as it waits for a search to end.
    let mut sql = String::from("SET LOCAL lock_timeout = '2s'");
    for table in TABLES {
        sql.push_str(&format!("; DROP TABLE IF EXISTS {table}_{}", name(day)));
    }
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut *transaction).await.map_err(failed(attempt))?;
    transaction.commit().await.map_err(failed(attempt))
}

/// What a day is called in a table's name. Days before 1970 are there only if a clock was wrong.
fn name(day: i64) -> String {
    if day < 0 { format!("m{}", day.unsigned_abs()) } else { day.to_string() }
}

/// What an open day's tables take on the server's disk.
pub(super) const SIZE: &str = "coalesce(pg_total_relation_size(to_regclass('payload_' || day)), 0)
    + coalesce(pg_total_relation_size(to_regclass('batch_' || day)), 0)";
