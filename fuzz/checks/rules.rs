//! What must hold for rule files, whatever the text: a set is refused with its problems, or accepted and then the same
//! whenever it is read. Run by the fuzz targets, and by the crate's tests over the checked-in corpus.

use auditflow_rules::{Limits, Prefilter, RuleSet};

/// A file of the collector's rules.
pub(crate) fn rule_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let load = || RuleSet::load_over(&[("rule.yml", text)], &[], &Limits::default());
    match load() {
        Ok(rules) => {
            assert!(load().is_ok_and(|again| again.version() == rules.version()));
            assert!(rules.rules().iter().all(|rule| rules.rule(&rule.id).is_some()));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A file of the agent's pre-filter.
pub(crate) fn edge_rule_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let load = || Prefilter::load_over(&[("edge.yml", text)], &[], &Limits::default());
    match load() {
        Ok(rules) => assert!(load().is_ok_and(|again| again.version() == rules.version())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
