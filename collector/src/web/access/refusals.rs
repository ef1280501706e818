//! How often refusals are written into the audit trail: strangers must not be able to fill it.
//!
//! Nothing refused is left uncounted: what is not written at once adds to the next entry of the same kind, actor and
//! address. An address gets one entry a minute; with more than a few addresses at once the rest are counted together; and
//! all entries share a budget that refills slowly, so that a disk lasts however many try from wherever. Pure: time is
//! passed in, from any fixed start.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::store::{Act, Action, Actor, By};

/// How long an address waits for its next entry.
pub(super) const EVERY: Duration = Duration::from_mins(1);
/// Addresses, with who asks and what for, that are told apart at once.
const TOLD_APART: usize = 16;
/// Entries that may be written in a row, ...
const BURST: u32 = 64;
/// ... and how long until there may be one more: 144 a day.
const REFILL: Duration = Duration::from_mins(10);

/// Counts what was refused.
#[derive(Default)]
pub(super) struct Refusals {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kinds: HashMap<Kind, Waiting>,
    spent: u32,
    /// Up to when the budget has been refilled.
    refilled: Duration,
}

/// What is counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Kind {
    action: Action,
    actor: Actor,
    origin: Option<IpAddr>,
}

struct Waiting {
    /// When an entry was last written.
    written: Option<Duration>,
    /// Attempts since, and the first of them.
    attempts: u64,
    act: Act,
}

impl Refusals {
    /// Counts one; returns the entry to write now, if one is due.
    pub(super) fn note(&self, act: Act, now: Duration) -> Option<Act> {
        let mut state = self.lock();
        state.refill(now);
        let kind = state.kind_of(&act, now);
        let State { kinds, spent, .. } = &mut *state;
        let waiting = kinds.entry(kind.clone()).or_insert_with(|| Waiting {
            written: None,
            attempts: 0,
            act: act.clone(),
        });
        if waiting.attempts == 0 {
            waiting.act = Act { by: By { actor: kind.actor, origin: kind.origin }, ..act };
        }
        waiting.attempts += 1;
        waiting.take(spent, now)
    }

    /// The entries that are due by now without another attempt.
    pub(super) fn due(&self, now: Duration) -> Vec<Act> {
        let mut state = self.lock();
        state.refill(now);
        let State { kinds, spent, .. } = &mut *state;
        kinds.values_mut().filter_map(|waiting| waiting.take(spent, now)).collect()
    }

    /// Everything that waits: there will be no later.
    pub(super) fn rest(&self) -> Vec<Act> {
        let kinds = std::mem::take(&mut self.lock().kinds);
        kinds.into_values().filter(|waiting| waiting.attempts > 0).map(Waiting::entry).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refill(&mut self, now: Duration) {
        while self.spent > 0 && now >= self.refilled + REFILL {
            self.refilled += REFILL;
            self.spent -= 1;
        }
        if self.spent == 0 {
            self.refilled = now;
        }
    }

    /// The act's own kind, or that of everybody who is not told apart.
    fn kind_of(&mut self, act: &Act, now: Duration) -> Kind {
        let own = Kind { action: act.action, actor: act.by.actor.clone(), origin: act.by.origin };
        if self.kinds.contains_key(&own) {
            return own;
        }
        if self.kinds.len() >= TOLD_APART {
            self.kinds.retain(|_, waiting| waiting.attempts > 0 || !waiting.may_write(now));
        }
        if self.kinds.len() < TOLD_APART {
            return own;
        }
        Kind { action: act.action, actor: Actor::Anonymous, origin: None }
    }
}

impl Waiting {
    fn may_write(&self, now: Duration) -> bool {
        self.written.is_none_or(|written| now >= written + EVERY)
    }

    fn take(&mut self, spent: &mut u32, now: Duration) -> Option<Act> {
        if self.attempts == 0 || *spent >= BURST || !self.may_write(now) {
            return None;
        }
        *spent += 1;
        let next = Self { written: Some(now), attempts: 0, act: self.act.clone() };
        Some(std::mem::replace(self, next).entry())
    }

    fn entry(self) -> Act {
        let mut act = self.act;
        if let Value::Object(detail) = &mut act.detail {
            detail.insert("attempts".to_owned(), json!(self.attempts));
        }
        act
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Outcome;
    use crate::testing::at;

    fn refused(address: u32) -> Act {
        let by = By { actor: Actor::Anonymous, origin: Some(IpAddr::V4(address.into())) };
        let act = Act::done(at(0), by, Action::SessionRefuse, "", json!({}));
        Act { outcome: Outcome::Refused, ..act }
    }

    fn attempts(act: &Act) -> u64 {
        act.detail["attempts"].as_u64().unwrap()
    }

    #[test]
    fn an_address_gets_one_entry_a_minute_and_every_attempt_is_counted() {
        let refusals = Refusals::default();
        let second = Duration::from_secs;
        let written: Vec<u64> =
            (0..150).filter_map(|s| refusals.note(refused(1), second(s))).map(|act| attempts(&act)).collect();
        assert_eq!(written, [1, 60, 60]);
        assert!(refusals.note(refused(2), second(150)).is_some(), "another address waits for nobody");
        assert!(refusals.due(second(179)).is_empty());
        assert_eq!(refusals.due(second(180)).iter().map(attempts).collect::<Vec<_>>(), [29]);
        assert!(refusals.due(second(999)).is_empty() && refusals.rest().is_empty());
    }

    #[test]
    fn however_many_try_from_wherever_entries_and_memory_are_bounded_and_no_attempt_is_lost() {
        let refusals = Refusals::default();
        let (mut entries, mut counted) = (0, 0);
        let minutes = 24 * 60;
        for minute in 0..minutes {
            let now = Duration::from_mins(minute);
            let mut written = refusals.due(now);
            written.extend((0..100).filter_map(|n| refusals.note(refused(minute as u32 * 100 + n), now)));
            entries += written.len() as u64;
            counted += written.iter().map(attempts).sum::<u64>();
            assert!(refusals.lock().kinds.len() <= TOLD_APART + 1);
        }
        counted += refusals.rest().iter().map(attempts).sum::<u64>();
        assert!(entries <= u64::from(BURST) + 144, "{entries} entries in a day");
        assert_eq!(counted, minutes * 100);
    }

    #[test]
    fn a_quiet_address_gives_its_place_to_another() {
        let refusals = Refusals::default();
        for address in 0..TOLD_APART as u32 {
            assert!(refusals.note(refused(address), Duration::ZERO).is_some());
        }
        let others = refusals.note(refused(99), Duration::ZERO).unwrap();
        assert_eq!(others.by.origin, None, "one of many");
        let own = refusals.note(refused(100), EVERY).unwrap();
        assert_eq!(own.by.origin, refused(100).by.origin);
    }
}
