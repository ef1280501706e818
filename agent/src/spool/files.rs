//! The files of one spool directory: their names, and setting damaged ones aside.

use std::path::{Path, PathBuf};
use std::{fs, io};

use auditflow_service::file::sync_directory;

/// How many damaged databases are kept for whoever wants to look into them.
pub(super) const KEPT_ASIDE: usize = 2;

const DATABASE: &str = "spool.db";
const ASIDE: &str = "spool.db.damaged-";
/// What SQLite puts beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

pub(super) fn database(dir: &Path) -> PathBuf {
    dir.join(DATABASE)
}

pub(super) fn log(dir: &Path) -> PathBuf {
    log_of(&database(dir))
}

pub(super) fn log_of(database: &Path) -> PathBuf {
    database.with_extension("db-wal")
}

pub(super) fn log_index(dir: &Path) -> PathBuf {
    dir.join(format!("{DATABASE}-shm"))
}

pub(super) fn mirror(dir: &Path) -> PathBuf {
    dir.join("cursors.json")
}

/// The length of a file, zero if there is none.
pub(super) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Renames a damaged database with its log, named by the time in microseconds, and deletes the oldest of those set
/// aside before. Returns the new name.
pub(super) fn set_aside(dir: &Path, micros: i64) -> io::Result<PathBuf> {
    let from = database(dir);
    // Two within a microsecond, or a clock that went back: the newest is always the last by name.
    let newest = kept_aside(dir)?.last().and_then(|name| name.strip_prefix(ASIDE)?.parse::<i64>().ok());
    let stamp = newest.map_or(micros, |newest| micros.max(newest.saturating_add(1)));
    let to = dir.join(format!("{ASIDE}{stamp:020}"));
    fs::rename(&from, &to)?;
    for companion in COMPANIONS {
        let beside = dir.join(format!("{DATABASE}{companion}"));
        if beside.exists() {
            fs::rename(&beside, dir.join(format!("{ASIDE}{stamp:020}{companion}")))?;
        }
    }
    forget_oldest(dir)?;
    sync_directory(dir)?;
    Ok(to)
}

fn forget_oldest(dir: &Path) -> io::Result<()> {
    let kept = kept_aside(dir)?;
    for name in kept.iter().rev().skip(KEPT_ASIDE) {
        fs::remove_file(dir.join(name))?;
        for companion in COMPANIONS {
            match fs::remove_file(dir.join(format!("{name}{companion}"))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// The databases set aside, oldest first.
fn kept_aside(dir: &Path) -> io::Result<Vec<String>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(ASIDE) && !COMPANIONS.iter().any(|companion| name.ends_with(companion)) {
            kept.push(name.to_owned());
        }
    }
    kept.sort_unstable();
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_damaged_databases_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        for turn in 0..5 {
            fs::write(database(dir.path()), format!("{turn}")).unwrap();
            fs::write(log(dir.path()), "log").unwrap();
            set_aside(dir.path(), 7).unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names.len(), 2 * KEPT_ASIDE);
        let newest = dir.path().join(&names[2]);
        assert_eq!(fs::read_to_string(newest).unwrap(), "4");
    }
}
