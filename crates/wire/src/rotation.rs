//! The site's key changes: who says so, and how a node follows however long it was away.
//!
//! Fed by `auditflow-collector keys rotate`; served by ingest to a node whose [`crate::State`] names an older key;
//! followed by the agent. A site has a key in use and the next one; a node pins both at enrolment. The statement
//! “after mine comes this key” is signed by a key when it comes into use (the first one when the site is made), so
//! statements form a chain from any key that a node may have pinned, and whoever steals the key in use can't lead a
//! node anywhere: that node knows its successor already. See ADR 9.
//!
//! **Rotation** body: the key that comes after the signer's 32 · when, microseconds `i64`.

use auditflow_event::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::KeyId;
use crate::keys::{Domain, PublicKey, Site, SitePublicKey};
use crate::layout::{ParseError, Reader, Writer};
use crate::statement::{BadSignature, Signed, Statement};

/// A rotation with its signature.
pub type SignedRotation = Signed<Rotation>;

/// “After my key comes this one.”
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The key that comes after the signer's.
    pub next: SitePublicKey,
    /// When the signer came into use, by the collector's clock.
    pub at: Timestamp,
}

impl Statement for Rotation {
    const WHAT: &'static str = "key rotation";
    const MAGIC: [u8; 4] = *b"AFKR";
    const DOMAIN: Domain = Domain("auditflow key rotation v1");
    const MAX_LEN: usize = 128;
    type Signer = Site;

    fn write(&self, out: &mut Writer) {
        out.raw(self.next.as_bytes());
        out.time(self.at);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ParseError> {
        let next = PublicKey::from_bytes(&reader.array()?).map_err(|_| reader.invalid("public key"))?;
        Ok(Self { next, at: reader.time("time")? })
    }
}

/// The site's keys that a node has pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePins {
    /// The key in use, as far as the node knows.
    pub current: SitePublicKey,
    /// The one after it, where that is decided. Its signatures count too: it may be in use by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<SitePublicKey>,
}

/// Why a rotation is not followed. Pins stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// Neither pinned key signed it.
    #[error("no pinned key signed it: it is forged, or statements before it are missing")]
    Signature(#[from] BadSignature),
    /// The key in use names another successor than the one that is pinned.
    #[error("key {signer} names {named} as the key after it, but {pinned} is pinned: one of them is forged")]
    Contradiction {
        /// The key in use.
        signer: KeyId,
        /// What it names now.
        named: KeyId,
        /// What it named before.
        pinned: KeyId,
    },
}

impl SitePins {
    /// The pinned key with this id, in use or next.
    pub fn get(&self, id: KeyId) -> Option<&SitePublicKey> {
        [Some(&self.current), self.next.as_ref()].into_iter().flatten().find(|key| key.id() == id)
    }

    /// The newest pinned key: what a collector has to go on from.
    pub fn newest(&self) -> KeyId {
        self.next.unwrap_or(self.current).id()
    }

    /// Follows one statement of the chain; `false` if it says nothing new. When the next key speaks, it has come into
    /// use, and the one before it counts no more.
    pub fn follow(&mut self, rotation: &SignedRotation) -> Result<bool, RotationError> {
        let signer = *self.get(rotation.key()).ok_or(BadSignature { key: rotation.key() })?;
        let named = rotation.verify(&signer)?.next;
        if signer != self.current {
            *self = Self { current: signer, next: Some(named) };
            return Ok(true);
        }
        match self.next {
            Some(pinned) if pinned == named => Ok(false),
            Some(pinned) => {
                let (signer, named, pinned) = (signer.id(), named.id(), pinned.id());
                Err(RotationError::Contradiction { signer, named, pinned })
            }
            None => {
                self.next = Some(named);
                Ok(true)
            }
        }
    }
}
