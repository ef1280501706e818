//! `status`: what the running agent says of itself.

use std::io::Write;

use auditflow_service::admin::Client;
use auditflow_service::args::{ConfigFile, Exit};

use crate::status::AgentStatus;

/// What `status` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks and prints.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let config = super::load_config(&args.config)?;
    let status: AgentStatus =
        super::block_on(async { Ok(Client::new(&config.admin.socket).get("/status").await?) })?;
    let text =
        if args.json { format!("{}\n", serde_json::to_string_pretty(&status)?) } else { status.to_string() };
    super::unless_closed(std::io::stdout().write_all(text.as_bytes()))
}
