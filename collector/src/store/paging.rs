//! One page of a search as a state machine, apart from any database.
//!
//! Batches that may hold something come newest first and are opened until the page is full or the budget is spent. A
//! batch spans a stretch of time, so an event may only be given out once every batch that reaches beyond it has been
//! opened; the frontier is the newest time that an unopened batch reaches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use auditflow_event::{Event, HostFacts, Timestamp};

use super::terms::Wanted;
use super::{BatchKey, Budget, Cursor, EventPage, EventQuery, EventRef, FoundEvent};

/// Batches that one page may rule out unread before it ends: about a second.
const MOST_PRUNED: u64 = 200_000;

/// A page in the making.
pub struct Paging {
    wanted: Wanted,
    limit: usize,
    budget: Budget,
    /// Where the page starts (exclusive): moves on with every event that is given out.
    start: Cursor,
    /// No batch that is still to come reaches beyond this time.
    reach: Timestamp,
    /// The last batch looked at.
    last: (i64, i64),
    ready: VecDeque<Candidate>,
    /// No batch is still to come.
    ended: bool,
    /// Found and not yet sure to be next, at most as many as the page still takes.
    pending: BTreeMap<Cursor, FoundEvent>,
    page: EventPage,
    bytes: u64,
}

/// A batch that may hold something.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its order of arrival.
    pub id: i64,
    /// Its newest event time.
    pub reach: Timestamp,
}

/// A batch that was opened.
pub struct OpenBatch {
    /// Which.
    pub key: BatchKey,
    /// The node, as its header says.
    pub host: Arc<HostFacts>,
    /// Its events.
    pub events: Vec<Event>,
    /// Its payload's size.
    pub bytes: u64,
}

/// What is to be done next.
pub enum Step {
    /// Nothing: this is the page.
    Done(EventPage),
    /// The next batches are to be looked for.
    Fill,
    /// This batch is to be opened.
    Open(Candidate),
}

impl Paging {
    /// The page that a query asks for.
    pub fn new(query: &EventQuery) -> Self {
        let wanted = Wanted::of(query);
        let start = query.before.unwrap_or(Cursor::at(Timestamp::MAX)).min(Cursor::at(wanted.to));
        Self {
            wanted,
            limit: query.limit,
            budget: query.budget,
            start,
            reach: Timestamp::MAX,
            last: (i64::MAX, i64::MAX),
            ready: VecDeque::new(),
            ended: false,
            pending: BTreeMap::new(),
            page: EventPage::default(),
            bytes: 0,
        }
    }

    /// What is asked for.
    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The time up to which events are wanted now.
    pub fn start(&self) -> Timestamp {
        self.start.time
    }

    /// The last batch that was looked at: its newest event time and its id.
    pub fn last(&self) -> (i64, i64) {
        self.last
    }

    /// How many batches wait to be opened.
    pub fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes note of the next batch, newest first, and of whether it may hold something.
    pub fn seen(&mut self, candidate: Candidate, may: bool) {
        self.last = (candidate.reach.as_micros(), candidate.id);
        self.reach = candidate.reach;
        if may {
            self.ready.push_back(candidate);
        } else {
            self.page.batches_pruned += 1;
        }
    }

    /// Takes note that there is no further batch.
    pub fn at_end(&mut self) {
        self.ended = true;
    }

    /// What is to be done next.
    pub fn step(&mut self) -> Step {
        let frontier = match self.ready.front() {
            Some(next) => Some(next.reach),
            None if self.ended => None,
            // Nothing is known of what is to come: what it may reach bounds what may be given out.
            None => Some(self.reach),
        };
        self.give_out(frontier);
        if self.page.events.len() >= self.limit {
            self.page.next = Some(self.start);
            return Step::Done(std::mem::take(&mut self.page));
        }
        let Some(frontier) = frontier else { return Step::Done(std::mem::take(&mut self.page)) };
        // Going on from here means opening again what reaches across: only if that gets further than we began.
        if self.is_spent() && frontier < self.start.time {
            self.page.partial = true;
            self.page.next = Some(Cursor::at(frontier));
            return Step::Done(std::mem::take(&mut self.page));
        }
        self.ready.pop_front().map_or(Step::Fill, Step::Open)
    }

    /// Takes a batch's events in; none: it is not there any more, or can't be read.
    pub fn opened(&mut self, candidate: Candidate, batch: Option<OpenBatch>) {
        let Some(batch) = batch else { return };
        self.page.batches_decoded += 1;
        self.bytes += batch.bytes;
        for (index, event) in (0_u32..).zip(batch.events) {
            let place = Cursor { time: event.time, batch: candidate.id, index };
            if place >= self.start || !self.wanted.matches(&event, &batch.host) {
                continue;
            }
            let BatchKey { node, epoch, seq } = batch.key;
            let at = EventRef { node, epoch, seq, index, event_id: event.id };
            self.pending.insert(place, FoundEvent { at, event, host: Arc::clone(&batch.host) });
            // What the page has no room for anyway need not be held.
            if self.page.events.len() + self.pending.len() > self.limit {
                self.pending.pop_first();
            }
        }
    }

    /// Moves what is surely next to the page: what lies beyond the frontier.
    fn give_out(&mut self, frontier: Option<Timestamp>) {
        while self.page.events.len() < self.limit {
            let Some(entry) = self.pending.last_entry() else { return };
            if frontier.is_some_and(|frontier| entry.key().time <= frontier) {
                return;
            }
            let (place, found) = entry.remove_entry();
            self.start = place;
            self.page.events.push(found);
        }
    }

    fn is_spent(&self) -> bool {
        self.page.batches_decoded >= self.budget.batches
            || self.bytes >= self.budget.bytes
            || self.page.batches_pruned >= MOST_PRUNED
    }
}
