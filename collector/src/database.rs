//! The database server, looked after: PostgreSQL may be down at the start or go away later, and comes back by itself.
//!
//! Fed by the configuration; says in health how the database is, and tells the store, which turns calls away at once
//! meanwhile. When the database is met first it is migrated and gets its first user. A URL that lies in a file is read
//! again as the file changes: new connections use it.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use auditflow_service::backoff::Backoff;
use auditflow_service::health::Part;
use tokio_util::sync::CancellationToken;

use crate::commands::admin::{ADMIN, admin};
use crate::config::PostgresConfig;
use crate::site::password;
use crate::store::postgres::{Options, PostgresStore, Probe};
use crate::store::{By, StoreError};

/// How often a database that is there is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Delays between attempts while it is not.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// What a database that is down takes away.
const LOST: &[&str] =
    &["new batches are not taken", "alerts are late", "page and API show nothing that is stored"];

/// Why the database can't be used as it is configured, or can't be used now.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file with the URL.
    #[error("cannot read {}: check [storage.postgres] url_file", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No password could be made for the first user.
    #[error("cannot make the first user: {0}")]
    Password(Box<dyn std::error::Error + Send + Sync>),
}

/// Where the database is, if the configuration names one.
pub fn options(config: &PostgresConfig) -> Result<Option<Options>, DatabaseError> {
    let url = match (&config.url, &config.url_file) {
        (Some(url), _) => url.clone(),
        (None, Some(path)) => {
            let read = fs::read_to_string(path);
            read.map_err(|source| DatabaseError::File { path: path.clone(), source })?.trim().to_owned()
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(Options { url, connections: config.connections }))
}

/// Looks after the database of a store.
pub struct Database {
    store: Arc<PostgresStore>,
    config: PostgresConfig,
    health: Part,
    /// How the store is: ingest and retention say what they meet, and here it is said that it is over.
    store_health: Part,
    /// What new connections use.
    url: String,
    probe: Probe,
    state: State,
}

/// How the database was when it was looked at last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// This process has not met it yet.
    Unknown,
    Here,
    Away,
}

impl Database {
    /// Nothing is looked at yet: the store turns every call away.
    pub fn new(
        store: Arc<PostgresStore>,
        (config, url): (PostgresConfig, String),
        (health, store_health): (Part, Part),
    ) -> Self {
        Self { store, config, health, store_health, url, probe: Probe::default(), state: State::Unknown }
    }

    /// Looks at it again and again, and exchanges with other processes what changes, until stopped.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let exchange = Arc::clone(&self.store).exchange(stop.clone());
        tokio::join!(self.look_until(stop), exchange);
        Ok(())
    }

    async fn look_until(mut self, stop: CancellationToken) {
        let mut retry = Backoff::new(RETRY.0, RETRY.1, std::process::id().into());
        loop {
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look() => looked,
            };
            let pause = match looked {
                Ok(()) => {
                    self.is_here();
                    retry.succeeded();
                    EVERY
                }
                Err(error) => {
                    self.is_away(&error);
                    retry.failed()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), DatabaseError> {
        self.follow_file()?;
        self.probe.ping(&self.store).await?;
        if self.state == State::Unknown {
            if self.config.migrate {
                let migrated = self.store.migrate(By::COLLECTOR).await?;
                if migrated.from != migrated.to {
                    tracing::info!(from = migrated.from, to = migrated.to, "migrated the database");
                }
            } else {
                self.store.open().await?;
            }
            self.make_admin().await?;
        }
        Ok(())
    }

    /// Takes up a URL that whoever mounts the file has changed.
    fn follow_file(&mut self) -> Result<(), DatabaseError> {
        if self.config.url_file.is_none() {
            return Ok(());
        }
        let Some(options) = options(&self.config)? else { return Ok(()) };
        if options.url != self.url {
            self.store.reach(&options)?;
            self.url = options.url;
            self.probe = Probe::default();
            tracing::info!("the database's url has changed: new connections use it");
        }
        Ok(())
    }

    /// The first user, with a password that nobody has seen: `admin reset-password` gives it one.
    async fn make_admin(&self) -> Result<(), DatabaseError> {
        if !self.store.is_without_users().await? {
            return Ok(());
        }
        let hash = tokio::task::spawn_blocking(|| password::hash(&password::generate()?)).await;
        let hash = hash.map_err(|error| DatabaseError::Password(error.into()))?;
        let hash = hash.map_err(|error| DatabaseError::Password(error.into()))?;
        if self.store.add_first_user(admin(hash), By::COLLECTOR).await? {
            tracing::info!(user = ADMIN, "made the first user");
        }
        Ok(())
    }

    fn is_here(&mut self) {
        self.store.set_here(true);
        self.health.up();
        if self.state != State::Here {
            self.store_health.up();
        }
        self.state = State::Here;
    }

    fn is_away(&mut self, error: &DatabaseError) {
        self.store.set_here(false);
        self.health.down(&error.to_string(), LOST);
        self.store_health.down("the database is not there", LOST);
        if self.state == State::Here {
            self.state = State::Away;
        }
    }
}

#[cfg(test)]
mod tests {
    use auditflow_service::health::{Health, PartState};

    use super::*;
    use crate::store::PeopleStore;
    use crate::store::postgres::tests::kit;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_database_is_met_when_its_url_leads_to_it_and_what_is_wrong_shows_until_then() {
        let Some(server) = kit::database() else { return };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        fs::write(&file, "postgres://nobody@127.0.0.1:1/none\n").unwrap();
        let config = PostgresConfig { url_file: Some(file.clone()), ..PostgresConfig::default() };
        let options = options(&config).unwrap().unwrap();
        let store = Arc::new(PostgresStore::new(&options).unwrap());
        let health = Health::requiring(&["store"]);
        let parts = (health.part("postgres"), health.part("store"));
        let mut database = Database::new(Arc::clone(&store), (config, options.url), parts.clone());
        let error = database.look().await.unwrap_err();
        database.is_away(&error);
        assert_eq!(parts.0.state(), PartState::Down);
        let said = health.report().parts["postgres"].clone();
        assert!(said.last_error.unwrap().contains("connecting to the database"), "{:?}", said.reason);
        assert!(!said.features_lost.is_empty());

        fs::write(&file, server.url()).unwrap();
        database.look().await.unwrap();
        database.is_here();
        assert_eq!((parts.0.state(), parts.1.state()), (PartState::Up, PartState::Up));
        assert_eq!(store.users().await.unwrap().len(), 1, "the first user is made");

        fs::remove_file(&file).unwrap();
        let error = database.look().await.unwrap_err();
        assert!(error.to_string().contains("url_file"), "{error}");
    }
}
