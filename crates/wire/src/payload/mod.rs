//! The payload: a batch's events, encoded and compressed.
//!
//! Fed by the agent's spool ([`Encoder`]) and by whoever opens a stored batch ([`Decoder`]). A payload is the
//! postcard encoding of a list of [`v1::EventV1`], compressed as the header says. What can be computed again from
//! the rest (most event ids and times) is not shipped, so decoding needs the node that the header names.
//!
//! Guarantees: what is decoded is the event that was encoded, id included; the decompressed size, the number of
//! events and the memory that they take are bounded before they are allocated.

mod compress;
pub mod v1;

use auditflow_event::{Event, NodeId, Priority};

use crate::facts::TimeRange;
use crate::header::{Codec, Facts, MAX_EVENTS};
use crate::ids::DictionaryId;

use compress::{Compressor, Decompressor};
pub use compress::{DICTIONARY, dictionary_id};
use v1::{EventV1, Previous};

/// The most bytes a payload may have once decompressed.
pub const MAX_DECODED_LEN: usize = 16 << 20;
/// The most memory that the events of one payload may take, by estimate.
const MAX_DECODED_HEAP: usize = 4 * MAX_DECODED_LEN;
/// The compression level that agents use: see `examples/bytes_per_event.rs` for the alternatives' cost.
pub const LEVEL: i32 = 3;

/// Why events cannot be encoded or a payload cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// More events than a batch may hold.
    #[error("{0} events are more than one batch may hold")]
    TooManyEvents(u64),
    /// More bytes than a payload may have when decompressed, or events that take more memory than they may.
    #[error("payload exceeds {MAX_DECODED_LEN} bytes when decompressed")]
    TooLarge,
    /// The compressor or decompressor refused.
    #[error("payload cannot be (de)compressed")]
    Zstd(#[source] std::io::Error),
    /// Made with a dictionary that this program does not have.
    #[error("payload needs compression dictionary {0}, which this program does not have: upgrade it")]
    UnknownDictionary(DictionaryId),
    /// Not the encoding of events.
    #[error("event {index} of the payload is malformed")]
    Malformed {
        /// Which one, from 0.
        index: u32,
        /// What is wrong with it.
        #[source]
        source: v1::EventError,
    },
    /// Bytes follow after the last event, or the count is not the header's.
    #[error("payload does not hold the number of events that the header names")]
    Count,
}

/// An encoded payload and what the header says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The payload as it travels.
    pub bytes: Vec<u8>,
    /// How it is compressed.
    pub codec: Codec,
    /// With which dictionary.
    pub dictionary: DictionaryId,
    /// How many events it holds.
    pub events: u32,
    /// The highest priority among them.
    pub priority: Priority,
    /// Times of the earliest and latest.
    pub times: Option<TimeRange>,
}

impl Encoded {
    /// The payload of an idle interval: no events, no bytes.
    pub fn empty() -> Self {
        Self {
            bytes: Vec::new(),
            codec: Codec::Raw,
            dictionary: DictionaryId::NONE,
            events: 0,
            priority: Priority::Low,
            times: None,
        }
    }
}

/// Encodes batches; keep one, it holds the compressor's memory (about 1 MiB) and its dictionary.
pub struct Encoder {
    compressor: Compressor,
    raw: Vec<u8>,
}

impl Encoder {
    /// An encoder at [`LEVEL`].
    pub fn new() -> Result<Self, PayloadError> {
        Self::with_level(LEVEL)
    }

    /// An encoder at another zstd level.
    pub fn with_level(level: i32) -> Result<Self, PayloadError> {
        Ok(Self { compressor: Compressor::new(level)?, raw: Vec::new() })
    }

    /// Encodes and compresses `events`, which `node` saw.
    pub fn encode(&mut self, node: NodeId, events: &[Event]) -> Result<Encoded, PayloadError> {
        let (Some(first), Ok(count)) = (events.first(), u32::try_from(events.len())) else {
            return Ok(Encoded::empty());
        };
        if count > MAX_EVENTS {
            return Err(PayloadError::TooManyEvents(count.into()));
        }
        encode_raw(node, events, &mut self.raw)?;
        let bytes = self.compressor.compress(&self.raw)?;
        // One huge event must not keep its memory for ever.
        self.raw.shrink_to(1 << 20);
        let times = events.iter().map(|event| TimeRange::new(event.time, event.time));
        Ok(Encoded {
            bytes,
            codec: Codec::ZstdDictionary,
            dictionary: dictionary_id(),
            events: count,
            priority: events.iter().map(|event| event.priority).max().unwrap_or(first.priority),
            times: times.reduce(TimeRange::join),
        })
    }
}

/// Opens payloads; keep one per thread, it holds the decompressor's memory.
pub struct Decoder {
    decompressor: Decompressor,
}

impl Decoder {
    /// A decoder for all known codecs and dictionaries.
    pub fn new() -> Result<Self, PayloadError> {
        Ok(Self { decompressor: Decompressor::new()? })
    }

    /// The events of a payload whose header (`facts`, of `node`) has been verified and names it.
    pub fn decode(
        &mut self,
        node: NodeId,
        facts: &Facts,
        payload: &[u8],
    ) -> Result<Vec<Event>, PayloadError> {
        let raw;
        let bytes = match facts.codec {
            Codec::Raw if payload.len() > MAX_DECODED_LEN => return Err(PayloadError::TooLarge),
            Codec::Raw => payload,
            Codec::Zstd => {
                raw = self.decompressor.plain(payload)?;
                &raw
            }
            Codec::ZstdDictionary => {
                raw = self.decompressor.with_dictionary(payload, facts.dictionary)?;
                &raw
            }
        };
        decode_raw(node, facts.events, bytes)
    }
}

/// The uncompressed payload of `events`, into `out`: what dictionaries are trained on.
pub fn encode_raw(node: NodeId, events: &[Event], out: &mut Vec<u8>) -> Result<(), PayloadError> {
    let mut bytes = std::mem::take(out);
    bytes.clear();
    if !events.is_empty() {
        bytes = append(&events.len(), bytes, 0)?;
    }
    let mut previous = Previous::default();
    let mut heap = 0;
    for (index, event) in (0..).zip(events) {
        let event = EventV1::of(event, node, &mut previous);
        heap += event.heap();
        bytes = append(&event, bytes, index)?;
        // Bounded as when decoding, so that whatever can be sealed can be opened.
        if bytes.len() > MAX_DECODED_LEN || heap > MAX_DECODED_HEAP {
            return Err(PayloadError::TooLarge);
        }
    }
    *out = bytes;
    Ok(())
}

/// The events of an uncompressed payload that must hold exactly `expected`.
pub fn decode_raw(node: NodeId, expected: u32, bytes: &[u8]) -> Result<Vec<Event>, PayloadError> {
    if expected > MAX_EVENTS {
        return Err(PayloadError::TooManyEvents(expected.into()));
    }
    if expected == 0 {
        return if bytes.is_empty() { Ok(Vec::new()) } else { Err(PayloadError::Count) };
    }
    let malformed = |index| move |source: v1::EventError| PayloadError::Malformed { index, source };
    let (count, mut rest) =
        postcard::take_from_bytes::<u64>(bytes).map_err(|error| malformed(0)(error.into()))?;
    // An event takes at least four bytes, so this bounds the list by what is there.
    if count != u64::from(expected) || rest.len() / 4 < expected as usize {
        return Err(PayloadError::Count);
    }
    let mut events = Vec::with_capacity(expected as usize);
    let mut previous = Previous::default();
    let mut heap = 0;
    for index in 0..expected {
        let (event, after) =
            postcard::take_from_bytes::<EventV1<'_>>(rest).map_err(|error| malformed(index)(error.into()))?;
        heap += event.heap();
        if heap > MAX_DECODED_HEAP {
            return Err(PayloadError::TooLarge);
        }
        events.push(event.into_event(node, &mut previous).map_err(malformed(index))?);
        rest = after;
    }
    if rest.is_empty() { Ok(events) } else { Err(PayloadError::Count) }
}

fn append(value: &impl serde::Serialize, out: Vec<u8>, index: u32) -> Result<Vec<u8>, PayloadError> {
    postcard::to_extend(value, out).map_err(|error| PayloadError::Malformed { index, source: error.into() })
}
