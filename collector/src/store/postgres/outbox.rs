//! The outbox in PostgreSQL.

use async_trait::async_trait;
use auditflow_event::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

use super::error::failed;
use super::unit::{reading, writing};
use super::{PostgresStore, alerts, column, rows_at_most};
use crate::store::{Announcement, Destination, OutboxStore, Result};

#[async_trait]
impl OutboxStore for PostgresStore {
    async fn take_announcements(
        &self,
        to: Destination,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Announcement>> {
        writing!(self, unit => take(unit.sql(), to, (now, until), limit))
    }

    async fn settle_announcements(&self, made: Vec<i64>, unmade: Vec<i64>) -> Result<()> {
        writing!(self, unit => settle(unit.sql(), &made, &unmade))
    }

    async fn announcements_waiting(&self, to: Destination) -> Result<u64> {
        let waiting: i64 = reading!(self, sql => async {
            sqlx::query_scalar("SELECT count(*) FROM outbox WHERE destination = $1")
                .bind(to.name())
                .fetch_one(sql)
                .await
                .map_err(failed("counting announcements"))
        })?;
        Ok(waiting.unsigned_abs())
    }
}

/// Enters alerts that this transaction opened.
pub(super) async fn add(connection: &mut PgConnection, to: &[Destination], opened: &[Uuid]) -> Result<()> {
    if to.is_empty() || opened.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = to.iter().map(|to| to.name()).collect();
    let ids: Vec<&[u8]> = opened.iter().map(|id| id.as_bytes().as_slice()).collect();
    sqlx::query(
        "INSERT INTO outbox (destination, alert_id)
         SELECT destination, alert_id FROM UNNEST($2::bytea[]) alert_id CROSS JOIN UNNEST($1::text[]) destination",
    )
    .bind(names)
    .bind(ids)
    .execute(connection)
    .await
    .map_err(failed("entering announcements"))?;
    Ok(())
}

async fn take(
    connection: &mut PgConnection,
    to: Destination,
    (now, until): (Timestamp, Timestamp),
    limit: usize,
) -> Result<Vec<Announcement>> {
    // Those that another process is taking right now are passed over.
    let rows = sqlx::query(
        "WITH due AS MATERIALIZED (SELECT number FROM outbox WHERE destination = $1 AND claimed_until <= $2
                ORDER BY number LIMIT $4 FOR UPDATE SKIP LOCKED),
            taken AS (UPDATE outbox SET claimed_until = $3 FROM due WHERE outbox.number = due.number
                RETURNING outbox.number, outbox.alert_id)
         SELECT taken.number, alert.* FROM taken JOIN alert USING (alert_id) ORDER BY taken.number",
    )
    .bind(to.name())
    .bind(now.as_micros())
    .bind(until.as_micros())
    .bind(rows_at_most(limit))
    .fetch_all(connection)
    .await
    .map_err(failed("taking announcements"))?;
    rows.iter()
        .map(|row| {
            Ok(Announcement { number: column(row, "number", "announcement")?, alert: alerts::read_row(row)? })
        })
        .collect()
}

async fn settle(connection: &mut PgConnection, made: &[i64], unmade: &[i64]) -> Result<()> {
    let attempt = "settling announcements";
    for (statement, numbers) in [
        ("DELETE FROM outbox WHERE number = ANY($1)", made),
        ("UPDATE outbox SET claimed_until = 0 WHERE number = ANY($1)", unmade),
    ] {
        sqlx::query(statement).bind(numbers).execute(&mut *connection).await.map_err(failed(attempt))?;
    }
    Ok(())
}
