//! The store: what the collector holds for good.
//!
//! Fed by `ingest` (batches), `analyse` (detections, alerts) and people through `web` and the command line; feeds all
//! of them. It guarantees that what a call returned `Ok` for survives a crash and a power cut, that a batch is stored
//! once per (node, epoch, number) however often and in whatever order it arrives, and that payloads stay verbatim
//! until retention drops them, which it declares.
//!
//! The traits here are one interface cut by concern, so that an implementation (SQLite here; PostgreSQL alike) can be
//! read a piece at a time; everybody holds an `Arc<dyn Store>`. `conformance` is the suite that each must pass.

pub mod alerts;
#[cfg(test)]
pub(crate) mod conformance;
pub mod detections;
pub mod events;
pub mod filter;
pub mod judge;
pub mod ledger;
pub mod nodes;
pub mod outbox;
pub mod paging;
pub mod people;
pub mod postgres;
pub mod sqlite;
pub mod storm;
pub mod tally;
pub mod terms;
pub mod trail;

use auditflow_event::NodeId;
use tokio::sync::broadcast;
use uuid::Uuid;

pub use alerts::{
    AlertCounts, AlertCursor, AlertFilter, AlertRow, AlertRule, AlertStatus, AlertStore, Machine, NewAlert,
    StatusChange,
};
pub use detections::{
    AlertChanges, BatchFindings, DetectionPoint, DetectionRow, DetectionStore, DirtyGroup, Finished,
    GroupKey, Match, Pass, Recorded, Regrouped, Revision,
};
pub use events::{Budget, Cursor, EventPage, EventQuery, EventRef, EventSearch, FoundEvent};
pub use filter::TermFilter;
pub use ledger::{
    Arrival, BatchKey, BatchTerms, ChainRow, EpochRow, LedgerStore, Limits, NewBatch, NewPayload, Payload,
    Pruning, Replaceable, StoreOutcome, StoreReport, StoredBatch,
};
pub use nodes::{
    ClockShift, Coverage, EnrolOutcome, Enrolment, FlagKind, FlagRow, KeyOutcome, LossRow, MAX_NODE_KEYS,
    NewFlag, NodeRow, NodeStatus, NodeStore, RatePoint,
};
pub use outbox::{Announcement, Destination, OutboxStore};
pub use people::{ApiToken, JoinToken, PeopleStore, Role, Session, User};
pub use trail::{
    Act, Action, Actor, Broken, By, Entry, Outcome, SystemUser, TrailFilter, TrailHead, TrailStore, Walk,
};

/// Everything the collector keeps, behind one object.
pub trait Store:
    LedgerStore
    + DetectionStore
    + AlertStore
    + OutboxStore
    + EventSearch
    + NodeStore
    + PeopleStore
    + TrailStore
    + Send
    + Sync
    + 'static
{
    /// What changes from now on, after it is durable. A receiver that falls behind is told how much it missed and
    /// reads the state anew: the channel is a hint, the store is the truth.
    fn changes(&self) -> broadcast::Receiver<Change>;
}

/// Something that the page and the event stream want to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An alert that was not there before.
    AlertOpened(Uuid),
    /// An alert's machine or human state is another, or its evidence grew.
    AlertChanged(Uuid),
    /// A node enrolled, was approved or revoked, or a flag was raised or closed.
    NodeChanged(NodeId),
    /// Something changed that nobody was told of: what is shown is to be read anew.
    Missed,
    /// A batch became part of the ledger.
    BatchStored {
        /// Whose it is.
        node: NodeId,
        /// How many events it carries, by its header.
        events: u32,
        /// This process stored it, and not another.
        here: bool,
    },
}

/// Why the store could not do as asked. Nothing of what was asked has happened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk has no room. Healed by retention or by the operator.
    #[error("the store's disk is full: free space or lower [storage] max_bytes")]
    Full(#[source] Source),
    /// More is waiting to be written than may wait. The caller tries again later.
    #[error("the store is busy: try again in a moment")]
    Busy,
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
    /// The database server is not there.
    #[error(
        "the database is not there: it is tried again by itself, and /healthz says what is wrong with it"
    )]
    Away,
    /// What is there was written by an older release.
    #[error(
        "{what} has schema version {found} and this release needs {known}: run `auditflow-collector migrate`"
    )]
    Older {
        /// Which file or database.
        what: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// What is on disk was written by a newer release.
    #[error(
        "{what} has schema version {found} and this release knows {known}: install the release that wrote it"
    )]
    Newer {
        /// Which file.
        what: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A row does not read back as it was written.
    #[error(
        "the store holds a damaged {what}: run `auditflow-collector verify`, restore a backup if it fails"
    )]
    Damaged {
        /// What was being read.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        source: Source,
    },
    /// Anything else that the database or the file system reported.
    #[error("{attempt} failed: {source}")]
    Failed {
        /// What was being done.
        attempt: &'static str,
        /// What it met.
        source: Source,
    },
}

/// What migrating found and left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; 0 is a new store.
    pub from: u32,
    /// The version now.
    pub to: u32,
}

/// The lower error, whichever implementation's it is.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// What every call of the store returns.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;
