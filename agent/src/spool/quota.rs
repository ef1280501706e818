//! How the spool's byte cap is divided. Pure.
//!
//! Everything that SQLite puts on the disk counts: the database's pages, used or free, the write-ahead log and its
//! index. What remains is the database's share; chunks and payloads may fill it up to a reserve, which stays free
//! for headers and declarations of loss.

/// A page of the database, in bytes.
pub(super) const PAGE: u64 = 4096;

/// The smallest cap that leaves room for work.
pub const MIN_MAX_BYTES: u64 = 1024 * 1024;

const KIB: u64 = 1024;
/// The log's index (one 32 KiB block per 4,096 frames), the lock file and the mirror of the cursors.
const BESIDE: u64 = 96 * KIB;

/// The division of one byte cap, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Quota {
    /// What SQLite may use for the database file: its own hard limit.
    pub(super) database: u64,
    /// What the write-ahead log may grow to.
    pub(super) log: u64,
    /// What chunks and payloads may fill of the database.
    pub(super) fill: u64,
}

impl Quota {
    pub(super) fn new(max_bytes: u64) -> Self {
        let max = max_bytes.max(MIN_MAX_BYTES);
        let log = (max / 4).clamp(256 * KIB, 8 * KIB * KIB);
        let database = (max - log - BESIDE) / PAGE * PAGE;
        let reserve = (database / 8).clamp(96 * KIB, 4 * KIB * KIB);
        Self { database, log, fill: database - reserve }
    }

    /// What one transaction may write, so that with what a checkpoint has left it fits into the log.
    pub(super) fn transaction(&self) -> u64 {
        self.log / 2
    }

    /// The log's length at which it is copied into the database.
    pub(super) fn checkpoint_at(&self) -> u64 {
        self.log / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_parts_of_a_quota_never_exceed_the_whole(max in MIN_MAX_BYTES..1 << 40) {
            let quota = Quota::new(max);
            prop_assert!(quota.database + quota.log + BESIDE <= max);
            prop_assert!(quota.fill < quota.database);
            prop_assert!(quota.checkpoint_at() + quota.transaction() < quota.log);
        }
    }
}
