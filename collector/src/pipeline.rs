//! The way of a batch, as a picture: ingest → store → analyse → alerts → web. Each stage is one line.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use auditflow_mqtt::Options;
use auditflow_service::health::{Health, Part};
use auditflow_service::lifecycle::{Reloads, Tasks};
use auditflow_service::metrics::Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::analyse::{self, Analyser, AnalysisMetrics};
use crate::config::{Anonymous, Config};
use crate::database::Database;
use crate::detect::RulesReloader;
use crate::ingest::https::{Door, Limits as DoorLimits, Listener};
use crate::ingest::mqtt::Subscriber;
use crate::ingest::{Ingest, late};
use crate::metrics::{IngestMetrics, StorageMetrics};
use crate::proof::checkpoint::Checkpoints;
use crate::retention::Retention;
use crate::site::{Site, SiteKeys};
use crate::store::{Limits, Store};
use crate::web::{self, AppState, Surroundings};

/// How often the site's keys are looked at.
const KEYS_EVERY: Duration = Duration::from_secs(2);

/// What the pipeline is made of.
pub struct Parts {
    /// Holds everything.
    pub store: Arc<dyn Store>,
    /// Looks after the database server, if the store is in one.
    pub database: Option<Database>,
    /// Signs.
    pub site: Site,
    /// The agents' port.
    pub agents: Listener,
    /// The broker that agents publish to, if there is one.
    pub broker: Option<Options>,
    /// The page's port.
    pub web: TcpListener,
    /// Counters of ingest.
    pub ingest_metrics: IngestMetrics,
    /// Counters of retention.
    pub storage_metrics: StorageMetrics,
    /// Counters of analysis.
    pub analysis_metrics: AnalysisMetrics,
    /// The rules, kept up to date.
    pub rules: RulesReloader,
    /// Where the parts say how they are.
    pub health: Health,
    /// What is counted.
    pub metrics: Metrics,
    /// The rest of the configuration.
    pub config: Config,
}

/// Sets every stage going.
pub fn spawn(parts: Parts, tasks: &Tasks, reloads: Reloads) {
    let Parts {
        store,
        database,
        site,
        agents,
        broker,
        web,
        ingest_metrics,
        storage_metrics,
        analysis_metrics,
        rules,
        health,
        metrics,
        config,
    } = parts;
    let stop = tasks.stopping();
    if let Some(database) = database {
        tasks.spawn("database", database.run(stop.clone()));
    }
    let agents_port = agents.local_addr().map_or(config.listen.agents.port(), |address| address.port());

    let keys = site.keys.clone();
    let (hints, hinted) = analyse::hints();
    let ingest = Arc::new(Ingest::new(
        Arc::clone(&store),
        site.clone(),
        rules.current(),
        hints,
        ingest_metrics.clone(),
    ));
    if let Some(broker) = broker {
        let parts = (health.part("mqtt"), health.part("store"));
        let subscriber = Subscriber::new(broker, Arc::clone(&ingest), ingest_metrics.clone(), parts);
        tasks.spawn("mqtt", subscriber.run(stop.clone()));
    }
    let door = Door {
        ingest,
        store: Arc::clone(&store),
        site,
        metrics: ingest_metrics,
        health: health.part("store"),
        limits: DoorLimits::default(),
    };
    tasks.spawn("site keys", follow_keys(keys.clone(), health.part("site_keys"), stop.clone()));
    tasks.spawn("ingest", agents.serve(door, stop.clone()));

    let analyser = Analyser::new(analyse::Parts {
        store: Arc::clone(&store),
        rules: rules.current(),
        retention: config.storage.max_age.duration(),
        metrics: analysis_metrics,
        health: health.part("analysis"),
    });
    let rules_in_force = rules.current();
    tasks.spawn("analysis", analyser.run(hinted, stop.clone()));
    tasks.spawn("rules", reload_rules(rules, reloads, stop.clone()));

    tasks.spawn_job("unread batches", late::run(Arc::clone(&store), stop.clone()));

    let limits = Limits {
        max_bytes: config.storage.max_bytes.as_u64(),
        max_age_seconds: config.storage.max_age.duration().as_secs(),
    };
    let retention = Retention {
        store: Arc::clone(&store),
        checkpoints: Checkpoints::new(Arc::clone(&store), keys.clone()),
        limits,
        health: health.part("store"),
        ledger: health.part("ledger"),
        metrics: storage_metrics,
    };
    tasks.spawn("retention", retention.run(stop.clone()));

    let state = AppState::new(Surroundings {
        store,
        site_keys: keys.clone(),
        health,
        metrics,
        rules: rules_in_force,
        anonymous: config.auth.anonymous == Anonymous::Viewer,
        session: config.auth.session.duration(),
        agents_port,
        option: config.option(),
        names: config.tls.names,
        stop: stop.clone(),
    });
    tasks.spawn("changes", state.clone().follow());
    tasks.spawn("refusals", web::access::tell_refusals(state.clone()));
    tasks.spawn("web", web::serve(web, web::router(state), stop));
}

/// Reloads the rules when somebody asks; changed files are noticed without.
async fn reload_rules(
    rules: RulesReloader,
    mut reloads: Reloads,
    stop: CancellationToken,
) -> Result<(), Infallible> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _reload = reloads.next() => rules.reload(),
        }
    }
}

/// Takes up a rotation of the site's keys that a command, or whoever mounts the file, has made.
async fn follow_keys(keys: SiteKeys, health: Part, stop: CancellationToken) -> Result<(), Infallible> {
    loop {
        match keys.refresh() {
            Ok(changed) => {
                health.up();
                if changed {
                    tracing::info!(site.key = %keys.get().signing.id(), "signing with the site's next key from now on");
                }
            }
            Err(error) => health.degraded(&error.to_string(), &["rotations of the site's key"]),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(KEYS_EVERY) => {}
        }
    }
}
