//! The pre-filter: order, actions, counters.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

mod kit;

use std::time::Duration;

use auditflow_event::{Event, Priority};
use auditflow_rules::{Disposition, DropReason, Limits, LoadError, Prefilter, Verdict};
use kit::files::{dir, paths};
use proptest::prelude::*;

fn load(files: &[(&str, &str)]) -> Result<Prefilter, LoadError> {
    let dir = dir(files);
    Prefilter::load(&paths(&[&dir]), &Limits::default())
}

/// A rule for logins of `user` (any, if it is `*`).
fn rule(id: &str, user: &str, action: &str) -> String {
    format!(
        "title: {id}\nid: {id}\nlogsource: {{product: auditflow}}\ndetection:\n  s: {{event_type: user_login, user.name: '{user}'}}\n  condition: s\n{action}\n"
    )
}

fn login(user: &str, counter: u64) -> Event {
    let json =
        format!(r#"{{"event_type":"user_login","timestamp":"2026-01-01T00:00:00Z","user_id":"{user}"}}"#);
    Event::synthetic(None, [1; 16], counter, &json).unwrap()
}

fn judge(filter: &Prefilter, user: &str) -> Verdict {
    filter.judge(&login(user, 1), Duration::ZERO)
}

const DROPPED: Disposition = Disposition::Drop(DropReason::Filtered);

#[test]
fn what_no_rule_speaks_of_is_kept_as_it_is() {
    let filter = load(&[("a.yml", &rule("a", "eve", "action: drop"))]).unwrap();
    let kept = Verdict { disposition: Disposition::Keep, rule: None, tags: Vec::new(), priority: None };
    assert_eq!(judge(&filter, "bob"), kept);
    assert_eq!(judge(&Prefilter::empty(), "bob"), kept);
}

#[test]
fn the_first_rule_that_ends_decides_in_the_order_of_files_and_documents() {
    let keep = rule("keep", "root", "action: keep");
    let drop = rule("drop", "*", "action: drop");
    let both = format!("{keep}---\n{drop}");
    for files in [vec![("1.yml", keep.as_str()), ("2.yml", &drop)], vec![("1.yml", both.as_str())]] {
        let filter = load(&files).unwrap();
        assert_eq!(judge(&filter, "root").disposition, Disposition::Keep);
        assert_eq!(judge(&filter, "root").rule, Some("keep".into()));
        assert_eq!(judge(&filter, "eve").disposition, DROPPED);
    }
    let filter = load(&[("1.yml", &drop), ("2.yml", &keep)]).unwrap();
    assert_eq!(judge(&filter, "root").disposition, DROPPED);
}

#[test]
fn tags_and_priority_go_on_and_add_up() {
    let files = [
        rule("t1", "*", "action: tag\ntag: [one, two]"),
        rule("p1", "*", "action: priority\npriority: low"),
        rule("t2", "root", "action: tag\ntag: one"),
        rule("p2", "root", "action: priority\npriority: high"),
        rule("drop", "eve", "action: drop"),
        rule("after", "*", "action: tag\ntag: after"),
    ];
    let filter = load(&[("a.yml", &files.join("---\n"))]).unwrap();
    let verdict = judge(&filter, "root");
    assert_eq!(verdict.tags, ["one".into(), "two".into(), "after".into()]);
    assert_eq!(
        (verdict.disposition, verdict.rule, verdict.priority),
        (Disposition::Keep, None, Some(Priority::High))
    );
    let verdict = judge(&filter, "eve");
    assert_eq!(verdict.tags, ["one".into(), "two".into()]);
    assert_eq!((verdict.disposition, verdict.priority), (DROPPED, Some(Priority::Low)));
}

#[test]
fn every_rule_counts_what_it_saw_and_dropped() {
    let files = [rule("tag", "*", "action: tag\ntag: x"), rule("drop", "eve", "action: drop")];
    let filter = load(&[("a.yml", &files.join("---\n"))]).unwrap();
    for user in ["eve", "bob", "eve"] {
        judge(&filter, user);
    }
    let counts: Vec<_> =
        filter.rules().iter().map(|r| (r.id.as_str(), r.reached_total(), r.dropped_total())).collect();
    assert_eq!(counts, [("tag", 3, 0), ("drop", 2, 2)]);
}

#[test]
fn a_sample_is_a_function_of_the_event_and_about_its_share() {
    let filter = load(&[("a.yml", &rule("s", "*", "action: sample\nsample: 0.25"))]).unwrap();
    let kept = |counter| {
        filter.judge(&login("a", counter), Duration::from_secs(counter)).disposition == Disposition::Keep
    };
    let count = (0..4000).filter(|counter| kept(*counter)).count();
    assert!((900..1100).contains(&count), "{count}");
    assert!((0..100).all(|counter| kept(counter) == kept(counter)));
    for (share, disposition) in [("0", Disposition::Drop(DropReason::Sampled)), ("1.0", Disposition::Keep)] {
        let filter =
            load(&[("a.yml", &rule("s", "*", &format!("action: sample\nsample: {share}")))]).unwrap();
        assert!(
            (0..100)
                .all(|counter| filter.judge(&login("a", counter), Duration::ZERO).disposition == disposition)
        );
    }
}

#[test]
fn a_rate_is_limited_per_key_and_time() {
    let action = "action: rate_limit\nrate_limit: {events: 2, seconds: 10, by: user.name}";
    let filter = load(&[("a.yml", &rule("r", "*", action))]).unwrap();
    let at = |user: &str, seconds: u64| {
        filter.judge(&login(user, seconds), Duration::from_secs(seconds)).disposition == Disposition::Keep
    };
    let pattern: Vec<bool> = [0, 1, 2, 9, 10, 11, 12].iter().map(|second| at("a", *second)).collect();
    assert_eq!(pattern, [true, true, false, false, true, true, false]);
    assert!(at("b", 9));
    assert_eq!(
        filter.judge(&login("a", 1), Duration::from_secs(13)).disposition,
        Disposition::Drop(DropReason::RateLimited)
    );
}

#[test]
fn without_a_key_all_matches_are_limited_together() {
    let filter =
        load(&[("a.yml", &rule("r", "*", "action: rate_limit\nrate_limit: {events: 1, seconds: 10}"))])
            .unwrap();
    assert_eq!(judge(&filter, "a").disposition, Disposition::Keep);
    assert_eq!(judge(&filter, "b").disposition, Disposition::Drop(DropReason::RateLimited));
}

#[test]
fn explaining_counts_and_limits_nothing() {
    let files = [
        rule("limit", "*", "action: rate_limit\nrate_limit: {events: 1, seconds: 10}"),
        rule("drop", "eve", "action: drop"),
    ];
    let filter = load(&[("a.yml", &files.join("---\n"))]).unwrap();
    for _ in 0..3 {
        let steps: Vec<_> = filter
            .explain(&login("eve", 1))
            .iter()
            .map(|step| (step.rule.id.to_string(), step.ends))
            .collect();
        assert_eq!(steps, [("limit".to_owned(), true), ("drop".to_owned(), true)]);
    }
    assert_eq!(filter.rules()[0].reached_total(), 0);
    assert_eq!(judge(&filter, "eve").disposition, Disposition::Keep);
}

#[test]
fn what_is_no_action_is_refused_with_its_line() {
    for (action, expected) in [
        ("", "1: a pre-filter rule needs an action"),
        ("action: forward", "7: forward is not an action"),
        ("action: sample", "1: sample is a share"),
        ("action: sample\nsample: 1.5", "8: sample is a share"),
        ("action: sample\nsample: .nan", "8: sample is a share"),
        ("action: rate_limit\nrate_limit: 5", "8: rate_limit is {"),
        ("action: rate_limit\nrate_limit: {events: 0, seconds: 1}", "8: rate_limit is {"),
        ("action: rate_limit\nrate_limit: {events: 1, seconds: 1, per: x}", "8: rate_limit is {"),
        ("action: tag\ntag: []", "8: tag is a name"),
        ("action: tag\ntag: [1]", "8: tag is a name"),
        ("action: priority\npriority: urgent", "8: priority is low, normal or high"),
        ("action: drop\nsample: 0.5", "8: sample has no meaning beside action: drop"),
    ] {
        let error = load(&[("a.yml", &rule("x", "a", action))]).unwrap_err();
        let problem = &error.problems()[0];
        assert!(
            format!("{}: {}", problem.line, problem.message).starts_with(expected),
            "{error} for {action}"
        );
    }
}

#[test]
fn a_rule_that_nothing_on_a_node_feeds_is_refused() {
    let windows = rule("x", "a", "action: drop").replace("product: auditflow", "product: windows");
    assert!(
        load(&[("a.yml", &windows)])
            .unwrap_err()
            .to_string()
            .contains("nothing on a node feeds log source windows")
    );
    let filter = "title: F\nid: f\naction: drop\nfilter: {rules: [x], s: {a: b}, condition: not s}\n";
    assert!(
        load(&[("a.yml", filter)])
            .unwrap_err()
            .to_string()
            .contains("only detection rules can have an action")
    );
}

#[test]
fn a_rule_that_fails_its_example_is_refused() {
    let with = |user: &str| {
        rule("x", "eve", "action: drop")
            + &format!(
                "custom_attributes:\n  rsigma.exemplars:\n    - {{expect: match, event: {{event_type: user_login, user.name: {user}}}}}\n"
            )
    };
    load(&[("a.yml", &with("eve"))]).unwrap();
    assert!(load(&[("a.yml", &with("bob"))]).unwrap_err().to_string().contains("should match and does not"));
}

#[test]
fn the_version_changes_with_the_order() {
    let (a, b) = (rule("a", "eve", "action: drop"), rule("b", "eve", "action: keep"));
    let version =
        |first: &str, second: &str| load(&[("1.yml", first), ("2.yml", second)]).unwrap().version().clone();
    assert_eq!(version(&a, &b), version(&a, &b));
    assert_ne!(version(&a, &b), version(&b, &a));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However the rules are ordered, one by one evaluation in that order gives the same verdict.
    #[test]
    fn verdict_is_that_of_going_through_the_rules_one_by_one(
        rules in prop::collection::vec((prop::sample::select(vec!["*", "a", "b"]), 0_usize..6), 0..6),
        user in prop::sample::select(vec!["a", "b", "c"]),
    ) {
        const ACTIONS: [&str; 6] = [
            "action: keep", "action: drop", "action: tag\ntag: x", "action: tag\ntag: y",
            "action: priority\npriority: low", "action: priority\npriority: high",
        ];
        let documents: Vec<String> =
            rules.iter().enumerate().map(|(n, (user, action))| rule(&format!("r{n}"), user, ACTIONS[*action])).collect();
        let filter = if documents.is_empty() { Prefilter::empty() } else { load(&[("a.yml", &documents.join("---\n"))]).unwrap() };

        let mut expected = Verdict { disposition: Disposition::Keep, rule: None, tags: Vec::new(), priority: None };
        for (n, (wanted, action)) in rules.iter().enumerate() {
            if *wanted != "*" && *wanted != user {
                continue;
            }
            match action {
                2 | 3 => {
                    let tag: Box<str> = if *action == 2 { "x".into() } else { "y".into() };
                    if !expected.tags.contains(&tag) {
                        expected.tags.push(tag);
                    }
                }
                4 => expected.priority = Some(Priority::Low),
                5 => expected.priority = Some(Priority::High),
                _ => {
                    expected.rule = Some(format!("r{n}").as_str().into());
                    expected.disposition = if *action == 1 { DROPPED } else { Disposition::Keep };
                    break;
                }
            }
        }
        prop_assert_eq!(judge(&filter, user), expected);
    }
}
