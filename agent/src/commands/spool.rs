//! `spool`: looks into a spool, also while an agent uses it.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use auditflow_service::args::Exit;
use auditflow_wire::NodeKeys;

use super::say;
use crate::identity::Identity;
use crate::spool::{self, EpochSummary};

/// What `spool` does.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say what the spool holds
    Inspect(Place),
    /// Check structure, chains, payloads and (with the node's key beside the spool) signatures; exits with 1 if something is wrong
    Verify(Place),
    /// Write all batches held to standard output, for `auditflow-collector verify --export`
    Export(Place),
}

/// Which spool.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The spool's directory or the agent's data directory, usually /var/lib/auditflow-agent
    path: PathBuf,
}

impl Place {
    /// The directory that holds the database.
    fn dir(&self) -> anyhow::Result<PathBuf> {
        let inside = self.path.join("spool");
        [&self.path, &inside].into_iter().find(|dir| spool::is_in(dir)).cloned().with_context(|| {
            format!("there is no spool in {}: name the agent's data_dir", self.path.display())
        })
    }
}

/// Does it.
pub fn run(command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Inspect(place) => inspect(&place.dir()?),
        Command::Verify(place) => verify(&place.dir()?),
        Command::Export(place) => export(&place.dir()?),
    }
}

fn inspect(path: &Path) -> anyhow::Result<Exit> {
    let summary = spool::inspect(path)?;
    say!("schema {}, {} bytes on the disk", summary.schema, summary.footprint)?;
    for epoch in &summary.epochs {
        print_epoch(epoch)?;
    }
    for (source, bytes) in &summary.cursors {
        say!("cursor of {source}: {bytes} bytes")?;
    }
    for loss in &summary.losses {
        let count = loss.count.map_or("an unknown number".to_owned(), |count| count.to_string());
        say!("not yet declared: {count} lost of {} ({})", loss.source.as_str(), loss.reason.as_str())?;
    }
    Ok(Exit::Ok)
}

fn print_epoch(epoch: &EpochSummary) -> anyhow::Result<()> {
    let number = |head: Option<auditflow_wire::Head>| {
        head.map_or("none".to_owned(), |head| head.number.get().to_string())
    };
    say!("epoch {} of node {}", epoch.epoch, epoch.node)?;
    say!("  sealed through {}, acknowledged through {}", number(epoch.head), number(epoch.acknowledged))?;
    say!(
        "  holds {} batches with {} events ({} bytes), {} evicted headers, {} events not yet sealed",
        epoch.batches,
        epoch.events,
        epoch.payload_bytes,
        epoch.evicted,
        epoch.waiting
    )
}

fn verify(path: &Path) -> anyhow::Result<Exit> {
    let identity = path.parent().map(Identity::read).transpose().ok().flatten().flatten();
    let keys: Option<NodeKeys> = identity.map(|identity| identity.keys().collect());
    let faults = spool::verify(path, keys.as_ref())?;
    for fault in &faults {
        say!("{fault}")?;
    }
    if !faults.is_empty() {
        return Ok(Exit::Failure);
    }
    match keys {
        Some(_) => say!("everything is whole and signed by this node")?,
        None => {
            say!(
                "everything is whole (signatures were not checked: the node's key is not beside the spool)"
            )?;
        }
    }
    Ok(Exit::Ok)
}

fn export(path: &Path) -> anyhow::Result<Exit> {
    let mut output = io::stdout().lock();
    if output.is_terminal() {
        bail!("an export is binary: send it to a file");
    }
    let exported = spool::export(path, &mut output)?;
    output.flush()?;
    eprintln!("{} batches, headers and ranges written", exported.rows);
    if exported.damaged > 0 {
        eprintln!("{} batches left out, because their payload is damaged", exported.damaged);
        return Ok(Exit::Failure);
    }
    Ok(Exit::Ok)
}
