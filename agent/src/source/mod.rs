//! The node's audit sources and what they hand to the pipeline.
//!
//! Each source is a file of its own with the same four things in it: a `Config`, a `spawn`, its cursor type and the
//! coverage states that it reports. A source turns bytes of the outside into [`Event`]s and hands them over as
//! [`Output`]s through an [`Outlet`], which is bounded in bytes. A source that can be read again (a file) waits there;
//! one that cannot (a socket) never does: what doesn't fit is counted and declared as a loss.

pub mod audit_log;
pub mod coverage;
mod follow;
pub mod kernel_audit;
pub mod kubernetes_audit;
pub mod outlet;
pub mod replay;
pub mod synthetic;
pub mod tail;

use std::fmt;

use auditflow_event::{Event, NodeId};
use auditflow_wire::{EpochId, Loss, LossReason, LossSource};

pub use coverage::{Board, Coverage, CoverageState, Reporter};
pub use outlet::{Closed, Inbox, Outlet};

/// A source's name, as it stands in the configuration, in cursors, metrics and coverage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceName(pub &'static str);

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Where a source goes on after a restart: opaque bytes that only the source itself reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor(pub Vec<u8>);

/// What a source hands over at once. The cursor describes the state after *all* of it, and is committed together
/// with it or not at all.
#[derive(Debug)]
pub struct Output {
    /// Who hands it over.
    pub source: SourceName,
    /// The events, in the order in which they were completed.
    pub events: Vec<Event>,
    /// What the source knows to have been lost since its last output.
    pub losses: Vec<Loss>,
    /// Where to go on after all of this; `None` for a live source.
    pub cursor: Option<Cursor>,
}

impl Output {
    /// An output of events alone, as live sources make them.
    pub fn live(source: SourceName, events: Vec<Event>) -> Self {
        Self { source, events, losses: Vec::new(), cursor: None }
    }

    /// The memory that it takes, in bytes, near enough for a bound.
    pub fn weight(&self) -> usize {
        let events: usize = self.events.iter().map(Event::weight).sum();
        let cursor = self.cursor.as_ref().map_or(0, |cursor| cursor.0.len());
        size_of::<Self>() + events + cursor + self.losses.len() * size_of::<Loss>()
    }
}

/// Who makes the events: goes into their ids, so that they are the same at every replay.
#[derive(Debug, Clone, Copy)]
pub struct Station {
    /// This node.
    pub node: NodeId,
    /// The epoch in which this run of the agent started; with a counter it names events that have no position of
    /// their own.
    pub run: EpochId,
}

/// A loss of which no more is known than why, where and perhaps how many.
pub fn loss(reason: LossReason, source: LossSource, count: Option<u64>) -> Loss {
    Loss { reason, source, count, times: None, serials: None }
}
