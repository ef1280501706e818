//! What `/status` answers and `auditflow-agent status` prints.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The agent at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentStatus {
    /// The program's version.
    pub version: String,
    /// The node's id.
    pub node: String,
    /// The machine's name.
    pub host_name: String,
    /// The collector that the node has joined, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collector: Option<String>,
    /// How the way there is.
    pub link: LinkStatus,
    /// The sources, by name.
    pub sources: Vec<SourceStatus>,
    /// The spool.
    pub spool: SpoolStatus,
    /// The pre-filter.
    pub rules: RulesStatus,
}

/// The way to the collector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LinkStatus {
    /// `up`, `down`, `unknown` (nothing was sent yet) or `off` (the node has not joined).
    pub state: String,
    /// Why it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Frames sent.
    pub frames: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Frames that failed.
    pub failures: u64,
    /// Batches that are larger than the broker is said to take; they stay in the spool.
    #[serde(default)]
    pub too_large: u64,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// `running`, `degraded`, `unavailable`, `not_applicable` or `not_running`.
    pub state: String,
    /// Since when (RFC 3339, UTC).
    pub since: String,
    /// What it reads, or why it doesn't and what to do.
    pub detail: String,
}

/// The spool, since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SpoolStatus {
    /// Bytes on the disk.
    pub bytes: u64,
    /// The most that it may take.
    pub max_bytes: u64,
    /// Events written.
    pub events: u64,
    /// Batches sealed.
    pub batches: u64,
    /// Batches that the collector has.
    pub released: u64,
    /// Events evicted because it was full.
    pub evicted_events: u64,
    /// When something was written last (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<String>,
}

/// The pre-filter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RulesStatus {
    /// The version of the set in force.
    pub version: String,
    /// How many rules it has.
    pub rules: usize,
}

impl fmt::Display for AgentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "node       {} ({}), agent {}", self.node, self.host_name, self.version)?;
        match &self.collector {
            Some(url) => writeln!(f, "collector  {url}: {}", self.link)?,
            None => writeln!(
                f,
                "collector  not joined; everything is kept here. Run: auditflow-agent join URL TOKEN"
            )?,
        }
        let spool = &self.spool;
        let committed = spool.committed_at.as_deref().unwrap_or("never");
        writeln!(
            f,
            "spool      {} of {} bytes; {} events written, last at {committed}; {} batches sealed, {} delivered",
            spool.bytes, spool.max_bytes, spool.events, spool.batches, spool.released
        )?;
        if spool.evicted_events > 0 {
            writeln!(f, "           {} events evicted because it was full", spool.evicted_events)?;
        }
        writeln!(f, "rules      {} in set {}", self.rules.rules, self.rules.version)?;
        for source in &self.sources {
            writeln!(
                f,
                "source     {}: {} since {}; {}",
                source.name, source.state, source.since, source.detail
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for LinkStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.state)?;
        if let Some(reason) = &self.reason {
            write!(f, " ({reason})")?;
        }
        write!(f, ", {} frames and {} bytes sent, {} failed", self.frames, self.bytes, self.failures)?;
        if self.too_large > 0 {
            write!(f, "; {} batches are too large for the broker and stay here", self.too_large)?;
        }
        Ok(())
    }
}
