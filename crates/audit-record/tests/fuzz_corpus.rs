//! Replays the checked-in fuzz corpus, and what comes of cutting and changing it, through the fuzz targets' own checks,
//! on stable Rust.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking, also outside the test function itself

#[path = "../../../fuzz/checks/audit_record.rs"]
mod audit_record;
#[path = "../../../fuzz/checks/replay.rs"]
mod replay;

use replay::{Changes, replay};

const CHANGES: Changes = Changes { places: 200, bytes: b"\"' =\x00\x1d\xff{}0\r\n" };

#[test]
fn lines_of_the_corpus_break_nothing() {
    replay("record_line", audit_record::record_line, &CHANGES);
}

#[test]
fn netlink_messages_of_the_corpus_break_nothing() {
    replay("record_netlink", audit_record::record_netlink, &CHANGES);
}

#[test]
fn logs_of_the_corpus_break_nothing() {
    replay("assemble", audit_record::assemble, &CHANGES);
}
