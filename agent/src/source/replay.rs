//! Where to go on reading after a restart, when records of different events interleave. Pure.
//!
//! Fed by `audit_log` with the stream position of every record and with every event that the assembler completed.
//! A cursor is the position of the oldest record that is not yet in a committed event, and for every event that was
//! committed though it has records beyond that position, how far its records are committed. Replay starts at the
//! position and passes over exactly those records, so that each record is in exactly one committed event whatever
//! the moment of the kill.

use std::collections::HashMap;
use std::time::Duration;

use auditflow_audit_record::{AuditEvent, Completion, Record, Stamp};
use auditflow_event::digest::xxh64;
use serde::{Deserialize, Serialize};

/// More committed events beyond the oldest open record than this are not kept apart: the caller has the assembler
/// let go of what is open.
pub const MAX_COMMITTED: usize = 4096;

/// An event whose records are committed up to a position, though that lies beyond the cursor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    millis: u64,
    serial: u32,
    node: u64,
    /// The end of its last committed record, in bytes after the cursor's position.
    through: u64,
}

/// From where to replay, and what to pass over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The stream position of the oldest record that is not in a completed event.
    pub position: u64,
    /// What is completed beyond it.
    pub committed: Vec<Committed>,
}

/// Which records are in completed events.
#[derive(Debug)]
pub struct Replay {
    /// Events with records in the assembler.
    open: HashMap<Key, Span>,
    /// Completed events, and the end of the last of their records.
    completed: HashMap<Key, u64>,
    /// How long the assembler keeps an event at most.
    patience: Duration,
}

type Key = (Stamp, u64);

#[derive(Debug)]
struct Span {
    start: u64,
    touched: Duration,
    last: Last,
    /// The end of the record before the last.
    end_before_last: u64,
}

/// The record of an event that was taken in last.
#[derive(Debug, Clone, Copy)]
struct Last {
    start: u64,
    end: u64,
    digest: u64,
}

impl Replay {
    /// Begins anew at `checkpoint`. `timeout` is the assembler's.
    pub fn new(checkpoint: &Checkpoint, timeout: Duration) -> Self {
        let completed = checkpoint.committed.iter().map(|event| {
            let stamp = Stamp { millis: event.millis, serial: event.serial };
            ((stamp, event.node), checkpoint.position.saturating_add(event.through))
        });
        Self { open: HashMap::new(), completed: completed.collect(), patience: timeout * 2 }
    }

    /// Takes note of a record that spans these stream positions, before it is pushed; `false` if it is in a committed
    /// event already. What the assembler gives out on account of the time must have been popped before.
    pub fn admit(&mut self, record: &Record, start: u64, end: u64, now: Duration) -> bool {
        let key = (record.stamp, node_digest(record.node.as_deref()));
        if self.completed.get(&key).is_some_and(|through| *through >= end) {
            return false;
        }
        let last = Last { start, end, digest: xxh64(&record.body) };
        match self.open.get_mut(&key) {
            Some(span) => {
                span.end_before_last = span.last.end;
                (span.last, span.touched) = (last, now);
            }
            None => {
                self.open.insert(key, Span { start, touched: now, last, end_before_last: start });
            }
        }
        true
    }

    /// Takes note of an event that the assembler gave out.
    pub fn completed(&mut self, event: &AuditEvent) {
        let key = (event.stamp, node_digest(event.node.as_deref()));
        let Some(span) = self.open.remove(&key) else { return };
        // What was given out to make room for its own next record doesn't have that record.
        let whole = event.completion != Completion::Evicted
            || event.records.iter().any(|record| xxh64(&record.body) == span.last.digest);
        if whole {
            self.completed.insert(key, span.last.end);
        } else {
            self.completed.insert(key, span.end_before_last);
            self.open.insert(key, Span { start: span.last.start, ..span });
        }
    }

    /// From where to replay once all that was completed is committed. `read_to` is the stream position behind the
    /// last record; `now` is the assembler's time.
    pub fn checkpoint(&mut self, read_to: u64, now: Duration) -> Checkpoint {
        // What the assembler took in without giving it out (a duplicate) must not hold the position for ever.
        let patience = self.patience;
        self.open.retain(|_, span| now.saturating_sub(span.touched) <= patience);
        let position = self.open.values().map(|span| span.start).min().unwrap_or(read_to);
        self.completed.retain(|_, through| *through > position);
        let committed = self.completed.iter().map(|((stamp, node), through)| Committed {
            millis: stamp.millis,
            serial: stamp.serial,
            node: *node,
            through: through - position,
        });
        Checkpoint { position, committed: committed.collect() }
    }
}

fn node_digest(node: Option<&str>) -> u64 {
    node.map_or(0, |node| xxh64(node.as_bytes()))
}

/// Time for the assembler while a log is read: it goes on while the log has nothing new, and where its own stamps do.
///
/// Time that passes while nobody reads is none: the end of an event may be in the log already.
/// So an event whose end is missing is given up after the same stretch of the log whether the log is read as it is
/// written or a month of it at once.
#[derive(Debug, Default)]
pub struct LogClock {
    now: Duration,
    newest_millis: Option<u64>,
    unaccounted_millis: u64,
}

impl LogClock {
    /// A stamp was read. One that lies far behind the newest is taken for a clock that was set back.
    pub fn saw(&mut self, millis: u64) {
        const SET_BACK_MILLIS: u64 = 60_000;
        match self.newest_millis {
            Some(newest) if millis <= newest && newest - millis < SET_BACK_MILLIS => {}
            Some(newest) => {
                self.unaccounted_millis =
                    self.unaccounted_millis.saturating_add(millis.saturating_sub(newest));
                self.newest_millis = Some(millis);
            }
            None => self.newest_millis = Some(millis),
        }
    }

    /// The time for the assembler, after the log had nothing new for so long.
    pub fn waited(&mut self, waited: Duration) -> Duration {
        let by_log = Duration::from_millis(std::mem::take(&mut self.unaccounted_millis));
        self.now = self.now.saturating_add(waited.max(by_log));
        self.now
    }
}

#[cfg(test)]
mod tests;
