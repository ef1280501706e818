//! Replays the checked-in fuzz corpus, and what comes of cutting and changing it, through the fuzz targets' own checks,
//! on stable Rust.
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking, also outside the test function itself

#[path = "../../../fuzz/checks/replay.rs"]
mod replay;
#[path = "../../../fuzz/checks/rules.rs"]
mod rules;

use replay::{Changes, replay};

const CHANGES: Changes = Changes { places: 40, bytes: b"\":{}[]-|&*\n 0" };

#[test]
fn rule_files_of_the_corpus_break_nothing() {
    replay("rule_file", rules::rule_file, &CHANGES);
}

#[test]
fn edge_rule_files_of_the_corpus_break_nothing() {
    replay("edge_rule_file", rules::edge_rule_file, &CHANGES);
}
