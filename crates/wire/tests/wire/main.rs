//! The wire's promises, tested through its public surface.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

mod acks;
mod bytes_per_event;
mod corpus;
mod folds;
mod frames;
mod golden;
mod headers;
mod keys;
mod ledger;
mod ledger_model;
mod never_panics;
mod node_keys;
mod samples;
mod sealing;
mod verifier;
