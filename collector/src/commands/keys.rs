//! `keys`: prints the public keys that `verify --export` needs, and rotates the site's signing key.

use std::io::Write;

use anyhow::{Context as _, ensure};
use auditflow_event::NodeId;
use auditflow_service::args::Exit;
use auditflow_service::lifecycle;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::site::Site;
use crate::store::Action;

/// `keys`
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Keys {
    #[command(subcommand)]
    command: Option<KeysCommand>,
    #[command(flatten)]
    place: super::Place,
    /// The node, by its id
    #[arg(long, value_name = "ID")]
    node: Option<NodeId>,
}

#[derive(Debug, Clone, Subcommand)]
enum KeysCommand {
    /// Sign acknowledgements with the next key from now on, and make the key after it
    ///
    /// Nodes have pinned the next key already and notice nothing; each is told the key after it when it connects, or
    /// when it comes back, however many rotations it missed. A collector that runs takes the new key up within seconds.
    /// Keys of the past stay known to `verify` and to `keys --node ID`.
    ///
    /// If both the key in use and the next one may have been stolen (they lie in one file), a rotation does not help:
    /// set the site up anew and let the nodes join again. Take a new `backup` after a rotation: nodes don't follow a
    /// collector back to an older key.
    Rotate(super::Place),
}

/// Does what is asked.
pub fn run(args: &Keys) -> anyhow::Result<Exit> {
    match &args.command {
        Some(KeysCommand::Rotate(place)) => rotate(place),
        None => print(args),
    }
}

/// Prints the node's keys and the site's, current and past.
fn print(args: &Keys) -> anyhow::Result<Exit> {
    let node =
        args.node.context("name the node whose keys are wanted: --node ID (the page lists the ids)")?;
    let config = args.place.config()?;
    let store = super::open_store(&config)?;
    let site = Site::existing(&config.storage.data_dir)?;
    let keys = lifecycle::block_on(store.node_keys(node))??;
    ensure!(!keys.is_empty(), "there is no node {node}: the page lists the nodes' ids");
    let mut lines: Vec<String> = keys.all().map(|key| format!("node {key}")).collect();
    let hex = |bytes| data_encoding::HEXLOWER.encode(bytes);
    lines.extend(keys.rotations().iter().map(|rotation| format!("rotation {}", hex(rotation.as_bytes()))));
    lines.extend(site.keys.get().all().map(|key| format!("site {key}")));
    super::unless_closed(writeln!(std::io::stdout(), "{}", lines.join("\n")))
}

fn rotate(place: &super::Place) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let store = super::open_store(&config)?;
    let site = Site::existing(&config.storage.data_dir)?;
    let before = site.keys.get().signing.id();
    let rotated = site.keys.rotate(super::now());
    let after = rotated.as_ref().ok().map(|keys| keys.signing.id().to_string());
    let what = (Action::SiteRotateKey, before.to_string());
    let keys = super::recorded(&store, what, json!({ "after": after }), rotated.map_err(Into::into))?;
    super::unless_closed(writeln!(
        std::io::stdout(),
        "the site signs with key {} from now on (before: {before}); a running collector takes it up within seconds\n\
         take a new backup: nodes don't follow a collector back to the key before",
        keys.signing.id()
    ))
}
