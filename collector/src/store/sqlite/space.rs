//! What `collector.db` takes on the disk, and giving back what it has no use for.
//!
//! The file is made with `auto_vacuum = INCREMENTAL`. Pages that replaced rows leave behind are used again by the rows
//! that come; they are given back only when the byte cap needs them, since giving back moves pages about.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::error::failed;
use super::partitions;
use crate::store::Result;

/// Pages given back in one transaction: what the writer does meanwhile is nothing else.
const PAGES: u64 = 1024;
/// `auto_vacuum` of a file that can give pages back one by one.
const INCREMENTAL: i64 = 2;

/// How much it is, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    /// On the disk, with the log beside it.
    pub file: u64,
    /// Of that, what holds something.
    pub used: u64,
    /// Of that, what holds nothing and can be given back.
    pub free: u64,
}

impl Space {
    /// What would be left of the file if everything that can be given back were.
    pub(super) fn needed(&self) -> u64 {
        self.file.saturating_sub(self.free)
    }
}

/// Makes space come back at all: takes effect in a file that nothing was written to yet.
pub(super) fn make_reclaimable(connection: &Connection) -> Result<()> {
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed("setting up a database file"))
}

/// How much `collector.db` below `directory` is.
pub(super) fn of(connection: &Connection, directory: &Path) -> Result<Space> {
    let read = |pragma| {
        let value = connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        value.map_err(failed("measuring the store"))
    };
    let (pages, size) = (read("page_count")? as u64, read("page_size")? as u64);
    let unused = read("freelist_count")? as u64 * size;
    let free = if read("auto_vacuum")? == INCREMENTAL { unused } else { 0 };
    let log = std::fs::metadata(directory.join("collector.db-wal")).map_or(0, |log| log.len());
    Ok(Space { file: pages * size + log, used: (pages * size).saturating_sub(unused), free })
}

/// Gives back at most so many bytes, and at most as much as one transaction should. Returns whether that was all.
pub(super) fn give_back(connection: &Connection, bytes: u64) -> Result<bool> {
    let attempt = "giving space back";
    let size: i64 =
        connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(failed(attempt))?;
    let pages = bytes.div_ceil((size as u64).max(1));
    let mut vacuum = connection
        .prepare(&format!("PRAGMA incremental_vacuum({})", pages.min(PAGES)))
        .map_err(failed(attempt))?;
    // The pragma does a page per row that is asked of it.
    let mut rows = vacuum.query([]).map_err(failed(attempt))?;
    while rows.next().map_err(failed(attempt))?.is_some() {}
    Ok(pages <= PAGES)
}

/// Copies the log into the file, which is then cut to its pages, and empties the log; as far as others allow.
pub(super) fn settle(directory: &Path) -> Result<()> {
    let file = partitions::open(&directory.join("collector.db"), OpenFlags::empty())?;
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed("shrinking the store"))
}
