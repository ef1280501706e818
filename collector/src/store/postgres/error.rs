//! PostgreSQL's errors in the store's words, and which of them go away by trying again.

use crate::store::{Source, StoreError};

/// What went wrong, as far as it matters to who called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server is gone, going, or not there yet.
    Connection,
    /// Two transactions were in one another's way: serialization failure, deadlock, a lock waited for too long.
    Serialization,
    /// No room on the server's disk.
    Full,
    /// Every connection of the pool is in use.
    Busy,
    /// Something is there already.
    Unique,
    /// What was written contradicts the schema, or what was read does not fit.
    Data,
    /// Anything else: a statement that is wrong, a right that is missing.
    Other,
}

impl Kind {
    /// The one place that looks at PostgreSQL's codes.
    pub(super) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed => Self::Connection,
            sqlx::Error::PoolTimedOut => Self::Busy,
            sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } | sqlx::Error::Encode(_) => Self::Data,
            sqlx::Error::Database(error) => error.code().map_or(Self::Other, |code| Self::of_code(&code)),
            _ => Self::Other,
        }
    }

    fn of_code(code: &str) -> Self {
        match code {
            "40001" | "40P01" | "55P03" => Self::Serialization,
            "53100" | "53200" => Self::Full,
            "53300" | "57P01" | "57P02" | "57P03" | "25P03" => Self::Connection,
            "23505" => Self::Unique,
            _ => match code.get(..2) {
                Some("08") => Self::Connection,
                Some("22" | "23") => Self::Data,
                _ => Self::Other,
            },
        }
    }

    /// Whether the same call may well succeed in a moment.
    pub(super) fn is_transient(self) -> bool {
        matches!(self, Self::Connection | Self::Serialization)
    }
}

/// For `map_err`: what was attempted, and PostgreSQL's reason.
pub(super) fn failed(attempt: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| match Kind::of(&error) {
        Kind::Full => StoreError::Full(error.into()),
        Kind::Busy => StoreError::Busy,
        _ if matches!(error, sqlx::Error::PoolClosed) => StoreError::Closed,
        _ => StoreError::Failed { attempt, source: error.into() },
    }
}

/// For `map_err`: a row that does not read back.
pub(super) fn damaged<E: Into<Source>>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Damaged { what, source: error.into() }
}

/// Whether a call that ended like this is worth another try.
pub(super) fn is_transient(error: &StoreError) -> bool {
    kind(error).is_some_and(Kind::is_transient)
}

/// An error that no try got past, for who called.
pub(super) fn given_up(error: StoreError) -> StoreError {
    if kind(&error) == Some(Kind::Serialization) { StoreError::Busy } else { error }
}

fn kind(error: &StoreError) -> Option<Kind> {
    let StoreError::Failed { source, .. } = error else { return None };
    source.downcast_ref::<sqlx::Error>().map(Kind::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_what_may_be_tried_again() {
        for (code, kind, again) in [
            ("40001", Kind::Serialization, true),
            ("40P01", Kind::Serialization, true),
            ("08006", Kind::Connection, true),
            ("57P01", Kind::Connection, true),
            ("53100", Kind::Full, false),
            ("23505", Kind::Unique, false),
            ("23503", Kind::Data, false),
            ("22021", Kind::Data, false),
            ("42P01", Kind::Other, false),
        ] {
            assert_eq!((Kind::of_code(code), Kind::of_code(code).is_transient()), (kind, again), "{code}");
        }
    }
}
