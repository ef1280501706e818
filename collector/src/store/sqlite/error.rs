//! SQLite's errors in the store's words.

use rusqlite::ErrorCode;

use crate::store::{Source, StoreError};

/// For `map_err`: what was attempted, and SQLite's reason.
pub(super) fn failed(attempt: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full(error.into()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy,
        _ => StoreError::Failed { attempt, source: error.into() },
    }
}

/// For `map_err`: a row that does not read back.
pub(super) fn damaged<E: Into<Source>>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Damaged { what, source: error.into() }
}

/// For `map_err`: the file system's reason.
pub(super) fn io_failed(attempt: &'static str) -> impl Fn(std::io::Error) -> StoreError {
    move |error| match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full(error.into()),
        _ => StoreError::Failed { attempt, source: error.into() },
    }
}
