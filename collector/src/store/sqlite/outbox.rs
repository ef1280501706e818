//! The outbox in SQLite.

use async_trait::async_trait;
use auditflow_event::Timestamp;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::error::{damaged, failed};
use super::{SqliteStore, alerts};
use crate::store::{Announcement, Destination, OutboxStore, Result};

#[async_trait]
impl OutboxStore for SqliteStore {
    async fn take_announcements(
        &self,
        to: Destination,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Announcement>> {
        self.writer().write(0, move |unit| take(unit.main, to, (now, until), limit)).await
    }

    async fn settle_announcements(&self, made: Vec<i64>, unmade: Vec<i64>) -> Result<()> {
        self.writer().write(0, move |unit| settle(unit.main, &made, &unmade)).await
    }

    async fn announcements_waiting(&self, to: Destination) -> Result<u64> {
        let sql = "SELECT count(*) FROM outbox WHERE destination = ?1";
        let read =
            self.readers().read(move |reader| alerts::optional::<i64>(&reader.main, sql, &[&to.name()]));
        Ok(read.await?.unwrap_or_default().unsigned_abs())
    }
}

/// Enters alerts that this transaction opened.
pub(super) fn add(connection: &Connection, to: &[Destination], opened: &[Uuid]) -> Result<()> {
    let attempt = "entering announcements";
    for id in opened {
        for destination in to {
            connection
                .prepare_cached("INSERT INTO outbox (destination, alert_id) VALUES (?1, ?2)")
                .and_then(|mut statement| statement.execute(params![destination.name(), id.as_bytes()]))
                .map_err(failed(attempt))?;
        }
    }
    Ok(())
}

fn take(
    connection: &Connection,
    to: Destination,
    (now, until): (Timestamp, Timestamp),
    limit: usize,
) -> Result<Vec<Announcement>> {
    let attempt = "taking announcements";
    let due: Vec<(i64, [u8; 16])> = connection
        .prepare_cached(
            "SELECT number, alert_id FROM outbox WHERE destination = ?1 AND claimed_until <= ?2 ORDER BY number LIMIT ?3",
        )
        .and_then(|mut statement| {
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![to.name(), now.as_micros(), limit], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?;
            rows.collect()
        })
        .map_err(failed(attempt))?;
    let mut taken = Vec::with_capacity(due.len());
    for (number, id) in due {
        connection
            .prepare_cached("UPDATE outbox SET claimed_until = ?2 WHERE number = ?1")
            .and_then(|mut statement| statement.execute([number, until.as_micros()]))
            .map_err(failed(attempt))?;
        let alert = alerts::get(connection, Uuid::from_bytes(id))?;
        let alert = alert.ok_or("an announcement of no alert").map_err(damaged("announcement"))?;
        taken.push(Announcement { number, alert });
    }
    Ok(taken)
}

fn settle(connection: &Connection, made: &[i64], unmade: &[i64]) -> Result<()> {
    for (statement, numbers) in [
        ("DELETE FROM outbox WHERE number = ?1", made),
        ("UPDATE outbox SET claimed_until = 0 WHERE number = ?1", unmade),
    ] {
        for number in numbers {
            connection
                .prepare_cached(statement)
                .and_then(|mut statement| statement.execute([number]))
                .map_err(failed("settling announcements"))?;
        }
    }
    Ok(())
}
