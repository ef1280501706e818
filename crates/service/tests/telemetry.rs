//! Logging of a whole process: this test binary runs itself as the child.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions around the tests are tests too"
)]

use std::path::Path;
use std::process::{Command, Output};

use auditflow_service::telemetry::{self, LogConfig, LogFormat};

const FORMAT: &str = "AUDITFLOW_TEST_FORMAT";

/// Not a test of its own: the child's side, which does nothing unless a test below starts it.
#[test]
fn child() {
    let format = match std::env::var(FORMAT).as_deref() {
        Ok("json") => LogFormat::Json,
        Ok("journald") => LogFormat::Journald,
        Ok(_) => LogFormat::Auto,
        Err(_) => return,
    };
    telemetry::init("auditflow-test", &LogConfig { format, ..LogConfig::default() }, false).unwrap();
    assert!(telemetry::init("auditflow-test", &LogConfig::default(), false).is_err());
    tracing::info!(node.id = "ab", "hello");
    let _ = std::thread::spawn(|| panic!("out of cheese")).join();
}

fn logged(format: &str) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "child", "--nocapture"])
        .env(FORMAT, format)
        .env("JOURNAL_STREAM", "1:1")
        .output()
        .unwrap()
}

#[test]
fn json_and_panics_go_to_standard_output_as_objects() {
    let output = logged("json");
    let text = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<serde_json::Value> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects[0]["node.id"], "ab", "{text}");
    assert_eq!(objects[1]["message"], "panic: out of cheese", "{text}");
    assert!(objects[1]["panic.location"].as_str().unwrap().contains("telemetry.rs"), "{text}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("hello"));
}

#[test]
fn text_goes_to_standard_error_where_an_inherited_journal_stream_is_not_ours() {
    let stderr = String::from_utf8(logged("auto").stderr).unwrap();
    assert!(stderr.contains("hello") && stderr.contains("node.id=\"ab\""), "{stderr}");
    assert!(!stderr.contains('\x1b'), "{stderr}");
}

#[test]
fn text_with_a_warning_stands_in_for_an_absent_journal() {
    if Path::new("/run/systemd/journal/socket").exists() {
        eprintln!("SKIPPED: this machine has a journal, its absence can't be tested");
        return;
    }
    let stderr = String::from_utf8(logged("journald").stderr).unwrap();
    assert!(stderr.contains("no journal to log to") && stderr.contains("hello"), "{stderr}");
}
