//! Identities: of an event (the same event always gets the same one) and of a node.
//!
//! `EventId` is the `UUIDv5` of a name in a namespace: the namespace is the node's id (nil for a file decoded without
//! one), the name is `<source family> NUL <position>`. Position, by family:
//!
//! | family | position |
//! |---|---|
//! | `audit` | the kernel's `seconds.millis:serial`, then 8 bytes: the big-endian [`xxh64`] of the *identifying record's* text before byte 0x1D, trailing white space and NULs removed |
//! | `kubernetes` | the record's `auditID`, NUL, its `stage` |
//! | `synthetic`, `state` | the agent's epoch as 32 hex digits, `:`, a counter in decimal |
//!
//! The *identifying record* is the SYSCALL record where there is one, otherwise the record with the smallest type
//! number and then the smallest text, EOE never. "The first that arrived" would do for an undisturbed stream only:
//! records of one event may be reordered, repeated, or (PROCTITLE, EOE) be present live and absent in a file, and
//! the id must not notice.

use std::fmt;
use std::str::FromStr;

use auditflow_audit_record::{AuditEvent, Record, RecordType, Stamp};
use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};
use uuid::Uuid;

use crate::digest::xxh64;

/// The identity of one event, a `UUIDv5` that can be computed again from the event and its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// Of a kernel audit event, whether it was read live, from a file or decoded offline.
    pub fn audit(node: Option<NodeId>, event: &AuditEvent) -> Self {
        let digest = identifying_record(&event.records).map_or(0, |record| xxh64(identifying_text(record)));
        let mut name = Name::new(node, "audit");
        name.push_stamp(event.stamp);
        name.push(&digest.to_be_bytes());
        name.id()
    }

    /// Of a Kubernetes audit record: one request yields one event per stage.
    pub fn kubernetes(node: Option<NodeId>, audit_id: &str, stage: &str) -> Self {
        let mut name = Name::new(node, "kubernetes");
        name.push(audit_id.as_bytes());
        name.push(b"\0");
        name.push(stage.as_bytes());
        name.id()
    }

    /// Of an event that only the agent's own numbering identifies: `family` says which numbering.
    pub fn counted(node: Option<NodeId>, family: &str, epoch: [u8; 16], counter: u64) -> Self {
        let mut name = Name::new(node, family);
        let mut hex = [0; 32];
        name.push(hex_digits(&epoch, &mut hex).as_bytes());
        name.push(b":");
        name.push(itoa::Buffer::new().format(counter).as_bytes());
        name.id()
    }

    /// An id that was computed before: what a store or a batch kept.
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID itself.
    pub fn as_uuid(&self) -> &Uuid {
        &self.0
    }

    /// The id's 16 bytes, most significant first.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for EventId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError::Event)
    }
}

/// The identity of a node: 128 random bits given at enrolment, never a host name (dots and slashes mean something
/// to brokers, and host names change).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 16]);

impl NodeId {
    /// The node id with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id's 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(hex_digits(&self.0, &mut [0; 32]))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;

    /// Accepts exactly what `Display` prints: 32 lowercase hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let mut bytes = [0; 16];
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(ParseIdError::Node);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(ParseIdError::Node) };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for NodeId {
    /// As 32 hexadecimal digits in text formats, as 16 bytes in binary ones.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(hex_digits(&self.0, &mut [0; 32]))
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 16]>::deserialize(deserializer).map(Self)
        }
    }
}

/// Text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    /// An event id is a UUID.
    #[error("not an event id: give a uuid, 36 characters")]
    Event,
    /// A node id is 32 lowercase hexadecimal digits.
    #[error("not a node id: give 32 lowercase hexadecimal digits")]
    Node,
}

/// The record whose text identifies the event, independent of the order in which records came (module header).
fn identifying_record(records: &[Record]) -> Option<&Record> {
    // A repeated SYSCALL record that differs (a forged line in a file) must not depend on order either.
    let smallest =
        |a: &&Record, b: &&Record| (a.kind.0, identifying_text(a)).cmp(&(b.kind.0, identifying_text(b)));
    let mut syscalls = records.iter().filter(|record| record.kind == RecordType::SYSCALL);
    match (syscalls.next(), syscalls.next()) {
        (Some(only), None) => Some(only),
        (Some(_), Some(_)) => {
            records.iter().filter(|record| record.kind == RecordType::SYSCALL).min_by(smallest)
        }
        _ => records.iter().filter(|record| record.kind != RecordType::EOE).min_by(smallest),
    }
}

/// What the kernel wrote, without what auditd appended and without what a transport may trim.
fn identifying_text(record: &Record) -> &[u8] {
    let kernel = record.text();
    let end = kernel.iter().rposition(|byte| !byte.is_ascii_whitespace() && *byte != 0);
    &kernel[..end.map_or(0, |last| last + 1)]
}

/// A `UUIDv5` in the making: the namespace and the name go into SHA-1 piece by piece, so nothing is allocated.
struct Name {
    sha1: Sha1,
}

impl Name {
    fn new(node: Option<NodeId>, family: &str) -> Self {
        let mut name = Self { sha1: Sha1::new() };
        name.push(&node.map_or([0; 16], |node| node.0));
        name.push(family.as_bytes());
        name.push(b"\0");
        name
    }

    fn push(&mut self, part: &[u8]) {
        self.sha1.update(part);
    }

    /// The stamp as the kernel prints it: seconds, a point, three digits of milliseconds, a colon, the serial.
    fn push_stamp(&mut self, stamp: Stamp) {
        let mut buffer = itoa::Buffer::new();
        self.push(buffer.format(stamp.millis / 1000).as_bytes());
        // The leading 1 keeps the zeroes of the milliseconds and is skipped.
        let millis = buffer.format(1000 + stamp.millis % 1000).as_bytes();
        self.push(b".");
        self.push(&millis[1..]);
        self.push(b":");
        self.push(buffer.format(stamp.serial).as_bytes());
    }

    fn id(self) -> EventId {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.sha1.finalize()[..16]);
        EventId(uuid::Builder::from_sha1_bytes(bytes).into_uuid())
    }
}

fn hex_digits<'a>(bytes: &[u8; 16], out: &'a mut [u8; 32]) -> &'a str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    std::str::from_utf8(out).unwrap_or_default()
}
