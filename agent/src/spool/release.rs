//! Letting go of what the collector has stored, on its signed word alone.
//!
//! A batch that is acknowledged while lower numbers are still held keeps its row with its digest (and nothing else):
//! a later “stored through” may name it, and is only heeded if the digest is the batch's own.

use std::cell::RefCell;

use auditflow_wire::ack::ForeignAck;
use auditflow_wire::{Ack, AckSeen, Answer, BatchSeq, Digest, EpochId, Head, Refusal, SignedAck, Span};
use rusqlite::{Connection, OptionalExtension, params};

use super::Spool;
use super::clock::Now;
use super::epoch::Epoch;
use super::error::{Attempt, SpoolError};

/// What an acknowledgement came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// Batches that were held were let go of (none if it says nothing new).
    Released {
        /// How many.
        batches: u64,
    },
    /// The collector knows another history: what is not stored was sealed anew in this epoch.
    Forked {
        /// The epoch that began.
        epoch: EpochId,
        /// How many batches were sealed anew.
        resealed: u64,
    },
    /// The collector stored nothing, and says why.
    Refused(Refusal),
    /// It was not heeded.
    Void(Void),
}

/// Why an acknowledgement was not heeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Void {
    /// No key of the site that is pinned here signed it.
    #[error(
        "the acknowledgement is not signed by a known key of the site: if the site was set up anew, join again"
    )]
    Signature,
    /// It is for another node.
    #[error("the acknowledgement is for another node")]
    OtherNode,
}

impl Spool {
    pub(super) fn release(&mut self, signed: &SignedAck, now: Now) -> Result<Acknowledged, SpoolError> {
        let Some(key) = self.keys.site.and_then(|pins| pins.get(signed.key()).copied()) else {
            return Ok(Acknowledged::Void(Void::Signature));
        };
        let Ok(ack) = signed.verify(&key) else { return Ok(Acknowledged::Void(Void::Signature)) };
        if ack.node != self.keys.node {
            return Ok(Acknowledged::Void(Void::OtherNode));
        }
        let ack = ack.clone();
        let released = match Epoch::find(&self.database.connection, ack.epoch)? {
            None => Some(0),
            // Batches that this spool never sealed are stored: it is an older copy, and what it holds of the epoch can
            // no longer be compared with what the collector names.
            Some(epoch) if highest(&ack) > epoch.head.map(|head| head.number) => {
                self.release_in(epoch, &ack)?;
                None
            }
            Some(epoch) => self.release_in(epoch, &ack)?,
        };
        match (ack.answer, released) {
            (Answer::Refused(why), _) => Ok(Acknowledged::Refused(why)),
            (Answer::Stored, Some(batches)) => Ok(Acknowledged::Released { batches }),
            (Answer::Stored, None) | (Answer::Fork { .. }, _) => self.reseal(ack.epoch, now),
        }
    }

    /// Lets go of what is acknowledged and says how much it was; `None`, and nothing, if a digest is not the batch's
    /// own: then the collector holds another history.
    fn release_in(&mut self, mut epoch: Epoch, ack: &Ack) -> Result<Option<u64>, SpoolError> {
        let Ok(spans) = spans(&self.database.connection, &epoch, ack)? else { return Ok(None) };
        // Heads that could not be compared say nothing about what is held, but `through` still counts as seen if it is.
        let through = ack.through.filter(|head| spans.iter().any(|span| span.last() == head.number));
        let newer = |head: &Head| epoch.acked.is_none_or(|acked| head.number > acked.number);
        let through = through.filter(newer);
        if spans.is_empty() {
            return Ok(Some(0));
        }
        let transaction = self.database.begin()?;
        let mut released = 0;
        for span in spans {
            released += store(&transaction, epoch.ordinal, span)?;
        }
        forget_below_lowest(&transaction, epoch.ordinal)?;
        if through.is_some() {
            epoch.acked = through;
            epoch.save(&transaction)?;
        }
        Epoch::forget_finished(&transaction)?;
        transaction.commit().attempt("release stored batches")?;
        if let Some(Head { number, digest }) = through {
            self.last_ack = Some(AckSeen { epoch: epoch.id, number, digest });
        }
        if epoch.ordinal == self.epoch.ordinal {
            self.epoch = epoch;
        }
        self.counters.released += released;
        Ok(Some(released))
    }
}

/// The highest number that the acknowledgement names.
fn highest(ack: &Ack) -> Option<BatchSeq> {
    let above = ack.above.iter().map(|range| range.span.last());
    ack.through.map(|head| head.number).into_iter().chain(above).max()
}

/// What the acknowledgement frees, each digest compared with the batch's own.
fn spans(
    connection: &Connection,
    epoch: &Epoch,
    ack: &Ack,
) -> Result<Result<Vec<Span>, ForeignAck>, SpoolError> {
    let failed = RefCell::new(None);
    let spans = ack.releases(|number| match digest_of(connection, epoch, number) {
        Ok(digest) => digest,
        Err(error) => {
            failed.replace(Some(error));
            None
        }
    });
    failed.into_inner().map_or(Ok(spans), Err)
}

fn digest_of(connection: &Connection, epoch: &Epoch, number: BatchSeq) -> Result<Option<Digest>, SpoolError> {
    let known = epoch.head.into_iter().chain(epoch.acked).find(|head| head.number == number);
    if let Some(head) = known {
        return Ok(Some(head.digest));
    }
    connection
        .prepare_cached("SELECT digest FROM batch WHERE epoch = ? AND last_seq = ? AND seq <= last_seq")
        .and_then(|mut statement| {
            statement
                .query_row(params![epoch.ordinal, number.as_i64()], |row| row.get::<_, [u8; 32]>(0))
                .optional()
        })
        .map(|digest| digest.map(Digest::from_bytes))
        .attempt("find an acknowledged batch")
}

/// Marks the batches of a span as stored and frees their bytes.
fn store(connection: &Connection, epoch: i64, span: Span) -> Result<u64, SpoolError> {
    connection
        .prepare_cached(
            "UPDATE batch SET stored = 1, payload = NULL, payload_size = 0, eviction = NULL, signed = x''
             WHERE epoch = ? AND seq >= ? AND seq <= ?3 AND last_seq <= ?3 AND stored = 0",
        )
        .and_then(|mut statement| {
            statement.execute(params![epoch, span.first().as_i64(), span.last().as_i64()])
        })
        .map(|changed| changed as u64)
        .attempt("release stored batches")
}

/// Removes stored rows that no later acknowledgement can be about: those below everything that is held.
pub(super) fn forget_below_lowest(connection: &Connection, epoch: i64) -> Result<(), SpoolError> {
    connection
        .prepare_cached(
            "DELETE FROM batch WHERE epoch = ?1 AND stored = 1 AND seq < COALESCE(
                 (SELECT MIN(seq) FROM batch WHERE epoch = ?1 AND stored = 0), 9223372036854775807)",
        )
        .and_then(|mut statement| statement.execute([epoch]))
        .map(drop)
        .attempt("forget stored batches")
}
