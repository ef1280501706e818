//! What the command line can do, one file per command.

pub mod admin;
pub mod audit;
pub mod backup;
pub mod broker_certificate;
pub mod check;
pub mod config_default;
pub mod dead_letters;
pub mod export;
pub mod keys;
pub mod migrate;
pub mod reference;
pub mod rules;
pub mod run;
pub mod token;
pub mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use auditflow_event::Timestamp;
use auditflow_service::args::{ConfigFile, Exit};
use auditflow_service::config;
use auditflow_service::file::{self, DirectoryLock};
use auditflow_service::lifecycle;
use clap::Args;
use serde_json::Value;

use crate::config::{Config, ENVIRONMENT_PREFIX};
use crate::database;
use crate::store::postgres::{self, PostgresStore};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Act, Action, Actor, By, Outcome, Store, SystemUser};

/// Which collector: by its configuration, or by its data directory with everything else by default.
#[derive(Debug, Clone, Default, Args)]
pub struct Place {
    #[command(flatten)]
    file: ConfigFile,
    /// Data directory; everything else is as by default, no configuration file is read
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    data: Option<PathBuf>,
}

impl Place {
    /// The configuration.
    pub fn config(&self) -> anyhow::Result<Config> {
        if let Some(directory) = &self.data {
            let directory = std::path::absolute(directory)
                .with_context(|| format!("cannot use {} as a data directory", directory.display()))?;
            return Ok(Config::for_directory(&directory));
        }
        let path = self.file.file.clone().unwrap_or_else(|| config::default_path("collector"));
        Ok(config::load(Some(&path), ENVIRONMENT_PREFIX)?)
    }

    /// How a command line names the same collector.
    pub fn option(&self) -> String {
        match (&self.data, &self.file.file) {
            (Some(directory), _) => format!(" --data {}", directory.display()),
            (None, Some(file)) => format!(" --config {}", file.display()),
            (None, None) => String::new(),
        }
    }
}

/// Makes the data directory if there is none, and keeps every other process out of it.
fn take(directory: &Path) -> anyhow::Result<DirectoryLock> {
    file::create_private_directory(directory)
        .with_context(|| format!("cannot make the data directory {}", directory.display()))?;
    Ok(DirectoryLock::acquire(directory)?)
}

/// The store of a collector that may be running. One that was never started is not made by looking at it.
fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    if let Some(options) = database::options(&config.storage.postgres)? {
        let options = postgres::Options { connections: 2, ..options };
        let opened: anyhow::Result<_> = lifecycle::block_on(async {
            let store = PostgresStore::new(&options)?;
            store.open().await?;
            Ok(store)
        })?;
        return Ok(Arc::new(opened?));
    }
    let directory = &config.storage.data_dir;
    anyhow::ensure!(
        directory.join("collector.db").exists(),
        "there is no collector in {}: start one with `auditflow-collector run`, or name the right directory",
        directory.display()
    );
    Ok(Arc::new(SqliteStore::open(directory, Options::for_cap(config.storage.max_bytes.as_u64()))?))
}

/// Who types, for the audit trail.
fn by() -> By {
    let owner = system_user(nix::unistd::getuid().as_raw());
    let login = std::fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse().ok());
    // The highest number stands for nobody: a service, or a kernel that does not keep it.
    let login = login.filter(|login| *login != u32::MAX && *login != owner.uid).map(system_user);
    By { actor: Actor::Cli { owner, login }, origin: None }
}

fn system_user(uid: u32) -> SystemUser {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok().flatten();
    SystemUser { uid, name: user.map(|user| user.name) }
}

/// Writes into the audit trail how an act outside of the store ended, and hands its result on.
fn recorded<T>(
    store: &Arc<dyn Store>,
    (action, object): (Action, String),
    detail: Value,
    done: anyhow::Result<T>,
) -> anyhow::Result<T> {
    lifecycle::block_on(record(store, (action, object), detail, done))?
}

async fn record<T>(
    store: &Arc<dyn Store>,
    (action, object): (Action, String),
    detail: Value,
    done: anyhow::Result<T>,
) -> anyhow::Result<T> {
    let act = Act::done(now(), by(), action, object, detail);
    let outcome = if done.is_ok() { Outcome::Done } else { Outcome::Failed };
    let written = store.record(Act { outcome, ..act }).await;
    let done = done?;
    written.context("it was done, but it is not in the audit trail")?;
    Ok(done)
}

fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}

/// Writing to a pipe that nobody reads any more ends a command in peace.
fn unless_closed(result: io::Result<()>) -> anyhow::Result<Exit> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Ok),
    }
}
