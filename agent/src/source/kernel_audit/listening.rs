//! Time as it passes for who listens.
//!
//! What was sent while this thread did not run (the machine was busy, the virtual machine stood still) waits in the
//! socket, so a record or a serial that has not been read is not late yet. Such a stretch counts as one short step.

use std::time::{Duration, Instant};

/// What a stretch between two looks at the clock counts for at most: somewhat more than one wait for the kernel.
const MAX_STEP: Duration = Duration::from_millis(200);

/// A clock that goes on only while it is looked at.
#[derive(Debug)]
pub(super) struct ListeningClock {
    time: Duration,
    looked: Instant,
}

impl ListeningClock {
    /// A clock that begins at nought.
    pub(super) fn new(now: Instant) -> Self {
        Self { time: Duration::ZERO, looked: now }
    }

    /// The time for who listens.
    pub(super) fn look(&mut self, now: Instant) -> Duration {
        self.time += now.saturating_duration_since(self.looked).min(MAX_STEP);
        self.looked = now;
        self.time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_without_a_look_counts_as_one_step() {
        let start = Instant::now();
        let mut clock = ListeningClock::new(start);
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(clock.look(at(100)), Duration::from_millis(100));
        assert_eq!(clock.look(at(60_000)), Duration::from_millis(100) + MAX_STEP);
        assert_eq!(clock.look(at(60_050)), Duration::from_millis(150) + MAX_STEP);
    }
}
