//! `token create`: lets nodes join.

use std::io::Write;

use anyhow::ensure;
use auditflow_service::args::Exit;
use auditflow_service::config::Age;
use auditflow_service::lifecycle;
use clap::Args;

use crate::site::{Site, token};

/// `token create`
#[derive(Debug, Clone, Args)]
pub struct Create {
    #[command(flatten)]
    place: super::Place,
    /// How long it lets nodes join
    #[arg(long, value_name = "TIME", default_value = "24h")]
    expires: Age,
    /// How many nodes it lets join
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

/// Prints the token, and nothing else, to standard output; what to do with it to standard error.
pub fn create(args: &Create) -> anyhow::Result<Exit> {
    let config = args.place.config()?;
    ensure!(args.expires.duration() > std::time::Duration::ZERO, "--expires must be longer than nothing");
    let store = super::open_store(&config)?;
    let site = Site::existing(&config.storage.data_dir)?;
    let token = token::create(site.ca_hash(), super::now(), args.expires.duration(), args.uses)?;
    lifecycle::block_on(store.add_join_token(token.row, &super::actor()))??;
    let exit = super::unless_closed(writeln!(std::io::stdout(), "{}", token.text))?;
    let port = config.listen.agents.port();
    let nodes = if args.uses == 1 { "one node".to_owned() } else { format!("{} nodes", args.uses) };
    eprintln!("lets {nodes} join within {}; it is shown only now. On the node:", args.expires);
    eprintln!("  auditflow-agent join https://COLLECTOR:{port} TOKEN");
    Ok(exit)
}
