//! The wall clock as the events' type of time.

use std::time::{SystemTime, UNIX_EPOCH};

use auditflow_event::Timestamp;

/// Now. A clock before 1970 reads as 1970.
pub fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}
