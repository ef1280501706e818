//! Configuration as an operator meets it: every kind of mistake with its place, overrides, the reference.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions around the tests are tests too"
)]

use std::collections::BTreeMap;
use std::path::Path;

use auditflow_service::config::{
    self, Age, ByteSize, ConfigError, Configuration, Overrides, Problems, Whereabouts, check_reference,
};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Config {
    node: Node,
    spool: Spool,
    rules: Rules,
    upstream: Vec<Upstream>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Node {
    name: Option<String>,
    labels: BTreeMap<String, String>,
    mode: Mode,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    #[default]
    Auto,
    Unicast,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
struct Spool {
    max_bytes: ByteSize,
    max_age: Age,
    commit_interval_ms: u64,
    sync: bool,
}

impl Default for Spool {
    fn default() -> Self {
        Self { max_bytes: ByteSize::mib(512), max_age: Age::days(30), commit_interval_ms: 200, sync: true }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Rules {
    dirs: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
struct Upstream {
    url: String,
}

impl Configuration for Config {
    fn validate(&self, problems: &mut Problems) {
        problems.require(self.spool.commit_interval_ms > 0, "spool.commit_interval_ms", "must be at least 1");
        let name = self.node.name.as_deref();
        problems.require(name != Some(""), "node.name", "must not be empty");
        problems.require(
            self.node.mode == Mode::Auto || name.is_some(),
            "node.name",
            "is needed for this mode",
        );
        for (index, dir) in self.rules.dirs.iter().enumerate() {
            problems.require(
                dir.starts_with('/'),
                &format!("rules.dirs.{index}"),
                "must be an absolute path",
            );
        }
        for (index, upstream) in self.upstream.iter().enumerate() {
            problems.require(!upstream.url.is_empty(), &format!("upstream.{index}.url"), "is missing");
        }
    }
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    config::parse(Path::new("agent.toml"), text, &Overrides::default())
}

fn with_env(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    config::parse(Path::new("agent.toml"), text, &Overrides::from_pairs("AUDITFLOW_", pairs))
}

fn problems(text: &str) -> Vec<String> {
    parse(text).unwrap_err().to_string().lines().map(str::to_owned).collect()
}

#[test]
fn every_kind_of_mistake_is_reported_with_its_place() {
    let not_a_size = "\"12 apples\" is not a size; write for example \"512MiB\"";
    let size_problem = format!("agent.toml:3:13: spool.max_bytes: {not_a_size}");
    for (text, expected) in [
        ("\n[spool]\nmax_bytes = \"12 apples\"", size_problem.as_str()),
        (
            "[spool]\nmax_age = 30",
            "agent.toml:2:11: spool.max_age: invalid type: integer `30`, expected a length of time with its unit such as \"30d\", \"12h\" or \"90s\"",
        ),
        (
            "[spool]\nsync = \"yes\"",
            "agent.toml:2:8: spool.sync: invalid type: string \"yes\", expected a boolean",
        ),
        (
            "[spool]\ncommit_interval_ms = -1",
            "agent.toml:2:22: spool.commit_interval_ms: invalid value: integer `-1`, expected u64",
        ),
        (
            "[spool]\ncommit_interval_ms = 99999999999999999999",
            "agent.toml:2:22: spool.commit_interval_ms: 99999999999999999999 is too large a number",
        ),
        ("[spool]\ncommit_interval_ms = 0", "agent.toml:2:1: spool.commit_interval_ms: must be at least 1"),
        ("[spool]\n  max_byte = 1", "agent.toml:2:3: spool.max_byte: unknown key; did you mean `max_bytes`?"),
        ("[spol]\nmax_bytes = 1", "agent.toml:1:2: spol: unknown key; did you mean `spool`?"),
        (
            "[node]\nmax_bytes = 1\n[spool]",
            "agent.toml:2:1: node.max_bytes: unknown key here; `max_bytes` belongs into [spool]",
        ),
        ("[rules]\nfoo = 1", "agent.toml:2:1: rules.foo: unknown key; known here: dirs"),
        (
            "[node]\nmode = \"multi\"",
            "agent.toml:2:8: node.mode: unknown variant `multi`, expected `auto` or `unicast`",
        ),
        ("[node]\nmode = 3", "agent.toml:2:8: node.mode: expected text, found integer"),
        (
            "[rules]\ndirs = [\"/a\", 5]",
            "agent.toml:2:15: rules.dirs.1: invalid type: integer `5`, expected a string",
        ),
        ("[rules]\ndirs = [\"/a\",\n  \"b\"]", "agent.toml:3:3: rules.dirs.1: must be an absolute path"),
        ("[[upstream]]\nurl = \"x\"\n[[upstream]]\n", "agent.toml:3:1: upstream.1.url: is missing"),
        (
            "[[upstream]]\nurl = \"x\"\nport = 1",
            "agent.toml:3:1: upstream.0.port: unknown key; known here: url",
        ),
        ("node = 1", "agent.toml:1:8: node: invalid type: integer `1`, expected struct Node"),
        (
            "[node]\nlabels = { rack = 1 }",
            "agent.toml:2:19: node.labels.rack: invalid type: integer `1`, expected a string",
        ),
        (
            "# größer\n[node]\nname = \"ä\" x",
            "agent.toml:3:12: syntax error: unexpected key or value, expected newline, `#`",
        ),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = "[spool]\nmax_bytes = \"much\"\nmax_agee = \"1d\"\nsync = 1\ncommit_interval_ms = 0\n[rules]\ndir = []\n[nodes]\n";
    let found = problems(text);
    let places: Vec<&str> = found.iter().map(|line| line.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "agent.toml:2:13",
            "agent.toml:3:1",
            "agent.toml:4:8",
            "agent.toml:5:1",
            "agent.toml:7:1",
            "agent.toml:8:2"
        ],
        "{found:#?}"
    );
}

#[test]
fn unknown_keys_are_reported_beside_a_syntax_error() {
    let found = problems("[spool]\nmax_byte = 1\nmax_age = 30d\n[rules]\ndirz = []\n");
    assert!(found.iter().any(|line| line.starts_with("agent.toml:2:1: spool.max_byte: ")), "{found:#?}");
    assert!(found.iter().any(|line| line.starts_with("agent.toml:3:11: syntax error: ")), "{found:#?}");
    assert!(found.iter().any(|line| line.starts_with("agent.toml:5:1: rules.dirz: ")), "{found:#?}");
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn syntax_error_is_not_echoed_by_what_the_parser_guesses_behind_it() {
    for (text, expected) in [
        ("[spool\nmax_bytes = 1\nfoo = 1", "agent.toml:1:7: syntax error: unclosed table, expected `]`"),
        (
            "[spool]\nmax_bytes = 512MiB",
            "agent.toml:2:13: syntax error: string values must be quoted, expected literal string",
        ),
        (
            "[spool]\nmax_age = \"30d\nsync = true",
            "agent.toml:2:15: syntax error: invalid basic string, expected `\"`",
        ),
        (
            "[rules]\ndirs = [\"/a\"\n[spool]\n",
            "agent.toml:3:1: syntax error: missing comma between array elements, expected `,`",
        ),
        ("[spool]\ncommit_interval_ms = = 3", "agent.toml:2:22: syntax error: extra `=`, expected nothing"),
        ("[spool]\nsync", "agent.toml:2:5: syntax error: key with no value, expected `=`"),
    ] {
        assert_eq!(problems(text), [expected], "{text}");
    }
}

#[test]
fn key_given_twice_is_refused() {
    let found = problems("[spool]\nsync = true\nsync = false");
    assert!(found[0].starts_with("agent.toml:3:1: syntax error: duplicate key"), "{found:#?}");
}

#[test]
fn problem_of_a_key_that_is_not_written_is_placed_at_its_section() {
    assert_eq!(
        problems("\n[node]\nmode = \"unicast\""),
        ["agent.toml:2:2: node.name: is needed for this mode"]
    );
    let override_only = with_env("", &[("AUDITFLOW_NODE__MODE", "unicast")]).unwrap_err().to_string();
    assert_eq!(
        override_only,
        "environment variable AUDITFLOW_NODE__MODE: node.name: is needed for this mode"
    );
}

#[test]
fn empty_file_gives_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn environment_overrides_the_file_and_the_defaults() {
    let config = with_env(
        "[spool]\nmax_bytes = \"1GiB\"\nsync = true\n",
        &[
            ("AUDITFLOW_SPOOL__MAX_BYTES", "2GiB"),
            ("AUDITFLOW_SPOOL__SYNC", "false"),
            ("AUDITFLOW_SPOOL__COMMIT_INTERVAL_MS", "50"),
            ("AUDITFLOW_RULES__DIRS", "[\"/a\", \"/b\"]"),
            ("AUDITFLOW_NODE__LABELS__RACK", "12"),
            ("AUDITFLOW_NODE__NAME", "true"),
            ("AUDITFLOW_NODE__MODE", "unicast"),
        ],
    )
    .unwrap();
    assert_eq!(
        config.spool,
        Spool { max_bytes: ByteSize::gib(2), max_age: Age::days(30), commit_interval_ms: 50, sync: false }
    );
    assert_eq!(config.rules.dirs, ["/a", "/b"]);
    assert_eq!((config.node.labels["rack"].as_str(), config.node.name.as_deref()), ("12", Some("true")));
    assert_eq!(config.node.mode, Mode::Unicast);
}

#[test]
fn problem_of_an_override_names_its_variable() {
    for (variable, value, expected) in [
        (
            "AUDITFLOW_SPOOL__MAX_BYTES",
            "much",
            "spool.max_bytes: \"much\" is not a size; write for example \"512MiB\"",
        ),
        ("AUDITFLOW_SPOOL__MAX_BYTE", "1", "spool.max_byte: unknown key; did you mean `max_bytes`?"),
        ("AUDITFLOW_SPOOL__COMMIT_INTERVAL_MS", "0", "spool.commit_interval_ms: must be at least 1"),
        ("AUDITFLOW_SPOOL__SYNC", "12", "spool.sync: invalid type: string \"12\", expected a boolean"),
        ("AUDITFLOW_RULES__DIRS", "[\"a\"]", "rules.dirs.0: must be an absolute path"),
        ("AUDITFLOW_SPOOL__SYNC__X", "1", "spool.sync: invalid type: map, expected a boolean"),
    ] {
        let error = with_env("[spool]\nsync = true\n", &[(variable, value)]).unwrap_err();
        assert_eq!(error.to_string(), format!("environment variable {variable}: {expected}"));
    }
}

#[test]
fn problem_of_the_file_keeps_its_line_beside_overrides() {
    let error = with_env("[spool]\nmax_byte = 1\n", &[("AUDITFLOW_SPOOL__SYNC", "false")]).unwrap_err();
    let [problem] = error.problems() else { panic!("{error}") };
    assert_eq!(problem.at, Whereabouts::File { path: "agent.toml".into(), position: Some((2, 1)) });
}

#[test]
fn variables_without_a_double_underscore_are_not_overrides() {
    let service_links = [
        ("AUDITFLOW_COLLECTOR_PORT", "tcp://10.43.0.7:8443"),
        ("AUDITFLOW_COLLECTOR_SERVICE_HOST", "10.43.0.7"),
        ("OTHER_SPOOL__SYNC", "no"),
        ("AUDITFLOW___X", "1"),
    ];
    assert_eq!(with_env("", &service_links).unwrap(), Config::default());
}

#[test]
fn value_that_was_refused_is_not_judged_again() {
    // The default (200) stands in for the refused value; only the type is reported.
    assert_eq!(problems("[spool]\ncommit_interval_ms = \"0\"").len(), 1);
}

#[test]
fn file_full_of_wrong_values_is_given_up_after_a_hundred() {
    let labels: Vec<String> = (0..20_000).map(|number| format!("l{number} = 1")).collect();
    assert_eq!(problems(&format!("[node.labels]\n{}", labels.join("\n"))).len(), 100);
}

#[test]
fn absent_or_unreadable_file_is_named_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let load =
        |path: &Path| config::load::<Config>(Some(path), "AUDITFLOW_NOT_SET_").unwrap_err().to_string();

    let absent = directory.path().join("absent.toml");
    let text = load(&absent);
    assert!(text.starts_with(&format!("{}: no such file; ", absent.display())), "{text}");

    let text = load(directory.path());
    assert!(text.contains(": cannot be read: "), "{text}");

    let latin = directory.path().join("latin.toml");
    std::fs::write(&latin, b"[node]\nname = \"caf\xe9\"\n").unwrap();
    assert!(load(&latin).ends_with("line 2 is not UTF-8; save the file as UTF-8"));

    let large = directory.path().join("large.toml");
    std::fs::write(&large, vec![b'#'; usize::try_from(config::MAX_FILE_BYTES).unwrap() + 1]).unwrap();
    assert!(load(&large).contains("is larger than the allowed"));
}

#[test]
fn no_file_at_all_is_the_defaults() {
    assert_eq!(config::load::<Config>(None, "AUDITFLOW_NOT_SET_").unwrap(), Config::default());
}

const REFERENCE: &str = r#"
# What this node is.
[node]
# Its name.
#name = "pi-1"  # example
#mode = "auto"

# Anything.
[node.labels]
#rack = "a"  # example

[spool]
#max_bytes = "512MiB"
#max_age = "30d"
#commit_interval_ms = 200
#sync = true

[rules]
#dirs = []

#[[upstream]]  # example
#url = "https://x"  # example
"#;

#[test]
fn reference_that_shows_every_key_with_its_default_passes() {
    // The array of tables stands for a list that is empty by default: its header is an example too.
    let reference = REFERENCE
        .replace("#[[upstream]]  # example\n#url = \"https://x\"  # example\n", "")
        .replace("\n# What", "\n#upstream = []\n# What");
    assert_eq!(check_reference::<Config>(&reference), Ok(()));
    assert_eq!(check_reference::<Config>(REFERENCE), Ok(()));
}

#[test]
fn reference_that_differs_from_the_code_fails() {
    for (from, to, expected) in [
        ("#sync = true\n", "", "spool.sync: missing in the reference"),
        ("#sync = true\n", "#sync = false\n", "uncommented, it is not the default"),
        ("#sync = true\n", "sync = false\n", "as it stands, it is not the default"),
        ("#sync = true\n", "#sync = true\n#old = 1  # example\n", "spool.old: the type has no such key"),
        ("#max_age = \"30d\"", "#max_age = 30d", "syntax error"),
        ("[rules]\n#dirs = []\n", "", "rules: missing in the reference"),
        ("#name = \"pi-1\"  # example", "#name = 7  # example", "node.name: invalid type"),
        ("#url = \"https://x\"  # example", "", "upstream.0.url: missing in the reference"),
    ] {
        let changed = REFERENCE.replace(from, to);
        assert_ne!(changed, REFERENCE);
        let wrong = check_reference::<Config>(&changed).expect_err(to);
        assert!(wrong.iter().any(|line| line.contains(expected)), "{expected} not in {wrong:#?}");
    }
}

/// Pieces that make nearly valid TOML more likely than random text does.
fn toml_like() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[spool]\n".to_owned()),
        Just("[[upstream]]\n".to_owned()),
        Just("[node.labels]\n".to_owned()),
        Just("max_bytes = ".to_owned()),
        Just("dirs = [".to_owned()),
        Just("node = { labels = { ".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("\n".to_owned()),
        Just("}".to_owned()),
        Just("]".to_owned()),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("-nan".to_owned()),
        Just("0xffffffffffffffff".to_owned()),
        "[a-z_.]{1,8} = [0-9\"']{1,4}\n",
        "\\PC{0,12}",
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_and_no_variable_makes_the_loader_panic(text in toml_like(), raw in "\\PC{0,16}", step in "[A-Z_]{1,12}") {
        let pairs = [(format!("AUDITFLOW_{step}__{step}"), raw.clone()), ("AUDITFLOW_NODE__LABELS__A".to_owned(), raw)];
        let overrides = Overrides::from_pairs("AUDITFLOW_", pairs);
        if let Err(error) = config::parse::<Config>(Path::new("x"), &text, &overrides) {
            let lines = text.matches('\n').count() + 1;
            prop_assert!(!error.problems().is_empty());
            for problem in error.problems() {
                if let Some((line, column)) = problem.at.position() {
                    prop_assert!((1..=lines).contains(&line) && column >= 1, "{problem}");
                }
            }
        }
    }

    #[test]
    fn whatever_size_prints_reads_back(bytes: u64) {
        prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
    }

    #[test]
    fn no_text_makes_the_newtypes_panic(text in "[0-9.]{0,24}\\PC{0,6}") {
        let _ = text.parse::<ByteSize>();
        let _ = text.parse::<Age>();
    }
}
