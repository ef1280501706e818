use auditflow_service::config::{Overrides, check_reference, parse};

use super::*;

fn problems_of(text: &str) -> Vec<String> {
    match parse::<Config>(Path::new("agent.toml"), text, &Overrides::default()) {
        Ok(_) => Vec::new(),
        Err(error) => error.problems().iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn the_reference_names_every_key_with_its_default() {
    assert_eq!(check_reference::<Config>(REFERENCE), Ok(()));
}

#[test]
fn an_empty_file_is_a_valid_configuration() {
    assert_eq!(problems_of(""), Vec::<String>::new());
}

#[test]
fn what_types_cannot_say_is_checked_and_names_its_key_and_line() {
    let table = [
        ("[node]\ndata_dir = \"spool\"", "agent.toml:2", "node.data_dir"),
        ("[node.labels]\n\"a b\" = \"c\"", "agent.toml:2", "node.labels.a b"),
        ("[node.labels]\na = \"b\\nc\"", "agent.toml:2", "node.labels.a"),
        ("[collector]\nurl = \"http://collector.example\"", "agent.toml:2", "collector.url"),
        ("[collector]\nurl = \"collector\"", "agent.toml:2", "collector.url"),
        ("[collector]\nurl = \"ftp://collector\"", "agent.toml:2", "collector.url"),
        ("[collector]\nca_file = \"ca.pem\"", "agent.toml:2", "collector.ca_file"),
        ("[collector]\nburst = \"1KiB\"", "agent.toml:2", "collector.burst"),
        ("[collector]\ntransport = \"pigeon\"", "agent.toml:2", "collector.transport"),
        ("[collector]\ntransport = \"mqtt\"", "agent.toml:2", "collector.transport"),
        ("[collector.mqtt]\nurl = \"https://broker\"", "agent.toml:2", "collector.mqtt.url"),
        ("[collector.mqtt]\nurl = \"mqtt://broker\"", "agent.toml:2", "collector.mqtt.url"),
        ("[collector.mqtt]\nca_file = \"ca.pem\"", "agent.toml:2", "collector.mqtt.ca_file"),
        ("[collector.mqtt]\nmax_message = \"1KiB\"", "agent.toml:2", "collector.mqtt.max_message"),
        ("[collector.mqtt]\nurls = \"mqtts://a\"", "agent.toml:2", "collector.mqtt.urls"),
        ("[sources.kernel_audit]\nmode = \"both\"", "agent.toml:2", "sources.kernel_audit.mode"),
        ("[sources.audit_log]\npath = \"audit.log\"", "agent.toml:2", "sources.audit_log.path"),
        ("[sources.synthetic]\nrate = 100001", "agent.toml:2", "sources.synthetic.rate"),
        ("[spool]\nmax_bytes = \"1MiB\"", "agent.toml:2", "spool.max_bytes"),
        ("[spool]\ncommit_interval_ms = 1", "agent.toml:2", "spool.commit_interval_ms"),
        ("[spool]\nseal_interval_ms = 1000000", "agent.toml:2", "spool.seal_interval_ms"),
        ("[rules]\ndirs = [\"/a\", \"b\"]", "agent.toml:2", "rules.dirs.1"),
        ("[admin]\nlisten = \"0.0.0.0:80\"", "agent.toml:2", "admin.listen"),
        ("[lifecycle]\ngrace = \"1ms\"", "agent.toml:2", "lifecycle.grace"),
        ("[spool]\nmax_byte = 1", "agent.toml:2", "spool.max_byte"),
    ];
    for (text, place, key) in table {
        let problems = problems_of(text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].starts_with(place) && problems[0].contains(key), "{text}: {problems:?}");
    }
}

#[test]
fn plain_http_is_for_this_machine_unless_allowed() {
    for text in [
        "[collector]\nurl = \"http://127.0.0.1:7443\"",
        "[collector]\nurl = \"http://[::1]:7443\"",
        "[collector]\nurl = \"http://localhost\"",
        "[collector]\nurl = \"http://collector.example\"\nallow_plain_http = true",
        "[sources.audit_log]\npath = \"-\"",
        "[admin]\nlisten = \"[::1]:7470\"",
    ] {
        assert_eq!(problems_of(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn labels_are_refused_beyond_what_a_batch_header_carries() {
    let many = |labels: usize, value: usize| {
        let lines = (0..labels).map(|label| format!("l{label:02} = \"{}\"", "v".repeat(value)));
        lines.collect::<Vec<_>>().join("\n")
    };
    for (labels, fits) in [
        (format!("{} = \"{}\"", "n".repeat(63), "v".repeat(255)), true),
        (format!("{} = \"\"", "n".repeat(64)), false),
        (format!("n = \"{}\"", "v".repeat(256)), false),
        (many(32, 29), true),
        (many(32, 30), false),
        (many(33, 0), false),
    ] {
        assert_eq!(problems_of(&format!("[node.labels]\n{labels}")).is_empty(), fits, "{labels}");
    }
}

#[test]
fn every_problem_of_a_file_is_found_at_once() {
    let text = "[spool]\nmax_bytes = \"1MiB\"\nunknown = 1\n[admin]\nlisten = \"0.0.0.0:1\"\nsocket = 5\n";
    assert_eq!(problems_of(text).len(), 4, "{:?}", problems_of(text));
}

#[test]
fn a_variable_overrides_its_key() {
    let pairs = [("AUDITFLOW_SPOOL__MAX_BYTES".to_owned(), "1GiB".to_owned())];
    let overrides = Overrides::from_pairs(ENVIRONMENT_PREFIX, pairs);
    let config: Config = parse(Path::new("x"), "[spool]\nmax_bytes = \"9MiB\"", &overrides).unwrap();
    assert_eq!(config.spool.max_bytes.as_u64(), 1 << 30);
}
