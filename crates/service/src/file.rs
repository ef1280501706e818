//! Files that must be whole: atomic writes that survive power loss, bounded reads, one owner per data directory.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// From now on, whatever this process makes is its user's alone, files that libraries make (a database's) included.
pub fn keep_private() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
}

/// Gives `path` to whom `directory` belongs: a command that runs as root must not leave files that the service, as a user
/// of its own, can't read.
pub fn give_to_owner_of(directory: &Path, path: &Path) -> io::Result<()> {
    let (wanted, have) = (directory.metadata()?, path.metadata()?);
    if (wanted.uid(), wanted.gid()) == (have.uid(), have.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(wanted.uid()), Some(wanted.gid()))
}

/// Replaces `path` by a file with exactly these bytes and this mode, for example `0o600`.
///
/// Whoever reads sees the old file or the new one, also after a power loss: the bytes are written to a temporary
/// file beside it, synced, renamed over it, and the directory is synced. The mode holds from the first byte on.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let directory = parent_of(path);
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, bytes, mode).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // Nothing is lost if this fails too: the next write of this process replaces the leftover.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(directory)
}

/// Makes a file's creation, renaming or removal in `directory` durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Creates a directory that only its owner can enter (0700), with its parents; an existing one is left as it is.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Reads a whole file of at most `max` bytes; a larger one is an error of kind `FileTooLarge`, whatever its metadata
/// claims.
pub fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?.take(max.saturating_add(1)).read_to_end(&mut bytes)?;
    if read as u64 > max {
        let message = format!("{} is larger than the allowed {max} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// Why a data directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} is in use by process {owner}; stop it or choose another data_dir", .directory.display())]
    Held {
        /// The directory.
        directory: PathBuf,
        /// What the owner wrote into the lock file: its process id.
        owner: String,
    },
    /// The lock file could not be made or locked.
    #[error("cannot lock {}; check that the directory exists and is writable", .directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The exclusive right to a data directory, for as long as it lives. The system takes it back when the process ends,
/// however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory, or says which process has it; never waits.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { directory: directory.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join("lock"))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Best effort: the lock alone decides, the text only names the owner.
                let _ = (&file).take(20).read_to_string(&mut owner);
                let owner =
                    if owner.trim().is_empty() { "unknown".to_owned() } else { owner.trim().to_owned() };
                return Err(LockError::Held { directory: directory.to_owned(), owner });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A leftover of an earlier life may have another mode or owner: start from none.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    // The umask may have taken bits away, and must not decide.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", std::process::id()));
    Ok(parent_of(path).join(temporary))
}
