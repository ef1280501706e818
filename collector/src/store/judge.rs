//! Judging what arrives, apart from any database: an implementation of the store loads what this asks for, inside its
//! transaction, and writes down what it says.

use std::collections::HashMap;

use auditflow_event::NodeId;
use auditflow_wire::chain::{Evidence, Predecessor};
use auditflow_wire::header::Link;
use auditflow_wire::{
    BatchSeq, Digest, EpochId, EpochLedger, Folded, Head, Judgement, SignedHeader, UnknownPredecessor,
};

/// An epoch of a node.
pub type Place = (NodeId, EpochId);

/// The epochs that a call touches, loaded once and written back at its end.
#[derive(Debug, Default)]
pub struct Epochs {
    loaded: HashMap<Place, EpochLedger>,
}

impl Epochs {
    /// Whether an epoch is loaded.
    pub fn has(&self, place: Place) -> bool {
        self.loaded.contains_key(&place)
    }

    /// Takes in what is known of an epoch.
    pub fn put(&mut self, place: Place, ledger: EpochLedger) {
        self.loaded.insert(place, ledger);
    }

    /// An epoch's ledger; a new one, if it is not loaded.
    pub fn of(&mut self, place: Place) -> &mut EpochLedger {
        self.loaded.entry(place).or_default()
    }

    /// Judges a batch. `stored` is the digest that is stored under its number, `heads` those of the predecessor's heads
    /// that it names which are stored.
    pub fn judge_batch(&mut self, batch: &SignedHeader, stored: Option<Digest>, heads: &[Head]) -> Judgement {
        let header = &batch.header;
        self.judge((header.node, header.epoch), &header.link, heads, |own, predecessor| {
            own.admit(batch, Evidence { stored, stored_first: None, predecessor })
        })
    }

    /// Judges a fold. `stored` are the digests stored under its last and its first number.
    pub fn judge_fold(&mut self, fold: &Folded, stored: [Option<Digest>; 2], heads: &[Head]) -> Judgement {
        let [stored, stored_first] = stored;
        self.judge((fold.node, fold.epoch), &fold.link, heads, |own, predecessor| {
            own.admit_fold(fold, Evidence { stored, stored_first, predecessor })
        })
    }

    /// Everything that was loaded, as it is now.
    pub fn into_all(self) -> HashMap<Place, EpochLedger> {
        self.loaded
    }

    fn judge(
        &mut self,
        place: Place,
        link: &Link,
        heads: &[Head],
        admit: impl FnOnce(&mut EpochLedger, Option<Predecessor<'_>>) -> Judgement,
    ) -> Judgement {
        let Link::Successor { epoch: before, .. } = link else {
            return admit(self.of(place), None);
        };
        // Both are needed at once, and may be one where somebody forged a link; the epoch's own is put back right after.
        let mut own = self.of(place).clone();
        let ledger = self.of((place.0, *before));
        let judgement = admit(&mut own, Some(Predecessor { ledger, heads }));
        self.loaded.insert(place, own);
        judgement
    }
}

/// The heads of an epoch before that a link names: whether they are stored has to be known to judge it.
pub fn heads_named(node: NodeId, link: &Link) -> Option<(Place, &[Head])> {
    match link {
        Link::Successor { epoch, heads } => Some(((node, *epoch), heads)),
        _ => None,
    }
}

/// Numbers that the node holds of an epoch and that are not stored.
pub fn owed_of(ledger: &EpochLedger, lowest: BatchSeq, head: Option<Head>) -> u64 {
    let Some(head) = head.filter(|head| head.number >= lowest) else { return 0 };
    let stored_above = ledger.highest().map_or(0, BatchSeq::get);
    let beyond = head.number.get().saturating_sub(stored_above.max(lowest.get() - 1));
    let holes: u64 =
        ledger.owed().iter().filter(|span| span.last() <= head.number).map(|span| span.count()).sum();
    beyond.saturating_add(holes)
}

/// Whether an epoch that names no predecessor is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// It is what the answer to a fork was.
    No,
    /// The spool went.
    Yes,
    /// A first start of a new node is not; one beside another epoch that is known to begin without a predecessor is.
    /// (Later epochs may have come first, the urgent batches of one even before the batch that names its predecessor.)
    IfNotTheFirst,
}

impl Suspicion {
    /// What a link without a predecessor makes one think.
    pub fn of(why: UnknownPredecessor) -> Self {
        match why {
            UnknownPredecessor::Forked => Self::No,
            UnknownPredecessor::SpoolCorrupt | UnknownPredecessor::SpoolMissing => Self::Yes,
            UnknownPredecessor::FirstStart => Self::IfNotTheFirst,
        }
    }
}
