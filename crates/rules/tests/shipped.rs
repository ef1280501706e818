//! The rules that ship: they load, they say what they must, and every one is shown to match and not to match.

#![allow(clippy::panic, reason = "a test ends by panicking")]

use std::path::{Path, PathBuf};

use auditflow_rules::shipped::EDGE;
use auditflow_rules::{Level, Limits, Prefilter, RuleSet};

fn detection() -> RuleSet {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../rules/detection");
    match RuleSet::load(&[folder], &Limits::default()) {
        Ok(set) => set,
        Err(error) => {
            let problems: Vec<String> = error.problems().iter().map(ToString::to_string).collect();
            panic!("the rules that ship do not load:\n{}", problems.join("\n"))
        }
    }
}

#[test]
fn the_rules_that_ship_load_without_a_warning_and_none_of_them_is_without_a_source() {
    let set = detection();
    let warnings: Vec<String> = set.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(warnings, Vec::<String>::new());
    let gaps: Vec<String> = set.gaps().iter().map(|gap| format!("{gap:?}")).collect();
    assert_eq!(gaps, Vec::<String>::new());
    assert!(set.rules().iter().filter(|rule| rule.alerts).count() >= 32, "{} rules", set.rules().len());
}

#[test]
fn every_rule_that_ships_names_its_technique_its_false_positives_and_cases_for_and_against() {
    for rule in detection().rules() {
        let id = &rule.id;
        assert!(rule.tags.iter().any(|tag| tag.starts_with("attack.")), "{id}: no ATT&CK tag");
        assert!(!rule.false_positives.is_empty(), "{id}: no false positives");
        assert!(rule.description.len() > 20, "{id}: no description");
        for expectation in ["expect: match", "expect: no-match"] {
            assert!(rule.source.contains(expectation), "{id}: no case with {expectation}");
        }
    }
}

#[test]
fn a_rule_file_lies_in_the_folder_of_its_theme() {
    for rule in detection().rules() {
        let theme = rule.file.parent().and_then(Path::file_name);
        assert!(theme.is_some_and(|theme| theme != "detection"), "{}", rule.file.display());
    }
}

#[test]
fn the_pre_filters_that_ship_load_and_their_cases_hold() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../rules/edge");
    let filter = match Prefilter::load(&[folder], &Limits::default()) {
        Ok(filter) => filter,
        Err(error) => panic!("{:?}", error.problems().iter().map(ToString::to_string).collect::<Vec<_>>()),
    };
    assert!(filter.rules().len() >= 5);
}

/// Rules of level high and critical whose events are urgent by their kind alone (rules/edge/20-urgent.yml).
const URGENT_BY_KIND: &[&str] = &[
    "accounts/added-to-privileged-group.yml",
    "accounts/second-root.yml",
    "audit/disabled.yml",
    "audit/rules-removed.yml",
    "container/escape-file.yml",
    "container/static-pod.yml",
    "files/authorized-keys-changed.yml",
    "files/pam-changed.yml",
    "files/preload-changed.yml",
    "files/sensitive-file-modified.yml",
    "files/sudoers-changed.yml",
    "kernel/kexec.yml",
    "kernel/module-loaded.yml",
    "login/guessed-password.yml",
    "login/password-spraying.yml",
    "login/repeated-failed-logins.yml",
];

#[test]
fn what_the_gravest_rules_match_is_urgent_at_the_edge() {
    let edge: Vec<&str> = EDGE.iter().flat_map(|(_, text)| text.split("\n---\n")).collect();
    let grave = |level| matches!(level, Level::High | Level::Critical);
    for rule in detection().rules().iter().filter(|rule| grave(rule.level)) {
        if URGENT_BY_KIND.iter().any(|file| rule.file.ends_with(file)) {
            continue;
        }
        let parts = [part(&rule.source, "logsource:"), part(&rule.source, "detection:")];
        let cases = part(&rule.source, "custom_attributes:");
        let is_urgent = |document: &str| {
            document.contains("\naction: priority\npriority: high\n")
                && parts.iter().chain([&cases]).all(|part| document.contains(part))
        };
        let file = rule.file.display();
        assert!(edge.iter().any(|document| is_urgent(document)), "{file}: no edge rule says the same");
    }
}

/// A key at the beginning of a line with all that is indented below it.
fn part<'a>(source: &'a str, key: &str) -> &'a str {
    let Some(from) = source.find(&format!("\n{key}")).map(|at| at + 1) else {
        panic!("no {key} in {source}")
    };
    let mut end = from + key.len();
    for line in source[end..].split_inclusive('\n') {
        if !(line.trim().is_empty() || line.starts_with(' ')) {
            break;
        }
        end += line.len();
    }
    source[from..end].trim_end()
}
