//! The outbox: which alerts other services are still to hear of.
//!
//! An alert that is opened enters it in the same transaction, once per destination; it leaves when whoever announces it
//! says that the destination has it. So no crash loses an announcement, and some make one twice.

use async_trait::async_trait;
use auditflow_event::Timestamp;

use super::{AlertRow, Result};

/// Who hears of every alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Our own notifiers.
    Notifiers,
    /// The services of the ancestor.
    Ancestor,
}

impl Destination {
    /// As the store and the metrics have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notifiers => "notifiers",
            Self::Ancestor => "ancestor",
        }
    }
}

/// An alert that somebody is to hear of.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    /// Its place in the outbox.
    pub number: i64,
    /// The alert as it is now.
    pub alert: AlertRow,
}

/// What was opened and not yet announced.
#[async_trait]
pub trait OutboxStore {
    /// Takes the oldest announcements to a destination, in their order. Until `until` they are left to whoever took them.
    async fn take_announcements(
        &self,
        to: Destination,
        now: Timestamp,
        until: Timestamp,
        limit: usize,
    ) -> Result<Vec<Announcement>>;

    /// Removes those that were `made`, and leaves those that were not to whoever takes them next.
    async fn settle_announcements(&self, made: Vec<i64>, unmade: Vec<i64>) -> Result<()>;

    /// How many a destination has not heard of yet.
    async fn announcements_waiting(&self, to: Destination) -> Result<u64>;
}
