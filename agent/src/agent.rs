//! The agent's life: builds the parts, starts them in the order in which they need each other, waits for the end.
//!
//! A spool that can't be opened, a bad rule file, a collector that is down or not joined yet: none of these ends the
//! agent; each shows in the health and heals by itself. Sources begin once the spool is open, because it knows where
//! they go on. At the stop they end first, then the pipeline writes and seals what they left, then the shipper ends.

mod shipping;

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::Context;
use auditflow_service::admin::{self, Admin, AdminListener};
use auditflow_service::args::Exit;
use auditflow_service::backoff::Backoff;
use auditflow_service::file;
use auditflow_service::health::Health;
use auditflow_service::lifecycle::{Lifecycle, Reloads, Tasks};
use auditflow_service::metrics::Metrics;
use auditflow_service::telemetry::LogControl;
use auditflow_wire::NodeFacts;
use nix::sys::utsname::UtsName;
use tokio::sync::Notify;

use crate::admin::Routes;
use crate::config::{Config, NodeConfig};
use crate::enrich::Enricher;
use crate::hardware::Hardware;
use crate::identity::{Found, Identity, Kept};
use crate::metrics::{self, Meters};
use crate::pipeline::{self, Command, Parts, Pipeline};
use crate::prefilter::Rules;
use crate::source::outlet::{self, Commands};
use crate::source::{
    Board, Cursor, Inbox, Outlet, SourceName, Station, audit_log, kernel_audit, kubernetes_audit, synthetic,
};
use crate::spool::{Clock, Cursors, Keys, Opening, Options, Reader, Spool, SpoolError};
use crate::status::{AgentStatus, LinkStatus, RulesStatus, SourceStatus, SpoolStatus};
use shipping::Shipping;

/// What may wait between the sources and the pipeline. Files wait by themselves and the kernel queues for a live source,
/// so that this only has to cover the time of one commit.
const INBOX_BYTES: usize = 256 << 10;
/// Delays between attempts at a spool that can't be opened.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the pipeline may be silent before the agent counts as hung: longer than a slow disk takes.
const SILENCE: Duration = Duration::from_secs(50);
/// The part of the grace that the sources have for ending.
const SOURCES_SHARE: u32 = 2;

/// Runs until it is told to stop.
pub async fn run(config: Config, log: LogControl) -> anyhow::Result<Exit> {
    let health = Health::requiring(&["spool"]);
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"))?;
    let lifecycle =
        Lifecycle::start(config.lifecycle.grace.duration(), health.clone()).context("cannot start")?;
    let listener = AdminListener::bind(&config.admin.to_service()).await?;
    let (agent, inbox) = Agent::build(config, &health, &metrics)?;
    let agent = Arc::new(agent);

    let tasks = lifecycle.tasks();
    let status = Arc::clone(&agent);
    let own = agent.routes(lifecycle.reload_trigger());
    let admin = Admin { health, metrics, log }.router(move || {
        let agent = Arc::clone(&status);
        async move { agent.status() }
    });
    let routes = admin::finish(admin.merge(own.router()), crate::admin::openapi());
    tasks.spawn("admin", listener.serve(routes, tasks.stopping()));
    tasks.spawn("reload", Arc::clone(&agent).reload_when_asked(lifecycle.reloads(), tasks.clone()));
    tasks.spawn_job("opening", agent.open_and_start(inbox, tasks.clone()));
    lifecycle.ready("starting");
    Ok(lifecycle.run_until_stopped().await)
}

struct Agent {
    config: Config,
    health: Health,
    identity: Identity,
    /// Its file, where it changes meanwhile.
    kept: Kept,
    host_name: String,
    rules: Rules,
    board: Board,
    outlet: Outlet,
    commands: Commands<Command>,
    meters: Meters,
    /// Wakes the shipper.
    sealed: Arc<Notify>,
    pipeline: Arc<Mutex<pipeline::Status>>,
    shipping: Shipping,
    synthetic: Arc<OnceLock<synthetic::Control>>,
}

impl Agent {
    fn build(config: Config, health: &Health, metrics: &Metrics) -> anyhow::Result<(Self, Inbox<Command>)> {
        let data_dir = &config.node.data_dir;
        file::create_private_directory(data_dir)
            .with_context(|| format!("cannot make {}; check node.data_dir", data_dir.display()))?;
        let hardware = Hardware::read("/".as_ref());
        let (identity, found) = Identity::load_or_make(data_dir, &hardware)?;
        if found == Found::Cloned {
            tracing::warn!(
                node.id = %identity.node,
                "the identity found is of other hardware and was set aside: this is a new node; join the site again"
            );
        }
        let rules = Rules::start(&config.rules, health.part("rules")).context("cannot watch rule files")?;
        let (outlet, commands, inbox) = outlet::channel(INBOX_BYTES);
        metrics::watch_outlet(metrics, &outlet)?;
        let board = Board::default();
        metrics::watch_sources(metrics, &board)?;
        let sealed = Arc::new(Notify::new());
        let kept = Kept::new(data_dir, &hardware);
        let (part, wake) = (health.part("collector"), Arc::clone(&sealed));
        let shipping = Shipping::new(&config.collector, kept.clone(), part, wake, commands.clone());
        // Down until it is open.
        health.part("spool");
        let agent = Self {
            health: health.clone(),
            identity,
            kept,
            host_name: host_name(),
            rules,
            board,
            outlet,
            commands,
            meters: Meters::register(metrics)?,
            sealed,
            pipeline: Arc::default(),
            shipping,
            synthetic: Arc::default(),
            config,
        };
        Ok((agent, inbox))
    }

    fn routes(&self, reload: auditflow_service::lifecycle::ReloadTrigger) -> Routes {
        let (commands, synthetic) = (self.commands.clone(), Arc::clone(&self.synthetic));
        Routes { commands, synthetic, reload, collector: self.shipping.way() }
    }

    /// Opens the spool, however often that has to be tried, and starts all that needs it.
    async fn open_and_start(self: Arc<Self>, inbox: Inbox<Command>, tasks: Tasks) -> Result<(), String> {
        let Some((spool, reader, opening)) = self.open_spool(&tasks).await else { return Ok(()) };
        if let Some((what, aside)) = &opening.set_aside {
            tracing::error!("the spool was damaged ({what}) and is kept as {}", aside.display());
        }
        let station = Station { node: self.identity.node, run: opening.epoch };
        // Before the pipeline, which says that the agent is ready: from then on the generator takes what is posted.
        let sources = self.start_sources(station, &opening.cursors, &tasks);
        sources.map_err(|error| format!("cannot start a source: {error}"))?;
        self.start_pipeline(inbox, spool, station, &tasks);
        self.shipping.start(reader, &self.identity, &tasks);
        tracing::info!(node.id = %self.identity.node, epoch = %opening.epoch, "watching");
        auditflow_service::lifecycle::status("watching");
        Ok(())
    }

    async fn open_spool(&self, tasks: &Tasks) -> Option<(Spool, Reader, Opening)> {
        let part = self.health.part("spool");
        let mut retry = Backoff::new(RETRY.0, RETRY.1, std::process::id().into());
        loop {
            let (dir, options, keys) = (self.config.node.spool_dir(), self.spool_options(), self.keys());
            let open = move || Spool::open(&dir, options, keys, Clock::open().now());
            let error = match tokio::task::spawn_blocking(open).await {
                Ok(Ok(opened)) => return Some(opened),
                Ok(Err(error)) => error,
                Err(error) => SpoolError::Damaged { what: format!("opening it failed: {error}") },
            };
            part.down(&error.to_string(), &["all events"]);
            tokio::select! {
                () = tokio::time::sleep(retry.failed()) => {}
                () = tasks.stopping().cancelled_owned() => return None,
            }
        }
    }

    fn keys(&self) -> Keys {
        Keys {
            node: self.identity.node,
            key: self.identity.key.clone(),
            site: self.identity.site.as_ref().map(|site| site.keys),
            about: about(&self.config.node),
        }
    }

    fn spool_options(&self) -> Options {
        let spool = &self.config.spool;
        Options {
            max_bytes: spool.max_bytes.as_u64(),
            seal_interval: spool.seal_interval(),
            ..Options::default()
        }
    }

    fn start_pipeline(&self, inbox: Inbox<Command>, spool: Spool, station: Station, tasks: &Tasks) {
        let parts = Parts {
            inbox,
            spool,
            enricher: Enricher::new("/".as_ref()),
            rules: self.rules.current(),
            board: self.board.clone(),
            station,
            commit_interval: self.config.spool.commit_interval(),
            meters: self.meters.clone(),
            part: self.health.part("spool"),
            heartbeat: self.health.heartbeat("pipeline", SILENCE),
            sealed: Arc::clone(&self.sealed),
            identity: self.kept.clone(),
            site_keys: self.health.part("site_keys"),
            status: Arc::clone(&self.pipeline),
        };
        let grace = self.config.lifecycle.grace.duration() / SOURCES_SHARE;
        let (commands, stopping) = (self.commands.clone(), tasks.stopping());
        tasks.spawn_job("stopping", async move {
            stopping.cancelled().await;
            // A pipeline that has ended needs no telling.
            let _ = commands.send(Command::Stop);
            Ok::<(), String>(())
        });
        let watched = tasks.clone();
        let drained = self.shipping.pipeline_ended();
        tasks.spawn_blocking("pipeline", move || {
            Pipeline::new(parts, Clock::open()).run(grace, || sources_ended(&watched));
            drained.cancel();
            Ok::<(), String>(())
        });
    }

    fn start_sources(&self, station: Station, cursors: &Cursors, tasks: &Tasks) -> anyhow::Result<()> {
        let sources = &self.config.sources;
        let start = |name: SourceName| cursors.get(name.0).map(|cursor| Cursor(cursor.clone()));
        let reporter = |name: SourceName| self.board.reporter(name, &self.health);
        if sources.audit_log.enabled {
            let (outlet, reporter) = (self.outlet.clone(), reporter(audit_log::NAME));
            let start = start(audit_log::NAME);
            audit_log::spawn(&sources.audit_log, station, outlet, reporter, start.as_ref(), tasks);
        }
        if sources.kubernetes_audit.enabled {
            let (outlet, reporter) = (self.outlet.clone(), reporter(kubernetes_audit::NAME));
            let start = start(kubernetes_audit::NAME);
            kubernetes_audit::spawn(
                &sources.kubernetes_audit,
                station,
                outlet,
                reporter,
                start.as_ref(),
                tasks,
            );
        }
        if sources.synthetic.enabled {
            let (outlet, reporter) = (self.outlet.clone(), reporter(synthetic::NAME));
            let control = synthetic::spawn(&sources.synthetic, station, outlet, &reporter, tasks)?;
            // Nobody else sets it.
            let _ = self.synthetic.set(control);
        }
        if sources.kernel_audit.enabled {
            let parts = kernel_audit::Parts {
                outlet: self.outlet.clone(),
                reporter: reporter(kernel_audit::NAME),
                rules_reporter: reporter(kernel_audit::RULES),
                rules_state: sources.kernel_audit.rules_state.clone(),
                station,
                boot: Clock::open().now().boot,
                cursor: start(kernel_audit::NAME),
                stop: tasks.stopping(),
            };
            let thread = kernel_audit::spawn(sources.kernel_audit.mode, parts)?;
            tasks.spawn_blocking("kernel_audit", move || thread.join().map_err(|_| "its thread panicked"));
        }
        Ok(())
    }

    async fn reload_when_asked(self: Arc<Self>, mut reloads: Reloads, tasks: Tasks) -> Result<(), String> {
        let stopping = tasks.stopping();
        loop {
            let _reload = tokio::select! {
                reload = reloads.next() => reload,
                () = stopping.cancelled() => return Ok(()),
            };
            self.rules.reload();
            match self.kept.read() {
                Ok(Some(identity)) => self.adopt(&identity, &tasks),
                Ok(None) => {}
                Err(error) => tracing::error!("the identity was not read again: {error}"),
            }
        }
    }

    /// The node may have joined meanwhile. Under the same id that is taken up at once, otherwise by starting again.
    fn adopt(&self, identity: &Identity, tasks: &Tasks) {
        let Some(site) = &identity.site else { return };
        if identity.node == self.identity.node && self.shipping.join(site, identity, tasks) {
            return;
        }
        let same = self.identity.site.as_ref().is_some_and(|own| own.is_same(site));
        if !same || identity.node != self.identity.node {
            tracing::warn!(
                "the node has joined another site or under another id: stopping, to be started again"
            );
            tasks.stop();
        }
    }

    fn status(&self) -> AgentStatus {
        let pipeline = *self.pipeline.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = self.rules.current().get();
        let sources = self.board.snapshot().into_iter().map(|(name, coverage)| SourceStatus {
            name: name.to_string(),
            state: coverage.state.condition().as_str().to_owned(),
            since: coverage.since.to_string(),
            detail: coverage.detail,
        });
        let (collector, link): (Option<String>, LinkStatus) = self.shipping.status();
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.identity.node.to_string(),
            host_name: self.host_name.clone(),
            collector,
            link,
            sources: sources.collect(),
            spool: SpoolStatus {
                bytes: pipeline.spool_bytes,
                max_bytes: self.config.spool.max_bytes.as_u64(),
                events: pipeline.spool.events,
                batches: pipeline.spool.batches,
                released: pipeline.spool.released,
                evicted_events: pipeline.spool.evicted_events,
                committed_at: pipeline.committed_at.map(|at| at.to_string()),
            },
            rules: RulesStatus { version: rules.version().to_string(), rules: rules.rules().len() },
        }
    }
}

fn sources_ended(tasks: &Tasks) -> bool {
    let sources = [audit_log::NAME, kernel_audit::NAME, kubernetes_audit::NAME, synthetic::NAME];
    !tasks.running().iter().any(|running| sources.iter().any(|source| source.0 == *running))
}

/// The machine's name, as the collector shows it.
pub(crate) fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "unknown".to_owned())
}

/// What the node says of itself until the next start.
pub(crate) fn about(config: &NodeConfig) -> NodeFacts {
    let system = nix::sys::utsname::uname().ok();
    let text = |part: fn(&UtsName) -> &OsStr| system.as_ref().and_then(|system| part(system).to_str());
    NodeFacts::new(
        &host_name(),
        env!("CARGO_PKG_VERSION"),
        text(UtsName::release).unwrap_or_default(),
        text(UtsName::machine).unwrap_or_default(),
        config.labels.clone(),
    )
}
