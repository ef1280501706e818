//! One SQLite database: opening, checking, migrating, measuring it, and keeping its log short.
//!
//! A newer schema is recognised before anything is written, and told apart from a damaged number by its seal. The log is kept within its share by checkpoints that
//! wait for readers; where a reader stays, the writer is refused instead of growing the log.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use auditflow_service::file::sync_directory;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::epoch::seal;
use super::error::{Attempt, SpoolError};
use super::files;
use super::quota::{PAGE, Quota};

/// The steps from an empty file to the present schema; `user_version` counts those taken.
const MIGRATIONS: [&str; 2] = [include_str!("sql/0001_spool.sql"), include_str!("sql/0002_folded_runs.sql")];

/// The newest schema version that this program knows.
pub(super) const SCHEMA: u32 = MIGRATIONS.len() as u32;

const BUSY: Duration = Duration::from_secs(2);
/// What the log adds to each page.
const FRAME_HEADER: u64 = 24;
/// Memory that one connection may use for pages, in KiB.
const CACHE_KIB: i64 = 1024;

pub(super) struct Database {
    pub(super) connection: Connection,
    dir: PathBuf,
    quota: Quota,
}

impl Database {
    /// Opens or makes the database in `dir`, migrates it and checks it whole.
    pub(super) fn open(dir: &Path, quota: Quota) -> Result<Self, SpoolError> {
        let path = files::database(dir);
        if path.exists() {
            refuse_newer(dir)?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).attempt("open the database")?;
        configure(&connection, quota).attempt("set up the database")?;
        check(&connection)?;
        let mut database = Self { connection, dir: dir.to_owned(), quota };
        migrate(&mut database.connection)?;
        check_schema(&database.connection)?;
        database.limit_pages()?;
        sync_directory(dir).map_err(|error| SpoolError::io("make the directory durable", &error))?;
        Ok(database)
    }

    /// Closes the files; what is left is an empty database in memory.
    pub(super) fn close(&mut self) -> Result<(), SpoolError> {
        self.connection = Connection::open_in_memory().attempt("close the database")?;
        Ok(())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.connection.path().is_none_or(str::is_empty)
    }

    pub(super) fn quota(&self) -> Quota {
        self.quota
    }

    /// Begins the one writing transaction, after making sure that its frames will fit into the log.
    ///
    /// The log is copied into the database here, right before a write that begins the log anew, and nowhere else. A
    /// log that was copied and stays has pages older than the database's: were one of its frames damaged then, what
    /// is left of it would mix with the newer pages unnoticed. As it is, a damaged log is a shorter log.
    pub(super) fn begin(&mut self) -> Result<Transaction<'_>, SpoolError> {
        let log = self.log_in_use()?;
        if log > self.quota.log - self.quota.transaction() {
            self.checkpoint("TRUNCATE")?;
            if self.log_in_use()? > self.quota.log - self.quota.transaction() {
                return Err(SpoolError::Busy { attempt: "shorten the log" });
            }
        } else if log > self.quota.checkpoint_at() {
            self.checkpoint("PASSIVE")?;
        }
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .attempt("begin a transaction")
    }

    /// The length of the log's part that counts, in bytes.
    fn log_in_use(&self) -> Result<u64, SpoolError> {
        let frames: i64 = self
            .connection
            .prepare_cached("PRAGMA wal_checkpoint(NOOP)")
            .and_then(|mut statement| statement.query_row((), |row| row.get(1)))
            .attempt("measure the log")?;
        Ok(frames.max(0) as u64 * (PAGE + FRAME_HEADER))
    }

    /// Copies the log into the database, as far as readers allow.
    fn checkpoint(&self, mode: &str) -> Result<(), SpoolError> {
        self.connection
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |_| Ok(()))
            .attempt("copy the log into the database")
    }

    /// Gives free pages back to the file system down to the quota, for a cap that was lowered.
    pub(super) fn shrink(&self) -> Result<(), SpoolError> {
        let allowed = self.quota.database / PAGE;
        let surplus = self.pages()?.saturating_sub(allowed);
        if surplus > 0 {
            // The pragma does a page per row that is asked of it.
            let mut vacuum = self
                .connection
                .prepare(&format!("PRAGMA incremental_vacuum({surplus})"))
                .attempt("shrink the database")?;
            let mut rows = vacuum.query(()).attempt("shrink the database")?;
            while rows.next().attempt("shrink the database")?.is_some() {}
            drop(rows);
            drop(vacuum);
            self.checkpoint("TRUNCATE")?;
        }
        self.limit_pages()
    }

    /// All that SQLite takes on the disk, in bytes.
    pub(super) fn footprint(&self) -> Result<u64, SpoolError> {
        let beside = files::length(&files::log(&self.dir)) + files::length(&files::log_index(&self.dir));
        Ok(self.pages()? * PAGE + beside)
    }

    /// The bytes of pages in use.
    pub(super) fn used(&self) -> Result<u64, SpoolError> {
        used(&self.connection)
    }

    fn pages(&self) -> Result<u64, SpoolError> {
        pragma(&self.connection, "page_count")
    }

    fn limit_pages(&self) -> Result<(), SpoolError> {
        let pages = self.quota.database / PAGE;
        self.connection
            .query_row(&format!("PRAGMA max_page_count = {pages}"), (), |_| Ok(()))
            .attempt("limit the database's size")
    }
}

/// Opens an existing spool's database for reading alone.
pub(super) fn open_for_reading(dir: &Path) -> Result<Connection, SpoolError> {
    let path = files::database(dir);
    let connection = open_read_only(&path)?;
    check_version_of(&path, &connection)?;
    Ok(connection)
}

/// The bytes of pages in use, as the connection's transaction sees them.
pub(super) fn used(connection: &Connection) -> Result<u64, SpoolError> {
    let pages = pragma(connection, "page_count")?;
    Ok(pages.saturating_sub(pragma(connection, "freelist_count")?) * PAGE)
}

/// Reads the whole structure of the database once.
pub(super) fn check(connection: &Connection) -> Result<(), SpoolError> {
    let verdict: String =
        connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0)).attempt("check the database")?;
    if verdict == "ok" { Ok(()) } else { Err(SpoolError::damaged(verdict)) }
}

pub(super) fn user_version(connection: &Connection) -> Result<u32, SpoolError> {
    Ok(pragma(connection, "user_version")? as u32)
}

/// Writes a schema version, and its seal as the application's id.
pub(super) fn set_version(connection: &Connection, version: u32) -> rusqlite::Result<()> {
    connection.pragma_update(None, "user_version", version)?;
    connection.pragma_update(None, "application_id", seal_of(version))
}

/// What every version of this program writes beside a schema version, so that a flipped bit does not make a newer one.
fn seal_of(version: u32) -> i32 {
    let [a, b, c, d, ..] = seal(&[b"schema", &version.to_le_bytes()]);
    if version == 0 { 0 } else { i32::from_be_bytes([a, b, c, d]) }
}

fn migrate(connection: &mut Connection) -> Result<(), SpoolError> {
    let from = user_version(connection)? as usize;
    for (index, step) in MIGRATIONS.iter().enumerate().skip(from) {
        let transaction = connection.transaction().attempt("migrate the spool")?;
        transaction.execute_batch(step).attempt("migrate the spool")?;
        set_version(&transaction, index as u32 + 1).attempt("migrate the spool")?;
        transaction.commit().attempt("migrate the spool")?;
    }
    Ok(())
}

/// Tables and indexes are text in the file: a flipped letter of a condition would hide rows and break nothing else.
fn check_schema(connection: &Connection) -> Result<(), SpoolError> {
    let mut fresh = Connection::open_in_memory().attempt("check the schema")?;
    migrate(&mut fresh)?;
    if schema_of(connection)? == schema_of(&fresh)? {
        Ok(())
    } else {
        Err(SpoolError::damaged("the tables are not those of its schema version"))
    }
}

fn schema_of(connection: &Connection) -> Result<Vec<(String, Option<String>)>, SpoolError> {
    connection
        .prepare("SELECT type || ' ' || name || ' ' || tbl_name, sql FROM sqlite_schema ORDER BY 1")
        .and_then(|mut statement| statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .attempt("check the schema")
}

fn open_read_only(path: &Path) -> Result<Connection, SpoolError> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path), flags).attempt("open the database")?;
    connection.busy_timeout(BUSY).attempt("open the database")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB / 2).attempt("open the database")?;
    connection.pragma_update(None, "cell_size_check", true).attempt("open the database")?;
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .attempt("open the database")?;
    Ok(connection)
}

/// A database without a log is in nobody's use: reading it as immutable leaves no log and no index beside it, which
/// might belong to another user than the agent's.
fn uri(path: &Path) -> PathBuf {
    let mut uri = std::ffi::OsString::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => {
                uri.push(char::from(*byte).encode_utf8(&mut [0; 4]));
            }
            byte => uri.push(format!("%{byte:02X}")),
        }
    }
    if !files::log_of(path).exists() {
        uri.push("?immutable=1");
    }
    uri.into()
}

/// Recognises a newer schema before SQLite writes as much as a log's name. Without a log the version is where the
/// file format has it (<https://sqlite.org/fileformat.html>, 1.3).
fn refuse_newer(dir: &Path) -> Result<(), SpoolError> {
    let path = files::database(dir);
    if files::length(&files::log(dir)) > 0 {
        return check_version_of(&path, &open_read_only(&path)?);
    }
    let mut header = [0; 72];
    let read = File::open(&path).and_then(|mut file| file.read_exact(&mut header));
    match read {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(SpoolError::io("read the database's version", &error)),
        Ok(()) => {
            let [.., v0, v1, v2, v3, _, _, _, _, s0, s1, s2, s3] = header;
            let (version, seal) =
                (u32::from_be_bytes([v0, v1, v2, v3]), i32::from_be_bytes([s0, s1, s2, s3]));
            let is_database = header.starts_with(b"SQLite format 3\0");
            if is_database { check_version(&path, version, seal) } else { Ok(()) }
        }
    }
}

fn check_version_of(path: &Path, connection: &Connection) -> Result<(), SpoolError> {
    check_version(path, user_version(connection)?, pragma(connection, "application_id")? as i32)
}

fn check_version(path: &Path, found: u32, seal: i32) -> Result<(), SpoolError> {
    if seal != seal_of(found) {
        Err(SpoolError::damaged(format!("its schema version was altered, it reads {found}")))
    } else if found <= SCHEMA {
        Ok(())
    } else {
        Err(SpoolError::Newer { path: path.to_owned(), found, known: SCHEMA })
    }
}

fn configure(connection: &Connection, quota: Quota) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "page_size", PAGE as u32)?;
    // Takes effect in a new database only; what it makes possible is a cap that can be lowered.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.query_row("PRAGMA journal_mode = WAL", (), |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.query_row("PRAGMA wal_autocheckpoint = 0", (), |_| Ok(()))?;
    connection.query_row(&format!("PRAGMA journal_size_limit = {}", quota.log / 4), (), |_| Ok(()))?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn pragma(connection: &Connection, name: &str) -> Result<u64, SpoolError> {
    connection
        .query_row(&format!("PRAGMA {name}"), (), |row| row.get::<_, i64>(0))
        .map(|value| value as u64)
        .attempt("read the database's state")
}
