//! Events in the order in which they fall due. Each is added with the same delay to a time that never goes back, so
//! the order of adding is the order of falling due.

use std::collections::VecDeque;
use std::time::Duration;

use super::key::Key;

/// A queue from which events are also removed out of turn: their entries then stay behind until they come to the
/// front or outnumber the others. The first entry is always a live one.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    number: u64,
    deadline: Duration,
}

/// More entries than this without an event are swept out even from a short queue.
const SLACK: usize = 64;

impl Queue {
    pub(super) fn add(&mut self, key: Key, number: u64, deadline: Duration) {
        self.entries.push_back(Entry { key, number, deadline });
    }

    pub(super) fn first(&self) -> Option<Key> {
        self.entries.front().map(|entry| entry.key)
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.entries.front().map(|entry| entry.deadline)
    }

    /// The first event if its time has come.
    pub(super) fn due(&self, now: Duration) -> Option<Key> {
        self.entries.front().filter(|entry| entry.deadline <= now).map(|entry| entry.key)
    }

    /// Removes an event, if it is in the queue. `is_pending` tells the entries of the others that are still there, of
    /// which there are `others`.
    pub(super) fn remove(&mut self, number: u64, others: usize, is_pending: impl Fn(&Key, u64) -> bool) {
        if self.entries.back().is_some_and(|entry| entry.number == number) {
            self.entries.pop_back();
        }
        while self.entries.front().is_some_and(|entry| !is_pending(&entry.key, entry.number)) {
            self.entries.pop_front();
        }
        if self.entries.len() > 2 * others + SLACK {
            self.entries.retain(|entry| is_pending(&entry.key, entry.number));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
