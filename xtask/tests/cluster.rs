//! `cargo xtask cluster` as somebody runs it, ended by time, with nothing left behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::ensure;
use auditflow_tests::services::find;
use auditflow_tests::{Binaries, Outcome};

#[test]
fn the_cluster_shows_alerts_and_leaves_nothing_behind() -> anyhow::Result<()> {
    for (program, package) in [("rabbitmq-server", "rabbitmq-server"), ("pg_ctlcluster", "postgresql")] {
        if find(program, package)?.is_none() {
            return Ok(());
        }
    }
    let (binaries, folder) = (Binaries::find()?, tempfile::tempdir()?);
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_xtask")));
    command
        .args(["cluster", "--nodes", "3", "--analyzers", "2", "--seconds", "20"])
        .env("AUDITFLOW_TEST_AGENT", &binaries.agent)
        .env("AUDITFLOW_TEST_COLLECTOR", &binaries.collector)
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null());
    let said = Outcome::of(&mut command)?.success()?.stdout;
    for expected in
        ["open        http://127.0.0.1:", "log in      admin, ", "analyze-1   kill -9 ", "critical  "]
    {
        ensure!(said.contains(expected), "{expected:?} is not in: {said}");
    }
    let left: Vec<_> = fs::read_dir(folder.path())?.flatten().map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "{left:?} is left");
    let of_cluster = folder.path().display().to_string();
    for process in fs::read_dir("/proc")? {
        let command = fs::read(process?.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        ensure!(!command.contains(&of_cluster), "{command} still runs");
    }
    Ok(())
}
