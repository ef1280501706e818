//! The schema's version, and bringing a database to this release's.
//!
//! Each step runs in a transaction of its own together with the new version, under a lock that lets one process
//! migrate at a time; a database of a newer release is refused before anything in it is touched.

use sqlx::{Connection, PgConnection};

use super::error::failed;
use super::{trail, unit};
use crate::store::{Act, Action, By, Migrated, Result, StoreError};

/// The advisory lock of whoever changes tables: "auditflo" as a number.
pub(super) const LOCK: i64 = 0x6175_6469_7466_6c6f;

/// A step up and the way back.
struct Step {
    up: &'static str,
    down: &'static str,
}

macro_rules! step {
    ($name:literal) => {
        Step {
            up: include_str!(concat!("../../../../migrations/postgres/", $name, ".up.sql")),
            down: include_str!(concat!("../../../../migrations/postgres/", $name, ".down.sql")),
        }
    };
}

const STEPS: &[Step] = &[
    step!("0001_ledger"),
    step!("0002_analysis"),
    step!("0003_people"),
    step!("0004_ancestor"),
    step!("0005_claims"),
    step!("0006_outbox"),
    step!("0007_revisions"),
];

/// The version that this release writes.
pub(super) const VERSION: u32 = STEPS.len() as u32;

/// Brings the database to this release's version; doing it again changes nothing.
pub(super) async fn migrate(connection: &mut PgConnection, by: By) -> Result<Migrated> {
    locked(connection, async |connection| {
        let from = check(connection).await?;
        for (done, step) in (0..).zip(STEPS).skip(from as usize) {
            run(connection, step.up, done + 1).await?;
        }
        if from != 0 && from != VERSION {
            tell(connection, by.clone(), from).await?;
        }
        Ok(Migrated { from, to: VERSION })
    })
    .await
}

/// Takes the database back to an older release's version. What only newer ones know is gone then.
pub(super) async fn migrate_down(connection: &mut PgConnection, to: u32) -> Result<Migrated> {
    locked(connection, async |connection| {
        let from = check(connection).await?;
        for (done, step) in (0..from).zip(STEPS).skip(to as usize).rev() {
            run(connection, step.down, done).await?;
        }
        Ok(Migrated { from, to: to.min(from) })
    })
    .await
}

/// The database's version, refused if it is newer than ours. Changes nothing; 0 is an empty one.
pub(super) async fn check(connection: &mut PgConnection) -> Result<u32> {
    let attempt = "reading the schema version";
    let there: bool = sqlx::query_scalar("SELECT to_regclass('schema_version') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed(attempt))?;
    if !there {
        return Ok(0);
    }
    let found: i32 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM schema_version")
        .fetch_one(connection)
        .await
        .map_err(failed(attempt))?;
    let found = found.unsigned_abs();
    if found > VERSION {
        return Err(StoreError::Newer { what: "the database".to_owned(), found, known: VERSION });
    }
    Ok(found)
}

/// The database's version, refused unless it is ours.
pub(super) async fn current(connection: &mut PgConnection) -> Result<()> {
    let found = check(connection).await?;
    if found < VERSION {
        return Err(StoreError::Older { what: "the database".to_owned(), found, known: VERSION });
    }
    Ok(())
}

async fn locked<T>(
    connection: &mut PgConnection,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<T>,
) -> Result<T> {
    let attempt = "locking the schema";
    // The lock is the session's: it goes with the connection, whatever happens to this process.
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(LOCK)
        .execute(&mut *connection)
        .await
        .map_err(failed(attempt))?;
    let result = work(connection).await;
    sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(LOCK)
        .execute(connection)
        .await
        .map_err(failed(attempt))?;
    result
}

async fn tell(connection: &mut PgConnection, by: By, from: u32) -> Result<()> {
    let detail = serde_json::json!({ "from": from, "to": VERSION });
    let act = Act::done(unit::now(), by, Action::StoreMigrate, "the database", detail);
    let mut transaction = connection.begin().await.map_err(failed("telling of a migration"))?;
    trail::append(&mut transaction, &act).await?;
    transaction.commit().await.map_err(failed("telling of a migration"))
}

async fn run(connection: &mut PgConnection, step: &'static str, version: u32) -> Result<()> {
    let attempt = "migrating the schema";
    let mut transaction = connection.begin().await.map_err(failed(attempt))?;
    let table = "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)";
    for statement in [table, step, "DELETE FROM schema_version"] {
        sqlx::raw_sql(statement).execute(&mut *transaction).await.map_err(failed(attempt))?;
    }
    sqlx::query("INSERT INTO schema_version VALUES ($1)")
        .bind(version as i32)
        .execute(&mut *transaction)
        .await
        .map_err(failed(attempt))?;
    transaction.commit().await.map_err(failed(attempt))
}
