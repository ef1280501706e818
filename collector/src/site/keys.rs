//! The keys that acknowledgements are signed with: the one in use, the next one, and the chain that leads to them.
//!
//! One file, `site/keys.json`, replaced whole: a rotation is there or it is not, wherever the process is killed. Fed by
//! `keys rotate`, which may run beside the collector; that looks for a new file every few seconds ([`SiteKeys::refresh`])
//! and signs with what it finds. Both keys are pinned on every node, so none is surprised.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use auditflow_event::Timestamp;
use auditflow_service::file::{self, DirectoryLock};
use auditflow_wire::{KeyId, Rotation, Signed, SignedRotation, SiteKey, SitePins, SitePublicKey};
use serde::{Deserialize, Serialize};

use super::SiteError;

pub(super) const FILE: &str = "keys.json";
/// More than the file has after [`MAX_ROTATIONS`].
const MAX_FILE: u64 = 1 << 20;
/// Rotations that are kept: one a day for years.
const MAX_ROTATIONS: usize = 2048;
/// Rotations that one answer carries; a node that needs more gets them with its next answers.
const MAX_SERVED: usize = 64;

/// The site's keys at one moment.
#[derive(Debug)]
pub struct Keys {
    /// Signs.
    pub signing: SiteKey,
    next: SiteKey,
    /// Keys that signed before, oldest first: `verify` needs them.
    past: Vec<SitePublicKey>,
    /// Each key naming the next, oldest first, up to the one in use.
    rotations: Vec<SignedRotation>,
}

/// The site's keys, followed as their file changes.
#[derive(Clone)]
pub struct SiteKeys {
    path: PathBuf,
    current: Arc<RwLock<Arc<Keys>>>,
}

impl Keys {
    /// What a node pins when it enrols.
    pub fn pins(&self) -> SitePins {
        SitePins { current: self.signing.public(), next: Some(self.next.public()) }
    }

    /// Every key of the site, in use, next and past: for `verify`.
    pub fn all(&self) -> impl Iterator<Item = SitePublicKey> {
        [self.signing.public(), self.next.public()].into_iter().chain(self.past.iter().rev().copied())
    }

    /// What a node that has pinned `newest` and nothing newer has to be told, in order; nothing if no key of this site
    /// is called that.
    pub fn rotations_after(&self, newest: KeyId) -> &[SignedRotation] {
        let from = self.rotations.iter().position(|rotation| rotation.key() == newest);
        let after = from.and_then(|from| self.rotations.get(from..)).unwrap_or_default();
        after.get(..MAX_SERVED).unwrap_or(after)
    }

    fn make(now: Timestamp) -> Result<Self, SiteError> {
        let (signing, next) = (SiteKey::generate()?, SiteKey::generate()?);
        let rotations = vec![Signed::sign(Rotation { next: next.public(), at: now }, &signing)];
        Ok(Self { signing, next, past: Vec::new(), rotations })
    }

    fn rotated(self, now: Timestamp) -> Result<Self, SiteError> {
        let Self { signing, next, mut past, mut rotations } = self;
        let after = SiteKey::generate()?;
        past.push(signing.public());
        rotations.push(Signed::sign(Rotation { next: after.public(), at: now }, &next));
        let surplus = rotations.len().saturating_sub(MAX_ROTATIONS);
        rotations.drain(..surplus);
        Ok(Self { signing: next, next: after, past, rotations })
    }

    fn read(path: &Path) -> Result<Self, SiteError> {
        let failed = |source| SiteError::File { path: path.to_owned(), source };
        let damaged = |source: Box<dyn std::error::Error + Send + Sync>| SiteError::Damaged {
            path: path.to_owned(),
            source,
        };
        let bytes = file::read_bounded(path, MAX_FILE).map_err(failed)?;
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| damaged(error.into()))?;
        stored.open().map_err(damaged)
    }

    fn write(&self, path: &Path) -> Result<(), SiteError> {
        let failed = |source| SiteError::File { path: path.to_owned(), source };
        let stored = Stored {
            signing: self.signing.to_seed_hex(),
            next: self.next.to_seed_hex(),
            past: self.past.clone(),
            rotations: self
                .rotations
                .iter()
                .map(|rotation| data_encoding::HEXLOWER.encode(rotation.as_bytes()))
                .collect(),
        };
        let text = serde_json::to_vec_pretty(&stored).map_err(|error| failed(error.into()))?;
        file::write_atomic(path, &text, 0o600).map_err(failed)?;
        file::give_to_owner_of(path.parent().unwrap_or(path), path).map_err(failed)
    }
}

impl SiteKeys {
    pub(super) fn make(directory: &Path, now: Timestamp) -> Result<(), SiteError> {
        Keys::make(now)?.write(&directory.join(FILE))
    }

    pub(super) fn open(directory: &Path) -> Result<Self, SiteError> {
        let path = directory.join(FILE);
        let keys = Keys::read(&path)?;
        Ok(Self { path, current: Arc::new(RwLock::new(Arc::new(keys))) })
    }

    /// The keys as they are now.
    pub fn get(&self) -> Arc<Keys> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again; what is wrong with it leaves the keys as they were. True: they are others now.
    pub fn refresh(&self) -> Result<bool, SiteError> {
        let keys = Keys::read(&self.path)?;
        if keys.signing.id() == self.get().signing.id() {
            return Ok(false);
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(true)
    }

    /// The next key comes into use, and a new next one is made. Two rotations at once wait for nobody: one is refused.
    pub fn rotate(&self, now: Timestamp) -> Result<Arc<Keys>, SiteError> {
        let directory = self.path.parent().unwrap_or(&self.path);
        let _lock = DirectoryLock::acquire(directory)
            .map_err(|source| SiteError::Locked { path: directory.to_owned(), source })?;
        let given = file::give_to_owner_of(directory, &directory.join("lock"));
        given.map_err(|source| SiteError::File { path: directory.join("lock"), source })?;
        Keys::read(&self.path)?.rotated(now)?.write(&self.path)?;
        self.refresh()?;
        Ok(self.get())
    }
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Seeds, hexadecimal.
    signing: String,
    next: String,
    past: Vec<SitePublicKey>,
    /// Statements, hexadecimal.
    rotations: Vec<String>,
}

impl Stored {
    /// Nothing is taken on trust: the chain must lead to these very keys.
    fn open(&self) -> Result<Keys, Box<dyn std::error::Error + Send + Sync>> {
        let (signing, next) = (SiteKey::from_seed_hex(&self.signing)?, SiteKey::from_seed_hex(&self.next)?);
        let mut rotations = Vec::with_capacity(self.rotations.len());
        for text in &self.rotations {
            rotations.push(SignedRotation::parse(&data_encoding::HEXLOWER.decode(text.as_bytes())?)?);
        }
        let last = rotations.last().ok_or("it holds no rotation")?;
        if last.verify(&signing.public())?.next != next.public() {
            return Err("its last rotation names another key than the next one".into());
        }
        let linked = rotations.windows(2).all(|pair| pair[0].unverified().next.id() == pair[1].key());
        if !linked {
            return Err("its rotations are no chain".into());
        }
        Ok(Keys { signing, next, past: self.past.clone(), rotations })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn made() -> (tempfile::TempDir, SiteKeys) {
        let directory = tempfile::tempdir().unwrap();
        SiteKeys::make(directory.path(), at(0)).unwrap();
        let keys = SiteKeys::open(directory.path()).unwrap();
        (directory, keys)
    }

    #[test]
    fn a_rotation_brings_the_next_key_into_use_and_keeps_the_old_one_for_verify() {
        let (directory, keys) = made();
        let before = keys.get();
        let running = SiteKeys::open(directory.path()).unwrap();
        let after = keys.rotate(at(1)).unwrap();
        assert_eq!(Some(after.signing.public()), before.pins().next);
        assert!(after.all().any(|key| key == before.signing.public()));
        assert_eq!(after.all().count(), 3);
        // The collector that runs beside the command.
        assert_eq!(running.get().signing.id(), before.signing.id());
        assert!(running.refresh().unwrap() && !running.refresh().unwrap());
        assert_eq!(running.get().signing.id(), after.signing.id());
    }

    #[test]
    fn whoever_was_away_gets_the_chain_from_the_key_it_knows() {
        let (_directory, keys) = made();
        let mut history = vec![keys.get().pins()];
        for second in 1..=100 {
            history.push(keys.rotate(at(second)).unwrap().pins());
        }
        let now = keys.get();
        for (away, pins) in history.iter().enumerate() {
            let mut pins = *pins;
            let mut answers = 0;
            while pins != now.pins() {
                let served = now.rotations_after(pins.newest());
                assert!((1..=MAX_SERVED).contains(&served.len()));
                for rotation in served {
                    pins.follow(rotation).unwrap();
                }
                answers += 1;
                assert!(answers <= 2, "pinned {away} rotations after the first");
            }
        }
        assert!(now.rotations_after(now.pins().newest()).is_empty());
        assert!(now.rotations_after(SiteKey::from_seed(&[9; 32]).id()).is_empty());
    }

    #[test]
    fn a_damaged_file_is_refused_and_a_running_collector_goes_on_with_what_it_had() {
        let (directory, keys) = made();
        let (path, signing) = (directory.path().join(FILE), keys.get().signing.id());
        let whole = std::fs::read_to_string(&path).unwrap();
        let mut other: serde_json::Value = serde_json::from_str(&whole).unwrap();
        other["next"] = SiteKey::from_seed(&[9; 32]).to_seed_hex().into();
        for text in ["", "{}", &whole[..whole.len() / 2], &other.to_string()] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(keys.refresh(), Err(SiteError::Damaged { .. })), "{text}");
            assert!(keys.rotate(at(1)).is_err());
            assert_eq!(keys.get().signing.id(), signing);
        }
    }
}
