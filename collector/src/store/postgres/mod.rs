//! The store in PostgreSQL, for several processes.
//!
//! Whatever the roles write, they write in transactions that commit with `synchronous_commit = on`. Who stores locks the
//! nodes, then the epochs, each in the order of their ids (`store`), so ingesting processes wait for one another but
//! never in a circle. Payloads and what finds them lie in tables by day (`partitions`), which retention drops whole.
//! Ids of arrival come from a sequence; who pages by them stops below transactions that are still running (`ledger`).

mod account;
mod alerts;
mod checkpoints;
mod detections;
mod error;
mod ledger;
mod node_keys;
mod nodes;
mod partitions;
mod people;
mod retention;
mod rows;
mod schema;
mod search;
mod store;
mod storm;
#[cfg(test)]
mod tests;
mod trail;
mod unit;

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Postgres};
use tokio::sync::broadcast;

use crate::store::{By, Change, Migrated, Result, Store, StoreError};
use error::failed;

/// Changes that a listener may be behind before it is told that it missed some.
const CHANGES: usize = 1024;
/// How long a call waits for a connection before it is told that the store is busy.
const ACQUIRE: Duration = Duration::from_secs(5);

/// The store of a collector on PostgreSQL.
pub struct PostgresStore {
    pool: PgPool,
    changes: broadcast::Sender<Change>,
}

/// How the database is used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it is, and as whom, as a `postgres://` URL.
    pub url: String,
    /// Connections at most. A call that writes holds one for a transaction, so twice the server's cores shared out over
    /// the processes is enough; the server's `max_connections` bounds the sum.
    pub connections: u32,
}

impl PostgresStore {
    /// Opens nothing yet: the database may be down. [`PostgresStore::migrate`] comes before the first use.
    pub fn new(options: &Options) -> Result<Self> {
        let connect: PgConnectOptions = options.url.parse().map_err(failed("reading the database's URL"))?;
        // Nothing waits for ever: neither for a lock, nor the server for a process that has stopped answering.
        let connect = connect.application_name("auditflow-collector").options([
            ("synchronous_commit", "on"),
            ("lock_timeout", "10s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ]);
        let pool = PgPoolOptions::new()
            .max_connections(options.connections.max(1))
            .acquire_timeout(ACQUIRE)
            .connect_lazy_with(connect);
        let (changes, _) = broadcast::channel(CHANGES);
        Ok(Self { pool, changes })
    }

    /// Brings the database to this release's schema, and finishes what retention was interrupted in. Any number of
    /// processes may do so at once. A newer schema is refused. The audit trail says who did it.
    pub async fn migrate(&self, by: By) -> Result<Migrated> {
        let mut connection = self.acquire().await?;
        let migrated = schema::migrate(&mut connection, by).await?;
        partitions::finish(&mut connection).await?;
        partitions::make_ahead(&mut connection, unit::now()).await?;
        Ok(migrated)
    }

    /// Takes the schema back to an older release's version, with the data that only newer ones know.
    pub async fn migrate_down(&self, to: u32) -> Result<Migrated> {
        let mut connection = self.acquire().await?;
        schema::migrate_down(&mut connection, to).await
    }

    /// Whether the database answers, with the schema that this release knows.
    pub async fn check(&self) -> Result<()> {
        let mut connection = self.acquire().await?;
        schema::check(&mut connection).await.map(drop)
    }

    /// Ends every connection.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        self.pool.acquire().await.map_err(failed("connecting to the database"))
    }

    fn tell(&self, change: Change) {
        // Nobody listening is fine.
        let _ = self.changes.send(change);
    }
}

impl Store for PostgresStore {
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// A limit as a statement takes it.
fn rows_at_most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Text as PostgreSQL can hold it: it has no NUL, so a picture of one stands for it.
fn text(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{2400}").into() } else { text.into() }
}

/// A column that must be there and readable.
fn column<'r, T>(row: &'r sqlx::postgres::PgRow, name: &str, what: &'static str) -> Result<T>
where
    T: sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
{
    use sqlx::Row;
    row.try_get(name).map_err(|error| StoreError::Damaged { what, source: error.into() })
}
