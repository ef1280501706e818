//! The events given out last, to tell duplicates and late records from records of new events.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use super::key::{ByKey, Key};

/// How many record prints are kept per remembered event on average; ordinary events have about four.
const PRINTS_PER_EVENT: usize = 16;

/// Remembers a bounded number of events, and of each a print per record.
#[derive(Debug)]
pub(super) struct Recent {
    max_events: usize,
    events: ByKey<Vec<u64>>,
    order: VecDeque<Key>,
    prints: usize,
}

/// What is remembered of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Neither the record nor its event.
    Nothing,
    /// Its event, without that record.
    Event,
    /// The record itself.
    Record,
}

impl Recent {
    pub(super) fn new(max_events: usize) -> Self {
        Self { max_events, events: ByKey::default(), order: VecDeque::new(), prints: 0 }
    }

    /// Whether the event was given out a short while ago.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.events.contains_key(key)
    }

    /// What is remembered of an event and one of its records.
    pub(super) fn seen(&self, key: &Key, print: u64) -> Seen {
        match self.events.get(key) {
            None => Seen::Nothing,
            Some(prints) if prints.contains(&print) => Seen::Record,
            Some(_) => Seen::Event,
        }
    }

    /// Remembers an event, or more records of one.
    pub(super) fn remember(&mut self, key: Key, prints: Vec<u64>) {
        self.prints += prints.len();
        match self.events.entry(key) {
            Entry::Occupied(mut known) => known.get_mut().extend(prints),
            Entry::Vacant(new) => {
                new.insert(prints);
                self.order.push_back(key);
            }
        }
        while self.order.len() > self.max_events || self.prints > self.max_events * PRINTS_PER_EVENT {
            let Some(oldest) = self.order.pop_front() else { return };
            self.prints -= self.events.remove(&oldest).map_or(0, |prints| prints.len());
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    #[cfg(test)]
    pub(super) fn prints(&self) -> usize {
        self.events.values().map(Vec::len).sum()
    }
}
