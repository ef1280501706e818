//! The node's signed word on what it still holds, sent on connecting and when an acknowledgement is overdue.
//!
//! Fed by the agent's spool; the collector answers with acknowledgements and learns what is lost for good: a number
//! that it never stored, below what the node still holds, comes from a restored backup on the collector's side
//! ([`crate::EpochLedger::settle`]). An epoch that is an ancestor of `epoch` and is not listed in a `complete` state
//! is not held at all. An old state that somebody replays says nothing new: what is let go of stays let go of.
//!
//! Body (signed by the node key): node 16 · epoch 16 · complete `u8` · node (see `node_facts`) · clocks and acknowledgement seen (see `facts`) ·
//! newest site key pinned `u8` 0 or 1, [id 8] · held varint ≤ 256, each: epoch 16 · lowest number `u64` · head `u8` 0 or 1, [number `u64`, digest 32].

use auditflow_event::NodeId;

use crate::facts::{AckSeen, Clocks};
use crate::ids::{BatchSeq, EpochId, Head, KeyId};
use crate::keys::{Domain, Node};
use crate::layout::{ParseError, Reader, Writer};
use crate::node_facts::NodeFacts;
use crate::statement::{Signed, Statement};

/// The most epochs that one state lists.
pub const MAX_HELD: usize = 256;

/// A state with its signature.
pub type SignedState = Signed<State>;

/// What a node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The node.
    pub node: NodeId,
    /// Its current epoch.
    pub epoch: EpochId,
    /// Whether `held` lists every epoch of which something is held; `false` when there are more than 256.
    pub complete: bool,
    /// What the node says of itself now.
    pub about: NodeFacts,
    /// The clocks now.
    pub clocks: Clocks,
    /// The newest acknowledgement accepted.
    pub last_ack: Option<AckSeen>,
    /// The newest key of the site that the node has pinned: the collector answers with the rotations after it.
    pub site_key: Option<KeyId>,
    /// Oldest epoch first; the current one is always listed.
    pub held: Vec<Held>,
}

/// What is held of one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The epoch.
    pub epoch: EpochId,
    /// The lowest number held; the number after the head when nothing is.
    pub lowest: BatchSeq,
    /// The newest sealed batch, if any was sealed.
    pub head: Option<Head>,
}

impl Statement for State {
    const WHAT: &'static str = "node state";
    const MAGIC: [u8; 4] = *b"AFST";
    const DOMAIN: Domain = Domain("auditflow node state v1");
    const MAX_LEN: usize = 32 << 10;
    type Signer = Node;

    fn write(&self, out: &mut Writer) {
        out.raw(self.node.as_bytes());
        out.raw(self.epoch.as_bytes());
        let held = self.held.get(..MAX_HELD).unwrap_or(&self.held);
        out.u8((self.complete && held.len() == self.held.len()).into());
        self.about.write(out);
        self.clocks.write(out);
        AckSeen::write(self.last_ack.as_ref(), self.epoch, out);
        out.u8(self.site_key.is_some().into());
        self.site_key.iter().for_each(|key| out.raw(key.as_bytes()));
        out.varint(held.len() as u64);
        for held in held {
            out.raw(held.epoch.as_bytes());
            out.number(held.lowest);
            Head::write_optional(held.head.as_ref(), out);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (node, epoch) = (reader.node()?, reader.epoch()?);
        let complete = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(reader.invalid("completeness")),
        };
        let about = NodeFacts::read(reader)?;
        let clocks = Clocks::read(reader)?;
        let last_ack = AckSeen::read(reader, epoch)?;
        let site_key = match reader.u8()? {
            0 => None,
            1 => Some(reader.key()?),
            _ => return Err(reader.invalid("site key")),
        };
        let count = reader.bounded("epochs", MAX_HELD as u64)?;
        let held = (0..count).map(|_| Held::read(reader)).collect::<Result<_, _>>()?;
        Ok(Self { node, epoch, complete, about, clocks, last_ack, site_key, held })
    }
}

impl Held {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (epoch, lowest) = (reader.epoch()?, reader.number("lowest number")?);
        let head = Head::read_optional(reader)?;
        let next = head.map_or(1, |head| head.number.get() + 1);
        if lowest.get() > next {
            return Err(reader.invalid("lowest number"));
        }
        Ok(Self { epoch, lowest, head })
    }
}
