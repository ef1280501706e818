//! Handing an epoch to a `Verifier`, number by number.

use std::sync::Arc;

use auditflow_event::NodeId;
use auditflow_wire::chain::EntryContent;
use auditflow_wire::{BatchSeq, EpochId, Span, Verifier};

use crate::store::{ChainRow, Payload, Result, Store};

/// Batches read at a time.
const PAGE: usize = 64;

/// Which numbers of which epoch.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Whose.
    pub node: NodeId,
    /// Of which epoch.
    pub epoch: EpochId,
    /// The first number.
    pub from: BatchSeq,
    /// The last number at which a row may begin; none: as far as it goes.
    pub through: Option<BatchSeq>,
}

/// Walks the stretch. Lost numbers are told up to the last row that is there; without an end, all of them.
pub async fn walk(store: &Arc<dyn Store>, verifier: &mut Verifier, stretch: Stretch) -> Result<()> {
    let Stretch { node, epoch, through, .. } = stretch;
    let mut lost: Vec<Span> = store.lost(node, epoch).await?;
    lost.reverse();
    let mut next = Some(stretch.from);
    while let Some(from) = next.take() {
        for row in store.chain(node, epoch, from, PAGE).await? {
            let numbers = row.span();
            if through.is_some_and(|through| numbers.first() > through) {
                return Ok(());
            }
            while let Some(span) = lost.pop_if(|span| span.first() < numbers.first()) {
                verifier.lost(epoch, span);
            }
            tell(verifier, &row);
            next = numbers.last().next();
        }
    }
    if through.is_none() {
        lost.into_iter().rev().for_each(|span| verifier.lost(epoch, span));
    }
    Ok(())
}

fn tell(verifier: &mut Verifier, row: &ChainRow) {
    match row {
        ChainRow::Batch(batch) => {
            let content = match &batch.payload {
                Payload::Present(bytes) => EntryContent::Payload(bytes),
                Payload::Evicted(eviction) => EntryContent::Evicted(*eviction),
                Payload::Expired => EntryContent::Expired,
            };
            verifier.batch(&batch.signed, content);
        }
        ChainRow::Fold(fold) => {
            verifier.fold(fold);
        }
    }
}
