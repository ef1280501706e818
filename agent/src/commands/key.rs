//! `key rotate`: lets the running agent sign with a new key.

use std::time::Duration;

use auditflow_service::admin::Client;
use auditflow_service::args::{ConfigFile, Exit};

use super::say;
use crate::admin::NewKey;

/// Longer than the collector may take to answer the agent.
const TIMEOUT: Duration = Duration::from_mins(1);

/// What `key` does.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Let the running agent sign with a new key from now on
    ///
    /// The old key is erased; its last signed word names the new one and what it had sealed, so that batches which wait in
    /// the spool still count and nothing else by the old key does. The collector hears of it at once, or when it can be
    /// reached again.
    Rotate(ConfigFile),
}

/// Does it.
pub fn run(command: &Command) -> anyhow::Result<Exit> {
    let Command::Rotate(file) = command;
    let config = super::load_config(file)?;
    super::block_on(async {
        let agent = Client::new(&config.admin.socket).timeout(TIMEOUT);
        let new: NewKey = agent.post("/rotate-key", &()).await?;
        say!("the node signs with key {} from now on; the old key is erased", new.key)?;
        match new.untold {
            None => say!("the collector has taken it")?,
            Some(why) => say!("the collector does not know it yet ({why}); the agent tries again by itself")?,
        }
        Ok(Exit::Ok)
    })
}
