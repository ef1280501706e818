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
use crate::bus;
use crate::bus::connections::Closer;
use crate::bus::metrics::RelayMetrics;
use crate::bus::relay::Relay;
use crate::commands::admin::{ADMIN, admin};
use crate::config::{Config, ProcessRole, ServerConfig};
use crate::correlate::windows::{self, InRedis, Stored, WindowMetrics, Windows};
use crate::database::{self, Database};
use crate::detect::RulesReloader;
use crate::ingest::intake::Identity;
use crate::ingest::{https, mqtt};
use crate::metrics::{IngestMetrics, StorageMetrics};
use crate::pipeline::{self, AnalyzeParts, IngestParts, Parts};
use crate::site::{Site, password};
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{By, Destination, Store};

/// Everything opened, nothing running.
pub struct Collector {
    parts: Parts,
    addresses: Addresses,
}

/// Where it can be reached, as far as its roles go.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// By agents.
    pub agents: Option<SocketAddr>,
    /// By people.
    pub web: Option<SocketAddr>,
    /// The hash of the authority that agents trust.
    pub ca: CaHash,
}

/// What the admin API's `/status` says of it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Status {
    /// Where agents deliver, if they do so here.
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<String>,
    /// Where page and API are, if they are here.
    #[serde(skip_serializing_if = "Option::is_none")]
    web: Option<String>,
    /// The hash of the site's authority.
    ca_hash: String,
}

impl Collector {
    /// Opens store, site and ports.
    pub async fn build(config: Config, health: &Health, metrics: &Metrics) -> anyhow::Result<Self> {
        let (store, database) = open_store(&config, health).await?;
        let site = Site::open(&config.storage.data_dir)?;
        let has = |role| config.process.roles.contains(&role);
        let ingest = match has(ProcessRole::Ingest) {
            true => Some(IngestParts {
                agents: https::Listener::bind(config.listen.agents, &site, &certificate_names(&config))
                    .await?,
                broker: mqtt::broker(&config.ingest.mqtt, &site)?,
                ancestor: ancestor(&config, &site)?,
            }),
            false => None,
        };
        let analyze = match has(ProcessRole::Analyze) {
            true => {
                let redis = windows::Options::from_config(&config.windows, &site)?
                    .map(|options| Arc::new(windows::Server::new(options, health.part("redis"))));
                Some(AnalyzeParts {
                    bus: bus::Options::from_config(&config.bus.broker(), &site)?,
                    windows: windows(&config, redis.as_ref(), &store, metrics)?,
                    redis,
                    relays: relays(&config, &site, &store, (health, metrics))?,
                    storage_metrics: StorageMetrics::register(metrics)?,
                    analysis_metrics: AnalysisMetrics::register(metrics)?,
                })
            }
            false => None,
        };
        let web = match has(ProcessRole::Web) {
            true => Some(listen_web(&config).await?),
            false => None,
        };
        let takes_frames = ingest.is_some() || analyze.is_some();
        let intruders = match takes_frames {
            true => Closer::from_config(&config.bus, &site, || health.part("rabbitmq_management"))?,
            false => None,
        };
        let addresses = Addresses {
            agents: ingest.as_ref().map(|parts| parts.agents.local_addr()).transpose()?,
            web: web.as_ref().map(TcpListener::local_addr).transpose()?,
            ca: site.ca_hash(),
        };
        let parts = Parts {
            store,
            database,
            site,
            rules: open_rules(&config, health)?,
            ingest_metrics: IngestMetrics::register(metrics)?,
            health: health.clone(),
            metrics: metrics.clone(),
            config,
            ingest,
            analyze,
            web,
            intruders,
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
        let said = |address: Option<SocketAddr>| address.map(|address| address.to_string());
        Status { agents: said(agents), web: said(web), ca_hash: ca.to_string() }
    }

    /// Sets everything going.
    pub fn spawn(self, tasks: &Tasks, reloads: Reloads) {
        pipeline::spawn(self.parts, tasks, reloads);
    }
}

/// Who is to hear of the alerts that this process opens, and at which broker.
fn destinations(config: &Config) -> Vec<(Destination, ServerConfig)> {
    let opens_alerts = config.process.roles.contains(&ProcessRole::Analyze);
    let brokers = [
        (Destination::Notifiers, config.bus.broker()),
        (Destination::Ancestor, config.ancestor.alerts.clone()),
    ];
    brokers.into_iter().filter(|(_, broker)| opens_alerts && broker.url.is_some()).collect()
}

/// Where the ancestor's programs publish events, and the node that stands for them.
fn ancestor(config: &Config, site: &Site) -> anyhow::Result<Option<(bus::Options, Identity)>> {
    let Some(options) = bus::Options::from_config(&config.ancestor.events, site)? else { return Ok(None) };
    Ok(Some((options, Identity::open(&config.storage.data_dir)?)))
}

fn relays(
    config: &Config,
    site: &Site,
    store: &Arc<dyn Store>,
    (health, metrics): (&Health, &Metrics),
) -> anyhow::Result<Vec<Relay>> {
    let metrics = RelayMetrics::register(metrics)?;
    let mut relays = Vec::new();
    for (destination, broker) in destinations(config) {
        let Some(options) = bus::Options::from_config(&broker, site)? else { continue };
        let health = health.part(match destination {
            Destination::Notifiers => "alerts_notifiers",
            Destination::Ancestor => "alerts_ancestor",
        });
        let (store, metrics) = (Arc::clone(store), metrics.clone());
        relays.push(Relay { store, destination, options, health, metrics });
    }
    Ok(relays)
}

/// Where correlations read detections: the store, or Redis in front of it.
fn windows(
    config: &Config,
    redis: Option<&Arc<windows::Server>>,
    store: &Arc<dyn Store>,
    metrics: &Metrics,
) -> anyhow::Result<Arc<dyn Windows>> {
    let metrics = WindowMetrics::register(metrics)?;
    let (store, retention) = (Arc::clone(store), config.storage.max_age.duration());
    Ok(match redis {
        Some(redis) => Arc::new(InRedis::new(store, Arc::clone(redis), retention, metrics)),
        None => Arc::new(Stored(store)),
    })
}

/// The embedded store, opened; or one in a database server, which may be down and is looked after.
async fn open_store(config: &Config, health: &Health) -> anyhow::Result<(Arc<dyn Store>, Option<Database>)> {
    let storage = &config.storage;
    let announces = destinations(config).into_iter().map(|(destination, _)| destination).collect();
    if let Some(options) = database::options(&storage.postgres)? {
        let mut store = PostgresStore::new(&options)?.announcing_to(announces);
        if config.windows.url.is_some() {
            store = store.telling_revisions();
        }
        let store = Arc::new(store);
        let parts = (health.part("postgres"), health.part("store"));
        let place = (storage.postgres.clone(), options.url);
        let database = Database::new(Arc::clone(&store), place, parts);
        return Ok((store, Some(database)));
    }
    let options = Options::for_cap(storage.max_bytes.as_u64());
    let store = SqliteStore::open(&storage.data_dir, options)?.announcing_to(announces);
    let store: Arc<dyn Store> = Arc::new(store);
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

async fn listen_web(config: &Config) -> anyhow::Result<TcpListener> {
    let address = config.listen.web;
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: choose another [listen] web or stop what uses it")
    })
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
