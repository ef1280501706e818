//! Logs in the journal, found again with `journalctl` by the fields that docs/logging.md names: with a journald of the
//! test's own, on file systems that only the test sees.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use auditflow_tests::mounts::{Mount, with_mounts};
use auditflow_tests::node::{NO_KERNEL, SYNTHETIC};
use auditflow_tests::{Binaries, Node, Outcome, until};
use serde_json::Value;

const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";
const ROOM: u64 = 64 << 20;

#[test]
fn what_the_agent_logs_is_found_in_the_journal_by_its_fields() -> anyhow::Result<()> {
    if !Path::new(JOURNALD).exists() {
        eprintln!("SKIPPED: {JOURNALD} (Debian package systemd) is not here");
        return Ok(());
    }
    with_mounts(|| {
        let folder = tempfile::tempdir()?;
        let (_run, _log) =
            (Mount::in_memory(Path::new("/run"), ROOM)?, Mount::in_memory(Path::new("/var/log"), ROOM)?);
        let _journald = Journald::start()?;
        let node = Node::make(&folder.path().join("node"), &[NO_KERNEL, SYNTHETIC].concat())?;
        let config = fs::read_to_string(&node.config)?;
        ensure!(config.contains("format = \"text\""), "where logs go is the kit's choice: {config}");
        fs::write(&node.config, config.replace("format = \"text\"", "format = \"journald\""))?;
        let agent = node.start(&Binaries::find()?)?;
        let id = Node::id(&agent)?;

        let watching = entry(&[&format!("AUDITFLOW_NODE_ID={id}")])?;
        for (field, expected) in [
            ("MESSAGE", "watching"),
            ("PRIORITY", "5"),
            ("SYSLOG_IDENTIFIER", "auditflow-agent"),
            ("TARGET", "auditflow_agent::agent"),
        ] {
            ensure!(watching[field] == expected, "{field} is {} in {watching}", watching[field]);
        }
        agent.ask("PUT", "/log-level", r#"{"level":"off"}"#)?;
        let status = agent.stop()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    })
}

/// The first entry with these fields.
fn entry(fields: &[&str]) -> anyhow::Result<Value> {
    until("the journal has it", || {
        let mut journalctl = Command::new("journalctl");
        journalctl.args(["--directory=/run/log/journal", "--output=json", "--no-pager"]).args(fields);
        let found = Outcome::of(&mut journalctl)?.success()?.stdout;
        Ok(found.lines().next().map(serde_json::from_str).transpose()?)
    })
}

/// A journald; ends with its value.
struct Journald(Child);

impl Journald {
    fn start() -> anyhow::Result<Self> {
        fs::create_dir_all("/run/log/journal")?;
        let child = Command::new(JOURNALD).stderr(Stdio::null()).spawn().context("cannot start journald")?;
        let journald = Self(child);
        until("journald listens", || Ok(Path::new("/run/systemd/journal/socket").exists().then_some(())))?;
        Ok(journald)
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
