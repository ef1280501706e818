//! Files that must be whole, on a real file system.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the functions around the tests are tests too")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use auditflow_service::file::{
    DirectoryLock, LockError, create_private_directory, read_bounded, write_atomic,
};

#[test]
fn atomic_write_replaces_bytes_and_mode_and_leaves_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    fs::write(&path, "old").unwrap();
    for (bytes, mode) in [(&b"secret"[..], 0o600), (b"", 0o644), (b"open", 0o666)] {
        write_atomic(&path, bytes, mode).unwrap();
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}

#[test]
fn failed_atomic_write_keeps_the_old_and_leaves_no_temporary_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("occupied");
    fs::create_dir(&path).unwrap();
    write_atomic(&path, b"new", 0o600).unwrap_err();
    assert!(path.is_dir());
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
}

#[test]
fn leftover_temporary_file_of_a_killed_process_is_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let leftover = directory.path().join(format!(".state.{}.tmp", std::process::id()));
    fs::write(&leftover, "half").unwrap();
    fs::set_permissions(&leftover, fs::Permissions::from_mode(0o400)).unwrap();
    write_atomic(&directory.path().join("state"), b"whole", 0o600).unwrap();
    assert!(!leftover.exists());
}

#[test]
fn file_is_read_up_to_its_bound_and_refused_above_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data");
    fs::write(&path, "12345").unwrap();
    assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
    assert_eq!(read_bounded(&path, u64::MAX).unwrap(), b"12345");
    assert_eq!(read_bounded(&path, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
    // Endless, with a length of zero in its metadata.
    assert_eq!(read_bounded("/dev/zero".as_ref(), 1000).unwrap_err().kind(), ErrorKind::FileTooLarge);
}

#[test]
fn private_directory_is_made_with_its_parents_for_its_owner_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b");
    create_private_directory(&path).unwrap();
    create_private_directory(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn directory_has_one_owner_until_that_one_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let first = DirectoryLock::acquire(directory.path()).unwrap();
    let refused = DirectoryLock::acquire(directory.path()).unwrap_err();
    let me = std::process::id().to_string();
    assert!(matches!(&refused, LockError::Held { owner, .. } if *owner == me), "{refused}");
    assert!(refused.to_string().ends_with("stop it or choose another data_dir"));
    drop(first);
    DirectoryLock::acquire(directory.path()).unwrap();
}

#[test]
fn absent_directory_cannot_be_locked() {
    let error = DirectoryLock::acquire("/nonexistent/auditflow".as_ref()).unwrap_err();
    assert!(matches!(error, LockError::Io { .. }), "{error}");
}
