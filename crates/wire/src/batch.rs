//! Sealing a batch, and a batch as it arrives.
//!
//! Fed by the agent's spool ([`seal`]) and by [`crate::frame`] (a [`Batch`] view of received bytes); feeds ingest,
//! store and `verify`. A header and its signature are one value, [`SignedHeader`], kept verbatim for ever; the
//! payload travels beside it and may be taken away without breaking the chain:
//!
//! - **evicted** on the node: the node signs an [`Eviction`] of that digest, so that nobody else can strip a payload
//!   and blame the node;
//! - **expired** in the collector: the caller of `verify` says so.
//!
//! An eviction is reason `u8` · signing-key id 8 · signature 64 over BLAKE3("auditflow eviction v1" ‖ 0x00 ‖ batch
//! digest ‖ reason). The key may be a later one of the node's than the batch's own.

use auditflow_event::NodeId;

use crate::facts::{AckSeen, Clocks, Loss};
use crate::header::{
    Facts, Header, Link, MAX_HEADER_LEN, MAX_HEADS, MAX_PAYLOAD_LEN, PayloadRef, SCHEMA_VERSION,
};
use crate::ids::{BatchSeq, Digest, EpochId, Head, KeyId, RuleSetVersion};
use crate::keys::{Domain, NodeKey, NodePublicKey};
use crate::layout::{ParseError, Reader};
use crate::node_facts::NodeFacts;
use crate::node_keys::{NodeKeys, NotASigner};
use crate::payload::Encoded;
use crate::statement::BadSignature;

const EVICTION: Domain = Domain("auditflow eviction v1");
pub(crate) const SIGNATURE_LEN: usize = 64;
pub(crate) const EVICTION_LEN: usize = 1 + KeyId::LEN + SIGNATURE_LEN;

/// All of a header that its payload and key do not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The node.
    pub node: NodeId,
    /// The current epoch.
    pub epoch: EpochId,
    /// The number after the epoch's last.
    pub number: BatchSeq,
    /// The lowest number not acknowledged, this one if all others are.
    pub oldest_unacknowledged: BatchSeq,
    /// The previous digest, or the predecessor for number 1.
    pub link: Link,
    /// How many events the epoch held before this batch.
    pub events_before: u64,
    /// The pre-filter's rule set in force.
    pub rule_set: RuleSetVersion,
    /// What the node says of itself.
    pub about: NodeFacts,
    /// The clocks, at least as they are now ([`crate::ClockCause::Seal`]).
    pub clocks: Clocks,
    /// The newest acknowledgement accepted.
    pub last_ack: Option<AckSeen>,
    /// What was lost since the previous batch.
    pub losses: Vec<Loss>,
}

/// A draft that cannot be sealed: a fault of the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The payload is larger than a payload may be.
    #[error("payload of {0} bytes is more than a batch may hold: seal smaller batches")]
    Payload(usize),
    /// A list or a count exceeds its bound, or two fields contradict each other.
    #[error("batch header would be invalid: {0}")]
    Header(ParseError),
}

/// Builds, digests and signs a header for an encoded payload. What comes out always parses again.
pub fn seal(draft: Draft, payload: &Encoded, key: &NodeKey) -> Result<SignedHeader, SealError> {
    let len = payload.bytes.len();
    if len > MAX_PAYLOAD_LEN {
        return Err(SealError::Payload(len));
    }
    let facts = Facts {
        codec: payload.codec,
        dictionary: payload.dictionary,
        priority: payload.priority,
        events: payload.events,
        cumulative: draft.events_before.saturating_add(payload.events.into()),
        times: payload.times,
        rule_set: draft.rule_set,
        about: draft.about.into(),
        clocks: draft.clocks,
        last_ack: draft.last_ack,
        losses: draft.losses,
    };
    let heads_fit = !matches!(&draft.link, Link::Successor { heads, .. } if heads.len() > MAX_HEADS);
    if !facts.in_bounds() || !heads_fit {
        let invalid = ParseError::Invalid {
            what: "batch header",
            field: "number of losses, clock facts, labels or heads",
        };
        return Err(SealError::Header(invalid));
    }
    let header = Header {
        version: SCHEMA_VERSION,
        node: draft.node,
        epoch: draft.epoch,
        number: draft.number,
        oldest_unacknowledged: draft.oldest_unacknowledged,
        key: key.id(),
        payload: PayloadRef { len: len as u32, digest: Digest::of(&payload.bytes) },
        link: draft.link,
        facts: Some(facts),
    };
    let mut bytes = header.to_bytes();
    let digest = Header::digest(&bytes);
    bytes.extend_from_slice(&key.sign(&digest));
    SignedHeader::parse(&bytes).map_err(SealError::Header)
}

/// A header with its signature, verbatim: the row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHeader {
    /// What the bytes say; proved only after [`SignedHeader::verify`].
    pub header: Header,
    digest: Digest,
    bytes: Box<[u8]>,
}

impl SignedHeader {
    /// The most bytes that one may have.
    pub const MAX_LEN: usize = MAX_HEADER_LEN + SIGNATURE_LEN;

    /// Parses exactly header ‖ signature, as [`SignedHeader::as_bytes`] gave them. Proves nothing.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let (parsed, rest) = Self::take(bytes)?;
        if rest.is_empty() { Ok(parsed) } else { Err(ParseError::Trailing("signed batch header")) }
    }

    /// Takes header ‖ signature off the front of `bytes`.
    pub(crate) fn take(bytes: &[u8]) -> Result<(Self, &[u8]), ParseError> {
        let (header, len) = Header::parse(bytes)?;
        let mut reader = Reader::new("signed batch header", bytes);
        let own = reader.take(len + SIGNATURE_LEN)?;
        let digest = Header::digest(own.get(..len).unwrap_or_default());
        Ok((Self { header, digest, bytes: own.into() }, reader.rest()))
    }

    /// header ‖ signature: store and send these very bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The batch's digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The batch's number and digest.
    pub fn head(&self) -> Head {
        Head { number: self.header.number, digest: self.digest }
    }

    /// Whether `key`, which must be the one that the header names, signed this header.
    pub fn verify(&self, key: &NodePublicKey) -> Result<(), BadSignature> {
        let bad = BadSignature { key: self.header.key };
        let signature = self.bytes.last_chunk::<SIGNATURE_LEN>().ok_or(bad)?;
        if key.id() != self.header.key {
            return Err(bad);
        }
        key.verify(&self.digest, signature)
    }

    /// Whether these are the payload's bytes, by length and hash.
    pub fn is_payload(&self, payload: &[u8]) -> bool {
        payload.len() == self.header.payload.len as usize && Digest::of(payload) == self.header.payload.digest
    }
}

/// Why a node let go of a payload that had not been acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EvictReason {
    /// The spool reached its byte cap.
    SpoolFull,
    /// The disk was full.
    DiskFull,
    /// The stored payload no longer matched its hash.
    Corrupt,
}

impl EvictReason {
    pub(crate) const ALL: [Self; 3] = [Self::SpoolFull, Self::DiskFull, Self::Corrupt];

    /// The name in metrics and on the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SpoolFull => "spool_full",
            Self::DiskFull => "disk_full",
            Self::Corrupt => "corrupt",
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// The node's signed word that it let go of one batch's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eviction {
    /// Why.
    pub reason: EvictReason,
    /// The key that signed this.
    pub key: KeyId,
    signature: [u8; SIGNATURE_LEN],
}

impl Eviction {
    /// Signs away the payload of the batch with this digest.
    pub fn sign(batch: Digest, reason: EvictReason, key: &NodeKey) -> Self {
        Self { reason, key: key.id(), signature: key.sign(&Self::digest(batch, reason)) }
    }

    /// Reads what [`Eviction::to_bytes`] wrote. Proves nothing.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new("eviction", bytes);
        let reason = EvictReason::from_code(reader.u8()?).ok_or_else(|| reader.invalid("reason"))?;
        let (key, signature) = (reader.key()?, reader.array()?);
        reader.finish()?;
        Ok(Self { reason, key, signature })
    }

    /// 73 bytes.
    pub fn to_bytes(&self) -> [u8; EVICTION_LEN] {
        let mut bytes = [self.reason as u8; EVICTION_LEN];
        bytes[1..=KeyId::LEN].copy_from_slice(self.key.as_bytes());
        bytes[1 + KeyId::LEN..].copy_from_slice(&self.signature);
        bytes
    }

    /// Whether `key`, which must be the one named here, signed this batch's payload away.
    pub fn verify(&self, batch: &SignedHeader, key: &NodePublicKey) -> Result<(), BadSignature> {
        if key.id() != self.key {
            return Err(BadSignature { key: self.key });
        }
        key.verify(&Self::digest(batch.digest(), self.reason), &self.signature)
    }

    fn digest(batch: Digest, reason: EvictReason) -> Digest {
        let mut bytes = [reason as u8; Digest::LEN + 1];
        bytes[..Digest::LEN].copy_from_slice(batch.as_bytes());
        EVICTION.digest(&bytes)
    }
}

/// What of a batch's payload is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// The payload as it travels.
    Payload(&'a [u8]),
    /// The node let go of it.
    Evicted(Eviction),
}

/// A batch as it arrived. Nothing is proved before [`Batch::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Header and signature.
    pub signed: SignedHeader,
    /// Payload, or the word that it was evicted.
    pub content: Content<'a>,
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Header or eviction name a key that does not speak for this batch.
    #[error(transparent)]
    Key(#[from] NotASigner),
    /// Header or eviction are not signed by the key that they name.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The payload is not the one that the header names.
    #[error("payload does not have the length and hash that the header names")]
    Payload,
}

impl Batch<'_> {
    /// Whether one of the node's keys that may speak for this batch signed the header, and the payload (or its eviction)
    /// is the header's own.
    pub fn verify(&self, keys: &NodeKeys) -> Result<(), BatchError> {
        let Header { key, epoch, number, .. } = self.signed.header;
        self.signed.verify(keys.signer(key, epoch, number)?)?;
        match &self.content {
            Content::Payload(payload) if self.signed.is_payload(payload) => Ok(()),
            Content::Payload(_) => Err(BatchError::Payload),
            Content::Evicted(eviction) => {
                Ok(eviction.verify(&self.signed, keys.signer(eviction.key, epoch, number)?)?)
            }
        }
    }
}
