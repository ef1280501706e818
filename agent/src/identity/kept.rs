//! The identity while the agent runs: the few things that may change, and the one way in which they are changed.
//!
//! The pipeline pins the site's keys and rotates the node's; the shipper's transport adds the certificate for a new
//! key. Every change is read, made and written under one lock and replaces the file whole, so that a crash leaves what
//! was before or what came after.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use auditflow_event::Timestamp;
use auditflow_wire::enrol::MAX_ROTATIONS;
use auditflow_wire::node_keys::MAX_SEALED;
use auditflow_wire::{EpochId, Head, KeyId, NodeKey, NodeRotation, Signed, SitePins};

use super::{Identity, IdentityError};
use crate::hardware::Hardware;
use crate::spool::SpoolError;

/// Past keys whose public halves are kept, to check what waits in the spool.
pub(super) const MAX_RETIRED: usize = 64;

/// The identity's file, shared by those who change it.
#[derive(Debug, Clone)]
pub struct Kept {
    data_dir: PathBuf,
    hardware: Hardware,
    changing: Arc<Mutex<()>>,
    keys: Arc<AtomicU64>,
}

/// What the spool holds when the node's key changes.
#[derive(Debug, Clone)]
pub struct LastSealed {
    /// The current epoch.
    pub epoch: EpochId,
    /// The last batch of each epoch of which something is held.
    pub heads: Vec<(EpochId, Head)>,
}

/// Why the node keeps its key.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Nobody knows the key in use; there is nobody to tell.
    #[error("the node has not joined a site: run auditflow-agent join URL TOKEN first")]
    NotJoined,
    /// Earlier rotations have not reached the collector.
    #[error(
        "the collector has not taken the last {MAX_ROTATIONS} rotations yet: restore the way to it first"
    )]
    Untold,
    /// More epochs wait than a rotation can name.
    #[error(
        "batches of more than {MAX_SEALED} runs of the agent wait to be delivered: let them be delivered first"
    )]
    TooMuchWaits,
    /// The spool can't be read.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The file can't be read or written, or no key can be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Kept {
    /// The identity in `data_dir`.
    pub fn new(data_dir: &Path, hardware: &Hardware) -> Self {
        let (data_dir, hardware) = (data_dir.to_owned(), hardware.clone());
        Self { data_dir, hardware, changing: Arc::default(), keys: Arc::default() }
    }

    /// As it is now.
    pub fn read(&self) -> Result<Option<Identity>, IdentityError> {
        Identity::read(&self.data_dir)
    }

    /// How many new keys the node has had since the start: whoever proves itself with one looks here for a newer.
    pub fn keys(&self) -> u64 {
        self.keys.load(Ordering::Acquire)
    }

    /// The site signs with these keys from now on.
    pub fn pin(&self, keys: SitePins) -> Result<(), IdentityError> {
        self.change(|identity| match &mut identity.site {
            Some(site) if site.keys != keys => {
                site.keys = keys;
                true
            }
            _ => false,
        })
    }

    /// The node signs with a new key from now on, which is returned. The old one is gone when this returns; its last
    /// word says what it had sealed. Nothing may be sealed in between.
    pub fn rotate(&self, sealed: LastSealed, at: Timestamp) -> Result<NodeKey, RotateError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut identity =
            self.read()?.filter(|identity| identity.site.is_some()).ok_or(RotateError::NotJoined)?;
        if !identity.uncertified {
            let told = (identity.rotations.len() + 1).saturating_sub(MAX_ROTATIONS);
            identity.rotations.drain(..told);
        }
        if identity.rotations.len() == MAX_ROTATIONS {
            return Err(RotateError::Untold);
        }
        if sealed.heads.len() > MAX_SEALED {
            return Err(RotateError::TooMuchWaits);
        }
        let (key, before) = (NodeKey::generate().map_err(IdentityError::from)?, identity.key);
        let LastSealed { epoch, heads } = sealed;
        let said = NodeRotation { node: identity.node, epoch, next: key.public(), at, sealed: heads };
        identity.rotations.push(Signed::sign(said, &before));
        let surplus = (identity.retired.len() + 1).saturating_sub(MAX_RETIRED);
        identity.retired.drain(..surplus);
        identity.retired.push(before.public());
        identity.key = key.clone();
        identity.uncertified = true;
        if let Err(error) = identity.save(&self.data_dir, &self.hardware) {
            // An error may come after the file was replaced; then the new key is the one that a next start would find.
            let replaced = self.read()?.is_some_and(|found| found.key.id() == key.id());
            if !replaced {
                return Err(error.into());
            }
        }
        self.keys.fetch_add(1, Ordering::AcqRel);
        Ok(key)
    }

    /// The site has made this client certificate for that key; no change if the key has given way to another since.
    pub fn certify(&self, key: KeyId, certificate: &str) -> Result<(), IdentityError> {
        self.change(|identity| match &mut identity.site {
            Some(site) if identity.key.id() == key => {
                certificate.clone_into(&mut site.client_certificate);
                identity.uncertified = false;
                true
            }
            _ => false,
        })
    }

    /// Writes what `change` made of the identity, if it says that it changed anything.
    fn change(&self, change: impl FnOnce(&mut Identity) -> bool) -> Result<(), IdentityError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut identity) = self.read()? else { return Ok(()) };
        if !change(&mut identity) {
            return Ok(());
        }
        identity.save(&self.data_dir, &self.hardware)
    }
}
