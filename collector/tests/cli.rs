//! The command line as it is installed: what it prints, and how it exits.

// A test that cannot go on says so by panicking, also in the functions it calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use auditflow_collector::proof::checkpoint::Checkpoints;
use auditflow_collector::site::Site;
use auditflow_collector::store::sqlite::{Options, SqliteStore};
use auditflow_collector::store::{Arrival, By, Enrolment, JoinToken, Limits, NewBatch, NewPayload, Store};
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{
    BatchSeq, BootId, Clocks, Draft, Encoded, EpochId, Link, NodeFacts, NodeKey, RuleSetVersion,
    UnknownPredecessor, seal,
};
use tempfile::TempDir;

fn collector(args: &[&str]) -> assert_cmd::Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("auditflow-collector"));
    command.env_clear().args(args);
    assert_cmd::Command::from_std(command)
}

/// Standard output of a run that succeeds.
fn output(args: &[&str]) -> String {
    String::from_utf8(collector(args).assert().success().get_output().stdout.clone()).unwrap()
}

/// Standard error of a run that exits with `code`.
fn error(args: &[&str], code: i32) -> String {
    String::from_utf8(collector(args).assert().code(code).get_output().stderr.clone()).unwrap()
}

/// A data directory with a store, as `migrate` makes it.
fn store() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data").to_str().unwrap().to_owned();
    output(&["migrate", "--data", &data]);
    (dir, data)
}

fn written(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn check_says_all_that_is_wrong_with_its_line_and_exits_with_78() {
    let dir = tempfile::tempdir().unwrap();
    let config = written(dir.path(), "collector.toml", "nonsense = 1\n[listen]\nweb = \"a\"\n");
    let said = error(&["check", "--config", config.to_str().unwrap()], 78);
    assert!(said.contains("collector.toml:1:1: nonsense: unknown key"), "{said}");
    assert!(said.contains("collector.toml:3:7: listen.web:"), "{said}");
}

#[test]
fn check_opens_nothing_and_takes_the_printed_reference() {
    let dir = tempfile::tempdir().unwrap();
    let config = written(dir.path(), "collector.toml", &output(&["config", "default"]));
    let data = dir.path().join("data");
    let mut check = collector(&["check", "--config", config.to_str().unwrap()]);
    check.env("AUDITFLOW_STORAGE__DATA_DIR", &data).assert().success();
    assert!(!data.exists());
}

#[test]
fn wrong_usage_exits_with_64() {
    error(&["frobnicate"], 64);
    error(&["verify", "--node", "00"], 64);
}

#[test]
fn a_place_without_a_collector_is_named_and_none_is_made_by_looking() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("none");
    let place = ["--data", data.to_str().unwrap()];
    for command in [["token", "create"], ["token", "list"], ["admin", "reset-password"]] {
        let said = error(&[command, place].concat(), 1);
        assert!(said.contains("there is no collector in"), "{said}");
    }
    assert!(!data.exists());
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let data = file.path().join("data");
    let said = error(&["migrate", "--data", data.to_str().unwrap()], 1);
    assert!(said.contains(data.to_str().unwrap()), "{said}");
}

#[test]
fn api_tokens_are_printed_once_listed_without_their_secret_and_revoked() {
    let (_dir, data) = store();
    let token = output(&["token", "api", "--name", "grafana", "--role", "viewer", "--data", &data]);
    let token = token.trim_end();
    let list = output(&["token", "list", "--data", &data]);
    assert!(list.contains("grafana") && list.contains("viewer") && !list.contains(token), "{list}");
    let id = list.split_whitespace().next().unwrap();
    output(&["token", "revoke", id, "--data", &data]);
    let list = output(&["token", "list", "--data", &data]);
    assert!(list.contains("grafana") && list.contains("revoked"), "{list}");
    error(&["token", "revoke", id, "--data", &data], 1);
}

#[test]
fn an_exception_is_written_as_a_sigma_filter_that_the_rules_take() {
    let (_dir, data) = store();
    let field = "TargetFilename=/etc/passwd";
    let path = output(&["rules", "exclude", "ANLY-SEC-002", "--field", field, "--data", &data]);
    let path = Path::new(path.trim_end());
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains("filter:") && text.contains("TargetFilename: /etc/passwd"), "{text}");
    output(&["rules", "check", path.parent().unwrap().to_str().unwrap()]);

    let said = error(&["rules", "exclude", "no such rule", "--field", field, "--data", &data], 1);
    assert!(said.contains("no rule is called no such rule"), "{said}");
}

#[test]
fn a_dry_run_of_an_exception_writes_nothing() {
    let (_dir, data) = store();
    let args = ["rules", "exclude", "ANLY-SEC-002", "--field", "User=backup", "--dry-run", "--data", &data];
    assert!(output(&args).contains("User: backup"));
    let local = Path::new(&data).join("rules.d");
    assert!(!local.exists() || local.read_dir().unwrap().next().is_none());
}

#[test]
fn a_bad_rule_is_named_with_its_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let rule = "title: x\nid: 1\nlogsource: {product: linux}\ndetection: {condition: a}\n";
    written(dir.path(), "bad.yml", rule);
    for command in ["check", "test"] {
        let outcome = collector(&["rules", command, dir.path().to_str().unwrap()]).assert().code(78);
        let said = format!("{:?}", outcome.get_output());
        assert!(said.contains("bad.yml:4: condition names a"), "{said}");
    }
}

#[test]
fn every_command_explains_itself() {
    for command in
        [&["export"][..], &["keys"], &["keys", "rotate"], &["verify"], &["backup"], &["audit", "verify"]]
    {
        assert!(
            output(&[command, &["--help"]].concat()).contains("Usage: auditflow-collector"),
            "{command:?}"
        );
    }
}

#[test]
fn half_a_backup_is_not_left_behind() {
    let (dir, data) = store();
    let destination = dir.path().join("backup");
    // There are no keys to copy yet: the collector has never run.
    error(&["backup", "--data", &data, destination.to_str().unwrap()], 1);
    assert!(!destination.exists());
}

/// The trail, oldest first.
fn trail(data: &str) -> Vec<serde_json::Value> {
    let lines = output(&["audit", "list", "--json", "--data", data]);
    lines.lines().rev().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_commands_change_is_in_the_audit_trail_with_who_typed_it() {
    let (dir, data) = store();
    Site::open(Path::new(&data)).unwrap();
    let token = output(&["token", "create", "--data", &data]);
    let secret = output(&["token", "api", "--name", "a \u{1b}[31mred one", "--data", &data]);
    let list = output(&["token", "list", "--data", &data]);
    let id = list.split_whitespace().next().unwrap();
    output(&["token", "revoke", id, "--data", &data]);
    let password = output(&["admin", "reset-password", "--data", &data]);
    output(&["keys", "rotate", "--data", &data]);
    let backup = dir.path().join("backup");
    output(&["backup", "--data", &data, backup.to_str().unwrap()]);
    output(&["rules", "exclude", "ANLY-SEC-002", "--field", "User=backup", "--data", &data]);
    let export = dir.path().join("export");
    let nobody = NodeId::from_bytes([1; 16]).to_string();
    error(&["export", "--node", &nobody, "--data", &data, export.to_str().unwrap()], 1);

    let trail = trail(&data);
    let said: Vec<(&str, &str)> = trail
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        said,
        [
            ("join_token.create", "done"),
            ("api_token.create", "done"),
            ("api_token.revoke", "done"),
            ("user.create", "done"),
            ("site.rotate_key", "done"),
            ("store.backup", "done"),
            ("rule.exclude", "done"),
            ("store.export", "failed"),
        ]
    );
    let uid = nix::unistd::getuid();
    for entry in &trail {
        assert!(entry["actor"].as_str().unwrap().starts_with(&format!("cli:{uid}:")), "{entry}");
    }
    let text = output(&["audit", "list", "--actor", "cli", "--data", &data]);
    assert_eq!(text.lines().count(), trail.len());
    assert!(!text.contains('\u{1b}'), "a name speaks to the terminal: {text}");
    for secret in [&token, &secret, &password] {
        assert!(!text.contains(secret.trim_end()), "a secret is in {text}");
    }
    for nothing in [["--actor", "user"], ["--since", "2999-01-01T00:00:00Z"]] {
        assert_eq!(output(&[&["audit", "list", "--data", &data][..], &nothing].concat()), "");
    }
}

#[test]
fn the_audit_trail_is_proved_and_held_to_a_head_that_was_kept() {
    let (_dir, data) = store();
    let verify = ["audit", "verify", "--data", &data];
    assert_eq!(output(&verify), "no entries\nsound\n");
    for _ in 0..3 {
        output(&["admin", "reset-password", "--data", &data]);
    }
    let said = output(&verify);
    assert!(said.starts_with("3 entries, none missing") && said.ends_with("sound\n"), "{said}");
    let head = said.lines().find_map(|line| line.strip_prefix("head ")).unwrap().to_owned();
    output(&["admin", "reset-password", "--data", &data]);
    output(&[&verify[..], &["--head", &head]].concat());

    let database = rusqlite::Connection::open(Path::new(&data).join("collector.db")).unwrap();
    database.execute_batch("DROP TRIGGER audit_trail_is_never_shortened").unwrap();
    database.execute("DELETE FROM audit_trail WHERE number > 2", []).unwrap();
    assert!(output(&verify).starts_with("2 entries"), "the chain alone does not show that it was cut off");
    let outcome = collector(&[&verify[..], &["--head", &head]].concat()).assert().code(1);
    let said = String::from_utf8_lossy(&outcome.get_output().stdout).into_owned();
    assert!(said.contains("not sound: entry 3 is missing"), "{said}");
    database.execute("DELETE FROM audit_trail WHERE number = 1", []).unwrap();
    let said = format!("{:?}", collector(&verify).assert().code(1).get_output());
    assert!(said.contains("not sound: entry 1 is missing"), "{said}");
    error(&[&verify[..], &["--head", "x"]].concat(), 64);
}

const DAY: i64 = 86_400;

fn day(day: i64) -> Timestamp {
    Timestamp::from_micros(1_795_435_200_000_000 + day * DAY * 1_000_000)
}

/// A batch without events a day, stored; all but the last four days' are checkpointed.
async fn ten_days(data: &Path, node: NodeId) {
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(data, Options::for_cap(1 << 30)).unwrap());
    let key = NodeKey::from_seed(&[1; 32]);
    let token = JoinToken { secret_hash: [1; 32], created_at: day(0), expires_at: day(1), uses_left: 1 };
    store.add_join_token(token, By::COLLECTOR).await.unwrap();
    let enrolment = Enrolment {
        node,
        token: [1; 32],
        key: key.public(),
        hostname: "pi".to_owned(),
        version: "1".to_owned(),
        fingerprint: String::new(),
        former: None,
        origin: None,
        now: day(0),
    };
    store.enrol(enrolment).await.unwrap();
    let mut link = Link::Unknown { why: UnknownPredecessor::FirstStart, epoch: None };
    for number in 1..=10 {
        let draft = Draft {
            node,
            epoch: EpochId::from_bytes([2; 16]),
            number: BatchSeq::new(number).unwrap(),
            oldest_unacknowledged: BatchSeq::FIRST,
            link,
            events_before: 0,
            rule_set: RuleSetVersion::NONE,
            about: NodeFacts::default(),
            clocks: Clocks { boot: BootId::from_bytes([3; 16]), facts: Vec::new() },
            last_ack: None,
            losses: Vec::new(),
        };
        let signed = seal(draft, &Encoded::empty(), &key).unwrap();
        link = Link::Previous(signed.digest());
        let batch = NewBatch {
            signed,
            payload: NewPayload::Present(Vec::new()),
            terms: None,
            unread: false,
            coverage: Vec::new(),
            received_at: day(number as i64),
            claimed_until: None,
        };
        store.store_batches(vec![Arrival::Batch(Box::new(batch))]).await.unwrap();
    }
    let limits = Limits { max_bytes: u64::MAX, max_age_seconds: 2 * DAY as u64 };
    store.retain(limits, day(10)).await.unwrap();
    let mut checkpoints = Checkpoints::new(store, Site::open(data).unwrap().keys);
    checkpoints.pass(limits, day(10), &tokio_util::sync::CancellationToken::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_told_by_verify_and_exported_for_a_part_of_the_days() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = NodeId::from_bytes([1; 16]);
    ten_days(&data, node).await;
    let (data, node) = (data.to_str().unwrap(), node.to_string());
    let place = ["--data", data, "--node", &node];
    let said = output(&[&["verify"][..], &place].concat());
    assert!(
        said.contains("3 verified, 0 evicted, 2 expired, 0 lost, 0 bad, 0 missing, 5 checkpointed"),
        "{said}"
    );
    assert!(said.contains("checkpointed 1–5 at 2026-12-03T12:00:00.000Z"), "{said}");
    assert!(said.ends_with("sound\n"), "{said}");

    let keys = written(dir.path(), "keys", &output(&[&["keys"][..], &place].concat()));
    let export = dir.path().join("export");
    let days = ["--from", "2026-12-02T00:00:00Z", "--to", "2026-12-02T23:00:00Z"];
    let said = output(&[&["export"][..], &place, &days, &[export.to_str().unwrap()]].concat());
    assert!(said.contains("2 batches, 1 of which with their header only"), "{said}");
    assert!(said.contains("checkpoints for 8 more batches"), "{said}");
    let proof = ["verify", "--export", export.to_str().unwrap(), "--keys", keys.to_str().unwrap()];
    let said = output(&proof);
    assert!(said.contains("1 verified, 0 evicted, 1 expired") && said.ends_with("sound\n"), "{said}");

    // A site that nobody vouches for has signed nothing.
    let text = std::fs::read_to_string(&keys).unwrap();
    let nodes: String =
        text.lines().filter(|line| line.starts_with("node")).map(|line| line.to_owned() + "\n").collect();
    std::fs::write(&keys, nodes).unwrap();
    error(&proof, 1);
}
