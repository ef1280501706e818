//! `keys`: the public keys that `verify --export` needs, one a line: `node KEY` or `site KEY`.

use std::io::Write;

use anyhow::ensure;
use auditflow_event::NodeId;
use auditflow_service::args::Exit;
use auditflow_service::lifecycle;
use clap::Args;

use crate::site::Site;

/// `keys`
#[derive(Debug, Clone, Args)]
pub struct Keys {
    #[command(flatten)]
    place: super::Place,
    /// The node, by its id
    #[arg(long, value_name = "ID")]
    node: NodeId,
}

/// Prints the node's keys, current and past, and the site's.
pub fn run(args: &Keys) -> anyhow::Result<Exit> {
    let config = args.place.config()?;
    let store = super::open_store(&config)?;
    let site = Site::existing(&config.storage.data_dir)?;
    let keys = lifecycle::block_on(store.node_keys(args.node))??;
    ensure!(!keys.is_empty(), "there is no node {}: the page lists the nodes' ids", args.node);
    let mut lines: Vec<String> = keys.iter().map(|key| format!("node {key}")).collect();
    lines.extend([site.key.public(), site.next_key].map(|key| format!("site {key}")));
    super::unless_closed(writeln!(std::io::stdout(), "{}", lines.join("\n")))
}
