//! The audit trail in SQLite: its own table, which triggers let nobody change or shorten.
//!
//! Every append reads the head inside the transaction that it writes in. Transactions that write exclude one another, also
//! those of a command beside a running collector, so the chain never forks.

use async_trait::async_trait;
use auditflow_event::Timestamp;
use auditflow_wire::Digest;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::SqliteStore;
use super::error::{damaged, failed};
use crate::store::{Act, Entry, Result, TrailFilter, TrailHead, TrailStore};

const COLUMNS: &str = "number, previous, digest, at, actor, origin, action, object, outcome, detail";

#[async_trait]
impl TrailStore for SqliteStore {
    async fn record(&self, act: Act) -> Result<()> {
        self.writer().write(0, move |unit| append(unit.main, &act)).await
    }

    async fn trail(&self, filter: TrailFilter, before: Option<u64>, limit: usize) -> Result<Vec<Entry>> {
        self.readers()
            .read(move |reader| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM audit_trail WHERE number < ?1 AND at >= ?2
                        AND (?3 IS NULL OR actor = ?3 OR substr(actor, 1, length(?3) + 1) = ?3 || ':')
                        AND (?4 IS NULL OR action = ?4) ORDER BY number DESC LIMIT ?5"
                );
                let since = filter.since.unwrap_or(Timestamp::MIN).as_micros();
                let before = column(before.unwrap_or(u64::MAX));
                rows(&reader.main, &sql, &[&before, &since, &filter.actor, &filter.action, &(limit as i64)])
            })
            .await
    }

    async fn trail_from(&self, from: u64, limit: usize) -> Result<Vec<Entry>> {
        self.readers()
            .read(move |reader| {
                let sql =
                    format!("SELECT {COLUMNS} FROM audit_trail WHERE number >= ?1 ORDER BY number LIMIT ?2");
                rows(&reader.main, &sql, &[&column(from), &(limit as i64)])
            })
            .await
    }
}

/// Appends inside whatever transaction is open: what was done and that it was done stand together.
pub(super) fn append(connection: &Connection, act: &Act) -> Result<()> {
    let attempt = "writing the audit trail";
    let head = connection
        .prepare_cached("SELECT number, digest FROM audit_trail ORDER BY number DESC LIMIT 1")
        .and_then(|mut query| {
            query
                .query_row([], |row| Ok(TrailHead { number: number(row)?, digest: digest(row, 1)? }))
                .optional()
        })
        .map_err(failed(attempt))?;
    let entry = Entry::after(head, act);
    let sql = format!("INSERT INTO audit_trail ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
    connection
        .prepare_cached(&sql)
        .and_then(|mut statement| {
            statement.execute(params![
                column(entry.number),
                entry.previous.as_bytes(),
                entry.digest.as_bytes(),
                entry.at.as_micros(),
                entry.actor,
                entry.origin,
                entry.action,
                entry.object,
                entry.outcome,
                entry.detail,
            ])
        })
        .map_err(failed(attempt))?;
    Ok(())
}

fn rows(connection: &Connection, sql: &str, parameters: &[&dyn ToSql]) -> Result<Vec<Entry>> {
    connection
        .prepare_cached(sql)
        .and_then(|mut query| query.query_map(parameters, read)?.collect())
        .map_err(damaged("audit trail entry"))
}

/// Reads an entry whatever became of it: what is not of its kind any more matches no digest, and is named by the walk.
fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let text = |column| {
        let bytes = row.get_ref(column)?.as_bytes().unwrap_or_default();
        Ok::<_, rusqlite::Error>(String::from_utf8_lossy(bytes).into_owned())
    };
    Ok(Entry {
        number: number(row)?,
        previous: digest(row, 1)?,
        digest: digest(row, 2)?,
        at: Timestamp::from_micros(row.get(3)?),
        actor: text(4)?,
        origin: text(5)?,
        action: text(6)?,
        object: text(7)?,
        outcome: text(8)?,
        detail: text(9)?,
    })
}

fn number(row: &Row<'_>) -> rusqlite::Result<u64> {
    row.get::<_, i64>(0).map(|number| number.max(0) as u64)
}

fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let bytes = row.get_ref(column)?.as_bytes().unwrap_or_default();
    Ok(Digest::try_from(bytes).unwrap_or(Digest::from_bytes([0xff; Digest::LEN])))
}

fn column(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
