//! The acknowledgement: the site's signed word that batches are stored, the only thing that frees the spool.
//!
//! Fed by the collector's ledger ([`crate::EpochLedger::ack`]) after its transaction has committed; consumed by the
//! agent, which lets go of exactly what [`Ack::releases`] says and of nothing else.
//!
//! Body (`statement` frames it; signed by the site key): node 16 · epoch 16 · collector time `i64` microseconds ·
//! answer `u8` (0 stored; 1 fork: number `u64`, stored digest 32; 2 refused: why `u8`) · stored through `u8` 0 or 1,
//! [number `u64`, digest 32] · ranges above varint ≤ 64, each first and last `u64`, digest of the last 32.

use auditflow_event::{NodeId, Timestamp};

use crate::ids::{BatchSeq, Digest, EpochId, Head, Span};
use crate::keys::{Domain, Site};
use crate::layout::{ParseError, Reader, Writer};
use crate::statement::{Signed, Statement};

/// The most ranges one acknowledgement lists; what lies above is acknowledged when the holes below are filled.
pub const MAX_RANGES: usize = 64;

/// An acknowledgement with its signature.
pub type SignedAck = Signed<Ack>;

/// What the site says about one epoch of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The node it is for.
    pub node: NodeId,
    /// The epoch it is about.
    pub epoch: EpochId,
    /// The collector's clock.
    pub time: Timestamp,
    /// What became of what was sent.
    pub answer: Answer,
    /// Every batch that the node still holds through this number is stored.
    pub through: Option<Head>,
    /// Stored above that, ascending, with the digest of each range's last batch.
    pub above: Vec<Range>,
}

/// Consecutive stored batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The numbers.
    pub span: Span,
    /// The last one's digest, which the chain makes speak for the others: no range spans a broken link.
    pub digest: Digest,
}

/// The kind of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Everything is in order (also for duplicates and for broken links, which are stored and flagged).
    Stored,
    /// The epoch is not this agent's alone, or not its latest: seal what is unacknowledged anew in a new epoch.
    Fork {
        /// Where.
        number: BatchSeq,
        /// What the collector holds there (zero if the conflict is between epochs).
        stored: Digest,
    },
    /// Nothing was stored.
    Refused(Refusal),
}

/// Why a batch was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The node is not enrolled here.
    UnknownNode,
    /// The node is enrolled, but an operator has yet to approve it.
    Pending,
    /// An operator has shut the node out.
    Revoked,
    /// The signing key is not the node's.
    UnknownKey,
    /// The signature or the payload's hash does not match.
    BadSignature,
    /// The bytes are no batch, or another node's.
    Malformed,
    /// Too many holes lie below; send the oldest unacknowledged batches first.
    TooManyHoles,
    /// The signing key has given way to another one, and had not sealed this.
    RetiredKey,
}

impl Refusal {
    const ALL: [Self; 8] = [
        Self::UnknownNode,
        Self::Pending,
        Self::Revoked,
        Self::UnknownKey,
        Self::BadSignature,
        Self::Malformed,
        Self::TooManyHoles,
        Self::RetiredKey,
    ];

    /// The name in logs, in metrics and in `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownNode => "unknown_node",
            Self::Pending => "pending",
            Self::Revoked => "revoked",
            Self::UnknownKey => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::Malformed => "malformed",
            Self::TooManyHoles => "too_many_holes",
            Self::RetiredKey => "retired_key",
        }
    }
}

/// An acknowledgement of a batch that is not the one the agent holds: let go of nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "acknowledgement of batch {number} carries another digest than the batch held here: the key or the spool is in use twice"
)]
pub struct ForeignAck {
    /// Which batch.
    pub number: BatchSeq,
}

impl Ack {
    /// What the agent may let go of: all it holds within these spans.
    ///
    /// `own` gives the digest of a batch that the agent sealed, as long as it knows it. It must know those that it
    /// let go of while it still holds lower ones: the acknowledgement that frees those names a higher number. A
    /// batch whose own digest differs makes the whole acknowledgement void; a number whose digest is not known
    /// cannot be compared, proves nothing, and frees nothing.
    pub fn releases(&self, own: impl Fn(BatchSeq) -> Option<Digest>) -> Result<Vec<Span>, ForeignAck> {
        let through = self.through.map(|head| Range { span: Span::up_to(head.number), digest: head.digest });
        let mut spans = Vec::new();
        for range in through.iter().chain(&self.above) {
            let number = range.span.last();
            match own(number) {
                Some(digest) if digest == range.digest => spans.push(range.span),
                Some(_) => return Err(ForeignAck { number }),
                None => {}
            }
        }
        Ok(spans)
    }
}

impl Span {
    /// From the first batch of an epoch through `last`.
    pub fn up_to(last: BatchSeq) -> Self {
        Self::new(BatchSeq::FIRST, last).unwrap_or(Self::one(last))
    }
}

impl Statement for Ack {
    const WHAT: &'static str = "acknowledgement";
    const MAGIC: [u8; 4] = *b"AFAK";
    const DOMAIN: Domain = Domain("auditflow acknowledgement v1");
    const MAX_LEN: usize = 4096;
    type Signer = Site;

    fn write(&self, out: &mut Writer) {
        out.raw(self.node.as_bytes());
        out.raw(self.epoch.as_bytes());
        out.time(self.time);
        match self.answer {
            Answer::Stored => out.u8(0),
            Answer::Fork { number, stored } => {
                out.u8(1);
                out.head(&Head { number, digest: stored });
            }
            Answer::Refused(why) => {
                out.u8(2);
                out.u8(why as u8);
            }
        }
        Head::write_optional(self.through.as_ref(), out);
        let above = self.above.get(..MAX_RANGES).unwrap_or(&self.above);
        out.varint(above.len() as u64);
        for range in above {
            out.span(range.span);
            out.raw(range.digest.as_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (node, epoch) = (reader.node()?, reader.epoch()?);
        let time = reader.time("time")?;
        let answer = match reader.u8()? {
            0 => Answer::Stored,
            1 => {
                let Head { number, digest } = reader.head()?;
                Answer::Fork { number, stored: digest }
            }
            2 => {
                let why = Refusal::ALL.get(usize::from(reader.u8()?)).copied();
                Answer::Refused(why.ok_or_else(|| reader.invalid("refusal"))?)
            }
            _ => return Err(reader.invalid("answer")),
        };
        let through = Head::read_optional(reader)?;
        let count = reader.bounded("ranges", MAX_RANGES as u64)?;
        let mut above: Vec<Range> = Vec::with_capacity(count as usize);
        let mut below = through.map(|head| head.number);
        for _ in 0..count {
            let range = Range { span: reader.span()?, digest: reader.digest()? };
            if below.is_some_and(|below| range.span.first() <= below) {
                return Err(reader.invalid("order of ranges"));
            }
            below = Some(range.span.last());
            above.push(range);
        }
        Ok(Self { node, epoch, time, answer, through, above })
    }
}

impl Head {
    pub(crate) fn write_optional(head: Option<&Self>, out: &mut Writer) {
        out.u8(head.is_some().into());
        if let Some(head) = head {
            out.head(head);
        }
    }

    pub(crate) fn read_optional(reader: &mut Reader<'_>) -> Result<Option<Self>, ParseError> {
        match reader.u8()? {
            0 => Ok(None),
            1 => reader.head().map(Some),
            _ => Err(reader.invalid("head")),
        }
    }
}
