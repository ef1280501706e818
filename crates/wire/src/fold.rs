//! A run of evicted headers folded into one signed range, when even the headers are too much to keep.
//!
//! Fed by the agent's spool when its reserve runs short ([`Folded::of`]); stored by the collector as one row that
//! stands for all its numbers. The chain goes on through it: it names what its first batch followed and the digest
//! of its last one. Losses that the folded headers declared are added up in it, so none is forgotten; headers whose
//! clock facts others need (a start, a step, a first synchronisation) keep those facts in it.
//!
//! Body (signed by the node key): node 16 · epoch 16 · first and last number `u64` · link (as in a header) · digest
//! of the first 32 and of the last 32 · events varint · cumulative through the last varint · times `u8` 0, or 1
//! and the range · clocks · evicted varint ≤ 3, each reason `u8`, batches varint, events varint · losses.

use auditflow_event::NodeId;

use crate::batch::{EvictReason, SignedHeader};
use crate::facts::{ClockCause, Clocks, Loss, MAX_CLOCK_FACTS, MAX_LOSSES, TimeRange};
use crate::header::Link;
use crate::ids::{BatchSeq, Digest, EpochId, Head, Span};
use crate::keys::{Domain, Node};
use crate::layout::{ParseError, Reader, Writer};
use crate::statement::{Signed, Statement};

/// A folded range with its signature.
pub type SignedFold = Signed<Folded>;

/// Consecutive batches of which only this is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// The node.
    pub node: NodeId,
    /// The epoch.
    pub epoch: EpochId,
    /// Which numbers.
    pub span: Span,
    /// What the first of them followed.
    pub link: Link,
    /// The first one's digest.
    pub first_digest: Digest,
    /// The last one's digest.
    pub last_digest: Digest,
    /// How many events they held.
    pub events: u64,
    /// How many events the epoch held through the last.
    pub cumulative: u64,
    /// When.
    pub times: Option<TimeRange>,
    /// The clock facts that others depend on.
    pub clocks: Clocks,
    /// Why they were evicted, by reason.
    pub evicted: Vec<Evicted>,
    /// What the folded headers had declared lost, added up.
    pub losses: Vec<Loss>,
}

/// How much was evicted for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Why.
    pub reason: EvictReason,
    /// How many batches.
    pub batches: u64,
    /// How many events.
    pub events: u64,
}

/// Why headers or folds cannot be folded together; they stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// Nothing was given.
    #[error("nothing to fold")]
    Empty,
    /// Not of one epoch, not consecutive, or not linked.
    #[error("headers to fold do not follow each other")]
    NotConsecutive,
    /// Together they carry more losses or clock facts than one range may.
    #[error("headers to fold declare more than one range can carry")]
    TooMuch,
    /// A header of a schema version that this program does not know.
    #[error("header to fold is of an unknown version")]
    UnknownVersion,
}

impl Folded {
    /// Of one evicted header.
    pub fn one(header: &SignedHeader, reason: EvictReason) -> Result<Self, FoldError> {
        let facts = header.header.facts.as_ref().ok_or(FoldError::UnknownVersion)?;
        let events = u64::from(facts.events);
        let mut clocks = facts.clocks.clone();
        clocks.facts.retain(|fact| fact.cause != ClockCause::Seal);
        Ok(Self {
            node: header.header.node,
            epoch: header.header.epoch,
            span: Span::one(header.header.number),
            link: header.header.link.clone(),
            first_digest: header.digest(),
            last_digest: header.digest(),
            events,
            cumulative: facts.cumulative,
            times: facts.times,
            clocks,
            evicted: vec![Evicted { reason, batches: 1, events }],
            losses: Loss::merge(facts.losses.iter().copied()),
        })
    }

    /// Of consecutive evicted headers, in order.
    pub fn of<'a>(
        headers: impl IntoIterator<Item = (&'a SignedHeader, EvictReason)>,
    ) -> Result<Self, FoldError> {
        let mut headers = headers.into_iter();
        let (first, reason) = headers.next().ok_or(FoldError::Empty)?;
        headers.try_fold(Self::one(first, reason)?, |folded, (header, reason)| {
            folded.join(Self::one(header, reason)?)
        })
    }

    /// This range and the one right after it as one.
    pub fn join(mut self, next: Self) -> Result<Self, FoldError> {
        let follows = self.node == next.node
            && self.epoch == next.epoch
            && self.span.last().next() == Some(next.span.first())
            && next.link == Link::Previous(self.last_digest)
            && self.clocks.boot == next.clocks.boot;
        let span = Span::new(self.span.first(), next.span.last()).filter(|_| follows);
        self.span = span.ok_or(FoldError::NotConsecutive)?;
        self.last_digest = next.last_digest;
        self.events = self.events.saturating_add(next.events);
        self.cumulative = next.cumulative;
        self.times = match (self.times, next.times) {
            (Some(a), Some(b)) => Some(a.join(b)),
            (a, b) => a.or(b),
        };
        self.clocks.facts.extend(next.clocks.facts);
        for more in next.evicted {
            match self.evicted.iter_mut().find(|known| known.reason == more.reason) {
                Some(known) => {
                    known.batches += more.batches;
                    known.events = known.events.saturating_add(more.events);
                }
                None => self.evicted.push(more),
            }
        }
        self.losses = Loss::merge(self.losses.into_iter().chain(next.losses));
        let fits = self.clocks.facts.len() <= MAX_CLOCK_FACTS && self.losses.len() <= MAX_LOSSES;
        if fits { Ok(self) } else { Err(FoldError::TooMuch) }
    }

    /// The first batch's number and digest.
    pub fn first(&self) -> Head {
        Head { number: self.span.first(), digest: self.first_digest }
    }

    /// The last batch's number and digest.
    pub fn last(&self) -> Head {
        Head { number: self.span.last(), digest: self.last_digest }
    }
}

impl Statement for Folded {
    const WHAT: &'static str = "folded range";
    const MAGIC: [u8; 4] = *b"AFFR";
    const DOMAIN: Domain = Domain("auditflow folded range v1");
    const MAX_LEN: usize = 4096;
    type Signer = Node;

    fn write(&self, out: &mut Writer) {
        out.raw(self.node.as_bytes());
        out.raw(self.epoch.as_bytes());
        out.span(self.span);
        self.link.write(out);
        out.raw(self.first_digest.as_bytes());
        out.raw(self.last_digest.as_bytes());
        out.varint(self.events);
        out.varint(self.cumulative);
        out.u8(self.times.is_some().into());
        if let Some(times) = self.times {
            times.write(out);
        }
        self.clocks.write(out);
        out.varint(self.evicted.len() as u64);
        for evicted in &self.evicted {
            out.u8(evicted.reason as u8);
            out.varint(evicted.batches);
            out.varint(evicted.events);
        }
        Loss::write_all(&self.losses, out);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (node, epoch, span) = (reader.node()?, reader.epoch()?, reader.span()?);
        let link = Link::read(reader, epoch)?;
        if matches!(link, Link::Previous(_)) == (span.first() == BatchSeq::FIRST) {
            return Err(reader.invalid("link"));
        }
        let (first_digest, last_digest) = (reader.digest()?, reader.digest()?);
        if span.count() == 1 && first_digest != last_digest {
            return Err(reader.invalid("digests"));
        }
        let (events, cumulative) = (reader.varint()?, reader.varint()?);
        if events > cumulative {
            return Err(reader.invalid("cumulative event count"));
        }
        let times = match reader.u8()? {
            0 => None,
            1 => Some(TimeRange::read(reader)?),
            _ => return Err(reader.invalid("times")),
        };
        let clocks = Clocks::read(reader)?;
        let count = reader.bounded("reasons", EvictReason::ALL.len() as u64)?;
        let mut evicted = || {
            let reason = EvictReason::from_code(reader.u8()?).ok_or_else(|| reader.invalid("reason"))?;
            Ok(Evicted { reason, batches: reader.varint()?, events: reader.varint()? })
        };
        let evicted = (0..count).map(|_| evicted()).collect::<Result<Vec<_>, ParseError>>()?;
        let batches = evicted.iter().try_fold(0_u64, |sum, evicted| sum.checked_add(evicted.batches));
        if batches != Some(span.count()) {
            return Err(reader.invalid("batch count"));
        }
        let losses = Loss::read_all(reader)?;
        Ok(Self {
            node,
            epoch,
            span,
            link,
            first_digest,
            last_digest,
            events,
            cumulative,
            times,
            clocks,
            evicted,
            losses,
        })
    }
}
