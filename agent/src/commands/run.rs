//! `run`: the agent.

use auditflow_service::args::{ColorChoice, ConfigFile, Exit};
use auditflow_service::{lifecycle, telemetry};

/// Runs until told to stop.
pub fn run(file: &ConfigFile, color: &ColorChoice) -> anyhow::Result<Exit> {
    let config = super::load_config(file)?;
    let log = telemetry::init("auditflow-agent", &config.log, color.color.on_stderr())?;
    lifecycle::block_on(crate::agent::run(config, log))?
}
