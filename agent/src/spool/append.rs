//! Appending a commit: events by priority into chunks, with room made for them, cursors and losses beside them.

use std::borrow::Cow;
use std::time::Duration;

use auditflow_event::{Event, Origin, Priority};
use auditflow_wire::payload::PayloadError;
use auditflow_wire::{Loss, LossReason, LossSource, TimeRange};

use super::chunk::{Chunk, Class, Waiting};
use super::clock::Now;
use super::error::{Attempt, SpoolError};
use super::mirror::Mirror;
use super::{Commit, Spool, cursors, losses};

/// How often the mirror of the cursors is brought up to date: each time costs two syncs of the disk.
const MIRROR_EVERY: Duration = Duration::from_secs(30);
/// What a row of a cursor or a loss takes, generously.
const SMALL_ROW: u64 = 512;

impl Spool {
    pub(super) fn append(&mut self, commit: &Commit, now: Now) -> Result<(), SpoolError> {
        self.note_clock(now)?;
        let mut declared = commit.losses.clone();
        let mut chunks = self.chunks(commit, &now, &mut declared)?;
        self.keep_what_fits(&mut chunks, &mut declared)?;

        let transaction = self.database.begin()?;
        for chunk in &chunks {
            chunk.insert(&transaction)?;
        }
        for (source, cursor) in &commit.cursors {
            cursors::save(&transaction, source, cursor)?;
        }
        losses::add(&transaction, &declared)?;
        transaction.commit().attempt("commit")?;

        self.committed(commit, &chunks, &declared, &now);
        // The commit stands whatever becomes of the mirror, which is tried again with the next one.
        let _ = self.mirror_cursors(now, false);
        Ok(())
    }

    /// Brings the mirror up to date if it is behind, and old enough or `at_once`.
    pub(super) fn mirror_cursors(&mut self, now: Now, at_once: bool) -> Result<(), SpoolError> {
        let (written, behind) = self.mirrored;
        if behind && (at_once || now.boottime >= written + MIRROR_EVERY) {
            self.mirrored.0 = now.boottime;
            Mirror { epoch: self.epoch.id, cursors: self.cursors.clone() }
                .write(&self.dir)
                .map_err(|error| SpoolError::io("mirror the cursors", &error))?;
            self.mirrored.1 = false;
        }
        Ok(())
    }

    /// The commit's events as chunks of one priority each, high first, none larger than a batch.
    fn chunks(
        &mut self,
        commit: &Commit,
        now: &Now,
        losses: &mut Vec<Loss>,
    ) -> Result<Vec<Chunk>, SpoolError> {
        let top = commit.events.iter().map(|event| event.priority).max();
        let mut chunks = Vec::new();
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            let class = Class { priority, urgent: commit.urgent && Some(priority) == top };
            let of_class = of_priority(&commit.events, priority);
            let mut rest = &of_class[..];
            while !rest.is_empty() {
                let (count, raw_bytes) = self.batch_worth(rest);
                let (events, after) = rest.split_at(count);
                match self.encoder.encode(self.keys.node, events) {
                    Ok(encoded) => {
                        let (epoch, rule_set) = (self.epoch.ordinal, commit.rule_set);
                        chunks.push(Chunk { epoch, class, raw_bytes, rule_set, at: *now, encoded });
                    }
                    Err(PayloadError::TooLarge) => losses.push(lost(LossReason::TooLarge, events)),
                    Err(error) => return Err(SpoolError::wire("encode events", error)),
                }
                rest = after;
            }
        }
        Ok(chunks)
    }

    /// How many of the events are at most one batch, and their size.
    fn batch_worth(&self, events: &[Event]) -> (usize, u64) {
        let (mut count, mut bytes) = (0, 0);
        for event in events {
            let more = bytes + size(event);
            if count > 0 && (count >= self.options.batch_events as usize || more > self.options.batch_bytes) {
                break;
            }
            (count, bytes) = (count + 1, more);
        }
        (count, bytes)
    }

    /// Makes room for the chunks, most important first; what there is no room for is counted instead of kept.
    fn keep_what_fits(&mut self, chunks: &mut Vec<Chunk>, losses: &mut Vec<Loss>) -> Result<(), SpoolError> {
        let most = self.database.quota().transaction();
        let mut total = (self.cursors.len() as u64 + losses.len() as u64) * SMALL_ROW;
        let mut kept = Vec::with_capacity(chunks.len());
        for chunk in chunks.drain(..) {
            let with_it = total + chunk.footprint();
            if with_it <= most && self.make_room(with_it, chunk.class.priority)? {
                total = with_it;
                kept.push(chunk);
            } else {
                let count = u64::from(chunk.encoded.events);
                self.counters.evicted_events += count;
                let (reason, source) = (LossReason::Evicted, LossSource::Agent);
                losses.push(Loss {
                    reason,
                    source,
                    count: Some(count),
                    times: chunk.encoded.times,
                    serials: None,
                });
            }
        }
        *chunks = kept;
        Ok(())
    }

    fn committed(&mut self, commit: &Commit, chunks: &[Chunk], declared: &[Loss], now: &Now) {
        self.counters.commits += 1;
        self.rule_set = commit.rule_set;
        for chunk in chunks {
            let events = u64::from(chunk.encoded.events);
            self.counters.events += events;
            let (class, raw_bytes) = (chunk.class, chunk.raw_bytes);
            if let Some(waiting) = self.waiting.iter_mut().find(|waiting| waiting.class == class) {
                waiting.events += events;
                waiting.raw_bytes += raw_bytes;
            } else {
                self.waiting.push(Waiting { class, events, raw_bytes, since: now.boottime });
            }
        }
        self.waiting.sort_by_key(|waiting| std::cmp::Reverse((waiting.class.urgent, waiting.class.priority)));
        for loss in declared {
            let since =
                if losses::is_intended(loss) { &mut self.losses_since.0 } else { &mut self.losses_since.1 };
            since.get_or_insert(now.boottime);
        }
        for (source, cursor) in &commit.cursors {
            self.cursors.insert(source.clone(), cursor.clone());
            self.mirrored.1 = true;
        }
    }
}

/// Nearly always all of a commit's events are of one priority: then they are not copied.
fn of_priority(events: &[Event], priority: Priority) -> Cow<'_, [Event]> {
    let is_it = |event: &&Event| event.priority == priority;
    if events.iter().all(|event| is_it(&event)) {
        Cow::Borrowed(events)
    } else {
        events.iter().filter(is_it).cloned().collect()
    }
}

fn lost(reason: LossReason, events: &[Event]) -> Loss {
    let times = events.iter().map(|event| TimeRange::new(event.time, event.time)).reduce(TimeRange::join);
    Loss { reason, source: LossSource::Agent, count: Some(events.len() as u64), times, serials: None }
}

/// An event's verbatim bytes and a little for the rest.
fn size(event: &Event) -> u64 {
    let verbatim = match &event.origin {
        Origin::Audit(audit) => audit.records.iter().map(|record| record.body.len() + 8).sum(),
        Origin::Kubernetes(text) | Origin::Synthetic(text) => text.as_str().len(),
        Origin::State(_) => 128,
    };
    verbatim as u64 + 48
}
