//! Counts events per key within a time, in bounded memory.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rsigma_eval::EventValue;

use super::action::Rate;

/// One rule's counts.
#[derive(Debug, Default)]
pub(super) struct Limiter(Mutex<HashMap<u64, Window>>);

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Duration,
    events: u32,
}

/// Keys counted apart at most. Those beyond share one count: under a flood of keys too much is dropped, never memory
/// exhausted.
pub(super) const MAX_KEYS: usize = 4096;

/// The key under which what exceeds [`MAX_KEYS`] is counted.
const SHARED: u64 = 0;

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// A key from the values of its fields; absent is a value like any other.
pub(super) fn key<'v>(values: impl Iterator<Item = Option<EventValue<'v>>>) -> u64 {
    let mut hasher = HASHER.build_hasher();
    for value in values {
        match value.as_ref().and_then(EventValue::as_str) {
            Some(text) => {
                hasher.write_u8(1);
                hasher.write(text.as_bytes());
                hasher.write_u8(0xFF);
            }
            None => hasher.write_u8(0),
        }
    }
    hasher.finish().max(SHARED + 1)
}

impl Limiter {
    /// Counts one event of `key` at `now`, and says whether it is within the rate.
    pub(super) fn allow(&self, rate: &Rate, key: u64, now: Duration) -> bool {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if windows.len() >= MAX_KEYS && !windows.contains_key(&key) {
            windows.retain(|_, window| window.open(rate, now));
            if windows.len() >= MAX_KEYS { SHARED } else { key }
        } else {
            key
        };
        let window = windows.entry(key).or_insert(Window { began: now, events: 0 });
        if !window.open(rate, now) {
            *window = Window { began: now, events: 0 };
        }
        window.events = window.events.saturating_add(1);
        window.events <= rate.events
    }
}

impl Window {
    fn open(self, rate: &Rate, now: Duration) -> bool {
        now.saturating_sub(self.began) < rate.per
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { events: 2, per: Duration::from_secs(10), by: Vec::new() };

    #[test]
    fn keys_are_bounded_and_those_beyond_share_one_count() {
        let limiter = Limiter::default();
        let start = Duration::ZERO;
        let allowed = (1..=MAX_KEYS as u64 + 100).filter(|key| limiter.allow(&RATE, *key, start)).count();
        // The shared count takes a place of its own.
        assert_eq!(allowed, MAX_KEYS + 2);
        assert_eq!(limiter.0.lock().unwrap().len(), MAX_KEYS + 1);
        // Once the windows are over, there is room again.
        assert!(limiter.allow(&RATE, u64::MAX, Duration::from_secs(10)));
        assert_eq!(limiter.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn values_and_their_absence_make_different_keys() {
        let of = |values: &[Option<&str>]| {
            key(values.iter().map(|value| value.map(|text| EventValue::Str(text.to_owned().into()))))
        };
        let keys = [
            of(&[None]),
            of(&[Some("")]),
            of(&[Some("a"), Some("b")]),
            of(&[Some("ab"), Some("")]),
            of(&[Some("a"), None]),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "{index}");
        }
        assert_eq!(of(&[Some("a")]), of(&[Some("a")]));
    }
}
