//! The command line as it is installed: what it prints, and how it exits.

// A test that cannot go on says so by panicking, also in the functions it calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn agent() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("auditflow-agent"));
    command.env_clear();
    command
}

fn agent_of(args: &[&str]) -> assert_cmd::Command {
    let mut command = agent();
    command.args(args);
    assert_cmd::Command::from_std(command)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const EVENT: &str = "type=SYSCALL msg=audit(1700000000.000:1): arch=c000003e syscall=59 success=yes exit=0 pid=7 comm=\"ls\"\n\
                     type=PROCTITLE msg=audit(1700000000.000:1): proctitle=\"ls\"\n";

#[test]
fn decode_reads_standard_input_and_files_alike() {
    let from_stdin = agent_of(&["decode"]).write_stdin(EVENT).assert().success();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), EVENT).unwrap();
    let from_file =
        agent_of(&["decode", file.path().to_str().unwrap(), "--format", "jsonl"]).assert().success();
    let lines = text(&from_stdin.get_output().stdout);
    assert_eq!(lines, text(&from_file.get_output().stdout));
    let event: serde_json::Value = serde_json::from_str(lines.trim_end()).unwrap();
    assert_eq!(
        (event["auditd"]["serial"].as_u64(), event["timestamp"].as_str()),
        (Some(1), Some("2023-11-14T22:13:20.000Z"))
    );
}

#[test]
fn decode_fails_only_if_nothing_could_be_decoded() {
    agent_of(&["decode"]).write_stdin("").assert().success();
    let mixed = agent_of(&["decode"]).write_stdin(format!("garbage\n{EVENT}")).assert().success();
    assert!(text(&mixed.get_output().stderr).contains("1 lines are no audit records"));
    agent_of(&["decode"]).write_stdin("garbage\n").assert().code(1);
    agent_of(&["decode", "/nonexistent"]).assert().code(1);
}

#[test]
fn decode_ends_in_peace_when_nobody_reads_any_more() {
    let mut child = agent()
        .arg("decode")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut input = child.stdin.take().unwrap();
    // It stops reading at some point, so writing may fail.
    let _ = input.write_all(EVENT.replace(":1)", ":2)").repeat(20_000).as_bytes());
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn decode_makes_as_many_events_of_the_corpus_as_there_are_and_the_same_each_time() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/kernel-audit.log.zst");
    if !corpus.exists() {
        eprintln!("SKIPPED: there is no {}", corpus.display());
        return;
    }
    let log = zstd::decode_all(std::fs::File::open(corpus).unwrap()).unwrap();
    let beginning: Vec<u8> =
        log.split_inclusive(|byte| *byte == b'\n').take(40_000).flatten().copied().collect();
    let decode = || {
        agent_of(&["decode"]).write_stdin(beginning.clone()).assert().success().get_output().stdout.clone()
    };
    let lines = text(&decode());
    assert_eq!(lines, text(&decode()));
    // A stamp is an event here: the corpus comes from one undisturbed kernel.
    let stamp = |line: &[u8]| {
        text(line).split_once("msg=audit(").map(|(_, rest)| rest.split(')').next().unwrap().to_owned())
    };
    let stamps: std::collections::BTreeSet<_> =
        beginning.split(|byte| *byte == b'\n').filter_map(stamp).collect();
    assert_eq!(lines.lines().count(), stamps.len());
}

#[test]
fn check_says_all_that_is_wrong_with_its_line_and_exits_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, "[spool]\nmax_bytes = \"1MiB\"\nmax_byte = 2\n[node]\ndata_dir = \"x\"\n").unwrap();
    let assert = agent_of(&["check", "--config", path.to_str().unwrap()]).assert().code(78);
    let problems = text(&assert.get_output().stderr);
    assert_eq!(problems.lines().count(), 3, "{problems}");
    for (line, key) in [(2, "spool.max_bytes"), (3, "spool.max_byte"), (5, "node.data_dir")] {
        assert!(problems.contains(&format!("agent.toml:{line}:")) && problems.contains(key), "{problems}");
    }
    agent_of(&["check", "--config", "/nonexistent/agent.toml"]).assert().code(78);
}

#[test]
fn check_opens_nothing_and_takes_the_printed_reference() {
    let dir = tempfile::tempdir().unwrap();
    let reference = agent_of(&["config", "default"]).assert().success().get_output().stdout.clone();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, reference).unwrap();
    agent_of(&["check", "--config", path.to_str().unwrap()]).assert().success();
    let data_dir = dir.path().join("data");
    let mut command = agent();
    command.args(["check", "--config", path.to_str().unwrap()]).env("AUDITFLOW_NODE__DATA_DIR", &data_dir);
    assert_cmd::Command::from_std(command).assert().success();
    assert!(!data_dir.exists());
}

#[test]
fn wrong_usage_exits_with_64() {
    agent_of(&["decode", "--format", "xml"]).assert().code(64);
    agent_of(&["frobnicate"]).assert().code(64);
}

fn rules(text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    std::fs::write(path.join("edge.yml"), text).unwrap();
    (dir, path)
}

const DROP_LS: &str = "title: Drop ls
id: 0b7e9a52-7c3c-4d33-9f2f-3d2a0c1f5e77
logsource: { product: linux, service: auditd }
detection: { selection: { type: SYSCALL, comm: ls }, condition: selection }
action: drop
";

#[test]
fn rules_are_tested_and_what_they_do_is_explained() {
    let (_dir, path) = rules(DROP_LS);
    let path = path.to_str().unwrap();
    let tested = agent_of(&["rules", "test", path]).assert().success();
    assert!(text(&tested.get_output().stdout).starts_with("1 rules are good"));
    let explained = agent_of(&["rules", "explain", "--rules", path]).write_stdin(EVENT).assert().success();
    let explained = text(&explained.get_output().stdout);
    assert!(
        explained.contains("1700000000.000:1")
            && explained.contains("filtered")
            && explained.contains("Drop ls")
            && explained.contains("comm = \"ls\" (selection)"),
        "{explained}"
    );
}

#[test]
fn a_bad_rule_is_named_with_its_file() {
    let (_dir, path) = rules(&DROP_LS.replace("action: drop", "action: explode"));
    let tested = agent_of(&["rules", "test", path.to_str().unwrap()]).assert().code(1);
    assert!(text(&tested.get_output().stdout).contains("edge.yml:"), "{tested}");
}

#[test]
fn a_place_without_a_spool_is_named_with_what_to_give() {
    let dir = tempfile::tempdir().unwrap();
    for what in ["inspect", "verify", "export"] {
        let assert = agent_of(&["spool", what, dir.path().to_str().unwrap()]).assert().code(1);
        let said = text(&assert.get_output().stderr);
        assert!(said.contains("there is no spool in") && said.contains("data_dir"), "{said}");
    }
    assert_eq!(dir.path().read_dir().unwrap().count(), 0, "looking left something behind");
}

#[test]
fn commands_that_need_a_running_agent_say_what_to_do_without_one() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["status"][..], &["test-alert", "--timeout", "1"]] {
        let mut command = agent();
        command.args(arguments).env("AUDITFLOW_ADMIN__SOCKET", dir.path().join("none.sock"));
        let assert = assert_cmd::Command::from_std(command).assert().code(1);
        assert!(text(&assert.get_output().stderr).contains("none.sock"), "{assert}");
    }
}
