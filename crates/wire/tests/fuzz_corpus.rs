//! Replays the checked-in fuzz corpus, and what comes of cutting and changing it, through the fuzz targets' own checks,
//! on stable Rust.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking, also outside the test function itself

#[path = "../../../fuzz/checks/replay.rs"]
mod replay;
#[path = "../../../fuzz/checks/wire.rs"]
mod wire;

use replay::{Changes, replay};

const CHANGES: Changes = Changes { places: 200, bytes: b"\x00\x01\x02\x7f\x80\xff\"{0" };

#[test]
fn frames_of_the_corpus_break_nothing() {
    replay("wire_frame", wire::wire_frame, &CHANGES);
}

#[test]
fn statements_of_the_corpus_break_nothing() {
    replay("wire_statement", wire::wire_statement, &CHANGES);
}

#[test]
fn enrolments_of_the_corpus_break_nothing() {
    replay("wire_enrol", wire::wire_enrol, &CHANGES);
}
