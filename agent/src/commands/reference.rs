//! `reference`: what the documentation quotes, printed by the code itself.

use auditflow_event::meaning;
use auditflow_service::args::Exit;
use auditflow_service::metrics::Metrics;

use super::say;
use crate::metrics::Meters;
use crate::{admin, source};

/// Which reference.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Every metric, as a Markdown table
    Metrics,
    /// What records and system calls mean, as a Markdown table
    Events,
    /// The admin interface, as an OpenAPI 3.1 document
    Openapi,
}

/// Prints it.
pub fn run(command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Metrics => metrics()?,
        Command::Events => say!("# From records to meaning\n\n{}", meaning::table::markdown().trim_end())?,
        Command::Openapi => say!("{}", admin::openapi().to_pretty_json()?)?,
    }
    Ok(Exit::Ok)
}

fn metrics() -> anyhow::Result<()> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"))?;
    Meters::register(&metrics)?;
    let (outlet, _, _) = source::outlet::channel::<()>(0);
    crate::metrics::watch_outlet(&metrics, &outlet)?;
    crate::metrics::watch_sources(&metrics, &crate::source::Board::default())?;
    say!("# Metrics of the agent\n\n{}", metrics.markdown().trim_end())
}
