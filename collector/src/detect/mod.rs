//! Detection: which rules a batch's events match, and what of that is kept.
//!
//! Fed by `analyse` with a batch's events and the rule set in force; feeds the store with rows of detections for
//! correlated rules and with alerts of rules that need one event only. Pure: the same events, rule set and facts give
//! the same rows and alerts, whoever computes them and however often.

mod judge;
mod matched;
mod rules;

pub use judge::{BatchFacts, Judged, Wanted, judge};
pub use matched::{Matched, Matcher};
pub use rules::{Rules, RulesReloader};
