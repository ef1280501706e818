//! What one HTTPS body or MQTT message holds: a few length-delimited parts, in either direction.
//!
//! ```text
//! magic "AFF1" · then, until the end: kind u8 · length u32 little-endian · that many bytes
//!
//! agent → collector   1 batch:    header ‖ signature 64 ‖ payload
//!                     2 evicted:  header ‖ signature 64 ‖ eviction 73
//!                     3 folded range       4 state
//! collector → agent  16 acknowledgement   17 rotation of the site's key
//! in exports only    32 header:   header ‖ signature 64
//!                    33 numbers that are lost
//!                    34 checkpoint
//! ```
//!
//! Fed by the agent's shipper and the collector's answers ([`FrameWriter`]); read part by part ([`Parts`]), so that
//! one malformed part does not take the others with it. Kinds that a program does not know are errors: an agent
//! never sends what its collector cannot answer.

use crate::ack::{Ack, SignedAck};
use crate::batch::{Batch, Content, Eviction, SignedHeader};
use crate::chain::{SignedCheckpoint, SignedLost};
use crate::fold::{Folded, SignedFold};
use crate::header::MAX_PAYLOAD_LEN;
use crate::layout::{ParseError, Reader, Writer};
use crate::rotation::SignedRotation;
use crate::state::{SignedState, State};
use crate::statement::Signed;

/// The most bytes one frame may have: one batch of the largest size and as much again of others.
pub const MAX_FRAME_LEN: usize = 8 << 20;
/// The most parts one frame may have.
pub const MAX_PARTS: usize = 1024;
/// The most bytes one part may have.
pub const MAX_PART_LEN: usize = SignedHeader::MAX_LEN + MAX_PAYLOAD_LEN;
/// The content type of a frame over HTTP.
pub const CONTENT_TYPE: &str = "application/vnd.auditflow.frame";
/// Where agents post frames, below the collector's address.
pub const HTTP_PATH: &str = "/agent/v1/frames";

const WHAT: &str = "frame";
const MAGIC: [u8; 4] = *b"AFF1";
const PART_HEAD: usize = 5;

const BATCH: u8 = 1;
const EVICTED: u8 = 2;
const FOLDED: u8 = 3;
const STATE: u8 = 4;
const ACK: u8 = 16;
const SITE_ROTATION: u8 = 17;
const EXPIRED: u8 = 32;
const LOST: u8 = 33;
const CHECKPOINT: u8 = 34;

/// One part of a frame. Nothing in it is proved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'a> {
    /// A batch, with its payload or the node's word that it was evicted.
    Batch(Batch<'a>),
    /// A folded range.
    Folded(SignedFold),
    /// What the node holds.
    State(SignedState),
    /// What the collector stored.
    Ack(SignedAck),
    /// The site's key changed.
    Rotation(SignedRotation),
    /// In an export: a batch whose payload the collector's retention has dropped, or that lies outside of what the
    /// export was asked for.
    Expired(Box<SignedHeader>),
    /// In an export: numbers that never came.
    Lost(SignedLost),
    /// In an export: what stands for an epoch's first numbers.
    Checkpoint(Box<SignedCheckpoint>),
}

/// The parts of a received frame, one after the other.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Parts<'a> {
    /// Checks the frame's bounds; the parts are parsed as they are taken.
    pub fn new(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_FRAME_LEN {
            return Err(too_much("bytes", bytes.len(), MAX_FRAME_LEN));
        }
        let mut reader = Reader::new(WHAT, bytes);
        reader.magic(MAGIC)?;
        Ok(Self { rest: reader.rest(), left: MAX_PARTS })
    }

    fn split(&mut self) -> Result<(u8, &'a [u8]), ParseError> {
        self.left = self.left.checked_sub(1).ok_or_else(|| too_much("parts", MAX_PARTS + 1, MAX_PARTS))?;
        let mut reader = Reader::new(WHAT, self.rest);
        let (kind, len) = (reader.u8()?, reader.u32()? as usize);
        if len > MAX_PART_LEN {
            return Err(too_much("bytes in one part", len, MAX_PART_LEN));
        }
        let body = reader.take(len)?;
        self.rest = reader.rest();
        Ok((kind, body))
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<Part<'a>, ParseError>;

    /// A part that is malformed inside is an error and the next one follows; where a part's bounds are broken, the
    /// frame ends with that error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        match self.split() {
            Ok((kind, body)) => Some(Part::parse(kind, body)),
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

impl<'a> Part<'a> {
    fn parse(kind: u8, body: &'a [u8]) -> Result<Self, ParseError> {
        match kind {
            BATCH => {
                let (signed, payload) = SignedHeader::take(body)?;
                if payload.len() != signed.header.payload.len as usize {
                    return Err(ParseError::Invalid { what: "batch", field: "payload length" });
                }
                Ok(Self::Batch(Batch { signed, content: Content::Payload(payload) }))
            }
            EVICTED => {
                let (signed, eviction) = SignedHeader::take(body)?;
                Ok(Self::Batch(Batch { signed, content: Content::Evicted(Eviction::parse(eviction)?) }))
            }
            FOLDED => Signed::<Folded>::parse(body).map(Self::Folded),
            STATE => Signed::<State>::parse(body).map(Self::State),
            ACK => Signed::<Ack>::parse(body).map(Self::Ack),
            SITE_ROTATION => Signed::parse(body).map(Self::Rotation),
            EXPIRED => SignedHeader::parse(body).map(|signed| Self::Expired(Box::new(signed))),
            LOST => Signed::parse(body).map(Self::Lost),
            CHECKPOINT => Signed::parse(body).map(|signed| Self::Checkpoint(Box::new(signed))),
            _ => Err(ParseError::Invalid { what: WHAT, field: "part kind" }),
        }
    }
}

/// Puts parts together into a frame, up to its bounds.
pub struct FrameWriter {
    out: Writer,
    parts: usize,
}

impl Default for FrameWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameWriter {
    /// An empty frame.
    pub fn new() -> Self {
        let mut out = Writer::with_capacity(1024);
        out.raw(&MAGIC);
        Self { out, parts: 0 }
    }

    /// Adds a batch from its stored parts. Like all `push`es: `false`, and nothing added, if the frame is full.
    #[must_use]
    pub fn push_batch(&mut self, header: &SignedHeader, content: Content<'_>) -> bool {
        match content {
            Content::Payload(payload) => self.push(BATCH, &[header.as_bytes(), payload]),
            Content::Evicted(eviction) => self.push(EVICTED, &[header.as_bytes(), &eviction.to_bytes()]),
        }
    }

    /// Adds a folded range.
    #[must_use]
    pub fn push_fold(&mut self, fold: &SignedFold) -> bool {
        self.push(FOLDED, &[fold.as_bytes()])
    }

    /// Adds a state.
    #[must_use]
    pub fn push_state(&mut self, state: &SignedState) -> bool {
        self.push(STATE, &[state.as_bytes()])
    }

    /// Adds an acknowledgement.
    #[must_use]
    pub fn push_ack(&mut self, ack: &SignedAck) -> bool {
        self.push(ACK, &[ack.as_bytes()])
    }

    /// Adds a rotation of the site's key.
    #[must_use]
    pub fn push_rotation(&mut self, rotation: &SignedRotation) -> bool {
        self.push(SITE_ROTATION, &[rotation.as_bytes()])
    }

    /// Adds a batch without its payload, to an export.
    #[must_use]
    pub fn push_expired(&mut self, header: &SignedHeader) -> bool {
        self.push(EXPIRED, &[header.as_bytes()])
    }

    /// Adds lost numbers, to an export.
    #[must_use]
    pub fn push_lost(&mut self, lost: &SignedLost) -> bool {
        self.push(LOST, &[lost.as_bytes()])
    }

    /// Adds a checkpoint, to an export.
    #[must_use]
    pub fn push_checkpoint(&mut self, checkpoint: &SignedCheckpoint) -> bool {
        self.push(CHECKPOINT, &[checkpoint.as_bytes()])
    }

    /// How many bytes the frame has so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether it holds no part.
    pub fn is_empty(&self) -> bool {
        self.parts == 0
    }

    /// The frame's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.out.into_bytes()
    }

    fn push(&mut self, kind: u8, pieces: &[&[u8]]) -> bool {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let fits = len <= MAX_PART_LEN && self.out.len() + PART_HEAD + len <= MAX_FRAME_LEN;
        if !fits || self.parts == MAX_PARTS {
            return false;
        }
        self.parts += 1;
        self.out.u8(kind);
        self.out.u32(len as u32);
        for piece in pieces {
            self.out.raw(piece);
        }
        true
    }
}

fn too_much(field: &'static str, found: usize, bound: usize) -> ParseError {
    ParseError::OutOfBounds { what: WHAT, field, found: found as u64, bound: bound as u64 }
}
