//! A node's keys: the one in use, those before it, and the statements by which each gave way to the next.
//!
//! Fed by `auditflow-agent key rotate`, whose statement reaches the collector's `/agent/v1/keys`; consulted by ingest
//! and by `verify` for everything that a node signs. A retired key speaks only for what its own rotation says it had
//! sealed, so that batches which waited in the spool still count and whoever finds the old key afterwards has nothing
//! to add. See ADR 12.
//!
//! **Node rotation** body (signed by the key that gives way): node 16 · its epoch 16 · next key 32 · when,
//! microseconds `i64` · sealed varint ≤ 256, each: epoch 16 · last number `u64`, digest 32.

use auditflow_event::{NodeId, Timestamp};

use crate::ids::{BatchSeq, EpochId, Head, KeyId};
use crate::keys::{Domain, KeyRing, Node, NodePublicKey, PublicKey};
use crate::layout::{ParseError, Reader, Writer};
use crate::statement::{BadSignature, Signed, Statement};

/// The most epochs of which batches may wait when a key gives way.
pub const MAX_SEALED: usize = 256;

/// A node's rotation with its signature.
pub type SignedNodeRotation = Signed<NodeRotation>;

/// “From now on I sign with this key; what waits under mine ends here.”
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRotation {
    /// The node.
    pub node: NodeId,
    /// The epoch in which it happened.
    pub epoch: EpochId,
    /// The key in use from now on.
    pub next: NodePublicKey,
    /// When, by the node's clock.
    pub at: Timestamp,
    /// The last batch of each epoch of which the node still holds something.
    pub sealed: Vec<(EpochId, Head)>,
}

impl NodeRotation {
    /// Whether this says how far the key that gives way had sealed this epoch.
    fn names(&self, epoch: EpochId) -> bool {
        self.epoch == epoch || self.sealed.iter().any(|(sealed, _)| *sealed == epoch)
    }

    /// Whether the key that gives way had sealed this number by then.
    fn covers(&self, epoch: EpochId, number: BatchSeq) -> bool {
        self.sealed.iter().any(|(sealed, last)| *sealed == epoch && number <= last.number)
    }
}

impl Statement for NodeRotation {
    const WHAT: &'static str = "node key rotation";
    const MAGIC: [u8; 4] = *b"AFNK";
    const DOMAIN: Domain = Domain("auditflow node key rotation v1");
    const MAX_LEN: usize = 16 << 10;
    type Signer = Node;

    fn write(&self, out: &mut Writer) {
        out.raw(self.node.as_bytes());
        out.raw(self.epoch.as_bytes());
        out.raw(self.next.as_bytes());
        out.time(self.at);
        let sealed = self.sealed.get(..MAX_SEALED).unwrap_or(&self.sealed);
        out.varint(sealed.len() as u64);
        for (epoch, last) in sealed {
            out.raw(epoch.as_bytes());
            out.head(last);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (node, epoch) = (reader.node()?, reader.epoch()?);
        let next = PublicKey::from_bytes(&reader.array()?).map_err(|_| reader.invalid("public key"))?;
        let at = reader.time("time")?;
        let count = reader.bounded("epochs", MAX_SEALED as u64)?;
        let sealed = (0..count).map(|_| Ok((reader.epoch()?, reader.head()?))).collect::<Result<_, _>>()?;
        Ok(Self { node, epoch, next, at, sealed })
    }
}

/// Why a key does not speak for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotASigner {
    /// It never was the node's.
    #[error("key {0} is not the node's")]
    Unknown(KeyId),
    /// It was, and had not sealed this batch when it gave way to the next.
    #[error("key {0} was retired before it could have signed this")]
    Retired(KeyId),
}

/// Why a rotation is not followed. The keys stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NodeRotationError {
    /// No key of the node has the id that it names.
    #[error("key {0} is not the node's: statements before this one are missing, or it is another node's")]
    Unknown(KeyId),
    /// It is not signed by the key that it names.
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// The key has given way to another one already: it is in use twice.
    #[error(
        "key {0} has given way to another key before: the node was cloned or restored, or its old key stolen"
    )]
    Contradiction(KeyId),
    /// The next key was the node's before.
    #[error("key {0} was this node's before: a key does not come back")]
    Reused(KeyId),
}

/// A node's keys. Collected from keys that the caller trusts, then told of the rotations between them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeKeys {
    ring: KeyRing<Node>,
    rotations: Vec<SignedNodeRotation>,
}

impl NodeKeys {
    /// Keys and rotations of whoever followed them before, in any order.
    pub fn followed(
        keys: impl IntoIterator<Item = NodePublicKey>,
        rotations: Vec<SignedNodeRotation>,
    ) -> Self {
        Self { ring: keys.into_iter().collect(), rotations }
    }

    /// Whether it is a node's that has none: there is no such node.
    pub fn is_empty(&self) -> bool {
        self.ring.iter().next().is_none()
    }

    /// The key with this id, whatever it may still sign.
    pub fn get(&self, id: KeyId) -> Option<&NodePublicKey> {
        self.ring.get(id)
    }

    /// All keys, in the order in which they were added.
    pub fn all(&self) -> impl Iterator<Item = &NodePublicKey> {
        self.ring.iter()
    }

    /// The rotations between them.
    pub fn rotations(&self) -> &[SignedNodeRotation] {
        &self.rotations
    }

    /// The key in use: the last added that has not given way to another.
    pub fn current(&self) -> Option<&NodePublicKey> {
        self.ring.iter().rfind(|key| self.retirement(key.id()).is_none())
    }

    /// The key, if it may speak for this number of this epoch now: it is in use, or had sealed this when it gave way and
    /// this was still held.
    pub fn signer(&self, id: KeyId, epoch: EpochId, number: BatchSeq) -> Result<&NodePublicKey, NotASigner> {
        let key = self.ring.get(id).ok_or(NotASigner::Unknown(id))?;
        match self.retirement(id) {
            Some(rotation) if !rotation.covers(epoch, number) => Err(NotASigner::Retired(id)),
            _ => Ok(key),
        }
    }

    /// The key, if it may have signed this number of this epoch once. Of epochs that were delivered and let go of before
    /// it gave way its rotation says nothing; whether an epoch came before is the chain's to say.
    pub fn past_signer(
        &self,
        id: KeyId,
        epoch: EpochId,
        number: BatchSeq,
    ) -> Result<&NodePublicKey, NotASigner> {
        let key = self.ring.get(id).ok_or(NotASigner::Unknown(id))?;
        match self.retirement(id) {
            Some(rotation) if rotation.names(epoch) && !rotation.covers(epoch, number) => {
                Err(NotASigner::Retired(id))
            }
            _ => Ok(key),
        }
    }

    /// The epoch in which this key gave way to another, if it did.
    pub fn retired_in(&self, id: KeyId) -> Option<EpochId> {
        self.retirement(id).map(|rotation| rotation.epoch)
    }

    /// The key, if it is one in use: for what a node says of itself now.
    pub fn speaker(&self, id: KeyId) -> Result<&NodePublicKey, NotASigner> {
        let key = self.ring.get(id).ok_or(NotASigner::Unknown(id))?;
        if self.retirement(id).is_some() { Err(NotASigner::Retired(id)) } else { Ok(key) }
    }

    /// Follows a rotation; `false` if it was followed before. The signer has to be known, by an earlier rotation or anyhow.
    pub fn follow(&mut self, rotation: &SignedNodeRotation) -> Result<bool, NodeRotationError> {
        let signer = rotation.key();
        let key = self.ring.get(signer).ok_or(NodeRotationError::Unknown(signer))?;
        let next = rotation.verify(key)?.next;
        match self.statement(signer) {
            Some(known) if known == rotation => return Ok(false),
            Some(_) => return Err(NodeRotationError::Contradiction(signer)),
            None => {}
        }
        let led_to = |other: &SignedNodeRotation| other.unverified().next == next;
        if self.leads_to(next.id(), signer) || self.rotations.iter().any(led_to) {
            return Err(NodeRotationError::Reused(next.id()));
        }
        self.ring.add(next);
        self.rotations.push(rotation.clone());
        Ok(true)
    }

    /// Whether a key is another one, or gave way to it sooner or later. Ends: no key is led to twice.
    fn leads_to(&self, mut from: KeyId, to: KeyId) -> bool {
        while from != to {
            let Some(rotation) = self.retirement(from) else { return false };
            from = rotation.next.id();
        }
        true
    }

    fn statement(&self, id: KeyId) -> Option<&SignedNodeRotation> {
        self.rotations.iter().find(|rotation| rotation.key() == id)
    }

    /// What a key said last. It was proved when it was followed.
    fn retirement(&self, id: KeyId) -> Option<&NodeRotation> {
        self.statement(id).map(Signed::unverified)
    }
}

impl FromIterator<NodePublicKey> for NodeKeys {
    fn from_iter<I: IntoIterator<Item = NodePublicKey>>(keys: I) -> Self {
        Self { ring: keys.into_iter().collect(), rotations: Vec::new() }
    }
}
