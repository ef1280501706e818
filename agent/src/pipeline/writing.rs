//! Writing: when what was gathered is committed, when chunks are sealed, and what happens while neither is possible.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Pipeline;
use crate::spool::{Now, SpoolError};

/// Urgent events that follow a commit by less than this wait until then: of a burst not each makes a synced commit and a
/// batch of its own. A small part of the second within which they must alert.
const URGENT_PAUSE: Duration = Duration::from_millis(50);

/// When urgent events may be committed.
#[derive(Debug)]
pub(super) struct Pace {
    not_before: Instant,
}

impl Pace {
    pub(super) fn starting_at(now: Instant) -> Self {
        Self { not_before: now }
    }

    /// When what is urgent is to be committed: at once after a quiet time.
    pub(super) fn due(&self) -> Instant {
        self.not_before
    }

    fn committed(&mut self, now: Instant) {
        self.not_before = now + URGENT_PAUSE;
    }
}

impl Pipeline {
    pub(super) fn write_what_is_due(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        let interval = self.parts.commit_interval;
        let waited = self.gathering.since().is_some_and(|since| now >= since + interval);
        let urgent = self.gathering.is_urgent() && now >= self.pace.due();
        if urgent || self.gathering.is_full() || waited {
            self.commit();
        } else if now >= self.seal_at {
            self.seal();
        }
    }

    pub(super) fn commit(&mut self) {
        let now = self.clock.now();
        let commit = self.gathering.commit();
        match self.parts.spool.commit(commit, now) {
            Ok(()) => {
                self.gathering.clear();
                self.pace.committed(Instant::now());
                self.parts.status.lock().unwrap_or_else(PoisonError::into_inner).committed_at =
                    Some(now.wall);
                self.recovered();
                self.seal();
            }
            Err(error) if error.is_passing() => self.failed(&error),
            Err(error) => {
                // These very events can't be written: better to declare them than to stand still for ever.
                tracing::error!("events cannot be written and are given up: {error}");
                self.gathering.give_up_events();
                self.failed(&error);
            }
        }
    }

    fn seal(&mut self) {
        let now = self.clock.now();
        let outcome = self.seal_all_due(now);
        let wait = self.parts.spool.next_deadline().saturating_sub(now.boottime);
        self.seal_at = Instant::now() + wait.clamp(Duration::from_millis(1), Duration::from_mins(1));
        self.report(outcome);
    }

    fn seal_all_due(&mut self, now: Now) -> Result<(), SpoolError> {
        while let Some(sealed) = self.parts.spool.seal(now)? {
            tracing::debug!(batch.seq = sealed.number.get(), batch.events = sealed.events, "sealed");
            self.parts.sealed.notify_one();
        }
        Ok(())
    }

    pub(super) fn report(&mut self, outcome: Result<(), SpoolError>) {
        match outcome {
            Ok(()) => self.recovered(),
            Err(error) => self.failed(&error),
        }
    }

    fn recovered(&mut self) {
        self.retry.succeeded();
        self.retry_at = None;
        self.parts.part.up();
    }

    fn failed(&mut self, error: &SpoolError) {
        self.retry_at = Some(Instant::now() + self.retry.failed());
        self.parts.part.degraded(&error.to_string(), &["new events"]);
    }

    pub(super) fn finish(mut self) {
        if !self.gathering.is_empty() {
            self.commit();
        }
        if !self.gathering.is_empty() {
            tracing::error!(
                "stopping with events that could not be written: sources that can will replay them"
            );
        }
        if let Err(error) = self.parts.spool.drain(self.clock.now()) {
            tracing::error!("what was committed is not all sealed, the next start does it: {error}");
        }
        self.parts.sealed.notify_one();
        self.parts.heartbeat.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_urgent_event_after_a_quiet_time_is_due_at_once_and_a_burst_shares_commits() {
        let start = Instant::now();
        let mut pace = Pace::starting_at(start);
        let mut commits = 0;
        for millis in 0..1_000 {
            let now = start + Duration::from_millis(millis);
            if now >= pace.due() {
                commits += 1;
                pace.committed(now);
            }
        }
        assert_eq!(commits, 20);
        assert!(pace.due() <= start + Duration::from_millis(1_050));
    }
}
