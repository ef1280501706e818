//! `config default`: the commented reference.

use std::io::Write;

use auditflow_service::args::Exit;

/// Prints the reference.
pub fn run() -> anyhow::Result<Exit> {
    super::unless_closed(std::io::stdout().write_all(crate::config::REFERENCE.as_bytes()))
}
