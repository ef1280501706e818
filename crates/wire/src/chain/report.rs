//! What a walk proved, number by number and in sums.

use auditflow_event::{NodeId, Timestamp};

use crate::header::Link;
use crate::ids::{BatchSeq, EpochId, Head, Span};

use super::checkpoint::{Checkpoint, Tally};

/// The most faults and gaps listed per epoch; all are counted.
pub(super) const MAX_LISTED: usize = 1000;

/// What was found out about one batch or fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Header, link and payload are the node's own.
    Verified,
    /// Header and link are; the node signed the payload away.
    Evicted,
    /// Header and link are; the collector let go of the payload.
    Expired,
    /// Something is wrong.
    Bad(BadReason),
}

/// What is wrong with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadReason {
    /// No known key of the node has the id that the header names.
    #[error("signed with a key that is not the node's")]
    UnknownKey,
    /// The key had given way to another one before this batch was sealed.
    #[error("signed with a key that the node had retired by then")]
    RetiredKey,
    /// The signature is not over these bytes.
    #[error("bad signature")]
    Signature,
    /// It is another node's.
    #[error("belongs to another node")]
    Foreign,
    /// The payload is not the one that the header names.
    #[error("payload altered")]
    Payload,
    /// The node did not sign the payload away.
    #[error("eviction not signed by the node")]
    Eviction,
    /// The previous digest is not that of the batch below.
    #[error("broken link to the batch before")]
    Link,
    /// The number was there before, or is lower than one before it.
    #[error("number out of order or in use twice")]
    Order,
    /// The running event count does not fit the batch before.
    #[error("event count does not add up")]
    Count,
    /// An acknowledgement, a later header or the next epoch names another digest for this number.
    #[error("not the batch that was countersigned or named later")]
    Named,
    /// The next epoch says that this one ended below this number.
    #[error("beyond the end that the next epoch named")]
    AfterEnd,
}

impl BadReason {
    /// Whether the node did not say it at all: then what it says of other batches counts for nothing either.
    pub(super) fn is_foreign(self) -> bool {
        matches!(self, Self::UnknownKey | Self::RetiredKey | Self::Signature | Self::Foreign)
    }
}

/// One bad number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bad {
    /// The epoch.
    pub epoch: EpochId,
    /// The number, or the first of a bad range.
    pub number: BatchSeq,
    /// What is wrong.
    pub reason: BadReason,
}

/// Numbers that are not there and that nobody declared lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Which.
    pub span: Span,
    /// Whether the site acknowledged numbers at or above the first of them: then they were stored once, and were
    /// deleted. Otherwise they may still be owed.
    pub acknowledged: bool,
}

/// What was proved of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochReport {
    /// The epoch.
    pub epoch: EpochId,
    /// The epoch before, as its first batch names it.
    pub predecessor: Option<EpochId>,
    /// How the epoch began, as its first batch or its checkpoint says it.
    pub link: Option<Link>,
    /// How many numbers are what.
    pub tally: Tally,
    /// What stands for the first numbers, which are not counted in `tally`.
    pub checkpoint: Option<Checkpoint>,
    /// Batches that are there although the checkpoint or a folded range stands for them, and that are the node's own:
    /// signature and payload were proved, their place in the chain could not be.
    pub beside: u64,
    /// Numbers that are not there, at most 1000 spans.
    pub gaps: Vec<Gap>,
    /// How many numbers are not there.
    pub missing: u64,
    /// Bad numbers in the order found, at most 1000; `tally.bad` counts all.
    pub bad: Vec<Bad>,
    /// Events in the verified numbers.
    pub events: u64,
    /// The highest number that is there.
    pub head: Option<Head>,
    /// Events of the epoch through the highest number that is there or lost, where the last header said so.
    pub cumulative: Option<u64>,
    /// The highest number known to be countersigned: nothing is proved beyond it.
    pub countersigned: Option<BatchSeq>,
}

/// What was proved of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its epochs in the order in which they were walked or first named. One that others name and that is not there
    /// has nothing but a gap.
    pub epochs: Vec<EpochReport>,
}

impl Report {
    /// The first bad number, in the order of the walk.
    pub fn first_bad(&self) -> Option<Bad> {
        self.epochs.iter().find_map(|epoch| epoch.bad.first().copied())
    }

    /// Whether nothing is bad and nothing that was acknowledged is missing.
    pub fn is_sound(&self) -> bool {
        self.epochs.iter().all(|epoch| epoch.tally.bad == 0 && !epoch.gaps.iter().any(|gap| gap.acknowledged))
    }
}

impl EpochReport {
    /// How many numbers a checkpoint stands for.
    pub fn checkpointed(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.last.number.get())
    }

    /// What may stand for all numbers that were walked, and for those of the checkpoint from which the walk went on.
    /// `None` if any of them is bad or not there, or if the walk came no further than that checkpoint: what is wrong
    /// must stay to be seen.
    pub fn to_checkpoint(&self, node: NodeId, time: Timestamp) -> Option<Checkpoint> {
        let sound = self.tally.bad == 0 && self.missing == 0;
        let last = self.head.filter(|head| sound && head.number.get() > self.checkpointed())?;
        let before = self.checkpoint.as_ref().map(|checkpoint| checkpoint.tally).unwrap_or_default();
        let (link, cumulative) = (self.link.clone(), self.cumulative);
        Some(Checkpoint {
            node,
            epoch: self.epoch,
            last,
            link,
            cumulative,
            tally: before.plus(self.tally),
            time,
        })
    }

    pub(super) fn new(epoch: EpochId) -> Self {
        Self {
            epoch,
            predecessor: None,
            link: None,
            tally: Tally::default(),
            checkpoint: None,
            beside: 0,
            gaps: Vec::new(),
            missing: 0,
            bad: Vec::new(),
            events: 0,
            head: None,
            cumulative: Some(0),
            countersigned: None,
        }
    }

    pub(super) fn add_bad(&mut self, number: BatchSeq, count: u64, reason: BadReason) {
        self.tally.bad += count;
        if self.bad.len() < MAX_LISTED {
            self.bad.push(Bad { epoch: self.epoch, number, reason });
        }
    }

    pub(super) fn add_gap(&mut self, span: Span) {
        self.missing = self.missing.saturating_add(span.count());
        if self.gaps.len() < MAX_LISTED {
            self.gaps.push(Gap { span, acknowledged: false });
        }
    }
}
