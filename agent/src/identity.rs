//! Who this node is: its id, its key, the site that knows it, and the hardware that all of this belongs to.
//!
//! One file, `identity.json` in the data directory, readable by its owner alone and replaced whole. Made at first
//! start with an id and a key of the node's own making, so that events are kept under them before the node has
//! joined a site; `join` adds what the site gave. A copy of the file on other hardware (a cloned disk) is not used:
//! it is set aside, a new identity is made that names the former one, and the node has to join anew.

use std::io;
use std::path::{Path, PathBuf};

use auditflow_event::NodeId;
use auditflow_service::file;
use auditflow_wire::{KeyError, NodeKey, RandomError, SitePins};
use serde::{Deserialize, Serialize};

use crate::hardware::Hardware;

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

/// Where the site's keys are pinned while the agent runs.
#[derive(Debug, Clone)]
pub struct Pins {
    data_dir: PathBuf,
    hardware: Hardware,
}

impl Pins {
    /// In the identity in `data_dir`.
    pub fn new(data_dir: &Path, hardware: &Hardware) -> Self {
        Self { data_dir: data_dir.to_owned(), hardware: hardware.clone() }
    }

    /// The site signs with these keys from now on. A crash leaves the pins of before or these.
    pub fn pin(&self, keys: SitePins) -> Result<(), IdentityError> {
        let Some(mut identity) = Identity::read(&self.data_dir)? else { return Ok(()) };
        let Some(site) = &mut identity.site else { return Ok(()) };
        if site.keys == keys {
            return Ok(());
        }
        site.keys = keys;
        identity.save(&self.data_dir, &self.hardware)
    }
}

impl Site {
    /// Whether the node has joined the same site in the same way; its keys may have rotated since.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.url, &self.ca_certificate, &self.client_certificate)
            == (&other.url, &other.ca_certificate, &other.client_certificate)
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

    /// Writes the identity, whole, so that only the data directory's owner can read it.
    pub fn save(&self, data_dir: &Path, hardware: &Hardware) -> Result<(), IdentityError> {
        let path = data_dir.join(FILE);
        let stored = Stored {
            node: self.node,
            key: self.key.to_pkcs8_pem()?,
            hardware: hardware.clone(),
            former: self.former,
            site: self.site.clone(),
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
        Ok(Self { node: NodeId::from_bytes(id), key: NodeKey::generate()?, former, site: None })
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
        let identity = Identity { node: stored.node, key, former: stored.former, site: stored.site.clone() };
        Ok(Some((stored, identity)))
    }
}

#[cfg(test)]
mod tests;
