//! Records of one stamp become one event.
//!
//! Fed with records in roughly the order in which the kernel wrote them, and with the time; gives out each event as
//! soon as it is whole, so that a slow one holds up no other. In the kernel's order an event is what was logged during
//! a system call (`CONFIG_CHANGE`, `AVC` …), `SYSCALL`, then what belongs to it, `PROCTITLE` last, then (live only)
//! `EOE`; both of these end it. An end that comes before records that the kernel certainly wrote (the `PATH` records
//! that `items=` counts, `EXECVE` of a successful `execve` …) is taken for disorder: the event then waits a short
//! while for them. Kinds that are always alone are given out at once; everything else after a time-out.
//!
//! A record that is there already is dropped and counted. One that comes after its event was given out makes an event
//! of its own, marked [`Completion::Late`], so that it is neither lost nor taken for a whole event. What is held is
//! bounded in bytes and in events: the oldest event is given out early, marked [`Completion::Evicted`]. Popping after
//! each push keeps what waits to be popped as small.

mod key;
mod order;
mod pending;
mod queue;
mod recent;

use std::collections::VecDeque;
use std::time::Duration;

use self::key::{ByKey, Hashes, Key};
use self::pending::{Pending, Verdict};
use self::queue::Queue;
use self::recent::{Recent, Seen};
use crate::{AuditEvent, Completion, Record, RecordType};

/// How much an [`Assembler`] may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all events that are not whole yet.
    pub max_pending_bytes: usize,
    /// Events that are not whole yet.
    pub max_pending_events: usize,
    /// Bytes of one event. The rest of a longer one is given out as late.
    pub max_event_bytes: usize,
    /// How long after its first record an event is given out though no end was seen.
    pub timeout: Duration,
    /// How long an event waits for records that are missing when its end was seen, and late records for each other.
    pub settle: Duration,
    /// How many events given out are remembered, to tell duplicates and late records from new events.
    pub remembered_events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pending_bytes: 8 << 20,
            max_pending_events: 4096,
            max_event_bytes: 1 << 20,
            timeout: Duration::from_secs(2),
            settle: Duration::from_millis(100),
            remembered_events: 1024,
        }
    }
}

/// What an [`Assembler`] has seen and done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records pushed.
    pub records: u64,
    /// Events given out, late ones included.
    pub events: u64,
    /// Records dropped because their event had them already.
    pub duplicates: u64,
    /// Records that came after their event had been given out.
    pub late_records: u64,
    /// Events given out without having become whole, by the timer or at the end of the input.
    pub timed_out: u64,
    /// Events given out early so that memory stays bounded.
    pub evicted: u64,
    /// End marks of events of which no record was seen.
    pub lone_ends: u64,
    /// Events not whole yet, now.
    pub pending_events: usize,
    /// Bytes that they occupy, now.
    pub pending_bytes: usize,
}

/// Joins records into events.
#[derive(Debug)]
pub struct Assembler {
    limits: Limits,
    /// The latest time seen.
    now: Duration,
    hashes: Hashes,
    pending: ByKey<Pending>,
    /// Every pending event in the order of its first record.
    order: Queue,
    /// The pending events whose wait was cut short.
    settling: Queue,
    recent: Recent,
    ready: VecDeque<AuditEvent>,
    next_number: u64,
    counters: Counters,
}

impl Assembler {
    /// An assembler that holds nothing.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            now: Duration::ZERO,
            hashes: Hashes::new(),
            pending: ByKey::default(),
            order: Queue::default(),
            settling: Queue::default(),
            recent: Recent::new(limits.remembered_events),
            ready: VecDeque::new(),
            next_number: 0,
            counters: Counters::default(),
        }
    }

    /// Takes in a record at time `now`, which is monotonic since any fixed start (for a log that is read from a file, the
    /// time in its records will do). Pop until nothing is left after it.
    pub fn push(&mut self, record: Record, now: Duration) {
        self.advance(now);
        self.counters.records += 1;
        let key = self.hashes.key(&record);
        if record.kind == RecordType::EOE {
            self.end(&key);
            return;
        }
        let print = self.hashes.print(&record);
        let cost = Pending::cost_of(&record);
        match self.pending.get_mut(&key) {
            Some(pending) if pending.has(print, &record) => self.counters.duplicates += 1,
            Some(pending) if pending.late && self.recent.seen(&key, print) == Seen::Record => {
                self.counters.duplicates += 1;
            }
            Some(pending) if pending.bytes + cost <= self.limits.max_event_bytes => {
                self.counters.late_records += u64::from(pending.late);
                self.counters.pending_bytes += cost;
                let verdict = pending.add(record, print);
                self.act(&key, verdict);
            }
            Some(_) => {
                self.give_out(&key, Completion::Evicted);
                self.begin(key, record, print, true);
            }
            None => match self.recent.seen(&key, print) {
                Seen::Record => self.counters.duplicates += 1,
                seen => self.begin(key, record, print, seen == Seen::Event),
            },
        }
        self.evict();
    }

    /// The next event that is whole, or was given out for another reason.
    pub fn pop(&mut self) -> Option<AuditEvent> {
        self.ready.pop_front()
    }

    /// Lets time pass: gives out what has waited long enough.
    pub fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        while let Some(key) = self.settling.due(self.now).or_else(|| self.order.due(self.now)) {
            self.give_out(&key, Completion::TimedOut);
        }
    }

    /// Gives out everything, in the order of first records: no more will come.
    pub fn flush(&mut self) {
        while let Some(key) = self.order.first() {
            self.give_out(&key, Completion::TimedOut);
        }
    }

    /// When [`Assembler::advance`] will next have something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        match (self.settling.deadline(), self.order.deadline()) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// What it has seen and done.
    pub fn counters(&self) -> Counters {
        Counters { pending_events: self.pending.len(), ..self.counters }
    }

    /// The first record of an event, or of what is late of one.
    fn begin(&mut self, key: Key, record: Record, print: u64, late: bool) {
        let is_single = record.kind.is_whole_event();
        let mut pending = Pending::new(self.next_number, late);
        let verdict = pending.add(record, print);
        self.next_number += 1;
        self.counters.late_records += u64::from(late);
        if is_single {
            self.finish(key, pending, Completion::Single);
            return;
        }
        if pending.bytes > self.limits.max_event_bytes {
            self.finish(key, pending, Completion::Evicted);
            return;
        }
        self.counters.pending_bytes += pending.bytes;
        self.order.add(key, pending.number, self.now.saturating_add(self.limits.timeout));
        if late {
            self.settling.add(key, pending.number, self.now.saturating_add(self.limits.settle));
        }
        self.pending.insert(key, pending);
        self.act(&key, verdict);
    }

    /// The kernel says that the event is over.
    fn end(&mut self, key: &Key) {
        if let Some(pending) = self.pending.get_mut(key) {
            let verdict = pending.end();
            self.act(key, verdict);
        } else if !self.recent.knows(key) {
            self.counters.lone_ends += 1;
        }
    }

    fn act(&mut self, key: &Key, verdict: Verdict) {
        match verdict {
            Verdict::Whole(completion) => self.give_out(key, completion),
            Verdict::Settle(number) => {
                self.settling.add(*key, number, self.now.saturating_add(self.limits.settle));
            }
            Verdict::Wait => {}
        }
    }

    fn evict(&mut self) {
        while self.counters.pending_bytes > self.limits.max_pending_bytes
            || self.pending.len() > self.limits.max_pending_events
        {
            let Some(key) = self.order.first() else { return };
            self.give_out(&key, Completion::Evicted);
        }
    }

    fn give_out(&mut self, key: &Key, reason: Completion) {
        let Some(pending) = self.pending.remove(key) else { return };
        self.counters.pending_bytes -= pending.bytes;
        let is_pending =
            |key: &Key, number| self.pending.get(key).is_some_and(|pending| pending.number == number);
        self.order.remove(pending.number, self.pending.len(), is_pending);
        self.settling.remove(pending.number, self.pending.len(), is_pending);
        self.finish(*key, pending, reason);
    }

    fn finish(&mut self, key: Key, pending: Pending, reason: Completion) {
        match reason {
            Completion::TimedOut if !pending.late => self.counters.timed_out += 1,
            Completion::Evicted => self.counters.evicted += 1,
            _ => {}
        }
        self.counters.events += 1;
        let (event, prints) = pending.finish(key.stamp, reason);
        self.recent.remember(key, prints);
        self.ready.extend(event);
    }
}

#[cfg(test)]
mod tests;
