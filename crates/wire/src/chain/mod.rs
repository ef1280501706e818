//! Pure judgement of chains: what a batch that arrives is to the epoch it belongs to.

mod ledger;

pub use ledger::{EpochLedger, Evidence, Fork, ForkKind, Judgement, MAX_RUNS, Predecessor, Verdict};
