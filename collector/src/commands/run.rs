//! `run`: the collector, until it is stopped.

use std::io::Write;
use std::net::SocketAddr;

use auditflow_service::admin::{self, Admin, AdminListener};
use auditflow_service::args::{ColorChoice, Exit};
use auditflow_service::health::Health;
use auditflow_service::lifecycle::{self, Lifecycle};
use auditflow_service::metrics::Metrics;
use auditflow_service::telemetry::{self, LogControl};
use clap::Args;

use crate::collector::{Addresses, Collector, Status};
use crate::config::Config;

/// The program's name in logs and messages.
pub const PROGRAM: &str = "auditflow-collector";

/// `run`
#[derive(Debug, Clone, Args)]
pub struct Run {
    #[command(flatten)]
    place: super::Place,
    /// Where agents deliver, instead of what the configuration says; port 0 is any free one
    #[arg(long, value_name = "ADDRESS")]
    listen_agents: Option<SocketAddr>,
    /// Where page and API are, instead of what the configuration says; port 0 is any free one
    #[arg(long, value_name = "ADDRESS")]
    listen_web: Option<SocketAddr>,
}

/// Runs until stopped.
pub fn run(args: &Run, color: &ColorChoice) -> anyhow::Result<Exit> {
    let mut config = args.place.config()?;
    config.listen.agents = args.listen_agents.unwrap_or(config.listen.agents);
    config.listen.web = args.listen_web.unwrap_or(config.listen.web);
    let log = telemetry::init(PROGRAM, &config.log, color.color.on_stderr())?;
    lifecycle::block_on(run_until_stopped(args, config, log))?
}

async fn run_until_stopped(args: &Run, config: Config, log: LogControl) -> anyhow::Result<Exit> {
    let health = Health::requiring(&["store"]);
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"))?;
    let lifecycle = Lifecycle::start(config.lifecycle.grace.duration(), health.clone())?;
    let tasks = lifecycle.tasks();
    let _lock = super::take(&config.storage.data_dir)?;
    let admin_config = config.admin.to_service();
    let collector = Collector::build(config, &health, &metrics).await?;
    let listener = AdminListener::bind(&admin_config).await?;
    let status = collector.status();
    let routes = Admin { health, metrics, log }.router(move || {
        let status = status.clone();
        async move { status }
    });
    let routes = admin::finish(routes, Admin::openapi::<Status>());
    tasks.spawn("admin", listener.serve(routes, tasks.stopping()));
    let addresses = collector.addresses();
    collector.spawn(&tasks, lifecycle.reloads());
    super::unless_closed(announce(args, &addresses))?;
    lifecycle.ready("collecting");
    Ok(lifecycle.run_until_stopped().await)
}

/// What somebody who has just started it wants to know.
fn announce(args: &Run, addresses: &Addresses) -> std::io::Result<()> {
    let option = args.place.option();
    let Addresses { agents, web, ca } = addresses;
    let mut out = std::io::stdout().lock();
    if let Some(web) = web {
        writeln!(out, "page      http://{web}/")?;
    }
    if let Some(agents) = agents {
        writeln!(out, "agents    https://{agents}")?;
        writeln!(out, "ca hash   {ca}")?;
        writeln!(out, "add node  {PROGRAM} token create{option}")?;
    }
    if web.is_some() {
        writeln!(out, "password  {PROGRAM} admin reset-password{option}")?;
    }
    out.flush()
}
