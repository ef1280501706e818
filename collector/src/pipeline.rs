//! The way of a batch, as a picture: ingest → store → analyse → alerts → web. Each stage is one line.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use auditflow_service::health::{Health, Part};
use auditflow_service::lifecycle::{Reloads, Tasks};
use auditflow_service::metrics::Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::analyse::{self, Analyser, AnalysisMetrics};
use crate::bus;
use crate::bus::connections::{Closer, Named};
use crate::bus::relay::Relay;
use crate::config::{Anonymous, Config};
use crate::correlate::windows::{self, Windows};
use crate::database::Database;
use crate::detect::RulesReloader;
use crate::ingest::amqp::Consumer;
use crate::ingest::ancestor::AncestorEvents;
use crate::ingest::brokered::Brokered;
use crate::ingest::https::{Door, Limits as DoorLimits, Listener};
use crate::ingest::intake::{Identity, Intake};
use crate::ingest::mqtt::Subscriber;
use crate::ingest::{Feed, Ingest, late};
use crate::metrics::{IngestMetrics, StorageMetrics};
use crate::proof::checkpoint::Checkpoints;
use crate::retention::Retention;
use crate::site::{Site, SiteKeys};
use crate::store::{Limits, Store};
use crate::web::{self, AppState, Surroundings};

/// How often the site's keys are looked at.
const KEYS_EVERY: Duration = Duration::from_secs(2);

/// What the pipeline is made of: what every role needs, and what the roles of this process need besides.
pub struct Parts {
    /// Holds everything.
    pub store: Arc<dyn Store>,
    /// Looks after the database server, if the store is in one.
    pub database: Option<Database>,
    /// Signs.
    pub site: Site,
    /// The rules, kept up to date.
    pub rules: RulesReloader,
    /// Counters of ingest.
    pub ingest_metrics: IngestMetrics,
    /// Where the parts say how they are.
    pub health: Health,
    /// What is counted.
    pub metrics: Metrics,
    /// The rest of the configuration.
    pub config: Config,
    /// Takes what agents send.
    pub ingest: Option<IngestParts>,
    /// Finds what matters in it.
    pub analyze: Option<AnalyzeParts>,
    /// The page's port.
    pub web: Option<TcpListener>,
    /// Closes the connections of nodes that may not send, and where they are named.
    pub intruders: Option<(Named, Closer)>,
}

/// What the role `ingest` needs.
pub struct IngestParts {
    /// The agents' port.
    pub agents: Listener,
    /// The broker that is subscribed to, if there is one.
    pub broker: Option<auditflow_mqtt::Options>,
    /// Where the ancestor's programs publish events, if they do.
    pub ancestor: Option<(bus::Options, Identity)>,
}

/// What the role `analyze` needs.
pub struct AnalyzeParts {
    /// RabbitMQ, if there is one.
    pub bus: Option<bus::Options>,
    /// Where correlations read detections.
    pub windows: Arc<dyn Windows>,
    /// Redis, if it has them.
    pub redis: Option<Arc<windows::Server>>,
    /// Tell others of alerts.
    pub relays: Vec<Relay>,
    /// Counters of retention.
    pub storage_metrics: StorageMetrics,
    /// Counters of analysis.
    pub analysis_metrics: AnalysisMetrics,
}

/// Sets every stage of the process's roles going.
pub fn spawn(parts: Parts, tasks: &Tasks, reloads: Reloads) {
    let Parts { store, database, site, rules, ingest_metrics, health, metrics, config, .. } = parts;
    let Parts { ingest, analyze, web, intruders, .. } = parts;
    let stop = tasks.stopping();
    if let Some(database) = database {
        tasks.spawn("database", database.run(stop.clone()));
    }
    let keys = site.keys.clone();
    let in_force = rules.current();
    tasks.spawn("site keys", follow_keys(keys.clone(), health.part("site_keys"), stop.clone()));

    let (intruders, closer) = intruders.unzip();
    if let Some(closer) = closer {
        tasks.spawn("intruders", closer.run(stop.clone()));
    }
    let (hints, hinted) = analyse::hints();
    let feed = analyze.is_some().then(|| Feed { rules: in_force.clone(), hints });
    let taking = Arc::new(Ingest::new(Arc::clone(&store), site.clone(), feed, ingest_metrics.clone()));
    let brokered = Arc::new(Brokered {
        ingest: Arc::clone(&taking),
        metrics: ingest_metrics.clone(),
        store: health.part("store"),
        intruders,
    });
    let mut agents_port = config.listen.agents.port();
    if let Some(IngestParts { agents, broker, ancestor }) = ingest {
        agents_port = agents.local_addr().map_or(agents_port, |address| address.port());
        if let Some(broker) = broker {
            let subscriber = Subscriber::new(broker, Arc::clone(&brokered), health.part("mqtt"));
            tasks.spawn("mqtt", subscriber.run(stop.clone()));
        }
        if let Some((options, identity)) = ancestor {
            let intake = Intake::new(identity, Arc::clone(&store), Arc::clone(&taking));
            let (metrics, part) = (ingest_metrics.clone(), health.part("ancestor_events"));
            tasks.spawn("ancestor", AncestorEvents::new(options, intake, metrics, part).run(stop.clone()));
        }
        let door = Door {
            ingest: taking,
            store: Arc::clone(&store),
            site,
            metrics: ingest_metrics,
            health: health.part("store"),
            limits: DoorLimits::default(),
        };
        tasks.spawn("ingest", agents.serve(door, stop.clone()));
    }
    if let Some(AnalyzeParts { bus, windows, redis, relays, storage_metrics, analysis_metrics }) = analyze {
        if let Some(bus) = bus {
            let consumer = Consumer::new(bus, config.bus.shards, brokered, health.part("rabbitmq"));
            tasks.spawn("rabbitmq", consumer.run(stop.clone()));
        }
        if let Some(redis) = redis {
            let stop = stop.clone();
            tasks.spawn("redis", async move { redis.run(stop).await });
        }
        for relay in relays {
            tasks.spawn("alerts", relay.run(stop.clone()));
        }
        let analyser = Analyser::new(analyse::Parts {
            store: Arc::clone(&store),
            windows,
            rules: in_force.clone(),
            retention: config.storage.max_age.duration(),
            metrics: analysis_metrics,
            health: health.part("analysis"),
        });
        tasks.spawn("analysis", analyser.run(hinted, stop.clone()));
        tasks.spawn_job("unread batches", late::run(Arc::clone(&store), stop.clone()));
        let retention = Retention {
            store: Arc::clone(&store),
            checkpoints: Checkpoints::new(Arc::clone(&store), keys.clone()),
            limits: Limits {
                max_bytes: config.storage.max_bytes.as_u64(),
                max_age_seconds: config.storage.max_age.duration().as_secs(),
            },
            health: health.part("store"),
            ledger: health.part("ledger"),
            metrics: storage_metrics,
        };
        tasks.spawn("retention", retention.run(stop.clone()));
    }
    tasks.spawn("rules", reload_rules(rules, reloads, stop.clone()));
    if let Some(web) = web {
        let state = AppState::new(Surroundings {
            store,
            site_keys: keys,
            health,
            metrics,
            rules: in_force,
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
