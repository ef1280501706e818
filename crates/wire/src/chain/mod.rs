//! Pure judgement of chains: on arrival ([`EpochLedger`]) and afterwards, with public keys alone ([`Verifier`]).

mod checkpoint;
mod ledger;
mod lost;
mod report;
mod verify;

pub use checkpoint::{Checkpoint, SignedCheckpoint, Tally};
pub use ledger::{EpochLedger, Evidence, Fork, ForkKind, Judgement, MAX_RUNS, Predecessor, Verdict};
pub use lost::{Lost, MAX_SPANS, SignedLost};
pub use report::{Bad, BadReason, EpochReport, Finding, Gap, Report};
pub use verify::{EntryContent, Verifier};
