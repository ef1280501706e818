//! Who this node is: its id, its key, the site that knows it, and the hardware that all of this belongs to.
//!
//! One file, `identity.json` in the data directory, readable by its owner alone and replaced whole. Made at first
//! start with an id and a key of the node's own making, so that events are kept under them before the node has
//! joined a site; `join` adds what the site gave, and `kept` changes what may change while the agent runs. A copy of the file on other hardware (a cloned disk) is not used:
//! it is set aside, a new identity is made that names the former one, and the node has to join anew.

mod kept;

use std::io;
use std::path::{Path, PathBuf};

use auditflow_event::NodeId;
use auditflow_service::file;
use auditflow_wire::{KeyError, NodeKey, NodePublicKey, RandomError, SignedNodeRotation, SitePins};
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};

use crate::hardware::Hardware;

pub use kept::{Kept, LastSealed, RotateError};

const FILE: &str = "identity.json";
const FILE_MODE: u32 = 0o600;
const MAX_FILE_BYTES: u64 = 256 << 10;

/// The node's id and the key that it signs with.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    /// Its key.
    pub key: NodeKey,
    /// The id that a copied disk brought along, until the node has joined under its new one.
    pub former: Option<NodeId>,
    /// The site that knows it; `None` before `join`.
    pub site: Option<Site>,
    /// Keys before this one, oldest first.
    pub retired: Vec<NodePublicKey>,
    /// The last rotations that led to this key, oldest first: for the collector, which may not have heard of them.
    pub rotations: Vec<SignedNodeRotation>,
    /// Whether the client certificate is still one for an earlier key.
    pub uncertified: bool,
}

/// What the site gave when the node joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// The collector's address.
    pub url: String,
    /// The pinned certificate authority, PEM.
    pub ca_certificate: String,
    /// The node's client certificate with its chain, PEM; its key is the node's.
    pub client_certificate: String,
    /// What acknowledgements are signed with.
    pub keys: SitePins,
}

impl Site {
    /// Whether it is the same site at the same address; keys, the site's and the node's, may have changed since.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.url, &self.ca_certificate) == (&other.url, &other.ca_certificate)
    }
}

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read or written.
    #[error("cannot {attempt} {}; check the data directory's owner and mode", .path.display())]
    Io {
        /// What was attempted.
        attempt: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{} is damaged ({what}); restore it from backup, or move it away and join again", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The key can't ask for a certificate.
    #[error("cannot make a certificate request with the node's key: {0}")]
    Request(String),
    /// No key could be made.
    #[error("cannot make a key")]
    Key(#[from] KeyError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// What loading found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// An identity of this hardware.
    Known,
    /// None: it was made.
    Made,
    /// One of other hardware, which was set aside; a new one was made.
    Cloned,
}

impl Identity {
    /// Loads the identity in `data_dir`, or makes one. `hardware` is that of the machine at hand.
    pub fn load_or_make(data_dir: &Path, hardware: &Hardware) -> Result<(Self, Found), IdentityError> {
        let path = data_dir.join(FILE);
        let Some((stored, identity)) = Stored::read(&path)? else {
            let identity = Self::make(None)?;
            identity.save(data_dir, hardware)?;
            return Ok((identity, Found::Made));
        };
        if stored.hardware.may_be(hardware) {
            return Ok((identity, Found::Known));
        }
        let aside = data_dir.join(format!("{FILE}.{}", identity.node));
        std::fs::rename(&path, &aside).map_err(|source| IdentityError::Io {
            attempt: "set aside",
            path,
            source,
        })?;
        let new = Self::make(Some(identity.node))?;
        new.save(data_dir, hardware)?;
        Ok((new, Found::Cloned))
    }

    /// Reads the identity in `data_dir` as it is; `None` if there is none.
    pub fn read(data_dir: &Path) -> Result<Option<Self>, IdentityError> {
        Ok(Stored::read(&data_dir.join(FILE))?.map(|(_, identity)| identity))
    }

    /// The node has joined: the site knows this key, and no earlier one matters to it.
    pub fn join(&mut self, node: NodeId, site: Site) {
        (self.node, self.former, self.site) = (node, None, Some(site));
        (self.rotations, self.uncertified) = (Vec::new(), false);
    }

    /// Every key of the node, the one in use last.
    pub fn keys(&self) -> impl Iterator<Item = NodePublicKey> {
        self.retired.iter().copied().chain([self.key.public()])
    }

    /// A certificate signing request by the key in use, PEM. It names nobody: the site knows whom it is for.
    pub fn certificate_request(&self) -> Result<String, IdentityError> {
        let unusable = |error: rcgen::Error| IdentityError::Request(error.to_string());
        let key = KeyPair::from_pem(&self.key.to_pkcs8_pem()?).map_err(unusable)?;
        CertificateParams::default()
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(unusable)
    }

    /// Writes the identity, whole, so that only the data directory's owner can read it.
    pub fn save(&self, data_dir: &Path, hardware: &Hardware) -> Result<(), IdentityError> {
        let path = data_dir.join(FILE);
        let stored = Stored {
            node: self.node,
            key: self.key.to_pkcs8_pem()?,
            hardware: hardware.clone(),
            former: self.former,
            site: self.site.clone(),
            retired: self.retired.clone(),
            rotations: self.rotations.clone(),
            uncertified: self.uncertified,
        };
        let failed = |source| IdentityError::Io { attempt: "write", path: path.clone(), source };
        let text = serde_json::to_vec_pretty(&stored).map_err(|error| failed(error.into()))?;
        file::write_atomic(&path, &text, FILE_MODE).map_err(failed)?;
        // `join` runs as root, the agent as a user of its own, to whom the directory belongs.
        file::give_to_owner_of(data_dir, &path).map_err(failed)
    }

    fn make(former: Option<NodeId>) -> Result<Self, IdentityError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(RandomError::from)?;
        let (node, key) = (NodeId::from_bytes(id), NodeKey::generate()?);
        let (retired, rotations, uncertified) = Default::default();
        Ok(Self { node, key, former, site: None, retired, rotations, uncertified })
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    node: NodeId,
    /// PKCS#8, PEM.
    key: String,
    hardware: Hardware,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<NodeId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    site: Option<Site>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    retired: Vec<NodePublicKey>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rotations: Vec<SignedNodeRotation>,
    #[serde(default)]
    uncertified: bool,
}

impl Stored {
    fn read(path: &Path) -> Result<Option<(Self, Identity)>, IdentityError> {
        let bytes = match file::read_bounded(path, MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::Io { attempt: "read", path: path.to_owned(), source }),
        };
        let damaged = |what: String| IdentityError::Damaged { path: path.to_owned(), what };
        let stored: Self = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let key = NodeKey::from_pkcs8_pem(&stored.key).map_err(|error| damaged(error.to_string()))?;
        let identity = Identity {
            node: stored.node,
            key,
            former: stored.former,
            site: stored.site.clone(),
            retired: stored.retired.clone(),
            rotations: stored.rotations.clone(),
            uncertified: stored.uncertified,
        };
        Ok(Some((stored, identity)))
    }
}

#[cfg(test)]
mod tests;
