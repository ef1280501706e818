//! Replays the checked-in corpus of a target, and what comes of cutting and changing it, on stable Rust.

use std::path::PathBuf;

/// How an input is changed.
pub(crate) struct Changes {
    /// In how many places, about evenly.
    pub(crate) places: usize,
    /// What is put there, in turn: bytes that mean something to the format.
    pub(crate) bytes: &'static [u8],
}

/// Gives each input, and its changed forms, to a target's check.
pub(crate) fn replay(target: &str, check: fn(&[u8]), changes: &Changes) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        check(&input);
        for end in (0..input.len()).step_by(input.len() / changes.places + 1) {
            check(&input[..end]);
            let mut changed = input.clone();
            changed[end] = changes.bytes[end % changes.bytes.len()];
            check(&changed);
        }
        inputs += 1;
    }
    assert!(inputs > 0, "{} holds the corpus", folder.display());
}
