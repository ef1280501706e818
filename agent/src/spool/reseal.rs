//! The answer `fork`: somebody else continued this epoch (an older copy of the spool, a clone), so everything of it
//! that is not acknowledged is sealed anew in a new epoch, batch by batch, each in one transaction. Where an earlier
//! epoch is meant, the current one is new enough.
//!
//! A crash in between leaves the rest in the old epoch, for which the collector answers `fork` again. Each of these
//! transactions forgets the stored batches between the one that it moves and the next, so that no crash leaves a row
//! below a gap: that is how a spool that has lost rows is recognised.

use auditflow_wire::{
    Encoded, EpochId, Facts, Folded, Link, Loss, LossReason, LossSource, NodeFacts, RuleSetVersion,
    SignedFold, SignedHeader, TimeRange, UnknownPredecessor,
};
use rusqlite::{Connection, OptionalExtension};

use super::Spool;
use super::clock::Now;
use super::epoch::Epoch;
use super::error::{Attempt, SpoolError};
use super::release::Acknowledged;
use super::sealing::{Content, Replaces};

/// A held batch of the epoch that forked.
struct Held {
    id: i64,
    urgent: bool,
    signed: Vec<u8>,
    eviction: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

impl Spool {
    pub(super) fn reseal(&mut self, forked: EpochId, now: Now) -> Result<Acknowledged, SpoolError> {
        let Some(epoch) = Epoch::find(&self.database.connection, forked)? else {
            return Ok(Acknowledged::Released { batches: 0 });
        };
        if epoch.ordinal == self.epoch.ordinal {
            self.seal_waiting(&now)?;
            self.begin_epoch(Link::Unknown { why: UnknownPredecessor::Forked, epoch: Some(forked) }, &now)?;
        }
        let mut resealed = 0;
        while let Some(held) = next_held(&self.database.connection, &epoch)? {
            let content = content_of(held, epoch.ordinal, &self.keys.about)?;
            let mut current = self.epoch.clone();
            self.write_batch(&mut current, content, None)?;
            self.epoch = current;
            resealed += 1;
        }
        Epoch::forget_finished(&self.database.connection)?;
        Ok(Acknowledged::Forked { epoch: self.epoch.id, resealed })
    }
}

/// A held batch with what its old header said, for a new one.
fn content_of(held: Held, epoch: i64, about: &NodeFacts) -> Result<Content, SpoolError> {
    let malformed = |error| SpoolError::damaged(format!("a batch's row was altered: {error}"));
    let replaces = Replaces::Batch { id: held.id, epoch };
    if held.eviction.as_ref().is_some_and(Vec::is_empty) {
        let fold = SignedFold::parse(&held.signed).map_err(malformed)?;
        return Ok(of_fold(fold.unverified(), about.clone(), replaces));
    }
    let signed = SignedHeader::parse(&held.signed).map_err(malformed)?;
    let facts = signed.header.facts.clone();
    let facts =
        facts.ok_or_else(|| SpoolError::damaged("a batch is of a version that this program cannot seal"))?;
    let mut losses = facts.losses.clone();
    let encoded = if let Some(bytes) = held.payload.filter(|payload| signed.is_payload(payload)) {
        encoded(&facts, bytes)
    } else {
        losses.push(evicted(u64::from(facts.events), facts.times));
        Encoded::empty()
    };
    let Facts { rule_set, about, clocks, .. } = facts;
    Ok(Content { encoded, urgent: held.urgent, rule_set, about: *about, clocks, losses, replaces })
}

fn encoded(facts: &Facts, bytes: Vec<u8>) -> Encoded {
    Encoded {
        bytes,
        codec: facts.codec,
        dictionary: facts.dictionary,
        events: facts.events,
        priority: facts.priority,
        times: facts.times,
    }
}

/// A folded range has no chain to stand in any more: its counts go into a batch that declares them.
fn of_fold(fold: &Folded, about: NodeFacts, replaces: Replaces) -> Content {
    let mut losses = fold.losses.clone();
    if fold.events > 0 {
        losses.push(evicted(fold.events, fold.times));
    }
    Content {
        encoded: Encoded::empty(),
        urgent: false,
        rule_set: RuleSetVersion::NONE,
        about,
        clocks: fold.clocks.clone(),
        losses,
        replaces,
    }
}

fn evicted(count: u64, times: Option<TimeRange>) -> Loss {
    let (reason, source) = (LossReason::Evicted, LossSource::Agent);
    Loss { reason, source, count: Some(count), times, serials: None }
}

/// The lowest batch of an epoch that is not stored.
fn next_held(connection: &Connection, epoch: &Epoch) -> Result<Option<Held>, SpoolError> {
    connection
        .prepare_cached(
            "SELECT id, urgent, signed, eviction, payload FROM batch WHERE epoch = ? AND stored = 0
             ORDER BY seq LIMIT 1",
        )
        .and_then(|mut statement| {
            let held = statement.query_row([epoch.ordinal], |row| {
                Ok(Held {
                    id: row.get(0)?,
                    urgent: row.get(1)?,
                    signed: row.get(2)?,
                    eviction: row.get(3)?,
                    payload: row.get(4)?,
                })
            });
            held.optional()
        })
        .attempt("read a batch to seal anew")
}
