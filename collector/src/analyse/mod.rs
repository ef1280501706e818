//! The seam between ingest and analysis.
//!
//! Ingest hints what it has stored, with the events it has decoded anyway, so that analysis need not open the batch
//! again. A hint is never waited for and may be lost; the sweep over unanalysed batches finds what no hint told of.

use std::sync::Arc;

use auditflow_event::{Event, Timestamp};
use auditflow_wire::BootId;
use tokio::sync::mpsc;

use crate::store::BatchKey;

/// Hints that may wait. Each holds one batch's events, so this bounds the memory.
const WAITING: usize = 64;

/// A batch was stored.
#[derive(Clone, Debug)]
pub struct Hint {
    /// Which.
    pub key: BatchKey,
    /// During which boot of the node it was sealed: its header's clocks say.
    pub boot: BootId,
    /// When it was first received, as stored.
    pub received_at: Timestamp,
    /// Its events.
    pub events: Arc<Vec<Event>>,
}

/// A channel of hints.
pub fn hints() -> (mpsc::Sender<Hint>, mpsc::Receiver<Hint>) {
    mpsc::channel(WAITING)
}
