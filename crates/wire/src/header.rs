//! The fixed header of a batch: what is signed, chained and kept for ever.
//!
//! Fed by [`crate::seal`]; read by the collector's ingest, store and `verify`. It is the same bytes on the node, on
//! the wire and in the store. A program that does not know the schema version still understands the first part, so
//! that it can chain, store and acknowledge the batch and judge it after its upgrade.
//!
//! ```text
//! offset size  part that every version has
//!      0    4  magic "AFBH"
//!      4    2  schema version (of the rest of the header and of the payload); 1
//!      6    2  length of the header, these 8 bytes included; ≤ 8192
//!      8   16  node id
//!     24   16  epoch
//!     40    8  number, from 1
//!     48    8  oldest unacknowledged number when sealed; ≤ number
//!     56    8  signing-key id
//!     64    4  payload length; ≤ 4 MiB
//!     68   32  payload BLAKE3
//!    100    1  link kind: 0 previous (number > 1), 1 successor, 2 unknown predecessor (number = 1)
//!    101    …  0: previous digest 32
//!              1: predecessor epoch 16 · heads u8 1…4 · each number u64, digest 32; the newest sealed first
//!              2: why u8 · 0, or 1 and the epoch 16
//!
//!              part of version 1
//!         1+4  codec · dictionary id
//!           1  highest priority inside: 0 low, 1 normal, 2 high
//!           …  events varint ≤ 65,536 · events of the epoch through this batch varint
//!           …  times of the first and last event (see `facts`); only if there are events
//!          16  rule-set version
//!           …  node (see `node_facts`) · clocks · acknowledgement seen · losses (count varint ≤ 64)
//! ```
//!
//! Digest = BLAKE3("auditflow batch v1" ‖ 0x00 ‖ header); the signature covers the digest.

use auditflow_event::{HostFacts, NodeId, Priority};

use crate::facts::{AckSeen, Clocks, Loss, MAX_CLOCK_FACTS, MAX_LOSSES, TimeRange};
use crate::ids::{BatchSeq, BootId, DictionaryId, Digest, EpochId, Head, KeyId, RuleSetVersion};
use crate::keys::Domain;
use crate::layout::{ParseError, Reader, Writer};
use crate::node_facts::NodeFacts;

/// The newest schema version, the one that this program writes.
pub const SCHEMA_VERSION: u16 = 1;
/// The most bytes a header may have.
pub const MAX_HEADER_LEN: usize = 8192;
/// The most bytes a payload may have as it travels.
pub const MAX_PAYLOAD_LEN: usize = 4 << 20;
/// The most events a batch may hold.
pub const MAX_EVENTS: u32 = 65_536;
/// The most heads of a predecessor that a first batch names.
pub const MAX_HEADS: usize = 4;

const WHAT: &str = "batch header";
const MAGIC: [u8; 4] = *b"AFBH";
const DOMAIN: Domain = Domain("auditflow batch v1");
const LEN_AT: usize = 6;

/// A parsed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Schema version of `facts` and payload.
    pub version: u16,
    /// The node that saw the events.
    pub node: NodeId,
    /// The run of its agent.
    pub epoch: EpochId,
    /// The place in the epoch.
    pub number: BatchSeq,
    /// Every lower number had been acknowledged when this batch was sealed: a hole below it is loss, one at or above
    /// it is owed.
    pub oldest_unacknowledged: BatchSeq,
    /// Which key signed.
    pub key: KeyId,
    /// The payload, by length and hash.
    pub payload: PayloadRef,
    /// What came before.
    pub link: Link,
    /// The part of the schema version; `None` if this program does not know that version.
    pub facts: Option<Facts>,
}

/// A payload's length and hash as it travels (compressed).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadRef {
    /// Bytes.
    pub len: u32,
    /// BLAKE3 of them.
    pub digest: Digest,
}

/// What a batch follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// The digest of the batch one number below.
    Previous(Digest),
    /// First batch of an epoch whose predecessor is known.
    Successor {
        /// The epoch before.
        epoch: EpochId,
        /// Its newest sealed batch, then others that the agent vouches for (the newest acknowledged); one to four.
        heads: Vec<Head>,
    },
    /// First batch of an epoch whose predecessor is not known.
    Unknown {
        /// Why not.
        why: UnknownPredecessor,
        /// The epoch before, where at least that is known.
        epoch: Option<EpochId>,
    },
}

/// Why an agent cannot name its predecessor's heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnknownPredecessor {
    /// The node's first epoch.
    FirstStart,
    /// The spool was corrupt and was set aside.
    SpoolCorrupt,
    /// The spool was gone though the node had enrolled before.
    SpoolMissing,
    /// The collector answered `fork`: the unacknowledged events were sealed anew.
    Forked,
}

impl UnknownPredecessor {
    const ALL: [Self; 4] = [Self::FirstStart, Self::SpoolCorrupt, Self::SpoolMissing, Self::Forked];

    /// The name in logs and on the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstStart => "first_start",
            Self::SpoolCorrupt => "spool_corrupt",
            Self::SpoolMissing => "spool_missing",
            Self::Forked => "forked",
        }
    }
}

/// How a payload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    Raw,
    /// One zstd frame.
    Zstd,
    /// One zstd frame made with the header's dictionary.
    ZstdDictionary,
}

impl Codec {
    const ALL: [Self; 3] = [Self::Raw, Self::Zstd, Self::ZstdDictionary];
}

/// The part of the header that belongs to schema version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// How the payload is compressed.
    pub codec: Codec,
    /// With which dictionary.
    pub dictionary: DictionaryId,
    /// The highest priority of the events inside; low if there are none.
    pub priority: Priority,
    /// How many events the payload holds.
    pub events: u32,
    /// How many events the epoch holds through this batch.
    pub cumulative: u64,
    /// Times of the earliest and latest event; `None` exactly if there are no events.
    pub times: Option<TimeRange>,
    /// The pre-filter's rule set in force.
    pub rule_set: RuleSetVersion,
    /// The node, as it was when the batch was sealed.
    pub about: Box<NodeFacts>,
    /// The node's clocks.
    pub clocks: Clocks,
    /// The newest acknowledgement accepted.
    pub last_ack: Option<AckSeen>,
    /// What was lost since the previous batch.
    pub losses: Vec<Loss>,
}

impl Header {
    /// Takes a header off the front of `bytes`; says how long it was.
    pub fn parse(bytes: &[u8]) -> Result<(Self, usize), ParseError> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.magic(MAGIC)?;
        let version = reader.u16()?;
        let len = usize::from(reader.u16()?);
        if len > MAX_HEADER_LEN {
            let (found, bound) = (len as u64, MAX_HEADER_LEN as u64);
            return Err(ParseError::OutOfBounds { what: WHAT, field: "bytes", found, bound });
        }
        let whole = bytes.get(..len).ok_or(ParseError::Truncated(WHAT))?;
        let mut reader = Reader::new(WHAT, whole.get(LEN_AT + 2..).ok_or(ParseError::Truncated(WHAT))?);
        let mut header = Self::read_common(&mut reader, version)?;
        if version == SCHEMA_VERSION {
            header.facts = Some(Facts::read(&mut reader, header.epoch)?);
            reader.finish()?;
        }
        Ok((header, len))
    }

    /// The bytes that are signed. A header that [`crate::seal`] built is within its bounds.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(320);
        out.raw(&MAGIC);
        out.u16(self.version);
        out.u16(0);
        out.raw(self.node.as_bytes());
        out.raw(self.epoch.as_bytes());
        out.number(self.number);
        out.number(self.oldest_unacknowledged);
        out.raw(self.key.as_bytes());
        out.u32(self.payload.len);
        out.raw(self.payload.digest.as_bytes());
        self.link.write(&mut out);
        if let Some(facts) = &self.facts {
            facts.write(&mut out, self.epoch);
        }
        out.patch_len_u16(LEN_AT);
        out.into_bytes()
    }

    /// What rules and copies see of the node with the batch's events. It is all in the header, so that it does not
    /// depend on what else has arrived.
    pub fn host(&self) -> HostFacts {
        let Some(facts) = &self.facts else {
            return HostFacts { id: Some(self.node), ..HostFacts::default() };
        };
        let boot = facts.clocks.boot;
        HostFacts {
            id: Some(self.node),
            name: Some(facts.about.host_name.clone()).filter(|name| !name.is_empty()),
            boot_id: (boot != BootId::UNKNOWN).then(|| boot.to_string().into()),
            labels: facts.about.labels.clone(),
            rule_set: (facts.rule_set != RuleSetVersion::NONE).then(|| facts.rule_set.to_string().into()),
        }
    }

    /// The digest of a header's bytes, whatever their version.
    pub(crate) fn digest(bytes: &[u8]) -> Digest {
        DOMAIN.digest(bytes)
    }

    fn read_common(reader: &mut Reader<'_>, version: u16) -> Result<Self, ParseError> {
        let node = reader.node()?;
        let epoch = reader.epoch()?;
        let number = reader.number("number")?;
        let oldest_unacknowledged = reader.number("oldest unacknowledged number")?;
        if oldest_unacknowledged > number {
            return Err(reader.invalid("oldest unacknowledged number"));
        }
        let key = reader.key()?;
        let len = reader.u32()?;
        if len as usize > MAX_PAYLOAD_LEN {
            let (found, bound) = (len.into(), MAX_PAYLOAD_LEN as u64);
            return Err(ParseError::OutOfBounds { what: WHAT, field: "payload bytes", found, bound });
        }
        let payload = PayloadRef { len, digest: reader.digest()? };
        let link = Link::read(reader, epoch)?;
        if matches!(link, Link::Previous(_)) == (number == BatchSeq::FIRST) {
            return Err(reader.invalid("link"));
        }
        Ok(Self { version, node, epoch, number, oldest_unacknowledged, key, payload, link, facts: None })
    }
}

impl Link {
    pub(crate) fn write(&self, out: &mut Writer) {
        match self {
            Self::Previous(digest) => {
                out.u8(0);
                out.raw(digest.as_bytes());
            }
            Self::Successor { epoch, heads } => {
                out.u8(1);
                out.raw(epoch.as_bytes());
                out.u8(heads.len() as u8);
                for head in heads {
                    out.head(head);
                }
            }
            Self::Unknown { why, epoch } => {
                out.u8(2);
                out.u8(*why as u8);
                out.u8(epoch.is_some().into());
                if let Some(epoch) = epoch {
                    out.raw(epoch.as_bytes());
                }
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>, own: EpochId) -> Result<Self, ParseError> {
        match reader.u8()? {
            0 => reader.digest().map(Self::Previous),
            1 => {
                let epoch = reader.epoch()?;
                let count = usize::from(reader.u8()?);
                if epoch == own || !(1..=MAX_HEADS).contains(&count) {
                    return Err(reader.invalid("predecessor"));
                }
                let heads = (0..count).map(|_| reader.head()).collect::<Result<_, _>>()?;
                Ok(Self::Successor { epoch, heads })
            }
            2 => {
                let why = UnknownPredecessor::ALL.get(usize::from(reader.u8()?)).copied();
                let why = why.ok_or_else(|| reader.invalid("predecessor"))?;
                let epoch = match reader.u8()? {
                    0 => None,
                    1 => Some(reader.epoch()?),
                    _ => return Err(reader.invalid("predecessor")),
                };
                if epoch == Some(own) {
                    return Err(reader.invalid("predecessor"));
                }
                Ok(Self::Unknown { why, epoch })
            }
            _ => Err(reader.invalid("link")),
        }
    }

    /// The epoch that this one follows, if it is named.
    pub fn predecessor(&self) -> Option<EpochId> {
        match self {
            Self::Previous(_) => None,
            Self::Successor { epoch, .. } => Some(*epoch),
            Self::Unknown { epoch, .. } => *epoch,
        }
    }

    /// The digest of the batch one number below, if this is not the first.
    pub fn previous(&self) -> Option<Digest> {
        match self {
            Self::Previous(digest) => Some(*digest),
            _ => None,
        }
    }
}

impl Facts {
    fn write(&self, out: &mut Writer, own: EpochId) {
        out.u8(self.codec as u8);
        out.raw(self.dictionary.as_bytes());
        out.u8(priority_code(self.priority));
        out.varint(self.events.into());
        out.varint(self.cumulative);
        if let Some(times) = self.times {
            times.write(out);
        }
        out.raw(self.rule_set.as_bytes());
        self.about.write(out);
        self.clocks.write(out);
        AckSeen::write(self.last_ack.as_ref(), own, out);
        Loss::write_all(&self.losses, out);
    }

    fn read(reader: &mut Reader<'_>, own: EpochId) -> Result<Self, ParseError> {
        let codec =
            Codec::ALL.get(usize::from(reader.u8()?)).copied().ok_or_else(|| reader.invalid("codec"))?;
        let dictionary = DictionaryId::from_bytes(reader.array()?);
        if (codec == Codec::ZstdDictionary) == (dictionary == DictionaryId::NONE) {
            return Err(reader.invalid("dictionary"));
        }
        let priority = priority_of(reader.u8()?).ok_or_else(|| reader.invalid("priority"))?;
        let events = reader.bounded("events", MAX_EVENTS.into())? as u32;
        let cumulative = reader.varint()?;
        if cumulative < events.into() {
            return Err(reader.invalid("cumulative event count"));
        }
        let times = if events == 0 { None } else { Some(TimeRange::read(reader)?) };
        let rule_set = RuleSetVersion::from_bytes(reader.array()?);
        let about = Box::new(NodeFacts::read(reader)?);
        let clocks = Clocks::read(reader)?;
        let last_ack = AckSeen::read(reader, own)?;
        let losses = Loss::read_all(reader)?;
        Ok(Self {
            codec,
            dictionary,
            priority,
            events,
            cumulative,
            times,
            rule_set,
            about,
            clocks,
            last_ack,
            losses,
        })
    }

    /// What a writer must keep so that a reader takes the header.
    pub(crate) fn in_bounds(&self) -> bool {
        self.events <= MAX_EVENTS
            && self.times.is_some() == (self.events > 0)
            && self.losses.len() <= MAX_LOSSES
            && self.clocks.facts.len() <= MAX_CLOCK_FACTS
            && self.about.in_bounds()
    }
}

pub(crate) fn priority_code(priority: Priority) -> u8 {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

pub(crate) fn priority_of(code: u8) -> Option<Priority> {
    [Priority::Low, Priority::Normal, Priority::High].get(usize::from(code)).copied()
}
