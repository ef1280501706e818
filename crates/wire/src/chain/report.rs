//! What a walk proved, number by number and in sums.

use crate::ids::{BatchSeq, EpochId, Head, Span};

use super::checkpoint::Tally;

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
    /// How many numbers are what.
    pub tally: Tally,
    /// Numbers that a checkpoint stands for, not counted in `tally`.
    pub checkpointed: u64,
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
    pub(super) fn new(epoch: EpochId) -> Self {
        Self {
            epoch,
            predecessor: None,
            tally: Tally::default(),
            checkpointed: 0,
            gaps: Vec::new(),
            missing: 0,
            bad: Vec::new(),
            events: 0,
            head: None,
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
