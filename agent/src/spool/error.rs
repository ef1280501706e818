//! What can go wrong with the spool, told apart by what the caller does about it.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;
use thiserror::Error;

/// Why a call on the spool did nothing. Except for [`SpoolError::Newer`] and [`SpoolError::InUse`] each is worth
/// another try.
#[derive(Debug, Error)]
pub enum SpoolError {
    /// A later release wrote the spool; it was left untouched.
    #[error(
        "the spool {path} has schema version {found}, this program knows versions up to {known}: start the newer \
         program again, or move the file away to begin an empty spool"
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// Another process writes to it.
    #[error("the spool {path} is in use by another process: stop the other agent first")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The disk is full, fails or cannot be written to; everything is as it was before.
    #[error("cannot {attempt} in the spool: {reason}: free disk space or check the disk")]
    Disk {
        /// What was attempted.
        attempt: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The spool's byte cap leaves no room, not even after eviction; everything is as it was before.
    #[error("the spool holds nothing more that may be evicted: raise spool.max_bytes")]
    NoRoom,
    /// What was read back is not what was written.
    #[error("the spool is damaged: {what}")]
    Damaged {
        /// What was noticed.
        what: String,
    },
    /// A reader kept the file busy for too long.
    #[error("cannot {attempt} in the spool: another process reads it: try again")]
    Busy {
        /// What was attempted.
        attempt: &'static str,
    },
    /// Anything else that SQLite reports.
    #[error("cannot {attempt} in the spool")]
    Sqlite {
        /// What was attempted.
        attempt: &'static str,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// What was to be sealed or read doesn't keep to the wire format.
    #[error("cannot {attempt}")]
    Wire {
        /// What was attempted.
        attempt: &'static str,
        /// What the format's code said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl SpoolError {
    /// Sorts an error of SQLite by what is to be done about it.
    pub(super) fn sqlite(attempt: &'static str, source: rusqlite::Error) -> Self {
        match source.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied,
            ) => Self::Disk { attempt, reason: source.to_string() },
            // The statements and the schema are this program's own: an error in them, or a row that breaks a
            // constraint, comes from the file.
            Some(
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::Unknown,
            ) => Self::Damaged { what: format!("{source} (while trying to {attempt})") },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { attempt },
            _ => match source {
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..) => {
                    Self::Damaged { what: format!("{source} (while trying to {attempt})") }
                }
                source => Self::Sqlite { attempt, source },
            },
        }
    }

    /// An error of the file system.
    pub(super) fn io(attempt: &'static str, source: &io::Error) -> Self {
        Self::Disk { attempt, reason: source.to_string() }
    }

    /// An error of the wire format's code.
    pub(super) fn wire(
        attempt: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self::Wire { attempt, source: Box::new(source) }
    }

    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged { what: what.into() }
    }

    /// Whether the caller should wait for the disk or for acknowledgements, and try the same again.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Disk { .. } | Self::NoRoom | Self::Busy { .. })
    }
}

/// Names what was attempted, for an error of SQLite.
pub(super) trait Attempt<T> {
    fn attempt(self, what: &'static str) -> Result<T, SpoolError>;
}

impl<T> Attempt<T> for rusqlite::Result<T> {
    fn attempt(self, what: &'static str) -> Result<T, SpoolError> {
        self.map_err(|source| SpoolError::sqlite(what, source))
    }
}
