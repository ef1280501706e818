//! From chunks to signed batches.

use std::time::Duration;

use auditflow_event::{Event, Priority};
use auditflow_wire::facts::Clocks;
use auditflow_wire::{
    BatchSeq, Draft, Encoded, Facts, Link, Loss, NodeFacts, RuleSetVersion, SignedHeader, seal,
};
use rusqlite::{Connection, params};

use super::chunk::{Chunk, Class, Waiting, code_of};
use super::clock::{self, Now};
use super::epoch::Epoch;
use super::error::{Attempt, SpoolError};
use super::{Sealed, Spool, losses, release};

/// What a batch is made of besides its place in the chain.
pub(super) struct Content {
    pub(super) encoded: Encoded,
    pub(super) urgent: bool,
    pub(super) rule_set: RuleSetVersion,
    pub(super) about: NodeFacts,
    pub(super) clocks: Clocks,
    /// Losses besides those that wait to be declared.
    pub(super) losses: Vec<Loss>,
    pub(super) replaces: Replaces,
}

/// What the batch's transaction removes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Replaces {
    Nothing,
    /// The chunks of a class up to a row.
    Chunks {
        class: Class,
        last: i64,
    },
    /// A batch of another epoch that is sealed anew, the lowest that is held of it.
    Batch {
        id: i64,
        epoch: i64,
    },
}

/// Why a batch is sealed now.
#[derive(Debug, Clone, Copy)]
enum Due {
    Class(Class),
    /// Losses, clock facts, or nothing to say for long.
    Empty,
}

impl Spool {
    pub(super) fn seal_due(&mut self, now: Now) -> Result<Option<Sealed>, SpoolError> {
        self.note_clock(now)?;
        match self.due(now.boottime) {
            None => Ok(None),
            Some(Due::Class(class)) => self.seal_class(class, &now),
            Some(Due::Empty) => self.seal_empty(&now).map(Some),
        }
    }

    pub(super) fn seal_all(&mut self, now: Now) -> Result<(), SpoolError> {
        self.note_clock(now)?;
        self.seal_waiting(&now)?;
        if self.clocks.has_news() || self.losses_since != (None, None) {
            self.seal_empty(&now)?;
        }
        Ok(())
    }

    pub(super) fn seal_deadline(&self) -> Duration {
        if self.clocks.has_news() || self.waiting.iter().any(|waiting| self.is_full(waiting)) {
            return Duration::ZERO;
        }
        let (intended, other) = self.losses_since;
        let chunks = self.waiting.iter().map(|waiting| waiting.since + self.options.seal_interval);
        let others = [
            other.map(|since| since + self.options.seal_interval),
            intended.map(|since| since + self.options.idle_interval),
            Some(self.last_sealed + self.options.idle_interval),
        ];
        chunks.chain(others.into_iter().flatten()).min().unwrap_or_default()
    }

    /// Before the clocks are found changed, what was committed so far is sealed with those of before.
    pub(super) fn note_clock(&mut self, now: Now) -> Result<(), SpoolError> {
        if let Some(before) = self.clocks.before_change(&now) {
            self.seal_waiting(&before)?;
        }
        self.clocks.observe(now);
        Ok(())
    }

    /// Seals chunks of an earlier epoch, in its own chain and with the clocks of its own boot.
    pub(super) fn seal_leftovers(&mut self, mut epoch: Epoch) -> Result<(), SpoolError> {
        for waiting in Waiting::all(&self.database.connection, epoch.ordinal)? {
            while let Some(content) = self.take_chunks(&epoch, waiting.class, None)? {
                self.write_batch(&mut epoch, content, None)?;
            }
        }
        Ok(())
    }

    pub(super) fn seal_waiting(&mut self, now: &Now) -> Result<(), SpoolError> {
        while let Some(waiting) = self.waiting.first().copied() {
            self.seal_class(waiting.class, now)?;
        }
        Ok(())
    }

    pub(super) fn seal_class(&mut self, class: Class, now: &Now) -> Result<Option<Sealed>, SpoolError> {
        let mut epoch = self.epoch.clone();
        let Some(content) = self.take_chunks(&epoch, class, Some(now))? else {
            self.waiting = Waiting::all(&self.database.connection, epoch.ordinal)?;
            return Ok(None);
        };
        let sealed = self.write_batch(&mut epoch, content, None)?;
        self.sealed_in_current(epoch, now)?;
        Ok(Some(sealed))
    }

    fn seal_empty(&mut self, now: &Now) -> Result<Sealed, SpoolError> {
        let mut epoch = self.epoch.clone();
        let content = self.empty(now);
        let sealed = self.write_batch(&mut epoch, content, None)?;
        self.sealed_in_current(epoch, now)?;
        Ok(sealed)
    }

    /// A batch without events.
    pub(super) fn empty(&self, now: &Now) -> Content {
        Content {
            encoded: Encoded::empty(),
            urgent: false,
            rule_set: self.rule_set,
            about: self.keys.about.clone(),
            clocks: self.clocks.facts(now),
            losses: Vec::new(),
            replaces: Replaces::Nothing,
        }
    }

    /// Takes over what a batch in the current epoch has changed.
    pub(super) fn sealed_in_current(&mut self, epoch: Epoch, now: &Now) -> Result<(), SpoolError> {
        self.epoch = epoch;
        self.clocks.sealed();
        self.losses_since = (None, None);
        self.last_sealed = now.boottime;
        self.waiting = Waiting::all(&self.database.connection, self.epoch.ordinal)?;
        Ok(())
    }

    /// Signs a batch and writes it in one transaction with all that it makes redundant. `link` is for the first
    /// batch of an epoch.
    pub(super) fn write_batch(
        &mut self,
        epoch: &mut Epoch,
        content: Content,
        link: Option<Link>,
    ) -> Result<Sealed, SpoolError> {
        let Content { encoded, urgent, rule_set, about, clocks, losses: further, replaces } = content;
        let (node, last_ack) = (self.keys.node, self.last_ack);
        let transaction = self.database.begin()?;
        let waiting = losses::load(&transaction)?;
        let previous = epoch.head.map(|head| Link::Previous(head.digest));
        let draft = Draft {
            node,
            epoch: epoch.id,
            number: epoch.next,
            oldest_unacknowledged: lowest_held(&transaction, epoch)?,
            link: previous
                .or(link)
                .ok_or_else(|| SpoolError::damaged("an epoch has lost its first batch"))?,
            events_before: epoch.events,
            rule_set,
            about,
            clocks,
            last_ack,
            losses: losses::add_up(waiting.into_iter().chain(further)),
        };
        let signed =
            seal(draft, &encoded, &self.keys.key).map_err(|error| SpoolError::wire("seal a batch", error))?;
        match replaces {
            Replaces::Nothing => {}
            Replaces::Chunks { class, last } => Chunk::remove(&transaction, epoch.ordinal, class, last)?,
            Replaces::Batch { id, epoch } => {
                delete_batch(&transaction, id)?;
                release::forget_below_lowest(&transaction, epoch)?;
            }
        }
        insert_batch(&transaction, epoch.ordinal, urgent, &signed, &encoded)?;
        losses::clear(&transaction)?;
        let mut advanced = epoch.clone();
        advanced.advance(&signed)?;
        advanced.save(&transaction)?;
        transaction.commit().attempt("seal a batch")?;
        *epoch = advanced;
        self.counters.batches += 1;
        Ok(Sealed {
            epoch: epoch.id,
            number: signed.header.number,
            events: encoded.events,
            bytes: (signed.as_bytes().len() + encoded.bytes.len()) as u64,
            urgent,
        })
    }

    fn is_full(&self, waiting: &Waiting) -> bool {
        waiting.class.urgent
            || waiting.events >= u64::from(self.options.batch_events)
            || waiting.raw_bytes >= self.options.batch_bytes
    }

    fn due(&self, now: Duration) -> Option<Due> {
        let waited = |waiting: &Waiting| now >= waiting.since + self.options.seal_interval;
        let class = self.waiting.iter().find(|waiting| self.is_full(waiting) || waited(waiting));
        match class.or(self.waiting.first().filter(|_| self.clocks.has_news())) {
            Some(waiting) => Some(Due::Class(waiting.class)),
            None => (now >= self.seal_deadline()).then_some(Due::Empty),
        }
    }

    /// The next batch's worth of chunks. `now` gives the clocks of the current epoch's batch; a batch of an earlier
    /// epoch has those of its last chunk.
    fn take_chunks(
        &mut self,
        epoch: &Epoch,
        class: Class,
        now: Option<&Now>,
    ) -> Result<Option<Content>, SpoolError> {
        let (max_events, max_bytes) = (u64::from(self.options.batch_events), self.options.batch_bytes);
        let connection = &self.database.connection;
        let (mut chunks, last) =
            Chunk::take(connection, (epoch.ordinal, epoch.boot), class, max_events, max_bytes)?;
        let Some(newest) = chunks.last() else { return Ok(None) };
        let (rule_set, at) = (newest.rule_set, newest.at);
        let encoded = match chunks.pop() {
            Some(only) if chunks.is_empty() => only.encoded,
            newest => {
                let mut events = Vec::new();
                for chunk in chunks.into_iter().chain(newest) {
                    events.extend(self.decode(&chunk.encoded)?);
                }
                let node = self.keys.node;
                self.encoder
                    .encode(node, &events)
                    .map_err(|error| SpoolError::wire("encode a batch", error))?
            }
        };
        let clocks = now.map_or_else(|| clock::sealed_at(&at), |now| self.clocks.facts(now));
        let replaces = Replaces::Chunks { class, last };
        Ok(Some(Content {
            encoded,
            urgent: class.urgent,
            rule_set,
            about: self.keys.about.clone(),
            clocks,
            losses: Vec::new(),
            replaces,
        }))
    }

    fn decode(&mut self, encoded: &Encoded) -> Result<Vec<Event>, SpoolError> {
        let facts = Facts {
            codec: encoded.codec,
            dictionary: encoded.dictionary,
            priority: encoded.priority,
            events: encoded.events,
            cumulative: encoded.events.into(),
            times: encoded.times,
            rule_set: RuleSetVersion::NONE,
            about: Box::default(),
            clocks: Clocks { boot: self.epoch.boot, facts: Vec::new() },
            last_ack: None,
            losses: Vec::new(),
        };
        self.decoder
            .decode(self.keys.node, &facts, &encoded.bytes)
            .map_err(|error| SpoolError::damaged(format!("a chunk cannot be decoded: {error}")))
    }
}

/// The lowest number that is not acknowledged, the next one if all are.
pub(super) fn lowest_held(connection: &Connection, epoch: &Epoch) -> Result<BatchSeq, SpoolError> {
    let lowest: Option<i64> = connection
        .prepare_cached("SELECT MIN(seq) FROM batch WHERE epoch = ? AND stored = 0")
        .and_then(|mut statement| statement.query_row([epoch.ordinal], |row| row.get(0)))
        .attempt("find the oldest unacknowledged batch")?;
    Ok(lowest.and_then(|lowest| BatchSeq::new(lowest as u64)).unwrap_or(epoch.next))
}

pub(super) fn delete_batch(connection: &Connection, id: i64) -> Result<(), SpoolError> {
    connection
        .prepare_cached("DELETE FROM batch WHERE id = ?")
        .and_then(|mut statement| statement.execute([id]))
        .map(drop)
        .attempt("remove a batch")
}

fn insert_batch(
    connection: &Connection,
    epoch: i64,
    urgent: bool,
    signed: &SignedHeader,
    encoded: &Encoded,
) -> Result<(), SpoolError> {
    // A batch without events only has a header to lose: there is nothing to evict it for.
    let priority = if encoded.events == 0 { Priority::High } else { encoded.priority };
    connection
        .prepare_cached(
            "INSERT INTO batch (epoch, seq, last_seq, priority, urgent, events, payload_size, stored, digest,
                                signed, payload)
             VALUES (?1,?2,?2,?3,?4,?5,?6,0,?7,?8,?9)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                epoch,
                signed.header.number.as_i64(),
                code_of(priority),
                urgent,
                encoded.events,
                encoded.bytes.len() as i64,
                signed.digest().as_bytes(),
                signed.as_bytes(),
                encoded.bytes,
            ])
        })
        .map(drop)
        .attempt("write a batch")
}
