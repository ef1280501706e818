//! What the shipper does next. Pure: time, the spool's state and the collector's answers come in, actions go out.
//!
//! Every batch is sent once, urgent ones first, then in order; what certainly failed is sent again. Of what was handed
//! over without being acknowledged, only the oldest is sent again, after asking with a `State` frame, and with
//! backoff. Bytes and batches under way are bounded, with a part of both left to urgent ones; bulk waits for the
//! uplink budget, urgent never does. While the way is down, only a `State` frame is tried, with backoff.

use std::collections::BTreeMap;
use std::time::Duration;

use auditflow_service::backoff::Backoff;

use super::budget::Budget;
use crate::spool::{RowId, Waiting};

/// The longest that a `Retry-After` is obeyed: a collector that says “in a year” is asked again after this.
const LONGEST_HOLD: Duration = Duration::from_hours(1);

/// The bounds that the schedule keeps.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes sent and not acknowledged. One batch goes out in any case.
    pub in_flight_bytes: u64,
    /// Batches sent and not acknowledged.
    pub in_flight_batches: usize,
    /// How long an acknowledgement may take before the collector is asked.
    pub ack_overdue: Duration,
    /// The first delay after a failure.
    pub retry_first: Duration,
    /// The longest delay after repeated failures.
    pub retry_ceiling: Duration,
    /// Bytes per day and burst that bulk keeps to; `None` is no budget.
    pub budget: Option<(u64, u64)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_bytes: 2 * 1024 * 1024,
            // As many frames as a collector takes of one node at once; more would be turned away.
            in_flight_batches: 4,
            ack_overdue: Duration::from_secs(30),
            retry_first: Duration::from_millis(500),
            retry_ceiling: Duration::from_mins(2),
            budget: None,
        }
    }
}

/// What the spool has to send, beyond what the schedule's [`Marks`] say was sent already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// The first urgent batch above the mark.
    pub urgent: Option<Waiting>,
    /// The first other batch above the mark.
    pub bulk: Option<Waiting>,
}

/// Up to where batches were sent at least once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The last urgent one.
    pub urgent: RowId,
    /// The last other one.
    pub bulk: RowId,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send this batch and report with [`Schedule::answered`].
    Send(Waiting),
    /// Send a `State` frame and report with [`Schedule::state_answered`].
    State,
    /// Nothing before this time, unless the spool changes or an answer arrives.
    Wait(Option<Duration>),
}

/// What became of something sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was taken; what is acknowledged by it goes to the spool.
    Taken,
    /// It did not arrive, or nobody knows: connection, timeout, an error of the server.
    Failed,
    /// The collector has no time now, and may have said for how long.
    Throttled(Option<Duration>),
    /// The collector knows another history of this epoch: the spool seals anew.
    Forked,
    /// The collector doesn't take this node's data (not enrolled, not approved, revoked).
    Stranger,
    /// The collector will never take these very bytes.
    Refused,
    /// It is larger than the way carries: it stays in the spool, and is tried again by the next process.
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// Nothing but a `State` frame is sent, not before `retry_at`.
    Down {
        retry_at: Duration,
    },
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    InFlight,
    /// Handed over at `since` without an acknowledgement; asked about after `patience`.
    Handed {
        since: Duration,
        patience: Duration,
    },
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Outstanding {
    batch: Waiting,
    phase: Phase,
}

/// The state machine.
#[derive(Debug)]
pub struct Schedule {
    limits: Limits,
    link: Link,
    asking: bool,
    /// The batch for which a `State` frame was sent since it was last handed over.
    asked_for: Option<RowId>,
    hold_until: Duration,
    retry: Backoff,
    resend: Backoff,
    /// How long the oldest unacknowledged batch is given, longer after each time that it was sent again.
    patience: Duration,
    outstanding: BTreeMap<RowId, Outstanding>,
    marks: Marks,
    budget: Option<Budget>,
}

impl Schedule {
    /// A schedule that begins by connecting. `seed` spreads the delays of a fleet.
    pub fn new(limits: Limits, seed: u64, now: Duration) -> Self {
        let retry = Backoff::new(limits.retry_first, limits.retry_ceiling, seed);
        let resend = Backoff::new(limits.retry_first, limits.retry_ceiling, !seed);
        let budget = limits.budget.map(|(per_day, burst)| Budget::new(per_day, burst, now));
        Self {
            link: Link::Down { retry_at: now },
            asking: false,
            asked_for: None,
            hold_until: now,
            retry,
            resend,
            patience: limits.ack_overdue,
            outstanding: BTreeMap::new(),
            marks: Marks::default(),
            budget,
            limits,
        }
    }

    /// Above which rows the [`Backlog`] begins.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// What was sent and is not known to be retired.
    pub fn outstanding(&self) -> impl Iterator<Item = RowId> + '_ {
        self.outstanding.keys().copied()
    }

    /// Whether the last attempt reached a collector that takes this node's data.
    pub fn is_connected(&self) -> bool {
        self.link == Link::Up
    }

    /// Decides. An action that sends is considered under way from here on.
    pub fn next(&mut self, now: Duration, backlog: &Backlog) -> Action {
        if now < self.hold_until {
            return Action::Wait(Some(self.hold_until));
        }
        if let Link::Down { retry_at } = self.link {
            return match (self.asking, now < retry_at) {
                (true, _) => Action::Wait(None),
                (false, true) => Action::Wait(Some(retry_at)),
                (false, false) => self.ask(),
            };
        }
        let overdue = self.oldest_overdue(now);
        if let Some(action) = overdue.and_then(Result::ok) {
            return action;
        }
        match self.choose(now, backlog) {
            Ok(batch) => self.send(batch, now),
            Err(ready_at) => {
                let due_at = overdue.and_then(Result::err);
                Action::Wait([ready_at, due_at].into_iter().flatten().min())
            }
        }
    }

    /// Takes note of what became of a batch.
    pub fn answered(&mut self, now: Duration, id: RowId, outcome: Outcome) {
        let patience = match outcome {
            Outcome::Taken | Outcome::Forked | Outcome::Refused => Some(self.patience),
            Outcome::Failed | Outcome::Throttled(_) | Outcome::Stranger => None,
            // It must neither take up room nor be the oldest that all others wait for.
            Outcome::TooLarge => {
                self.outstanding.remove(&id);
                return;
            }
        };
        if let Some(outstanding) = self.outstanding.get_mut(&id) {
            outstanding.phase = match patience {
                Some(patience) => Phase::Handed { since: now, patience },
                None => Phase::Failed,
            };
        }
        self.note(now, outcome);
    }

    /// Takes note of what became of a `State` frame.
    pub fn state_answered(&mut self, now: Duration, outcome: Outcome) {
        self.asking = false;
        if matches!(outcome, Outcome::Refused | Outcome::TooLarge) {
            // A collector that cannot read the frame may still take batches.
            self.link = Link::Up;
            return;
        }
        self.note(now, outcome);
    }

    /// Takes note of what the collector said later than it was asked, of nobody knows which batch.
    pub fn heard(&mut self, now: Duration, outcome: Outcome) {
        self.note(now, outcome);
    }

    /// These batches are no longer in the spool.
    pub fn retired(&mut self, gone: &[RowId]) {
        for id in gone {
            if self.outstanding.remove(id).is_some() {
                self.resend.succeeded();
                self.patience = self.limits.ack_overdue;
            }
        }
    }

    /// The spool was begun anew: its rows count from the start again.
    pub fn start_over(&mut self) {
        self.outstanding.clear();
        self.marks = Marks::default();
        self.asked_for = None;
    }

    fn note(&mut self, now: Duration, outcome: Outcome) {
        match outcome {
            Outcome::Taken => {
                self.link = Link::Up;
                self.retry.succeeded();
            }
            Outcome::Refused | Outcome::TooLarge => self.link = Link::Up,
            Outcome::Failed => self.fall_back(now),
            Outcome::Stranger => {
                self.fall_back(now);
                self.hold_until = self.hold_until.max(now + self.limits.retry_ceiling / 2);
            }
            // The spool seals anew; should that be answered so again, the pauses grow.
            Outcome::Forked => self.hold_until = self.hold_until.max(now + self.retry.failed()),
            Outcome::Throttled(pause) => {
                let pause = pause.unwrap_or_else(|| self.retry.failed()).min(LONGEST_HOLD);
                self.hold_until = self.hold_until.max(now + pause);
            }
        }
    }

    /// One failed connection counts once, however many batches were under way on it.
    fn fall_back(&mut self, now: Duration) {
        let waiting = matches!(self.link, Link::Down { retry_at } if now < retry_at);
        if !waiting {
            self.link = Link::Down { retry_at: now + self.retry.failed() };
        }
    }

    fn ask(&mut self) -> Action {
        self.asking = true;
        self.asked_for = self.outstanding.keys().next().copied();
        Action::State
    }

    /// What the oldest unacknowledged batch calls for: an action, or the time at which it will.
    fn oldest_overdue(&mut self, now: Duration) -> Option<Result<Action, Duration>> {
        let (&id, &Outstanding { batch, phase }) = self.outstanding.iter().next()?;
        let Phase::Handed { since, patience } = phase else { return None };
        if now < since + patience {
            return Some(Err(since + patience));
        }
        if self.asking {
            return None;
        }
        if self.asked_for != Some(id) {
            return Some(Ok(self.ask()));
        }
        self.asked_for = None;
        self.patience = self.limits.ack_overdue + self.resend.failed();
        Some(Ok(self.send(batch, now)))
    }

    /// The batch to send next, or when there may be one.
    fn choose(&mut self, now: Duration, backlog: &Backlog) -> Result<Waiting, Option<Duration>> {
        let failed = |urgent| {
            let is_failed = |outstanding: &&Outstanding| {
                outstanding.phase == Phase::Failed && outstanding.batch.urgent == urgent
            };
            self.outstanding.values().find(is_failed).map(|outstanding| outstanding.batch)
        };
        // What failed is within the bounds already: it is still counted.
        if let Some(batch) = failed(true) {
            return Ok(batch);
        }
        if let Some(batch) = backlog.urgent.filter(|batch| self.fits(*batch)) {
            return Ok(batch);
        }
        let bulk = failed(false).or_else(|| backlog.bulk.filter(|batch| self.fits(*batch))).ok_or(None)?;
        match self.budget.as_mut().and_then(|budget| budget.wait(bulk.bytes, now)) {
            None => Ok(bulk),
            Some(ready_at) => Err(Some(ready_at)),
        }
    }

    /// Whether the bounds allow one more; a quarter of the bytes and one batch are kept for urgent ones. What is older
    /// than everything under way fits always: an acknowledgement lists only so many ranges above the holes, so that
    /// what is under way may be waiting for just this batch.
    fn fits(&self, batch: Waiting) -> bool {
        if self.outstanding.first_key_value().is_none_or(|(oldest, _)| batch.id < *oldest) {
            return true;
        }
        let (bytes, batches) = if batch.urgent {
            (self.limits.in_flight_bytes, self.limits.in_flight_batches)
        } else {
            (self.limits.in_flight_bytes / 4 * 3, self.limits.in_flight_batches.saturating_sub(1).max(1))
        };
        let under_way: u64 = self.outstanding.values().map(|outstanding| outstanding.batch.bytes).sum();
        under_way + batch.bytes <= bytes && self.outstanding.len() < batches
    }

    fn send(&mut self, batch: Waiting, now: Duration) -> Action {
        if let Some(budget) = &mut self.budget {
            budget.take(batch.bytes, now);
        }
        let mark = if batch.urgent { &mut self.marks.urgent } else { &mut self.marks.bulk };
        *mark = (*mark).max(batch.id);
        self.outstanding.insert(batch.id, Outstanding { batch, phase: Phase::InFlight });
        Action::Send(batch)
    }
}

#[cfg(test)]
mod tests;
