//! What tells one machine from another with the same disk content: digests of identifiers that the hardware, the
//! hypervisor or the installation gave.
//!
//! Each is kept apart, because which of them can be read depends on who asks (DMI serials are for root alone).

use std::fmt;
use std::path::Path;

use auditflow_service::file;
use serde::{Deserialize, Serialize};

/// Identifiers by name, and the files that may hold them.
const SOURCES: [(&str, &[&str]); 3] = [
    ("machine", &["etc/machine-id"]),
    ("product", &["sys/class/dmi/id/product_uuid", "sys/class/dmi/id/product_serial"]),
    ("board", &["sys/firmware/devicetree/base/serial-number", "sys/class/dmi/id/board_serial"]),
];
const MAX_FILE_BYTES: u64 = 4096;
const DIGEST_DIGITS: usize = 16;

/// A machine's identifiers that could be read, each as a digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware(std::collections::BTreeMap<String, String>);

impl Hardware {
    /// Reads the identifiers of the machine whose root directory is `root` (`/`).
    pub fn read(root: &Path) -> Self {
        let identifiers = SOURCES.iter().filter_map(|(name, files)| {
            let digest = files.iter().find_map(|file| digest_of(&root.join(file)))?;
            Some(((*name).to_owned(), digest))
        });
        Self(identifiers.collect())
    }

    /// Whether both may be the same machine: nothing that both have differs.
    pub fn may_be(&self, other: &Self) -> bool {
        self.0.iter().all(|(name, digest)| other.0.get(name).is_none_or(|others| others == digest))
    }
}

impl fmt::Display for Hardware {
    /// For the collector, which compares it and nothing else.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, digest)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{name}:{digest}")?;
        }
        Ok(())
    }
}

fn digest_of(path: &Path) -> Option<String> {
    let bytes = file::read_bounded(path, MAX_FILE_BYTES).ok()?;
    let value = bytes.trim_ascii().strip_suffix(b"\0").unwrap_or(bytes.trim_ascii());
    // What firmware writes where nobody filled in a serial number tells nothing apart.
    let blank = value.iter().all(|byte| matches!(byte, b'0' | b'-' | b' ' | b'F' | b'f'));
    let filler =
        [&b"None"[..], b"Default string", b"To be filled by O.E.M.", b"Not Specified"].contains(&value);
    if blank || filler {
        return None;
    }
    let mut hasher = blake3::Hasher::new_derive_key("auditflow hardware identifier v1");
    hasher.update(value);
    let mut digest = hasher.finalize().to_hex().to_string();
    digest.truncate(DIGEST_DIGITS);
    Some(digest)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> Hardware {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Hardware::read(root.path())
    }

    #[test]
    fn a_copied_disk_in_another_machine_is_told_apart() {
        let original = machine(&[("etc/machine-id", "aa\n"), ("sys/class/dmi/id/product_uuid", "1\n")]);
        let copy = machine(&[("etc/machine-id", "aa\n"), ("sys/class/dmi/id/product_uuid", "2\n")]);
        assert!(!original.may_be(&copy));
        assert!(original.may_be(&original.clone()));
    }

    #[test]
    fn what_only_one_of_them_could_read_decides_nothing() {
        let by_root = machine(&[("etc/machine-id", "aa"), ("sys/class/dmi/id/product_uuid", "1")]);
        let by_user = machine(&[("etc/machine-id", "aa")]);
        assert!(by_root.may_be(&by_user) && by_user.may_be(&by_root));
        assert!(Hardware::default().may_be(&by_root));
    }

    #[test]
    fn fillers_of_firmware_are_no_identifiers() {
        let hardware = machine(&[
            ("sys/class/dmi/id/product_uuid", "00000000-0000-0000-0000-000000000000"),
            ("sys/class/dmi/id/product_serial", "To be filled by O.E.M.\n"),
            ("sys/firmware/devicetree/base/serial-number", "10000000abcdef01\0"),
        ]);
        let text = hardware.to_string();
        assert!(text.starts_with("board:") && !text.contains("product"), "{text}");
        assert!(text.len() <= 256 && !text.contains("abcdef01"));
    }
}
