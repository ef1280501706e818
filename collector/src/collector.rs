//! The collector as one thing: built from its configuration, then spawned.
//!
//! Building opens what must be there (store, site keys, ports) and fails with what to do about it; spawning hands the
//! parts to the pipeline and can't fail.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use auditflow_event::Timestamp;
use auditflow_service::file::create_private_directory;
use auditflow_service::health::Health;
use auditflow_service::lifecycle::{Reloads, Tasks};
use auditflow_service::metrics::Metrics;
use auditflow_wire::CaHash;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::analyse::AnalysisMetrics;
use crate::commands::admin::{ADMIN, admin};
use crate::config::Config;
use crate::database::{self, Database};
use crate::detect::RulesReloader;
use crate::ingest::{https, mqtt};
use crate::metrics::{IngestMetrics, StorageMetrics};
use crate::pipeline::{self, Parts};
use crate::site::{Site, password};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{By, Store};

/// Everything opened, nothing running.
pub struct Collector {
    parts: Parts,
    addresses: Addresses,
}

/// Where it can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// By agents.
    pub agents: SocketAddr,
    /// By people.
    pub web: SocketAddr,
    /// The hash of the authority that agents trust.
    pub ca: CaHash,
}

/// What the admin API's `/status` says of it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Status {
    /// Where agents deliver.
    agents: String,
    /// Where page and API are.
    web: String,
    /// The hash of the site's authority.
    ca_hash: String,
}

impl Collector {
    /// Opens store, site and ports.
    pub async fn build(config: Config, health: &Health, metrics: &Metrics) -> anyhow::Result<Self> {
        let (store, database) = open_store(&config, health).await?;
        let site = Site::open(&config.storage.data_dir)?;
        let names = certificate_names(&config);
        let agents = https::Listener::bind(config.listen.agents, &site, &names).await?;
        let broker = mqtt::broker(&config.ingest.mqtt, &site)?;
        let web = TcpListener::bind(config.listen.web).await.with_context(|| {
            format!(
                "cannot listen on {}: choose another [listen] web or stop what uses it",
                config.listen.web
            )
        })?;
        let addresses =
            Addresses { agents: agents.local_addr()?, web: web.local_addr()?, ca: site.ca_hash() };
        let parts = Parts {
            store,
            database,
            site,
            agents,
            broker,
            web,
            ingest_metrics: IngestMetrics::register(metrics)?,
            storage_metrics: StorageMetrics::register(metrics)?,
            analysis_metrics: AnalysisMetrics::register(metrics)?,
            rules: open_rules(&config, health)?,
            health: health.clone(),
            metrics: metrics.clone(),
            config,
        };
        Ok(Self { parts, addresses })
    }

    /// Where it can be reached.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// For the admin API.
    pub fn status(&self) -> Status {
        let Addresses { agents, web, ca } = self.addresses;
        Status { agents: agents.to_string(), web: web.to_string(), ca_hash: ca.to_string() }
    }

    /// Sets everything going.
    pub fn spawn(self, tasks: &Tasks, reloads: Reloads) {
        pipeline::spawn(self.parts, tasks, reloads);
    }
}

/// The embedded store, opened; or one in a database server, which may be down and is looked after.
async fn open_store(config: &Config, health: &Health) -> anyhow::Result<(Arc<dyn Store>, Option<Database>)> {
    let storage = &config.storage;
    if let Some(options) = database::options(&storage.postgres)? {
        let store = Arc::new(PostgresStore::new(&options)?);
        let parts = (health.part("postgres"), health.part("store"));
        let place = (storage.postgres.clone(), options.url);
        let database = Database::new(Arc::clone(&store), place, parts);
        return Ok((store, Some(database)));
    }
    let options = Options::for_cap(storage.max_bytes.as_u64());
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&storage.data_dir, options)?);
    if store.users().await?.is_empty() {
        make_admin(&store).await?;
    }
    Ok((store, None))
}

/// The shipped rules and the local ones. A rule directory inside the data directory is made if it is missing.
fn open_rules(config: &Config, health: &Health) -> anyhow::Result<RulesReloader> {
    for directory in
        config.rules.dirs.iter().filter(|directory| directory.starts_with(&config.storage.data_dir))
    {
        create_private_directory(directory)
            .with_context(|| format!("cannot make the rule directory {}", directory.display()))?;
    }
    Ok(RulesReloader::start(&config.rules.dirs, health.part("rules"))?)
}

/// The first user, with a password that nobody has seen: `admin reset-password` gives it one.
async fn make_admin(store: &Arc<dyn Store>) -> anyhow::Result<()> {
    let hash = tokio::task::spawn_blocking(|| password::hash(&password::generate()?)).await??;
    let now = Timestamp::from_micros(chrono::Utc::now().timestamp_micros());
    store.set_user(admin(hash), By::COLLECTOR, now).await?;
    tracing::info!(user = ADMIN, "made the first user");
    Ok(())
}

/// What the server's certificate is made for.
fn certificate_names(config: &Config) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    names.extend(host.filter(|name| !name.is_empty() && name.is_ascii()));
    let address = config.listen.agents.ip();
    if !address.is_unspecified() {
        names.push(address.to_string());
    }
    names.extend(config.tls.names.iter().cloned());
    names.sort();
    names.dedup();
    names
}
