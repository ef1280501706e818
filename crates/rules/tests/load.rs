//! Loading: whole or not at all, with everything that is wrong named by file and line.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

mod kit;

use std::path::PathBuf;

use auditflow_rules::{Limits, Missing, RuleSet, exclusion};
use kit::files::{dir, paths};
use kit::sets::{LOGIN, WHOAMI, exec, fired, load, problem};

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

#[test]
fn a_rule_that_contradicts_itself_loads_and_matches_nothing() {
    let rule = "title: T\nid: t\nlogsource: {product: linux, service: auditd}\ndetection:\n  a: {type: EXECVE}\n  b: {type: SYSCALL}\n  condition: a and b\n";
    let set = load(&[&dir(&[("a.yml", rule)])]).unwrap();
    assert!(fired(&set, &exec("/bin/true")).is_empty());
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
    fn a_filter_by_a_field_that_is_never_there_is_a_warning() {
        let filter = FILTER.replace("Image:", "Imgae:");
        let set = load(&[&dir(&[("a.yml", WHOAMI), ("f.yml", &filter)])]).unwrap();
        assert!(set.warnings()[0].message.contains("excepts by Imgae"), "{:?}", set.warnings());
        assert!(set.gaps().is_empty());
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
