//! Replays the checked-in fuzz corpus, and what comes of cutting and changing it, through the fuzz targets' own checks,
//! on stable Rust.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking, also outside the test function itself

use std::path::PathBuf;

#[path = "../../../fuzz/checks/audit_record.rs"]
mod audit_record;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let input = std::fs::read(entry.unwrap().path()).unwrap();
        check(&input);
        for end in (0..input.len()).step_by(input.len() / 200 + 1) {
            check(&input[..end]);
            let mut changed = input.clone();
            changed[end] = b"\"' =\x00\x1d\xff{}0\r\n"[end % 12];
            check(&changed);
        }
        inputs += 1;
    }
    assert!(inputs > 0, "{} holds the corpus", folder.display());
}

#[test]
fn lines_of_the_corpus_break_nothing() {
    replay("record_line", audit_record::record_line);
}

#[test]
fn netlink_messages_of_the_corpus_break_nothing() {
    replay("record_netlink", audit_record::record_netlink);
}

#[test]
fn logs_of_the_corpus_break_nothing() {
    replay("assemble", audit_record::assemble);
}
