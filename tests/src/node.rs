//! One agent's place: its configuration, its data and its admin socket in a folder of their own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::programs::{Agent, Binaries, Collector};

/// What every test wants of an agent: short intervals, nothing read that the test did not ask for.
const QUIET: &str = "[sources.kubernetes_audit]\nenabled = false\n\
                     [spool]\ncommit_interval_ms = 100\nseal_interval_ms = 200\n[log]\nformat = \"text\"\n";

/// A source of kernel events that is switched off, for tests that want none of them.
pub const NO_KERNEL: &str = "[sources.kernel_audit]\nenabled = false\n";

/// A generator that makes nothing by itself and takes what is posted.
pub const SYNTHETIC: &str = "[sources.synthetic]\nenabled = true\n";

/// Where an agent lives.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its configuration file.
    pub config: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
    /// Its admin socket.
    pub socket: PathBuf,
}

impl Node {
    /// Makes one below `folder`, with these sections in its configuration besides the usual ones.
    pub fn make(folder: &Path, sections: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let node = Self {
            config: folder.join("agent.toml"),
            data: folder.join("agent"),
            socket: folder.join("agent.sock"),
        };
        let (data, socket) = (node.data.display().to_string(), node.socket.display().to_string());
        let own = format!("[node]\ndata_dir = {data:?}\n[admin]\nsocket = {socket:?}\n");
        fs::write(&node.config, [&own, QUIET, sections].concat())?;
        Ok(node)
    }

    /// Lets it join the collector's site.
    pub fn join(&self, binaries: &Binaries, collector: &Collector) -> anyhow::Result<()> {
        Agent::join(binaries, &self.config, &collector.agents, &collector.token(1)?)?.success()?;
        Ok(())
    }

    /// Starts its agent.
    pub fn start(&self, binaries: &Binaries) -> anyhow::Result<Agent> {
        Agent::start(binaries, &self.config, &self.socket)
    }

    /// Its id; known once it has joined or started.
    pub fn id(agent: &Agent) -> anyhow::Result<String> {
        let status = agent.ask("GET", "/status", "")?.json()?;
        Ok(status["node"].as_str().unwrap_or_default().to_owned())
    }
}
