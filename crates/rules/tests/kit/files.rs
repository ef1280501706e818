//! Rule files in a directory that goes away.

use std::path::PathBuf;

use tempfile::TempDir;

/// A directory with these files; a name may have directories in it.
pub(crate) fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

/// The paths of directories, in order.
pub(crate) fn paths(dirs: &[&TempDir]) -> Vec<PathBuf> {
    dirs.iter().map(|dir| dir.path().to_owned()).collect()
}
