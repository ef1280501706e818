//! Checkpoints: the site's signed word in place of rows that are too old to keep.
//!
//! Fed by the store, which says what may be replaced; feeds it with checkpoints. Every row is proved by the same
//! `Verifier` that `verify` uses, going on from the epoch's checkpoint so far, before the site signs for it. Where
//! anything is bad or missing nothing is signed: the rows stay, all that come after them in the epoch stay, and it is
//! said so until it is mended. ADR 11 has the reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::chain::EpochReport;
use auditflow_wire::{BatchSeq, EpochId, Signed, SignedCheckpoint, Verifier};
use tokio_util::sync::CancellationToken;

use super::walk::{Stretch, walk};
use crate::site::SiteKeys;
use crate::site::keys::Keys;
use crate::store::{Limits, Replaceable, Result, Store, StoreError};

/// Checkpoints made before the store is asked again what it wants replaced.
const ROUND: usize = 16;
/// Rounds of one pass: what is left is left to the next one.
const ROUNDS: usize = 64;

/// Why rows can't be signed for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsound(pub String);

/// What a checkpoint could stand for.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The statement.
    pub checkpoint: SignedCheckpoint,
    /// The last number of the one that it supersedes.
    pub after: Option<BatchSeq>,
}

/// Replaces old rows, pass after pass, and remembers where it could not.
pub struct Checkpoints {
    store: Arc<dyn Store>,
    keys: SiteKeys,
    unsound: BTreeMap<(NodeId, EpochId), String>,
}

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// How many checkpoints were signed.
    pub checkpoints: u64,
    /// For how many numbers they stand that had rows, or were lost, before.
    pub numbers: u64,
}

impl Checkpoints {
    /// For a store and its site's keys.
    pub fn new(store: Arc<dyn Store>, keys: SiteKeys) -> Self {
        Self { store, keys, unsound: BTreeMap::new() }
    }

    /// Epochs whose rows stay because something in them is bad or missing, and what.
    pub fn unsound(&self) -> &BTreeMap<(NodeId, EpochId), String> {
        &self.unsound
    }

    /// Replaces what the store wants replaced, as far as one pass goes.
    pub async fn pass(
        &mut self,
        limits: Limits,
        now: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Replaced> {
        let mut replaced = Replaced::default();
        let mut passed_over: BTreeSet<(NodeId, EpochId)> = BTreeSet::new();
        for _ in 0..ROUNDS {
            let due = self.store.replaceable(limits, now).await?;
            let due: Vec<Replaceable> =
                due.into_iter().filter(|due| !passed_over.contains(&place(due))).take(ROUND).collect();
            for due in &due {
                if stop.is_cancelled() {
                    return Ok(replaced);
                }
                match self.replace(due, now).await? {
                    Some(numbers) => {
                        replaced.checkpoints += 1;
                        replaced.numbers += numbers;
                    }
                    None => {
                        passed_over.insert(place(due));
                    }
                }
            }
            if due.is_empty() {
                break;
            }
        }
        Ok(replaced)
    }

    /// Returns for how many numbers more than before a checkpoint stands now.
    async fn replace(&mut self, due: &Replaceable, now: Timestamp) -> Result<Option<u64>> {
        let keys = self.keys.get();
        let drawn = match draw(&self.store, &keys, due, now).await? {
            Ok(drawn) => drawn,
            Err(Unsound(why)) => {
                if self.unsound.insert(place(due), why.clone()).is_none() {
                    tracing::error!(
                        node.id = %due.node, epoch.id = %due.epoch, reason = why,
                        "rows of the ledger are not replaced: they can't be proved"
                    );
                }
                return Ok(None);
            }
        };
        self.unsound.remove(&place(due));
        let last = drawn.checkpoint.unverified().last.number.get();
        let numbers = last.saturating_sub(drawn.after.map_or(0, BatchSeq::get));
        let done = self.store.replace(drawn.checkpoint, drawn.after).await?;
        Ok(done.then_some(numbers))
    }
}

/// Proves an epoch through a number, going on from its checkpoint so far, and signs for it. Nothing is stored.
pub async fn draw(
    store: &Arc<dyn Store>,
    keys: &Keys,
    due: &Replaceable,
    now: Timestamp,
) -> Result<Result<Drawn, Unsound>> {
    let Replaceable { node, epoch, through, .. } = *due;
    let mut verifier = Verifier::new(node, store.node_keys(node).await?);
    let before = match store.checkpoint(node, epoch).await {
        Err(StoreError::Damaged { what, source }) => return Ok(Err(damaged(what, &source))),
        before => before?,
    };
    if let Some(before) = &before
        && let Err(error) = verifier.checkpoint(before, &keys.all().collect())
    {
        return Ok(Err(Unsound(format!("its checkpoint: {error}"))));
    }
    let after = before.map(|before| before.unverified().last.number);
    let Some(from) = after.map_or(Some(BatchSeq::FIRST), BatchSeq::next) else {
        return Ok(Err(Unsound("its numbers are used up".to_owned())));
    };
    match walk(store, &mut verifier, Stretch { node, epoch, from, through: Some(through) }).await {
        Err(StoreError::Damaged { what, source }) => return Ok(Err(damaged(what, &source))),
        walked => walked?,
    }
    let report = verifier.finish().epochs.into_iter().find(|report| report.epoch == epoch);
    let Some(report) = report else { return Ok(Err(Unsound("nothing is there".to_owned()))) };
    Ok(match report.to_checkpoint(node, now) {
        Some(checkpoint) => Ok(Drawn { checkpoint: Signed::sign(checkpoint, &keys.signing), after }),
        None => Err(Unsound(what_is_wrong(&report))),
    })
}

fn place(due: &Replaceable) -> (NodeId, EpochId) {
    (due.node, due.epoch)
}

fn damaged(what: &str, source: &crate::store::Source) -> Unsound {
    Unsound(format!("{what} is damaged: {source}"))
}

fn what_is_wrong(report: &EpochReport) -> String {
    match (report.bad.first(), report.gaps.first()) {
        (Some(bad), _) => format!("batch {}: {}", bad.number, bad.reason),
        (None, Some(gap)) => format!("batches {} are not there", gap.span),
        (None, None) => "no batch is there".to_owned(),
    }
}
