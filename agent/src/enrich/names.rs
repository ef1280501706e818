//! User and group names from the node's own `passwd` and `group` files.
//!
//! The files are parsed here (passwd(5), group(5)) and never through the C library: a name service that asks a
//! directory over the network could stall the pipeline, and a static binary has no name service at all. A name that
//! is not in the files stays a number.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A file is looked at again no sooner than this.
const RECHECK: Duration = Duration::from_secs(2);
/// No more of a file than this is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// The names of one file, read again when it changes.
#[derive(Debug)]
pub struct Names {
    path: PathBuf,
    by_id: HashMap<u32, Box<str>>,
    version: Option<(SystemTime, u64)>,
    checked: Option<Duration>,
}

impl Names {
    /// Names of `/etc/passwd` or `/etc/group`, or another file in that form. Reads nothing yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), by_id: HashMap::new(), version: None, checked: None }
    }

    /// The name of an id. `now` is monotonic time since any fixed start; it decides when the file is looked at again.
    pub fn name(&mut self, id: u32, now: Duration) -> Option<&str> {
        if self.checked.is_none_or(|checked| now.saturating_sub(checked) >= RECHECK) {
            self.checked = Some(now);
            self.refresh();
        }
        self.by_id.get(&id).map(AsRef::as_ref)
    }

    // A file that cannot be read just now (being replaced) leaves the names as they were.
    fn refresh(&mut self) {
        let Ok(metadata) = self.path.metadata() else { return };
        let version = metadata.modified().ok().map(|time| (time, metadata.len()));
        if version == self.version && version.is_some() {
            return;
        }
        if let Some(text) = read_bounded(&self.path) {
            self.by_id = parse(&text);
            self.version = version;
        }
    }
}

/// Both files have the name first and the number third, between colons. The first line of an id counts, as for
/// getpwuid(3).
fn parse(text: &str) -> HashMap<u32, Box<str>> {
    let mut by_id = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(id)) = (fields.next(), fields.nth(1).and_then(|id| id.parse().ok()))
            && !name.is_empty()
            && !name.starts_with(['#', '+', '-'])
        {
            by_id.entry(id).or_insert_with(|| name.into());
        }
    }
    by_id
}

fn read_bounded(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_an_id_counts_and_odd_lines_are_passed_over() {
        let names = parse(
            "root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n\n#c:x:7:\n+nis:x:8:\nbad\nx:y:z\nanna:x:1000:1000::/:",
        );
        assert_eq!(names.len(), 2);
        assert_eq!(names[&0].as_ref(), "root");
        assert_eq!(names[&1000].as_ref(), "anna");
    }

    #[test]
    fn a_changed_file_is_read_again_after_the_recheck_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "anna:x:1000:").unwrap();
        let mut names = Names::new(file.path());
        assert_eq!(names.name(1000, Duration::ZERO), Some("anna"));
        std::fs::write(file.path(), "berta:x:1000:").unwrap();
        assert_eq!(names.name(1000, Duration::from_millis(1)), Some("anna"));
        assert_eq!(names.name(1000, RECHECK), Some("berta"));
        std::fs::remove_file(file.path()).unwrap();
        assert_eq!(names.name(1000, RECHECK * 2), Some("berta"));
    }
}
