//! The site: what makes this collector the one that its nodes trust.
//!
//! Made at first start below `DIR/site`, in files only the owner can read: a certificate authority (the join token
//! carries its hash, so a node trusts it before the first byte), and the keys that acknowledgements are signed with. Feeds ingest (TLS, enrolment, acknowledgements) and the commands that print what nodes need.
//! Losing these files means enrolling every node anew: `backup` copies them.

pub mod authority;
pub mod keys;
pub mod password;
pub mod token;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use auditflow_event::Timestamp;
use auditflow_service::file;
use auditflow_wire::CaHash;

pub use authority::Authority;
pub use keys::SiteKeys;

const AUTHORITY: &str = "ca.pem";
const AUTHORITY_KEY: &str = "ca.key.pem";
/// More than any of the files has.
const MAX_FILE: u64 = 1 << 20;

/// Who this collector is.
#[derive(Clone)]
pub struct Site {
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// Sign acknowledgements.
    pub keys: SiteKeys,
}

/// Why the site can't be what it was.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// A file can't be read or written.
    #[error("cannot use {}: make sure that it is readable and writable for the collector's user", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is damaged: restore it from a backup; without it every node has to enrol again", .path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody else is rotating the keys.
    #[error("cannot rotate the keys in {}: is another rotation under way", .path.display())]
    Locked {
        /// Which directory.
        path: PathBuf,
        /// Who has it.
        source: auditflow_service::file::LockError,
    },
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Random(#[from] auditflow_wire::RandomError),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

impl Site {
    /// The site below `data_dir`, made if there is none. A site of which only a part is there is not completed.
    pub fn open(data_dir: &Path) -> Result<Self, SiteError> {
        let directory = data_dir.join("site");
        if !directory.join(AUTHORITY).exists() {
            make(&directory)?;
        }
        Self::read(&directory)
    }

    /// The site below `data_dir` if one was made.
    pub fn existing(data_dir: &Path) -> Result<Self, SiteError> {
        Self::read(&data_dir.join("site"))
    }

    /// The authority's hash, as join tokens carry it.
    pub fn ca_hash(&self) -> CaHash {
        CaHash::of(self.authority.der())
    }

    fn read(directory: &Path) -> Result<Self, SiteError> {
        let (path, key_path) = (directory.join(AUTHORITY), directory.join(AUTHORITY_KEY));
        let authority = Authority::from_pem(&text(&path)?, &text(&key_path)?)
            .map_err(|source| SiteError::Damaged { path, source: source.into() })?;
        Ok(Self { authority: Arc::new(authority), keys: SiteKeys::open(directory)? })
    }
}

/// Copies the site's files: what a backup of the store would be worth little without.
pub fn backup(data_dir: &Path, destination: &Path) -> Result<(), SiteError> {
    let (from, to) = (data_dir.join("site"), destination.join("site"));
    create(&to)?;
    for name in [AUTHORITY, AUTHORITY_KEY, keys::FILE] {
        write(&to.join(name), &text(&from.join(name))?)?;
    }
    Ok(())
}

/// The authority's certificate comes last: where it is, the site is whole.
fn make(directory: &Path) -> Result<(), SiteError> {
    create(directory)?;
    SiteKeys::make(directory, Timestamp::from_micros(chrono::Utc::now().timestamp_micros()))?;
    let authority = Authority::generate()?;
    write(&directory.join(AUTHORITY_KEY), &authority.key_pem())?;
    write(&directory.join(AUTHORITY), authority.pem())
}

fn create(directory: &Path) -> Result<(), SiteError> {
    let failed = |source| SiteError::File { path: directory.to_owned(), source };
    file::create_private_directory(directory).map_err(failed)
}

fn text(path: &Path) -> Result<String, SiteError> {
    let failed = |source| SiteError::File { path: path.to_owned(), source };
    let bytes = file::read_bounded(path, MAX_FILE).map_err(failed)?;
    String::from_utf8(bytes)
        .map_err(|error| SiteError::Damaged { path: path.to_owned(), source: error.into() })
}

fn write(path: &Path, text: &str) -> Result<(), SiteError> {
    let failed = |source| SiteError::File { path: path.to_owned(), source };
    file::write_atomic(path, text.as_bytes(), 0o600).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_site_is_made_once_and_found_again_in_files_that_only_the_owner_reads() {
        let directory = tempfile::tempdir().unwrap();
        let made = Site::open(directory.path()).unwrap();
        let found = Site::open(directory.path()).unwrap();
        assert_eq!(made.ca_hash(), found.ca_hash());
        assert_eq!(made.keys.get().pins(), found.keys.get().pins());
        assert_ne!(Some(made.keys.get().signing.public()), made.keys.get().pins().next);
        for entry in std::fs::read_dir(directory.path().join("site")).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
        }
    }

    #[test]
    fn a_damaged_key_is_named_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        Site::open(directory.path()).unwrap();
        let path = directory.path().join("site").join(keys::FILE);
        std::fs::write(&path, "no key").unwrap();
        let error = Site::open(directory.path()).err().unwrap();
        assert!(error.to_string().contains("keys.json is damaged"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "no key");
    }
}
