//! Matching apart from judging: which rules a batch's events match depends on nothing else, so it is found out where
//! the events' meaning is at hand anyway.
//!
//! Fed by ingest while it opens a batch; feeds `analyse` through its hints. Never the reason why a batch is not stored:
//! where matching fails nothing is handed on, and analysis, which matches again, says so.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use auditflow_event::{Event, HostFacts, Meaning};
use auditflow_rules::Detection;

use super::judge::Judging;
use super::{BatchFacts, Judged, Rules};

/// Matches the events of one batch.
pub struct Matcher<'h> {
    rules: Arc<Rules>,
    host: &'h HostFacts,
    /// What matched, by the event's place.
    events: Vec<(u32, Vec<Detection>)>,
    failed: bool,
}

/// What the events of a batch match of one set of rules.
#[derive(Clone, Debug)]
pub struct Matched {
    rules: Arc<Rules>,
    events: Arc<Vec<(u32, Vec<Detection>)>>,
}

impl<'h> Matcher<'h> {
    /// Against `rules`, for a batch of that node.
    pub fn new(rules: Arc<Rules>, host: &'h HostFacts) -> Self {
        Self { rules, host, events: Vec::new(), failed: false }
    }

    /// Takes in the event at `index`, after those before it.
    pub fn take(&mut self, event: &Event, index: u32, meaning: &Meaning<'_>) {
        if self.failed {
            return;
        }
        let mut found = Vec::new();
        // Nothing of ours is touched inside but `found`, which is dropped if this fails.
        let matching = AssertUnwindSafe(|| {
            self.rules.set().detect_with(event, meaning, Some(self.host), &mut found);
        });
        self.failed = catch_unwind(matching).is_err();
        if !found.is_empty() {
            self.events.push((index, found));
        }
    }

    /// What was found; none if matching failed.
    pub fn finish(self) -> Option<Matched> {
        (!self.failed).then(|| Matched { rules: self.rules, events: Arc::new(self.events) })
    }
}

impl Matched {
    /// Whether it was found by these rules.
    pub fn is_by(&self, rules: &Arc<Rules>) -> bool {
        Arc::ptr_eq(&self.rules, rules)
    }

    /// Judges the batch, of which these are the events: the same as [`super::judge`] by its rules.
    pub fn judge(&self, facts: &BatchFacts, events: &[Event]) -> Judged {
        let mut judging = Judging::new(&self.rules, facts, None);
        let mut matched = self.events.iter().peekable();
        for (event, index) in events.iter().zip(0_u32..) {
            let found = matched.next_if(|(at, _)| *at == index);
            judging.event(event, index, found.map(|(_, found)| &found[..]).unwrap_or_default());
        }
        judging.finish()
    }
}
