//! The store in SQLite, for one process.
//!
//! `DIR/collector.db` holds the ledger and everything that people and analysis add; `DIR/payload/` holds the payloads,
//! a file per day (`partitions` says why). One thread writes (`writer`), a few connections read (`readers`).
//! Both kinds of file are in WAL mode with `synchronous = FULL`.

mod account;
mod alerts;
mod checkpoints;
mod detections;
mod error;
mod ledger;
mod node_keys;
mod nodes;
mod outbox;
mod partitions;
mod people;
mod readers;
mod retention;
mod schema;
mod search;
mod space;
mod store;
mod storm;
#[cfg(test)]
mod tests;
mod trail;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use tokio::sync::broadcast;

use crate::store::{Act, Action, By, Change, Destination, Migrated, Result, Store};
use error::{failed, io_failed};
use readers::Readers;
use writer::Writer;

/// Changes that a listener may be behind before it is told that it missed some.
const CHANGES: usize = 1024;
/// The smallest part of a day.
const LEAST_PART_BYTES: u64 = 16 << 20;

/// The store of an embedded collector.
pub struct SqliteStore {
    directory: PathBuf,
    writer: Writer,
    readers: Readers,
    changes: broadcast::Sender<Change>,
    part_bytes: u64,
    /// Who is to hear of the alerts that are opened.
    announces: Arc<[Destination]>,
}

/// How the store is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// After how many bytes of payloads and headers a day goes on in another file: the grain in which the byte cap is kept.
    pub part_bytes: u64,
}

impl Options {
    /// For a byte cap: a sixteenth of it per file.
    pub fn for_cap(max_bytes: u64) -> Self {
        Self { part_bytes: (max_bytes / 16).max(LEAST_PART_BYTES) }
    }
}

impl SqliteStore {
    /// Opens or makes the store below `directory`, brought to this release's schema.
    pub fn open(directory: &Path, options: Options) -> Result<Self> {
        migrate(directory, By::COLLECTOR)?;
        let (changes, _) = broadcast::channel(CHANGES);
        Ok(Self {
            directory: directory.to_owned(),
            writer: Writer::spawn(directory, changes.clone())?,
            readers: Readers::new(directory),
            changes,
            part_bytes: options.part_bytes,
            announces: Arc::new([]),
        })
    }

    /// The same store, whose alerts enter the outbox for these.
    #[must_use]
    pub fn announcing_to(self, announces: Vec<Destination>) -> Self {
        Self { announces: announces.into(), ..self }
    }

    fn writer(&self) -> &Writer {
        &self.writer
    }

    fn readers(&self) -> &Readers {
        &self.readers
    }

    fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    fn payload_directory(&self) -> PathBuf {
        self.directory.join("payload")
    }
}

impl Store for SqliteStore {
    fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

/// Makes what is missing below `directory` and brings it to this release's schema. A newer schema is refused before
/// anything is touched. Files of payloads are migrated when they are first written to. The audit trail says who did it.
pub fn migrate(directory: &Path, by: By) -> Result<Migrated> {
    let made = |result: std::io::Result<()>| result.map_err(io_failed("making the store's directory"));
    made(auditflow_service::file::create_private_directory(directory))?;
    let mut file = partitions::open(&directory.join("collector.db"), OpenFlags::SQLITE_OPEN_CREATE)?;
    schema::MAIN.check(&file)?;
    space::make_reclaimable(&file)?;
    partitions::make_durable(&file)?;
    let migrated = schema::MAIN.migrate(&mut file)?;
    if migrated.from != 0 && migrated.from != migrated.to {
        tell(&mut file, by, migrated)?;
    }
    let payload = directory.join("payload");
    made(auditflow_service::file::create_private_directory(&payload))?;
    retention::finish(&file, &payload)?;
    made(auditflow_service::file::sync_directory(directory))?;
    Ok(migrated)
}

fn tell(file: &mut Connection, by: By, migrated: Migrated) -> Result<()> {
    let attempt = "writing the audit trail";
    let detail = serde_json::json!({ "from": migrated.from, "to": migrated.to });
    let act = Act::done(writer::now(), by, Action::StoreMigrate, "collector.db", detail);
    let transaction =
        file.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(attempt))?;
    trail::append(&transaction, &act)?;
    transaction.commit().map_err(failed(attempt))
}

/// Copies the whole store to `destination`, which must not exist, while it may be in use. What is committed before the
/// copy begins is in it.
pub fn backup(directory: &Path, destination: &Path) -> Result<()> {
    let attempt = "copying the store";
    let made = |result: std::io::Result<()>| result.map_err(io_failed(attempt));
    let payload = destination.join("payload");
    made(auditflow_service::file::create_private_directory(&payload))?;
    // The ledger first: every payload that it knows was committed before it.
    copy(&directory.join("collector.db"), &destination.join("collector.db"))?;
    let entries = std::fs::read_dir(directory.join("payload")).map_err(io_failed(attempt))?;
    for entry in entries {
        let entry = entry.map_err(io_failed(attempt))?;
        if entry.path().extension().is_some_and(|extension| extension == "db") {
            copy(&entry.path(), &payload.join(entry.file_name()))?;
        }
    }
    made(auditflow_service::file::sync_directory(&payload))?;
    made(auditflow_service::file::sync_directory(destination))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let attempt = "copying a database file";
    let source = partitions::open(from, OpenFlags::empty())?;
    let mut target = partitions::open(to, OpenFlags::SQLITE_OPEN_CREATE)?;
    let backup = rusqlite::backup::Backup::new(&source, &mut target).map_err(failed(attempt))?;
    backup.run_to_completion(1024, std::time::Duration::ZERO, None).map_err(failed(attempt))?;
    drop(backup);
    drop(target);
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(io_failed(attempt))
}
