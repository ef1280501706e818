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
mod notices;
mod outbox;
mod partitions;
mod people;
mod retention;
mod rows;
mod schema;
mod search;
mod store;
mod storm;
#[cfg(test)]
pub(crate) mod tests;
mod trail;
mod unit;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres};
use tokio::sync::{Mutex, broadcast, mpsc};

use crate::store::{By, Change, Destination, Migrated, Result, Store, StoreError, User};
use error::failed;
use unit::writing;

/// Changes that a listener may be behind before it is told that it missed some.
const CHANGES: usize = 1024;
/// How long a call waits for a connection before it is told that the store is busy.
const ACQUIRE: Duration = Duration::from_secs(5);
/// How long the database may take to answer that it is there.
const ANSWER: Duration = Duration::from_secs(3);

/// The store of a collector on PostgreSQL.
pub struct PostgresStore {
    pool: PgPool,
    changes: broadcast::Sender<Change>,
    /// What other processes are to be told: from those that change something, to `notices`.
    untold: mpsc::Sender<Change>,
    telling: Mutex<mpsc::Receiver<Change>>,
    /// Whether calls are tried at all.
    is_here: AtomicBool,
    /// Who is to hear of the alerts that this process opens.
    announces: Vec<Destination>,
    /// Whether it is told how the revisions of groups follow one another.
    tells_revisions: bool,
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
    /// Opens nothing yet: the database may be down. Calls are turned away until [`PostgresStore::migrate`] or
    /// [`PostgresStore::open`] has met it, or [`PostgresStore::set_here`] says so.
    pub fn new(options: &Options) -> Result<Self> {
        let connect = connect_options(&options.url)?;
        let pool = PgPoolOptions::new()
            .max_connections(options.connections.max(1))
            .acquire_timeout(ACQUIRE)
            .connect_lazy_with(connect);
        let (changes, _) = broadcast::channel(CHANGES);
        let (untold, telling) = mpsc::channel(CHANGES);
        Ok(Self {
            pool,
            changes,
            untold,
            telling: Mutex::new(telling),
            is_here: AtomicBool::new(false),
            announces: Vec::new(),
            tells_revisions: false,
        })
    }

    /// The same store, whose alerts enter the outbox for these.
    #[must_use]
    pub fn announcing_to(self, announces: Vec<Destination>) -> Self {
        Self { announces, ..self }
    }

    /// The same store, which tells how the revisions of groups follow one another: for copies of their detections.
    #[must_use]
    pub fn telling_revisions(self) -> Self {
        Self { tells_revisions: true, ..self }
    }

    /// From now on connections are opened so; how many there may be stays as it is.
    pub fn reach(&self, options: &Options) -> Result<()> {
        self.pool.set_connect_options(connect_options(&options.url)?);
        Ok(())
    }

    /// Says whether the database is there: while it is not, calls are turned away instead of waiting for it.
    pub fn set_here(&self, is_here: bool) {
        self.is_here.store(is_here, Ordering::Relaxed);
    }

    /// Meets a database that has this release's schema; another is refused.
    pub async fn open(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        schema::current(&mut connection).await?;
        self.set_here(true);
        Ok(())
    }

    /// Brings the database to this release's schema, and finishes what retention was interrupted in. Any number of
    /// processes may do so at once. A newer schema is refused. The audit trail says who did it.
    pub async fn migrate(&self, by: By) -> Result<Migrated> {
        let mut connection = self.connect().await?;
        let migrated = schema::migrate(&mut connection, by).await?;
        partitions::finish(&mut connection).await?;
        partitions::make_ahead(&mut connection, unit::now()).await?;
        self.set_here(true);
        Ok(migrated)
    }

    /// Takes the schema back to an older release's version, with the data that only newer ones know.
    pub async fn migrate_down(&self, to: u32) -> Result<Migrated> {
        let mut connection = self.connect().await?;
        schema::migrate_down(&mut connection, to).await
    }

    /// Whether nobody can log in yet.
    pub async fn is_without_users(&self) -> Result<bool> {
        Ok(!people::is_anybody_there(&mut self.connect().await?).await?)
    }

    /// Adds a user if there is none yet, and says whether it did: of several processes, one does.
    pub async fn add_first_user(&self, user: User, by: By) -> Result<bool> {
        writing!(self, unit => people::add_first_user(unit, &user, by.clone(), unit::now()))
    }

    fn ensure_here(&self) -> Result<()> {
        if self.is_here.load(Ordering::Relaxed) { Ok(()) } else { Err(StoreError::Away) }
    }

    /// A connection besides the pool's, whether or not the database is thought to be there.
    async fn connect(&self) -> Result<PgConnection> {
        let options = self.pool.connect_options();
        PgConnection::connect_with(&options).await.map_err(failed("connecting to the database"))
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>> {
        self.ensure_here()?;
        self.pool.acquire().await.map_err(failed("connecting to the database"))
    }

    /// After a commit.
    fn tell(&self, change: Change) {
        // More than fit are left out: what other processes hear is a hint.
        let _ = self.untold.try_send(change.clone());
        self.tell_here(change);
    }

    fn tell_here(&self, change: Change) {
        // Nobody listening is fine.
        let _ = self.changes.send(change);
    }
}

/// Finds out whether the database is there, over a connection of its own.
#[derive(Default)]
pub struct Probe(Option<PgConnection>);

impl Probe {
    /// Fails if the database does not answer in good time.
    pub async fn ping(&mut self, store: &PostgresStore) -> Result<()> {
        let known = self.0.take();
        let asked = async {
            let mut connection = match known {
                Some(connection) => connection,
                None => store.connect().await?,
            };
            connection.ping().await.map_err(failed("asking whether the database is there"))?;
            Ok(connection)
        };
        let silent = |_| StoreError::Failed {
            attempt: "asking whether the database is there",
            source: format!("no answer within {} s", ANSWER.as_secs()).into(),
        };
        self.0 = Some(tokio::time::timeout(ANSWER, asked).await.map_err(silent)??);
        Ok(())
    }
}

impl Store for PostgresStore {
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// Whether a text is a URL that a database can be reached by.
pub fn check_url(url: &str) -> Result<()> {
    connect_options(url).map(drop)
}

fn connect_options(url: &str) -> Result<PgConnectOptions> {
    let attempt = "reading the database's url";
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(StoreError::Failed { attempt, source: "it does not begin with postgres://".into() });
    }
    let options: PgConnectOptions = url.parse().map_err(failed(attempt))?;
    // Nothing waits for ever: neither for a lock, nor the server for a process that has stopped answering.
    Ok(options.application_name("auditflow-collector").options([
        ("synchronous_commit", "on"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "60s"),
    ]))
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
