//! The recording, sealed by a fleet.

use anyhow::Context;

use crate::fleet::{Recording, Sealed, Sender};

/// Each node seals whole rounds of the recording, its own ones, in batches of so many events.
pub(crate) fn seal_rounds(
    recording: &Recording,
    senders: &mut [Sender],
    rounds: u64,
    batch: usize,
) -> anyhow::Result<Vec<Vec<Sealed>>> {
    let begin = recording.begin(rounds)?;
    let mut frames = vec![Vec::new(); senders.len()];
    for round in 0..rounds {
        let node = round as usize % senders.len();
        let (sender, frames) =
            senders.get_mut(node).zip(frames.get_mut(node)).context("a node for each round")?;
        let mut events = recording.round(begin, round).peekable();
        while events.peek().is_some() {
            frames.push(sender.seal(events.by_ref().take(batch))?);
        }
    }
    Ok(frames)
}
