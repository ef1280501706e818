//! Makes the list of rule files that ship inside the programs: `rules/detection` and `rules/edge` of this repository.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("../../rules");
    let mut list = String::new();
    for (name, dir) in [("DETECTION", "detection"), ("EDGE", "edge")] {
        let mut files = Vec::new();
        find(&root.join(dir), &mut files)?;
        files.sort();
        let _ = writeln!(list, "/// The files of `rules/{dir}`: path and text.");
        let _ = writeln!(list, "pub const {name}: &[(&str, &str)] = &[");
        for file in files {
            let shown = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
            let _ = writeln!(list, "    ({shown:?}, include_str!({:?})),", file.display().to_string());
        }
        list.push_str("];\n");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("shipped.rs"), list)
}

/// Rule files below `dir`. Cargo runs this again when a file is added or removed.
fn find(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    println!("cargo::rerun-if-changed={}", dir.display());
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_dir() {
            find(&path, files)?;
        } else if !hidden && path.extension().is_some_and(|extension| extension == "yml") {
            files.push(path);
        }
    }
    Ok(())
}
