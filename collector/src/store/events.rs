//! Searching events: newest first, pruned by what is known of each batch, decoded within a budget.

use std::sync::Arc;

use async_trait::async_trait;
use auditflow_event::{Event, EventId, EventType, HostFacts, NodeId, Timestamp};
use auditflow_wire::{BatchSeq, EpochId};
use serde::{Deserialize, Serialize};

use super::{BatchKey, Result};

/// Finding events.
#[async_trait]
pub trait EventSearch {
    /// Events that satisfy all of the query, newest event time first. When the budget runs out before the page is
    /// full the page is `partial` and `next` goes on from there; every page gets further than the one before.
    async fn search_events(&self, query: EventQuery) -> Result<EventPage>;

    /// One event by its place, while its payload is there.
    async fn event(&self, at: BatchKey, index: u32) -> Result<Option<FoundEvent>>;
}

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct EventQuery {
    /// Of this node.
    pub node: Option<NodeId>,
    /// From this event time (inclusive).
    pub from: Option<Timestamp>,
    /// Up to this event time (inclusive).
    pub to: Option<Timestamp>,
    /// Of one of these types; empty: of any.
    pub event_types: Vec<EventType>,
    /// That concern this user, by name or number, in any role.
    pub user: Option<String>,
    /// That hold all of these: a whole word (`curl`), or `field:value` with the field's path in the event JSON.
    pub terms: Vec<String>,
    /// Go on after here.
    pub before: Option<Cursor>,
    /// At most this many events.
    pub limit: usize,
    /// How much may be decoded for this page.
    pub budget: Budget,
}

/// How much a search may decode. It always decodes enough to get further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Batches.
    pub batches: u32,
    /// Bytes of payload as stored.
    pub bytes: u64,
}

impl Default for Budget {
    /// About a second of decoding on one core.
    fn default() -> Self {
        Self { batches: 2_000, bytes: 8 << 20 }
    }
}

/// A position in the order of all events: event time, then place. Opaque to clients; text by `Display`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Event time.
    pub time: Timestamp,
    /// The batch's order of arrival; greater is newer.
    pub batch: i64,
    /// The event's place in it.
    pub index: u32,
}

impl Cursor {
    /// Before every event at or after `time` that has been looked at: what a partial page without a last event ends in.
    pub const fn at(time: Timestamp) -> Self {
        Self { time, batch: i64::MAX, index: u32::MAX }
    }
}

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.time.as_micros(), self.batch, self.index)
    }
}

impl std::str::FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '.');
        let mut next = || parts.next().and_then(|part| part.parse::<i64>().ok());
        let (Some(time), Some(batch), Some(index)) = (next(), next(), next()) else {
            return Err(ParseCursorError);
        };
        let index = u32::try_from(index).map_err(|_| ParseCursorError)?;
        Ok(Self { time: Timestamp::from_micros(time), batch, index })
    }
}

/// Text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: give back exactly what the page before said, or none")]
pub struct ParseCursorError;

/// One page of a search.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    /// What was found, newest first.
    pub events: Vec<FoundEvent>,
    /// Where the next page starts; none: there is no more.
    pub next: Option<Cursor>,
    /// The budget ended the page, not its limit.
    pub partial: bool,
    /// How many batches were decoded for it.
    pub batches_decoded: u32,
    /// How many batches were in reach by time and node but ruled out unread by type and terms.
    pub batches_pruned: u64,
}

/// An event and where it is.
#[derive(Clone, Debug)]
pub struct FoundEvent {
    /// Where.
    pub at: EventRef,
    /// What.
    pub event: Event,
    /// The node, as its batch's header says.
    pub host: Arc<HostFacts>,
}

/// Where an event is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EventRef {
    /// Whose batch.
    pub node: NodeId,
    /// Of which epoch.
    pub epoch: EpochId,
    /// Which number.
    pub seq: BatchSeq,
    /// Its place in the batch.
    pub index: u32,
    /// Its id.
    pub event_id: EventId,
}

impl EventRef {
    /// The batch.
    pub const fn batch(&self) -> BatchKey {
        BatchKey { node: self.node, epoch: self.epoch, seq: self.seq }
    }
}
