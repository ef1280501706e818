//! Replays the checked-in fuzz corpus, and what comes of cutting and changing it, through the fuzz targets' own checks,
//! on stable Rust.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking, also outside the test function itself

use std::path::PathBuf;

#[path = "../../../fuzz/checks/wire.rs"]
mod wire;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        check(&input);
        for end in (0..input.len()).step_by(input.len() / 200 + 1) {
            check(&input[..end]);
            let mut changed = input.clone();
            changed[end] = b"\x00\x01\x02\x7f\x80\xff\"{0"[end % 9];
            check(&changed);
        }
        inputs += 1;
    }
    assert!(inputs > 0, "{} holds the corpus", folder.display());
}

#[test]
fn frames_of_the_corpus_break_nothing() {
    replay("wire_frame", wire::wire_frame);
}

#[test]
fn statements_of_the_corpus_break_nothing() {
    replay("wire_statement", wire::wire_statement);
}

#[test]
fn enrolments_of_the_corpus_break_nothing() {
    replay("wire_enrol", wire::wire_enrol);
}
