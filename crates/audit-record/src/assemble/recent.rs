//! The events given out last, to tell duplicates and late records from records of new events.

use std::collections::{HashMap, VecDeque};

use super::Key;

/// How many record prints are kept per remembered event on average; ordinary events have about four.
const PRINTS_PER_EVENT: usize = 16;

/// Remembers a bounded number of events, and of each a print per record.
#[derive(Debug)]
pub(super) struct Recent {
    max_events: usize,
    events: HashMap<Key, Vec<u64>>,
    order: VecDeque<Key>,
    prints: usize,
}

impl Recent {
    pub(super) fn new(max_events: usize) -> Self {
        Self { max_events, events: HashMap::new(), order: VecDeque::new(), prints: 0 }
    }

    /// Whether the event was given out a short while ago.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.events.contains_key(key)
    }

    /// Whether that record was part of it.
    pub(super) fn has(&self, key: &Key, print: u64) -> bool {
        self.events.get(key).is_some_and(|prints| prints.contains(&print))
    }

    /// Remembers an event, or more records of one.
    pub(super) fn remember(&mut self, key: Key, prints: Vec<u64>) {
        self.prints += prints.len();
        match self.events.entry(key) {
            std::collections::hash_map::Entry::Occupied(mut known) => known.get_mut().extend(prints),
            std::collections::hash_map::Entry::Vacant(new) => {
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
