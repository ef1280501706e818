//! Loading: whole or not at all, with everything that is wrong named by file and line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

mod kit;

use std::path::PathBuf;

use auditflow_event::Event;
use auditflow_rules::{CorrelationKind, Limits, LoadError, Missing, RuleSet, exclusion};
use kit::files::{dir, paths};
use tempfile::TempDir;

const WHOAMI: &str = "\
title: Whoami
id: whoami
logsource: { product: linux, category: process_creation }
detection:
  selection: { Image|endswith: /whoami }
  condition: selection
level: low
";

const LOGIN: &str = "\
title: Failed Login
id: login
name: failed_login
logsource: { product: auditflow }
detection:
  selection: { event_type: user_login, event.outcome: failure }
  condition: selection
";

fn load(dirs: &[&TempDir]) -> Result<RuleSet, LoadError> {
    RuleSet::load(&paths(dirs), &Limits::default())
}

/// The one problem of one file with this text, as `line: message`.
fn problem(text: &str) -> String {
    let dir = dir(&[("rule.yml", text)]);
    let error = load(&[&dir]).unwrap_err();
    let [problem] = error.problems() else { panic!("{error}") };
    assert!(problem.file.ends_with("rule.yml"));
    format!("{}: {}", problem.line, problem.message)
}

fn exec(image: &str) -> Event {
    let lines = format!(
        "type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 success=yes exit=0 ppid=1 pid=2 auid=4294967295 uid=0 exe=\"{image}\" key=(null)\n\
         type=EXECVE msg=audit(1.000:1): argc=1 a0=\"{image}\"\n"
    );
    let mut assembler = auditflow_audit_record::Assembler::new(auditflow_audit_record::Limits::default());
    for line in lines.lines() {
        assembler.push(
            auditflow_audit_record::Record::from_line(line.as_bytes()).unwrap(),
            std::time::Duration::ZERO,
        );
    }
    assembler.flush();
    Event::audit(None, assembler.pop().unwrap())
}

fn fired(set: &RuleSet, event: &Event) -> Vec<String> {
    let mut found = Vec::new();
    set.detect(event, None, &mut found);
    found.iter().map(|detection| detection.id().to_string()).collect()
}

#[test]
fn all_of_sigmahq_for_linux_and_kubernetes_loads() {
    let Some(rules) = kit::sigma_rules() else { return };
    let set = RuleSet::load(&[rules], &Limits::default()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(set.rules().len(), 226);
    assert!(set.warnings().is_empty(), "{:?}", set.warnings());
    let gaps = set.gaps().iter().map(|gap| {
        let title = &set.rule(&gap.rule).unwrap().title;
        match &gap.missing {
            Missing::Source(source) => format!("{title}: no source {source}"),
            Missing::Fields(fields) => format!("{title}: no field {}", fields.join(", ")),
            Missing::OneValue(selection) => format!("{title}: {selection} wants all of one value"),
        }
    });
    insta::assert_snapshot!("sigmahq_gaps", gaps.collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_later_directory_overrides_by_id() {
    let shipped = dir(&[("a.yml", WHOAMI), ("b.yml", LOGIN)]);
    let local = dir(&[("mine.yml", &WHOAMI.replace("/whoami", "/id").replace("level: low", "level: high"))]);
    let set = load(&[&shipped, &local]).unwrap();
    assert_eq!(set.rules().len(), 2);
    assert_eq!(set.rule(&"whoami".into()).unwrap().level.as_str(), "high");
    assert_eq!(fired(&set, &exec("/usr/bin/whoami")), Vec::<String>::new());
    assert_eq!(fired(&set, &exec("/usr/bin/id")), ["whoami"]);
}

#[test]
fn a_rule_is_disabled_by_its_id_alone_and_enabled_again_by_a_later_directory() {
    let shipped = dir(&[("a.yml", WHOAMI), ("b.yml", LOGIN)]);
    let off = dir(&[("off.yml", "id: whoami\nenabled: false\n")]);
    let set = load(&[&shipped, &off]).unwrap();
    assert_eq!(set.rules().len(), 1);
    assert_eq!(set.disabled(), ["whoami".into()]);
    let on = dir(&[("on.yml", WHOAMI)]);
    let set = load(&[&shipped, &off, &on]).unwrap();
    assert_eq!(set.rules().len(), 2);
    assert!(set.disabled().is_empty());
}

#[test]
fn disabling_what_is_not_there_is_a_warning() {
    let dir = dir(&[("a.yml", &format!("{WHOAMI}---\nid: other\nenabled: false\n"))]);
    let set = load(&[&dir]).unwrap();
    assert_eq!(set.warnings()[0].line, 9);
    assert!(set.warnings()[0].message.contains("disables other"));
}

#[test]
fn the_same_id_twice_in_one_directory_is_refused() {
    let dir = dir(&[("a.yml", WHOAMI), ("b.yml", WHOAMI)]);
    let error = load(&[&dir]).unwrap_err();
    assert_eq!(error.problems().len(), 1);
    assert!(error.to_string().contains("b.yml:2: id whoami is also at"), "{error}");
}

#[test]
fn all_problems_of_all_files_are_named_together_in_order() {
    let dir = dir(&[
        ("a/deep/a.yml", "title: A\nid: a\nlogsource: {product: linux}\ndetection:\n  s: {x: 1}\n"),
        (
            "b.yml",
            &format!(
                "# comment\n---\n{WHOAMI}---\ntitle: B\nid: b\nlogsource: {{product: linux}}\ndetection: {{s: {{x: 1}}, condition: t}}\n"
            ),
        ),
        ("c.yml", "title: C\n  bad: [\n"),
        ("d.txt", "not a rule"),
        (".hidden.yml", "not a rule"),
    ]);
    let error = load(&[&dir]).unwrap_err();
    let lines: Vec<String> = error
        .problems()
        .iter()
        .map(|p| format!("{}:{}: {}", p.file.strip_prefix(dir.path()).unwrap().display(), p.line, p.message))
        .collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert_eq!(lines[0], "a/deep/a.yml:4: Missing required field 'condition'");
    assert_eq!(lines[1], "b.yml:14: condition names t, which is not a selection; add it");
    assert!(lines[2].starts_with("c.yml:2: not valid YAML: "), "{}", lines[2]);
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_line() {
    let rule = |detection: &str| {
        format!("title: T\nid: t\nlogsource: {{product: linux, service: auditd}}\ndetection:\n{detection}")
    };
    let cases = [
        (
            rule("  s: {a: 1}\n  condition: 1 of x*\n"),
            "4: condition wants 1 of x*, but 0 selections are called so",
        ),
        (
            rule("  s: {a: 1}\n  timeframe: 5m\n  condition: s\n"),
            "4: timeframe is no longer part of a detection",
        ),
        (rule("  s: {a|re: '('}\n  condition: s\n"), "4: "),
        (rule("  s: {a|nonsense: x}\n  condition: s\n"), "4: Unknown modifier 'nonsense'"),
        (format!("level: loud\n{}", rule("  s: {a: 1}\n  condition: s\n")), "1: invalid level"),
        ("- a\n- b\n".to_owned(), "1: document is not a mapping"),
        ("description: no name\n".to_owned(), "1: document has neither an id nor a title"),
        (format!("enabled: perhaps\n{WHOAMI}"), "1: enabled is neither true nor false"),
        (format!("sigma-version: 9\n{WHOAMI}"), "1: is a version of Sigma"),
        ("title: T\nid: t\naction: global\nlogsource: {}\n".to_owned(), "1: is neither a rule"),
    ];
    for (text, expected) in cases {
        let problem = problem(&text);
        assert!(problem.starts_with(expected), "{problem:?} for\n{text}");
    }
}

#[test]
fn bounds_hold_before_anything_is_parsed() {
    let dir = dir(&[("a.yml", WHOAMI), ("b.yml", LOGIN)]);
    let largest = LOGIN.len() as u64;
    let enough =
        Limits { file_bytes: largest, files: 2, total_bytes: largest + WHOAMI.len() as u64, depth: 0 };
    assert!(LOGIN.len() > WHOAMI.len());
    RuleSet::load(&paths(&[&dir]), &enough).unwrap();
    let cases = [
        (Limits { file_bytes: largest - 1, ..enough }, "larger than"),
        (Limits { files: 1, ..enough }, "more than 1 rule files"),
        (Limits { total_bytes: enough.total_bytes - 1, ..enough }, "exceed"),
    ];
    for (limits, expected) in cases {
        let error = RuleSet::load(&paths(&[&dir]), &limits).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let deep = kit::files::dir(&[("x/a.yml", WHOAMI)]);
    let error = RuleSet::load(&paths(&[&deep]), &enough).unwrap_err();
    assert!(error.to_string().contains("nest deeper"), "{error}");
}

#[test]
fn a_file_that_is_not_text_is_refused_with_its_line() {
    let dir = dir(&[]);
    std::fs::write(dir.path().join("a.yml"), b"title: A\nid: \xff\n").unwrap();
    let error = load(&[&dir]).unwrap_err();
    assert_eq!(
        (error.problems()[0].line, error.problems()[0].message.as_str()),
        (2, "not UTF-8; save the file as UTF-8")
    );
}

#[test]
fn a_missing_directory_is_a_problem_and_an_empty_one_is_not() {
    let error = RuleSet::load(&[PathBuf::from("/nonexistent/rules")], &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("cannot read the rule directory"), "{error}");
    assert!(load(&[&dir(&[])]).unwrap().rules().is_empty());
    let comments = dir(&[("a.yml", "# nothing\n---\n")]);
    assert!(load(&[&comments]).unwrap_err().to_string().contains("hold no rule"));
}

#[test]
fn the_version_is_that_of_the_content_and_not_of_its_layout() {
    let one = load(&[&dir(&[("a.yml", WHOAMI), ("b.yml", LOGIN)])]).unwrap();
    let joined = format!("# both\n{LOGIN}\n---\nlevel: low\n{}", WHOAMI.replace("level: low\n", ""));
    let other = load(&[&dir(&[("z.yml", &joined)])]).unwrap();
    assert_eq!(one.version(), other.version());
    assert_eq!(one.version().as_str().len(), 16);
    let changed = load(&[&dir(&[("a.yml", &WHOAMI.replace("low", "high")), ("b.yml", LOGIN)])]).unwrap();
    assert_ne!(one.version(), changed.version());
}

#[test]
fn a_rule_without_a_source_loads_and_is_named() {
    let windows = WHOAMI.replace("product: linux", "product: windows");
    let hostname = WHOAMI.replace("id: whoami", "id: field").replace("Image|endswith", "Hashes|contains");
    let set = load(&[&dir(&[("a.yml", &windows), ("b.yml", &hostname)])]).unwrap();
    let missing: Vec<_> = set.gaps().iter().map(|gap| (gap.rule.as_str(), gap.missing.clone())).collect();
    assert_eq!(
        missing,
        [
            ("whoami", Missing::Source("windows/process_creation".into())),
            ("field", Missing::Fields(vec!["Hashes".into()])),
        ]
    );
}

#[test]
fn why_it_fired_names_the_values() {
    let set = load(&[&dir(&[("a.yml", WHOAMI)])]).unwrap();
    let mut found = Vec::new();
    set.detect(&exec("/usr/bin/whoami"), None, &mut found);
    let [detection] = found.as_slice() else { panic!("{found:?}") };
    let [matched] = detection.matched.as_slice() else { panic!("{detection:?}") };
    assert_eq!(
        (&*matched.field, matched.value.as_str().unwrap(), &*matched.selection),
        ("Image", "/usr/bin/whoami", "selection")
    );
    assert!(detection.alerts());
}

mod filters {
    use super::*;

    const FILTER: &str = "title: Not ours\nid: not-ours\nfilter:\n  rules: [whoami]\n  selection: { Image: /opt/ours/whoami }\n  condition: not selection\n";

    #[test]
    fn a_filter_is_an_exception_by_id_name_or_title() {
        for reference in ["whoami", "who_name", "Whoami"] {
            let rule = format!("name: who_name\n{WHOAMI}");
            let filter = FILTER.replace("[whoami]", &format!("[{reference}]"));
            let set = load(&[&dir(&[("a.yml", &rule), ("f.yml", &filter)])]).unwrap();
            assert_eq!(fired(&set, &exec("/usr/bin/whoami")), ["whoami"], "{reference}");
            assert_eq!(fired(&set, &exec("/opt/ours/whoami")), Vec::<String>::new(), "{reference}");
            assert!(set.warnings().is_empty());
        }
    }

    #[test]
    fn several_filters_with_selections_of_the_same_name_do_not_mix() {
        let second = FILTER.replace("not-ours", "second").replace("/opt/ours", "/srv");
        let set = load(&[&dir(&[("a.yml", WHOAMI), ("f.yml", FILTER), ("g.yml", &second)])]).unwrap();
        for (image, matches) in [("/usr/bin/whoami", 1), ("/opt/ours/whoami", 0), ("/srv/whoami", 0)] {
            assert_eq!(fired(&set, &exec(image)).len(), matches, "{image}");
        }
    }

    #[test]
    fn patterns_range_over_the_own_selections_only() {
        let rule = "title: R\nid: whoami\nlogsource: {category: process_creation}\ndetection:\n  selection_a: {Image|endswith: /whoami}\n  selection_b: {Image|startswith: /usr}\n  condition: all of *\n";
        let filter = "title: F\nid: f\nfilter:\n  rules: [whoami]\n  selection_x: {Image|contains: /x/}\n  selection_y: {Image|contains: /y/}\n  condition: not 1 of selection_*\n";
        let set = load(&[&dir(&[("a.yml", rule), ("f.yml", filter)])]).unwrap();
        for (image, matches) in
            [("/usr/bin/whoami", 1), ("/opt/whoami", 0), ("/usr/x/whoami", 0), ("/usr/y/whoami", 0)]
        {
            assert_eq!(fired(&set, &exec(image)).len(), matches, "{image}");
        }
        let two = rule.replace("all of *", "2 of selection_*");
        let set = load(&[&dir(&[("a.yml", &two), ("f.yml", filter)])]).unwrap();
        for (image, matches) in [("/usr/bin/whoami", 1), ("/opt/whoami", 0), ("/usr/x/whoami", 0)] {
            assert_eq!(fired(&set, &exec(image)).len(), matches, "{image}");
        }
    }

    #[test]
    fn a_filter_for_any_rule_needs_a_source_and_keeps_to_it() {
        let any = FILTER.replace("  rules: [whoami]\n", "  rules: any\n");
        assert!(problem(&any).contains("needs a logsource"));
        let none = FILTER.replace("  rules: [whoami]\n", "  rules: []\n");
        assert!(problem(&none).contains("needs a logsource"));
        for (category, matches) in [("process_creation", 0), ("file_event", 1)] {
            let filter = format!("logsource: {{category: {category}}}\n{any}");
            let set = load(&[&dir(&[("a.yml", WHOAMI), ("f.yml", &filter)])]).unwrap();
            assert_eq!(fired(&set, &exec("/opt/ours/whoami")).len(), matches, "{category}");
        }
    }

    #[test]
    fn a_filter_for_a_rule_that_is_not_there_is_a_warning() {
        let filter = FILTER.replace("[whoami]", "[gone]");
        let set = load(&[&dir(&[("a.yml", WHOAMI), ("f.yml", &filter)])]).unwrap();
        assert_eq!(set.warnings()[0].line, 3);
        assert!(set.warnings()[0].message.contains("exception to no loaded detection rule"));
    }

    #[test]
    fn a_written_exclusion_excepts_the_literal_value_and_nothing_else() {
        let rules = dir(&[("a.yml", &WHOAMI.replace("/whoami", "'*'"))]);
        let rule = load(&[&rules]).unwrap().rule(&"whoami".into()).unwrap().clone();
        for (field, spared, others) in [
            ("Image=/usr/bin/a*b", "/usr/bin/a*b", "/usr/bin/axb"),
            (r"Image=/usr/a\b", r"/usr/a\b", "/usr/ab"),
            ("Image=yes", "yes", "no"),
            ("Image|startswith=/opt/ours/", "/opt/ours/x", "/opt/x"),
            (r"Image|re=^/opt/v\d+/x$", "/opt/v12/x", "/opt/v/x"),
        ] {
            let yaml = exclusion(&rule, &[field.to_owned()], "ours").unwrap();
            let local = dir(&[("exclude.yml", &yaml)]);
            let set = load(&[&rules, &local]).unwrap_or_else(|error| panic!("{error} in\n{yaml}"));
            assert!(set.warnings().is_empty());
            assert_eq!(fired(&set, &exec(spared)), Vec::<String>::new(), "{yaml}");
            assert_eq!(fired(&set, &exec(others)), ["whoami"], "{yaml}");
            assert_eq!(yaml, exclusion(&rule, &[field.to_owned()], "ours").unwrap());
        }
        for wrong in [&[][..], &["Image".into()], &["=x".into()], &["Image|nonsense=x".into()]] {
            assert!(exclusion(&rule, wrong, "").is_err(), "{wrong:?}");
        }
    }
}

mod correlations {
    use super::*;

    fn with(correlation: &str) -> String {
        format!("{LOGIN}---\n{WHOAMI}---\ntitle: C\nid: c\ncorrelation:\n{correlation}")
    }

    #[test]
    fn kinds_and_thresholds_are_taken_over() {
        let cases = [
            (
                "  type: event_count\n  rules: [login]\n  timespan: 60s\n  condition: {gte: 3}\n",
                CorrelationKind::EventCount,
                3,
            ),
            (
                "  type: event_count\n  rules: failed_login\n  timespan: 1m\n  condition: {gt: 3}\n",
                CorrelationKind::EventCount,
                4,
            ),
            (
                "  type: value_count\n  rules: [login]\n  timespan: 60s\n  condition: {gte: 2, field: user.name}\n",
                CorrelationKind::ValueCount { fields: vec!["user.name".into()] },
                2,
            ),
            ("  type: temporal\n  rules: [login, whoami]\n  timespan: 60s\n", CorrelationKind::Temporal, 2),
            (
                "  type: temporal\n  rules: [login, whoami]\n  timespan: 60s\n  condition: {gte: 1}\n",
                CorrelationKind::Temporal,
                1,
            ),
            (
                "  type: temporal_ordered\n  rules: [login, whoami]\n  timespan: 60s\n",
                CorrelationKind::TemporalOrdered,
                2,
            ),
        ];
        for (text, kind, at_least) in cases {
            let set = load(&[&dir(&[("a.yml", &with(text))])]).unwrap_or_else(|error| panic!("{error}"));
            let [correlation] = set.correlations() else { panic!("{text}") };
            assert_eq!((&correlation.kind, correlation.at_least), (&kind, at_least), "{text}");
            assert_eq!(correlation.timespan.as_secs(), 60);
            assert_eq!(correlation.rules[0], "login".into());
            assert!(set.rule(&"c".into()).unwrap().alerts);
            assert!(!set.rule(&"login".into()).unwrap().alerts);
        }
    }

    #[test]
    fn what_a_late_event_could_undo_and_what_is_not_evaluated_is_refused() {
        let count = |condition: &str| {
            format!("  type: event_count\n  rules: [login]\n  timespan: 60s\n  condition: {condition}\n")
        };
        let cases = [
            (count("{lt: 3}"), "late would make an alert untrue"),
            (count("{lte: 3}"), "late would make an alert untrue"),
            (count("{eq: 3}"), "late would make an alert untrue"),
            (count("{neq: 3}"), "late would make an alert untrue"),
            (count("{gte: 3, lte: 9}"), "late would make an alert untrue"),
            (count("{gte: 0}"), "always true"),
            (count("{gte: 3}").replace("[login]", "[gone]"), "refers to gone"),
            (count("{gte: 3}").replace("[login]", "[]"), "correlates no rules"),
            (count("{gte: 3}").replace("60s", "0s"), "timespan is zero"),
            (count("{gte: 3}") + "  window: tumbling\n", "window tumbling is not supported"),
            (count("{gte: 3}").replace("event_count", "value_count"), "needs the field"),
            (count("{gte: 3, field: x}").replace("event_count", "value_sum"), "value_sum is not supported"),
            (
                "  type: temporal\n  rules: [login, whoami]\n  timespan: 1m\n  condition: login and whoami\n"
                    .into(),
                "over rule names",
            ),
            (
                "  type: temporal\n  rules: [login]\n  timespan: 1m\n  condition: {gte: 2}\n".into(),
                "wants 2 of 1 rules",
            ),
            (
                "  type: temporal_ordered\n  rules: [login, whoami]\n  timespan: 1m\n  condition: {gte: 2}\n"
                    .into(),
                "takes no condition",
            ),
            (count("{gte: 3}").replace("[login]", "[c]"), "counts itself"),
        ];
        for (text, expected) in cases {
            let dir = dir(&[("a.yml", &with(&text))]);
            let error = load(&[&dir]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error} for {text}");
            assert_eq!(error.problems()[0].line, 19, "{error}");
        }
    }

    #[test]
    fn generate_lets_the_base_alert_as_well() {
        let text = with(
            "  type: event_count\n  rules: [login]\n  timespan: 60s\n  condition: {gte: 3}\ngenerate: true\n",
        );
        let set = load(&[&dir(&[("a.yml", &text)])]).unwrap();
        assert!(set.rule(&"login".into()).unwrap().alerts);
    }

    #[test]
    fn inputs_are_given_for_near_and_far_correlations_and_missing_fields_are_named() {
        let text = with(
            "  type: event_count\n  rules: [failed_login]\n  group-by: [who, source.ip]\n  timespan: 60s\n  condition: {gte: 3}\n  \
             aliases:\n    who:\n      failed_login: user.name\n---\ntitle: P\nid: p\ncorrelation:\n  type: value_count\n  rules: [c]\n  \
             group-by: [host.id]\n  timespan: 5m\n  condition: {gte: 2, field: user.name}\n",
        );
        let set = load(&[&dir(&[("a.yml", &text)])]).unwrap();
        let event = |ip: &str| {
            let json = format!(
                r#"{{"event_id":"1","timestamp":"2026-01-01T00:00:00Z","event_type":"user_login","user_id":"eve","action_result":"FAILURE","details":{{{ip}}}}}"#
            );
            Event::synthetic(None, [0; 16], 1, &json).unwrap()
        };
        let host = auditflow_event::HostFacts {
            id: Some(auditflow_event::NodeId::from_bytes([7; 16])),
            ..Default::default()
        };
        let inputs = |event: &Event, host| {
            let mut found = Vec::new();
            set.detect(event, host, &mut found);
            set.correlation_inputs(event, host, &found[0])
        };
        let both = inputs(&event(r#""ip_address":"10.0.0.9""#), Some(&host));
        let [near, far] = both.as_slice() else { panic!("{both:?}") };
        let near = near.as_ref().unwrap();
        assert_eq!((near.correlation.as_str(), near.base.as_str()), ("c", "login"));
        assert_eq!(near.group, ["eve".into(), "10.0.0.9".into()]);
        let far = far.as_ref().unwrap();
        assert_eq!(
            (far.correlation.as_str(), far.base.as_str(), far.value.as_deref()),
            ("p", "c", Some("eve"))
        );
        assert_eq!(far.group, ["07".repeat(16).into()]);

        let neither = inputs(&event(""), None);
        let missing: Vec<_> = neither.iter().map(|input| &*input.as_ref().unwrap_err().field).collect();
        assert_eq!(missing, ["source.ip", "host.id"]);
    }
}

mod examples {
    use super::*;

    fn with(rule: &str, examples: &str) -> String {
        format!("{rule}custom_attributes:\n  rsigma.exemplars:\n{examples}")
    }

    #[test]
    fn a_rule_that_fails_its_own_example_is_refused() {
        let good = with(
            WHOAMI,
            "    - {expect: match, event: {Image: /bin/whoami}}\n    - {expect: no-match, event: {Image: /bin/id}}\n",
        );
        load(&[&dir(&[("a.yml", &good)])]).unwrap();
        let problem = problem(&good.replace("/bin/id", "/bin/x/whoami"));
        assert!(problem.contains("example “1” should not match and does"), "{problem}");
        let problem = super::problem(&good.replace("/bin/whoami", "/bin/id"));
        assert!(problem.contains("example “0” should match and does not"), "{problem}");
    }

    #[test]
    fn an_example_of_the_wrong_shape_is_refused() {
        for (examples, expected) in [
            ("    - {expect: perhaps, event: {}}\n", "invalid expect"),
            ("    - {expect: match, events: []}\n", "must use 'event'"),
            ("    - {expect: match, event: {audit: \"type=X\"}}\n", "audit record"),
            ("    - {expect: match, event: {audit: \"\"}}\n", "audit holds no record"),
            ("    - {expect: match, event: {kubernetes: {a: 1}}}\n", "add it"),
        ] {
            let problem = problem(&with(WHOAMI, examples));
            assert!(problem.contains(expected), "{problem}");
        }
    }

    #[test]
    fn examples_may_be_audit_text_kubernetes_records_and_synthetic_events() {
        let audit = with(
            WHOAMI,
            "    - expect: match\n      event:\n        audit: |\n          type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 success=yes exit=0 exe=\"/bin/whoami\"\n          type=EXECVE msg=audit(1.000:1): argc=1 a0=\"whoami\"\n    - expect: no-match\n      event:\n        audit: |\n          type=SYSCALL msg=audit(1.000:1): arch=c000003e syscall=59 success=no exit=-2 exe=\"/bin/whoami\"\n",
        );
        load(&[&dir(&[("a.yml", &audit)])]).unwrap();
        let kubernetes = with(
            "title: K\nid: k\nlogsource: {product: kubernetes, service: audit}\ndetection:\n  s: {objectRef.resource: secrets}\n  condition: s\n",
            "    - expect: match\n      event:\n        kubernetes: {auditID: a, stage: ResponseComplete, requestReceivedTimestamp: '2026-01-01T00:00:00Z', objectRef: {resource: secrets}}\n",
        );
        load(&[&dir(&[("a.yml", &kubernetes)])]).unwrap();
        let login = with(
            LOGIN,
            "    - expect: match\n      event:\n        synthetic: {event_type: user_login, timestamp: '2026-01-01T00:00:00Z', action_result: FAILURE}\n    - expect: match\n      event: {event_type: user_login, event: {outcome: failure}}\n",
        );
        load(&[&dir(&[("a.yml", &login)])]).unwrap();
    }

    #[test]
    fn an_exception_does_not_make_a_rule_fail_its_example() {
        let rule = with(WHOAMI, "    - {expect: match, event: {Image: /bin/whoami}}\n");
        let filter = "title: F\nid: f\nfilter: {rules: [whoami], selection: {Image: /bin/whoami}, condition: not selection}\n";
        let set = load(&[&dir(&[("a.yml", &rule)]), &dir(&[("f.yml", filter)])]).unwrap();
        assert!(fired(&set, &exec("/bin/whoami")).is_empty());
    }

    #[test]
    fn a_correlation_is_tested_over_its_timed_events() {
        let event = |at: u32, user: &str| {
            format!(
                "        - {{offset: {at}s, event: {{event_type: user_login, event.outcome: failure, user.name: {user}}}}}\n"
            )
        };
        let three = |expect: &str, times: [u32; 3], users: [&str; 3]| {
            let events: String = times.iter().zip(users).map(|(at, user)| event(*at, user)).collect();
            let correlation = "title: C\nid: c\ncorrelation:\n  type: event_count\n  rules: [login]\n  group-by: [user.name]\n  timespan: 60s\n  condition: {gte: 3}\n";
            let text = format!(
                "{LOGIN}---\n{}",
                with(correlation, &format!("    - expect: {expect}\n      events:\n{events}"))
            );
            load(&[&dir(&[("a.yml", &text)])]).map(|_| ()).map_err(|error| error.to_string())
        };
        three("match", [0, 30, 60], ["a"; 3]).unwrap();
        three("no-match", [0, 30, 61], ["a"; 3]).unwrap();
        three("no-match", [0, 30, 60], ["a", "b", "a"]).unwrap();
        assert!(three("match", [0, 50, 100], ["a"; 3]).unwrap_err().contains("should match and does not"));
    }

    #[test]
    fn ordered_and_nested_correlations_are_tested_too() {
        let bases = format!(
            "{LOGIN}---\n{}",
            LOGIN
                .replace("id: login\nname: failed_login", "id: ok")
                .replace("failure", "success")
                .replace("Failed Login", "Good Login")
        );
        let burst = "title: Burst\nid: burst\ncorrelation:\n  type: event_count\n  rules: [login]\n  group-by: [user.name]\n  timespan: 60s\n  condition: {gte: 2}\n";
        let break_in = "title: Break-in\nid: break-in\ncorrelation:\n  type: temporal_ordered\n  rules: [burst, ok]\n  group-by: [user.name]\n  timespan: 5m\n";
        let case = |expect: &str, outcomes: [&str; 3]| {
            let events: Vec<String> = outcomes
                .iter()
                .zip([0, 10, 20])
                .map(|(outcome, at)| format!("        - {{offset: {at}s, event: {{event_type: user_login, event.outcome: {outcome}, user.name: a}}}}\n"))
                .collect();
            let text = format!(
                "{bases}---\n{burst}---\n{}",
                with(break_in, &format!("    - expect: {expect}\n      events:\n{}", events.concat()))
            );
            load(&[&dir(&[("a.yml", &text)])])
                .unwrap_or_else(|error| panic!("{expect} {outcomes:?}: {error}"));
        };
        case("match", ["failure", "failure", "success"]);
        case("no-match", ["success", "failure", "failure"]);
        case("no-match", ["failure", "success", "failure"]);
    }
}
