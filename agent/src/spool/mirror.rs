//! The mirror of the cursors beside the database, so that a damaged spool doesn't make sources start from nothing.
//!
//! It is written after commits, never before, so it may be behind and is never ahead: what is read twice is
//! collapsed by event id. A checksum covers all of it; one that cannot be read is as good as none.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use auditflow_service::file::{read_bounded, write_atomic};
use auditflow_wire::EpochId;
use serde::{Deserialize, Serialize};

use super::files;

/// The cursors of all sources, by the sources' names.
pub type Cursors = BTreeMap<String, Vec<u8>>;

/// More than any honest mirror has.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// What the mirror holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirror {
    /// The epoch that was current.
    pub(super) epoch: EpochId,
    pub(super) cursors: Cursors,
}

/// What was found in its place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Mirror(Mirror),
    Unreadable,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    epoch: EpochId,
    /// Hexadecimal: cursors are opaque.
    cursors: BTreeMap<String, String>,
    check: String,
}

impl Mirror {
    pub(super) fn read(dir: &Path) -> Found {
        match Self::try_read(dir) {
            Ok(Some(mirror)) => Found::Mirror(mirror),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
            Ok(None) | Err(_) => Found::Unreadable,
        }
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let cursors = self
            .cursors
            .iter()
            .map(|(source, cursor)| (source.clone(), data_encoding::HEXLOWER.encode(cursor)))
            .collect();
        let document = Document { version: 1, epoch: self.epoch, cursors, check: self.check() };
        write_atomic(&files::mirror(dir), &serde_json::to_vec_pretty(&document)?, 0o600)
    }

    fn try_read(dir: &Path) -> io::Result<Option<Self>> {
        let text = read_bounded(&files::mirror(dir), MAX_BYTES)?;
        let Ok(document) = serde_json::from_slice::<Document>(&text) else { return Ok(None) };
        let cursors: Option<Cursors> = document
            .cursors
            .into_iter()
            .map(|(source, cursor)| Some((source, data_encoding::HEXLOWER.decode(cursor.as_bytes()).ok()?)))
            .collect();
        let mirror = cursors.map(|cursors| Self { epoch: document.epoch, cursors });
        Ok(mirror.filter(|mirror| document.version == 1 && mirror.check() == document.check))
    }

    fn check(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.epoch.as_bytes());
        for (source, cursor) in &self.cursors {
            for part in [source.as_bytes(), cursor] {
                hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn mirror() -> Mirror {
        let cursors = [("audit_log".to_owned(), vec![1, 2, 255]), ("journald".to_owned(), Vec::new())];
        Mirror { epoch: EpochId::from_bytes([7; 16]), cursors: cursors.into() }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Mirror::read(dir.path()), Found::Nothing);
        mirror().write(dir.path()).unwrap();
        mirror().write(dir.path()).unwrap();
        assert_eq!(Mirror::read(dir.path()), Found::Mirror(mirror()));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_yields_other_cursors() {
        let dir = tempfile::tempdir().unwrap();
        mirror().write(dir.path()).unwrap();
        let path = files::mirror(dir.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bad in [&flipped(&whole, at)[..], &whole[..at]] {
                fs::write(&path, bad).unwrap();
                let found = Mirror::read(dir.path());
                assert!(
                    found == Found::Unreadable || found == Found::Mirror(mirror()),
                    "byte {at}: {found:?}"
                );
            }
        }
    }

    fn flipped(whole: &[u8], at: usize) -> Vec<u8> {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        bytes
    }
}
