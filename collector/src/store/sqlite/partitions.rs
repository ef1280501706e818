//! Partitions: `DIR/payload/<day>.<part>.db` with payloads and `<day>.<part>.index.db` with what finds them, each an
//! SQLite database, by day of first receipt.
//!
//! What finds payloads has a file of its own because a search reads all of it and next to nothing of the payloads: so
//! what it reads lies together, and comes from a disk in one go. Files rather than tables of one file, because retention is then an unlink: it takes a moment, gives the space back
//! to the file system, and never makes the writer walk gigabytes of pages. A busy day is cut into parts, so that the
//! byte cap can be kept without waiting for midnight. Files are opened by themselves, not attached: SQLite attaches
//! ten at most, and in WAL mode a commit over several files is not atomic anyway. What makes it atomic is the order:
//! the transactions of a partition commit first and the ledger's last, and a payload whose id the ledger does not know
//! does not exist: readers ask the ledger first. Ids are handed out under the ledger's write lock, so what a crash
//! leaves behind has ids that the ledger hands out again, and is then overwritten.

use std::fs::File;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::error::{failed, io_failed};
use super::schema::{self, Schema};
use crate::store::{BatchKey, BatchTerms, Result};

/// How long a connection waits for another process (`token create`, `backup`) to finish writing.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an index that are asked of the disk beforehand.
const READ_AHEAD: u64 = 256 << 20;
/// Bytes asked for at once: what every system is ready to read ahead. Of a longer stretch the rest would be passed over.
const STRETCH: u32 = 128 << 10;

/// A partition's row in the ledger's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionId {
    /// The row.
    pub id: i64,
    /// Days since the Unix epoch.
    pub day: i64,
    /// Which part of the day, from 0.
    pub part: i64,
}

impl PartitionId {
    /// The file of its payloads below the payload directory, and that of its index.
    pub(super) fn paths(self, directory: &Path) -> [PathBuf; 2] {
        ["db", "index.db"].map(|kind| directory.join(format!("{}.{}.{kind}", self.date(), self.part)))
    }

    /// Its day, as `2026-11-23`.
    pub(super) fn date(self) -> String {
        let date = chrono::DateTime::from_timestamp(self.day.saturating_mul(86_400), 0).unwrap_or_default();
        date.format("%Y-%m-%d").to_string()
    }

    /// Removes the files and what SQLite keeps beside them. What is not there needs no removing.
    pub(super) fn remove(self, directory: &Path) -> Result<()> {
        for path in self.paths(directory) {
            for suffix in ["", "-wal", "-shm"] {
                let mut name = path.clone().into_os_string();
                name.push(suffix);
                match std::fs::remove_file(name) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(io_failed("removing a payload file")(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A partition's files, open.
pub(super) struct Files {
    /// The payloads.
    pub payloads: Connection,
    /// What finds them.
    pub index: Connection,
}

/// A few open partitions, the one used last at the end.
pub(super) struct OpenPartitions {
    directory: PathBuf,
    most: NonZeroUsize,
    open: Vec<(i64, Files)>,
}

impl OpenPartitions {
    /// None open yet; at most `most` stay open between uses.
    pub(super) fn new(directory: PathBuf, most: NonZeroUsize) -> Self {
        Self { directory, most, open: Vec::new() }
    }

    /// The files, made and brought to the current schema.
    pub(super) fn write(&mut self, partition: PartitionId) -> Result<&Files> {
        self.get(partition, |path, schema| {
            let mut connection = open(path, OpenFlags::SQLITE_OPEN_CREATE)?;
            schema.check(&connection)?;
            make_durable(&connection)?;
            schema.migrate(&mut connection)?;
            Ok(Some(connection))
        })?
        .ok_or(crate::store::StoreError::Closed)
    }

    /// The files, if they are there: retention may have taken them.
    pub(super) fn read(&mut self, partition: PartitionId) -> Result<Option<&Files>> {
        self.trim();
        self.get(partition, |path, schema| {
            if !path.exists() {
                return Ok(None);
            }
            let connection = open(path, OpenFlags::empty())?;
            schema.check(&connection)?;
            Ok(Some(connection))
        })
    }

    /// Has the system begin to read a partition's index, all of which is about to be looked at. Without it the same is
    /// read piece by piece.
    pub(super) fn read_ahead(&self, partition: PartitionId) {
        let [_, index] = partition.paths(&self.directory);
        let Ok(index) = File::open(index) else { return };
        let bytes = index.metadata().map_or(0, |file| file.len()).min(READ_AHEAD);
        for from in (0..bytes as i64).step_by(STRETCH as usize) {
            let _ = posix_fadvise(&index, from, STRETCH.into(), PosixFadviseAdvice::POSIX_FADV_WILLNEED);
        }
    }

    /// Closes the files used longest ago, down to the most that may be open between uses.
    pub(super) fn trim(&mut self) {
        let surplus = self.open.len().saturating_sub(self.most.get());
        self.open.drain(..surplus);
    }

    /// Closes one partition.
    pub(super) fn release(&mut self, partition: PartitionId) {
        self.open.retain(|(id, _)| *id != partition.id);
    }

    /// Closes every file: unlinked ones give their space back only then.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    fn get(
        &mut self,
        partition: PartitionId,
        open: impl Fn(&Path, &Schema) -> Result<Option<Connection>>,
    ) -> Result<Option<&Files>> {
        if let Some(found) = self.open.iter().position(|(id, _)| *id == partition.id) {
            let used = self.open.remove(found);
            self.open.push(used);
        } else {
            let [payloads, index] = partition.paths(&self.directory);
            let Some(payloads) = open(&payloads, &schema::PAYLOADS)? else { return Ok(None) };
            let Some(index) = open(&index, &schema::INDEX)? else { return Ok(None) };
            self.open.push((partition.id, Files { payloads, index }));
        }
        Ok(self.open.last().map(|(_, files)| files))
    }
}

/// Opens a database file with the settings that all of ours have.
pub(super) fn open(path: &Path, extra: OpenFlags) -> Result<Connection> {
    let attempt = "opening a database file";
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | extra;
    let connection = Connection::open_with_flags(path, flags).map_err(failed(attempt))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed(attempt))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Settings of a connection that writes. Not before the schema version was checked: they touch the file.
pub(super) fn make_durable(connection: &Connection) -> Result<()> {
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;
             PRAGMA journal_size_limit = 4194304;",
        )
        .map_err(failed("setting up a database file"))
}

/// Writes a payload. An id that a rolled-back transaction left behind is overwritten.
pub(super) fn put_payload(files: &Files, id: i64, payload: &[u8]) -> Result<()> {
    let attempt = "storing a payload";
    // A row of an unfinished write must not find the payload that is here now.
    files
        .index
        .prepare_cached("DELETE FROM batch WHERE id = ?1")
        .and_then(|mut statement| statement.execute([id]))
        .map_err(failed(attempt))?;
    files
        .payloads
        .prepare_cached("INSERT OR REPLACE INTO payload (id, bytes) VALUES (?1, ?2)")
        .and_then(|mut statement| statement.execute(params![id, payload]))
        .map_err(failed(attempt))?;
    Ok(())
}

/// Writes what finds a batch.
pub(super) fn put_terms(files: &Files, id: i64, key: &BatchKey, terms: &BatchTerms) -> Result<()> {
    files
        .index
        .prepare_cached(
            "INSERT OR REPLACE INTO batch (id, node, epoch, seq, time_from, time_to, types, filter)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                id,
                key.node.as_bytes(),
                key.epoch.as_bytes(),
                key.seq.as_i64(),
                terms.from.as_micros(),
                terms.to.as_micros(),
                terms.types,
                terms.filter.as_bytes(),
            ])
        })
        .map_err(failed("indexing a batch"))?;
    Ok(())
}

/// A payload's bytes.
pub(super) fn payload(files: &Files, id: i64) -> Result<Option<Vec<u8>>> {
    files
        .payloads
        .prepare_cached("SELECT bytes FROM payload WHERE id = ?1")
        .and_then(|mut statement| statement.query_row([id], |row| row.get(0)).optional())
        .map_err(failed("reading a payload"))
}
