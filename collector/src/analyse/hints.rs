//! Hints: what was just stored, with its events, so that analysis need not read and open it again.
//!
//! Fed by ingest, read by `batches`. What waits or is being judged is bounded in bytes of events; a batch that finds no
//! room is left to the sweep. So a hint may be lost, and never a batch.

use std::sync::Arc;

use auditflow_event::Event;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::open::OpenBatch;

/// Hints that may wait.
const WAITING: usize = 64;
/// Memory that the events of all hints may take, in KiB.
const ROOM: usize = 32 << 10;

/// Where ingest gives hints.
#[derive(Clone, Debug)]
pub struct Hints {
    sender: mpsc::Sender<HeldHint>,
    room: Arc<Semaphore>,
}

/// A hint in its room, which is free again when this is dropped.
#[derive(Debug)]
pub struct HeldHint {
    /// What was stored.
    pub batch: OpenBatch,
    pub(super) room: OwnedSemaphorePermit,
}

/// A channel of hints.
pub fn hints() -> (Hints, mpsc::Receiver<HeldHint>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Hints { sender, room: Arc::new(Semaphore::new(ROOM)) }, receiver)
}

impl Hints {
    /// Hints at a batch, if there is room for it.
    pub fn offer(&self, batch: OpenBatch) {
        let bytes: usize = batch.events.iter().map(Event::weight).sum();
        let kibibytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(kibibytes) {
            // Full or closed: the sweep finds the batch.
            let _ = self.sender.try_send(HeldHint { batch, room });
        }
    }
}

#[cfg(test)]
mod tests {
    use auditflow_event::HostFacts;

    use super::*;
    use crate::testing::{TestNode, at};

    fn hint(node: &mut TestNode, events: usize) -> OpenBatch {
        let resource = "r".repeat(64 << 10);
        let events = (0..events).map(|_| node.event(0, "user_login", "alice", &resource)).collect();
        let host = Arc::new(HostFacts::default());
        let key = node.seal(&[]).key();
        OpenBatch { key, boot: node.boot, host, received_at: at(0), events: Arc::new(events), matched: None }
    }

    #[test]
    fn hints_take_no_more_memory_than_they_may_until_they_are_dropped() {
        let mut node = TestNode::new(1);
        let (hints, mut held) = hints();
        // A fifth of the room each; there are sixty-four places.
        let events = (ROOM << 10) / 5 / (64 << 10);
        for _ in 0..20 {
            hints.offer(hint(&mut node, events));
        }
        let taken: Vec<HeldHint> = std::iter::from_fn(|| held.try_recv().ok()).collect();
        let bytes: usize = taken.iter().flat_map(|held| held.batch.events.iter()).map(Event::weight).sum();
        assert!(taken.len() >= 4 && bytes <= ROOM << 10, "{} hints of {bytes} bytes", taken.len());
        hints.offer(hint(&mut node, events));
        assert!(held.try_recv().is_err(), "those being judged still take their room");
        drop(taken);
        hints.offer(hint(&mut node, events));
        assert!(held.try_recv().is_ok());
    }

    #[test]
    fn more_hints_than_places_are_dropped() {
        let mut node = TestNode::new(1);
        let (hints, mut held) = hints();
        for _ in 0..2 * WAITING {
            hints.offer(hint(&mut node, 0));
        }
        assert_eq!(std::iter::from_fn(|| held.try_recv().ok()).count(), WAITING);
    }
}
