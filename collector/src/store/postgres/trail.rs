//! The audit trail in PostgreSQL: its own table, which triggers let nobody change or shorten.
//!
//! Who appends takes turns, by a lock that ends with the transaction, and reads the head behind it: however many
//! processes write, the chain never forks. Appending is the last that a transaction does before it commits, so nobody
//! waits for anything else while others wait for the turn.

use async_trait::async_trait;
use auditflow_event::Timestamp;
use auditflow_wire::Digest;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::error::failed;
use super::nodes::count;
use super::unit::{reading, writing};
use super::{PostgresStore, column, rows_at_most, text};
use crate::store::{Act, Entry, Result, TrailFilter, TrailHead, TrailStore};

/// The advisory lock of whoever appends: "trail" as a number.
const LOCK: i64 = 0x7472_6169_6c00;
const WHAT: &str = "audit trail entry";

#[async_trait]
impl TrailStore for PostgresStore {
    async fn record(&self, act: Act) -> Result<()> {
        writing!(self, unit => append(unit.sql(), &act))
    }

    async fn trail(&self, filter: TrailFilter, before: Option<u64>, limit: usize) -> Result<Vec<Entry>> {
        reading!(self, sql => async {
            sqlx::query(
                "SELECT * FROM audit_trail WHERE number < $1 AND at >= $2
                    AND ($3::text IS NULL OR actor = $3 OR starts_with(actor, $3 || ':'))
                    AND ($4::text IS NULL OR action = $4) ORDER BY number DESC LIMIT $5",
            )
            .bind(count(before.unwrap_or(u64::MAX)))
            .bind(filter.since.unwrap_or(Timestamp::MIN).as_micros())
            .bind(filter.actor.as_deref().map(text))
            .bind(filter.action.as_deref().map(text))
            .bind(rows_at_most(limit))
            .fetch_all(sql)
            .await
            .map_err(failed("reading the audit trail"))?
            .iter()
            .map(read)
            .collect()
        })
    }

    async fn trail_from(&self, from: u64, limit: usize) -> Result<Vec<Entry>> {
        reading!(self, sql => async {
            sqlx::query("SELECT * FROM audit_trail WHERE number >= $1 ORDER BY number LIMIT $2")
                .bind(count(from))
                .bind(rows_at_most(limit))
                .fetch_all(sql)
                .await
                .map_err(failed("reading the audit trail"))?
                .iter()
                .map(read)
                .collect()
        })
    }
}

/// Appends inside whatever transaction is open: what was done and that it was done stand together.
pub(super) async fn append(connection: &mut PgConnection, act: &Act) -> Result<()> {
    let attempt = "writing the audit trail";
    sqlx::query("SELECT pg_advisory_xact_lock($1)")
        .bind(LOCK)
        .execute(&mut *connection)
        .await
        .map_err(failed(attempt))?;
    // A statement of its own: it sees what was committed before the lock was had.
    let head = sqlx::query("SELECT number, digest FROM audit_trail ORDER BY number DESC LIMIT 1")
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed(attempt))?;
    let head =
        head.as_ref().map(|row| Ok(TrailHead { number: number(row)?, digest: digest(row, "digest")? }));
    let entry = Entry::after(head.transpose()?, act);
    sqlx::query(
        "INSERT INTO audit_trail (number, previous, digest, at, actor, origin, action, object, outcome, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(count(entry.number))
    .bind(&entry.previous.as_bytes()[..])
    .bind(&entry.digest.as_bytes()[..])
    .bind(entry.at.as_micros())
    .bind(&entry.actor)
    .bind(&entry.origin)
    .bind(&entry.action)
    .bind(&entry.object)
    .bind(&entry.outcome)
    .bind(&entry.detail)
    .execute(connection)
    .await
    .map_err(failed(attempt))?;
    Ok(())
}

/// Reads an entry whatever became of it: what is not of its kind any more matches no digest, and is named by the walk.
fn read(row: &PgRow) -> Result<Entry> {
    let words = |name| column::<String>(row, name, WHAT);
    Ok(Entry {
        number: number(row)?,
        previous: digest(row, "previous")?,
        digest: digest(row, "digest")?,
        at: Timestamp::from_micros(column(row, "at", WHAT)?),
        actor: words("actor")?,
        origin: words("origin")?,
        action: words("action")?,
        object: words("object")?,
        outcome: words("outcome")?,
        detail: words("detail")?,
    })
}

fn number(row: &PgRow) -> Result<u64> {
    column::<i64>(row, "number", WHAT).map(|number| number.max(0).unsigned_abs())
}

fn digest(row: &PgRow, name: &str) -> Result<Digest> {
    let bytes: &[u8] = column(row, name, WHAT)?;
    Ok(Digest::try_from(bytes).unwrap_or(Digest::from_bytes([0xff; Digest::LEN])))
}
