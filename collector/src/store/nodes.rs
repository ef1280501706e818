//! Nodes: who they are, how complete their data is, what is wrong with it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{
    BatchSeq, BootId, EpochId, Head, NodeKeys, NodePublicKey, NodeRotationError, SignedNodeRotation,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{By, Result};

/// Enrolment, keys, and the nodes' state as the page shows it.
#[async_trait]
pub trait NodeStore {
    /// One transaction: takes one use of the join token and adds the node with its key; writes the audit trail.
    async fn enrol(&self, enrolment: Enrolment) -> Result<EnrolOutcome>;

    /// One transaction: follows rotations of the node's key, oldest first, and writes the audit trail. Those that were
    /// followed before change nothing; if one can't be followed, none is.
    async fn rotate_node_key(
        &self,
        node: NodeId,
        rotations: Vec<SignedNodeRotation>,
        now: Timestamp,
    ) -> Result<KeyOutcome>;

    /// What ingest asks before it takes anything: whether the node may send, and its keys. None: no such node.
    async fn node_access(&self, node: NodeId) -> Result<Option<(NodeStatus, NodeKeys)>>;

    /// A node's keys and the rotations between them. Empty: there is no such node.
    async fn node_keys(&self, node: NodeId) -> Result<NodeKeys>;

    /// Approves or revokes a node; writes the audit trail. False: there is no such node.
    async fn set_node_status(&self, node: NodeId, status: NodeStatus, by: By, now: Timestamp)
    -> Result<bool>;

    /// Every node, by host name.
    async fn nodes(&self) -> Result<Vec<NodeRow>>;

    /// One node.
    async fn node(&self, id: NodeId) -> Result<Option<NodeRow>>;

    /// Keeps what a source of the node last said of itself (an `agent_state` event), unless a newer word is known.
    async fn set_coverage(&self, node: NodeId, source: &str, coverage: Coverage) -> Result<()>;

    /// Raises a flag, once per (node, epoch, number, kind); again only counts. A closed flag opens again.
    async fn raise_flag(&self, flag: NewFlag) -> Result<()>;

    /// Flags, newest first: of one node or of all, open ones only or all.
    async fn flags(&self, node: Option<NodeId>, open_only: bool, limit: usize) -> Result<Vec<FlagRow>>;

    /// Closes a flag; writes the audit trail. False: there is none of that id, or it is closed.
    async fn close_flag(&self, id: i64, by: By, now: Timestamp) -> Result<bool>;

    /// How early times of a boot are to be shifted, once it is known that its clock was set. When that becomes known
    /// or changes, the boot's batches become due for analysis again, as a rewrite.
    async fn clock_shift(&self, node: NodeId, boot: BootId) -> Result<Option<ClockShift>>;

    /// Events stored per minute of arrival, in `from..=to`, oldest first; minutes without any are left out.
    async fn rates(&self, from: Timestamp, to: Timestamp) -> Result<Vec<RatePoint>>;
}

/// A node that asks to be let in.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// The id given to it.
    pub node: NodeId,
    /// The hash of the join token's secret.
    pub token: [u8; 32],
    /// The node's key.
    pub key: NodePublicKey,
    /// Its host name.
    pub hostname: String,
    /// Its agent's version.
    pub version: String,
    /// Its hardware's fingerprint.
    pub fingerprint: String,
    /// The node that it was before: its disk was cloned or moved.
    pub former: Option<NodeId>,
    /// The address that it asked from.
    pub origin: Option<IpAddr>,
    /// When it asked, by the collector's clock.
    pub now: Timestamp,
}

/// What became of an enrolment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnrolOutcome {
    /// The node is in and may send.
    Active,
    /// The node waits for approval: it says that it was another node before, on other hardware.
    Pending,
    /// The same key on the same hardware enrolled before, as this node: nothing was used up. True: it waits for
    /// approval.
    Known(NodeId, bool),
    /// The token is unknown, expired or used up.
    TokenRefused,
    /// The key was a node's and gave way to another one.
    KeyRetired,
}

/// What became of rotations of a node's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOutcome {
    /// This is the key in use.
    Current(NodePublicKey),
    /// A rotation can't be followed.
    Refused(NodeRotationError),
    /// The node has had as many keys as are kept.
    TooMany,
}

/// The most keys that are kept of one node: a new one every week for twenty years.
pub const MAX_NODE_KEYS: usize = 1024;

/// Whether a node may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// It may.
    Active,
    /// Not until somebody approves it.
    Pending,
    /// Not any more.
    Revoked,
}

impl NodeStatus {
    /// As the API and the store write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Pending => "pending",
            Self::Revoked => "revoked",
        }
    }

    /// The status of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Active, Self::Pending, Self::Revoked].into_iter().find(|status| status.name() == name)
    }
}

/// A node as the page shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// Its id.
    pub id: NodeId,
    /// Its host name.
    pub hostname: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its agent's version.
    pub version: String,
    /// Its kernel's release; empty before its first state.
    pub kernel: String,
    /// Its processor's architecture; empty before its first state.
    pub architecture: String,
    /// Whether it may send.
    pub status: NodeStatus,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// When it was last heard, by the collector's clock.
    pub last_seen: Option<Timestamp>,
    /// The newest event time stored, by the node's clock.
    pub last_event: Option<Timestamp>,
    /// How long after its time that event arrived, in microseconds: how far behind what the node sends is.
    pub lag: Option<i64>,
    /// The epoch last heard of, and how far it is stored without a gap.
    pub stored_through: Option<(EpochId, Option<Head>)>,
    /// Batches missing below what is stored, in all epochs, that the node may still send.
    pub holes: u64,
    /// Batches that the node last said it holds, less those stored since.
    pub owed: u64,
    /// Batches that are missing for good and unexplained.
    pub lost: u64,
    /// Batches stored, ever.
    pub batches: u64,
    /// Declared losses, by source and reason.
    pub losses: Vec<LossRow>,
    /// What is wrong and not closed, newest first; the chain is sound where this has no chain flag.
    pub flags: Vec<FlagRow>,
    /// What each source last said of itself.
    pub coverage: BTreeMap<String, Coverage>,
}

impl NodeRow {
    /// Whether everything the node ever numbered is here and linked, as far as is known.
    pub fn is_complete(&self) -> bool {
        self.holes == 0 && self.owed == 0 && self.lost == 0 && self.flags.is_empty()
    }
}

/// What a source said of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Coverage {
    /// `agent_state`'s condition.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// When it said so, by the node's clock.
    pub at: Timestamp,
    /// Its counters.
    #[serde(default)]
    pub counts: Map<String, Value>,
}

/// Losses that a node declared for one source and reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LossRow {
    /// Where.
    pub source: String,
    /// Why.
    pub reason: String,
    /// How many events; saturating.
    pub count: u64,
    /// How many declarations could not say how many.
    pub unknown: u64,
    /// When the last declaration arrived.
    pub last_at: Timestamp,
}

/// Something wrong with a node's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFlag {
    /// Whose.
    pub node: NodeId,
    /// In which epoch.
    pub epoch: EpochId,
    /// At which batch; none: the epoch as such.
    pub seq: Option<BatchSeq>,
    /// What.
    pub kind: FlagKind,
    /// In words, for the page.
    pub detail: String,
    /// When it was noticed.
    pub at: Timestamp,
}

/// A flag as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlagRow {
    /// Its id.
    pub id: i64,
    /// What it says.
    pub flag: NewFlag,
    /// How often it was raised.
    pub count: u64,
    /// When somebody closed it, and who.
    pub closed: Option<(Timestamp, String)>,
}

/// What may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlagKind {
    /// A number came again with other content, or one head got two successors: rolled back or cloned.
    Fork,
    /// A batch does not continue the one before it.
    BrokenLink,
    /// Batches are missing for good, and nothing the node signed explains them.
    Gap,
    /// Somebody sent a batch in the node's name that its key did not sign.
    BadSignature,
    /// A batch of a version or codec that this release can't read: judged after an upgrade.
    UnknownVersion,
    /// A batch whose signed header is sound and whose payload can't be read.
    Unreadable,
    /// The node's epoch follows no known one.
    UnknownPredecessor,
}

impl FlagKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Fork,
        Self::BrokenLink,
        Self::Gap,
        Self::BadSignature,
        Self::UnknownVersion,
        Self::Unreadable,
        Self::UnknownPredecessor,
    ];

    /// As the API and the store write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::BrokenLink => "broken_link",
            Self::Gap => "gap",
            Self::BadSignature => "bad_signature",
            Self::UnknownVersion => "unknown_version",
            Self::Unreadable => "unreadable",
            Self::UnknownPredecessor => "unknown_predecessor",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The one step of a boot's clock at its first synchronisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockShift {
    /// Times before this one, as the unset clock told it, are shifted.
    pub before: Timestamp,
    /// By this many microseconds.
    pub micros: i64,
}

impl ClockShift {
    /// The time with the step taken out.
    pub fn apply(self, time: Timestamp) -> Timestamp {
        let shifted = time.as_micros().saturating_add(self.micros);
        if time < self.before { Timestamp::from_micros(shifted) } else { time }
    }
}

/// Events that arrived in one minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RatePoint {
    /// The minute's start.
    pub minute: Timestamp,
    /// How many.
    pub events: u64,
}
