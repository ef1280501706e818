//! `check`: says all that is wrong with the configuration, and opens nothing but its file.

use std::io::Write;

use auditflow_service::args::{ConfigFile, Exit};
use auditflow_service::config;

use crate::config::{Config, ENVIRONMENT_PREFIX};

/// Prints `FILE: ok`, or fails with every problem.
pub fn run(file: &ConfigFile) -> anyhow::Result<Exit> {
    let path = file.file.clone().unwrap_or_else(|| config::default_path("collector"));
    config::load::<Config>(Some(&path), ENVIRONMENT_PREFIX)?;
    super::unless_closed(writeln!(std::io::stdout(), "{}: ok", path.display()))
}
