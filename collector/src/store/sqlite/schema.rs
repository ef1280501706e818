//! Schema versions: what a file is brought to before anybody uses it.
//!
//! A file's version is its `user_version`: how many of the migration steps it has seen. Each step runs in its own
//! transaction together with the new version, so a crash leaves a whole version. A file of a newer release is refused
//! before anything in it is touched.

use rusqlite::Connection;

use super::error::failed;
use crate::store::{Migrated, Result, StoreError};

/// The ordered steps of one kind of file.
pub(super) struct Schema {
    what: &'static str,
    steps: &'static [&'static str],
}

/// `collector.db`.
pub(super) const MAIN: Schema = Schema {
    what: "collector.db",
    steps: &[
        include_str!("../../../../migrations/sqlite/0001_ledger.sql"),
        include_str!("../../../../migrations/sqlite/0002_analysis.sql"),
        include_str!("../../../../migrations/sqlite/0003_people.sql"),
        include_str!("../../../../migrations/sqlite/0004_checkpoints.sql"),
        include_str!("../../../../migrations/sqlite/0005_audit_trail.sql"),
        include_str!("../../../../migrations/sqlite/0006_outbox.sql"),
    ],
};

/// One file of payloads.
pub(super) const PAYLOADS: Schema = Schema {
    what: "a payload file",
    steps: &[include_str!("../../../../migrations/sqlite/partition/payloads/0001_payload.sql")],
};

/// One file of what finds payloads.
pub(super) const INDEX: Schema = Schema {
    what: "a payload file's index",
    steps: &[include_str!("../../../../migrations/sqlite/partition/index/0001_batch.sql")],
};

impl Schema {
    /// The version that this release writes.
    pub(super) const fn version(&self) -> u32 {
        self.steps.len() as u32
    }

    /// Brings the file to this release's version; doing it again changes nothing.
    pub(super) fn migrate(&self, connection: &mut Connection) -> Result<Migrated> {
        let from = self.check(connection)?;
        for (done, step) in self.steps.iter().enumerate().skip(from as usize) {
            let attempt = "migrating the schema";
            let transaction = connection
                .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
                .map_err(failed(attempt))?;
            transaction.execute_batch(step).map_err(failed(attempt))?;
            transaction.pragma_update(None, "user_version", done as u32 + 1).map_err(failed(attempt))?;
            transaction.commit().map_err(failed(attempt))?;
        }
        Ok(Migrated { from, to: self.version() })
    }

    /// The file's version, refused if it is newer than ours. Changes nothing.
    pub(super) fn check(&self, connection: &Connection) -> Result<u32> {
        let found = connection
            .pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))
            .map_err(failed("reading the schema version"))?;
        if found > self.version() {
            return Err(StoreError::Newer { what: self.what.to_owned(), found, known: self.version() });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_twice_is_migrating_once() {
        for schema in [MAIN, PAYLOADS, INDEX] {
            let mut file = Connection::open_in_memory().unwrap();
            let first = schema.migrate(&mut file).unwrap();
            assert_eq!(first, Migrated { from: 0, to: schema.version() });
            assert_eq!(schema.migrate(&mut file).unwrap(), Migrated { from: first.to, to: first.to });
        }
    }

    #[test]
    fn a_file_of_a_newer_release_is_refused_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("collector.db");
        let file = Connection::open(&path).unwrap();
        file.execute_batch("CREATE TABLE later (x); PRAGMA user_version = 99;").unwrap();
        drop(file);
        let before = std::fs::read(&path).unwrap();
        let error = MAIN.migrate(&mut Connection::open(&path).unwrap()).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}
