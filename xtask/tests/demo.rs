//! The demo as somebody runs it: as root by kernel audit, without root from the recording, ended by time and by Ctrl-C.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use auditflow_tests::{Binaries, Outcome, lock_kernel_audit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

/// The user of nobody's files.
const NOBODY: u32 = 65_534;

/// The demo, of programs that lie where anybody may run them.
fn demo(folder: &Path) -> anyhow::Result<Command> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let binaries = Binaries::find()?;
    let xtask = Path::new(env!("CARGO_BIN_EXE_xtask"));
    for program in [&*binaries.agent, &*binaries.collector, xtask] {
        let name = program.file_name().context("a program has a name")?;
        fs::copy(program, folder.join(name))?;
    }
    let mut command = Command::new(folder.join("xtask"));
    command
        .arg("demo")
        .env("AUDITFLOW_TEST_AGENT", folder.join("auditflow-agent"))
        .env("AUDITFLOW_TEST_COLLECTOR", folder.join("auditflow-collector"))
        .current_dir("/")
        .stdin(Stdio::null());
    Ok(command)
}

fn assert_seen(said: &str) -> anyhow::Result<()> {
    for expected in ["open      http://127.0.0.1:", "log in    admin, ", "critical  "] {
        ensure!(said.contains(expected), "{expected:?} is not in: {said}");
    }
    let end = said.lines().rev().find(|line| line.contains("events were stored")).context("an end")?;
    ensure!(!end.starts_with("0 ") && !end.contains(" 0 alerts"), "{end}");
    Ok(())
}

/// The machine's audit rules and settings, as auditctl prints them, without what changes by itself. `None` without root.
fn audit_state() -> anyhow::Result<Option<Vec<String>>> {
    if !getuid().is_root() {
        return Ok(None);
    }
    // Whoever has its turn changes them.
    let _turn = lock_kernel_audit()?;
    let listed = |option: &str| Outcome::of(Command::new("auditctl").arg(option));
    let text = listed("-l")?.stdout + &listed("-s")?.stdout;
    let settings = ["lost ", "backlog ", "backlog_wait_time_actual "];
    let stays = |line: &&str| !settings.iter().any(|setting| line.starts_with(setting));
    Ok(Some(text.lines().filter(stays).map(str::to_owned).collect()))
}

#[test]
fn the_demo_shows_events_and_alerts_and_restores_audit() -> anyhow::Result<()> {
    let before = audit_state()?;
    let folder = tempfile::tempdir()?;
    let said = Outcome::of(demo(folder.path())?.args(["--seconds", "20"]))?.success()?.stdout;
    assert_seen(&said)?;
    let way = said.lines().find(|line| line.contains("kernel audit") || line.contains("replaying"));
    eprintln!("the demo that ran: {}", way.unwrap_or_default());
    assert_eq!(audit_state()?, before);
    Ok(())
}

#[test]
fn without_root_the_demo_replays_a_recording() -> anyhow::Result<()> {
    if !getuid().is_root() {
        eprintln!(
            "SKIPPED: the demo as somebody else: this is not root, so the other tests are without root"
        );
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut command = demo(folder.path())?;
    let said = Outcome::of(command.args(["--seconds", "20"]).uid(NOBODY).gid(NOBODY))?.success()?.stdout;
    ensure!(said.contains("replaying tests/samples/demo-audit.log"), "{said}");
    assert_seen(&said)
}

#[test]
fn an_interrupt_ends_the_demo_and_all_it_started() -> anyhow::Result<()> {
    let before = audit_state()?;
    let folder = tempfile::tempdir()?;
    let mut child = demo(folder.path())?.stdout(Stdio::piped()).process_group(0).spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("it is piped")?);
    let mut said = String::new();
    while !said.contains("critical  ") {
        ensure!(output.read_line(&mut said)? > 0, "it ended by itself: {said}");
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT)?;
    output.read_to_string(&mut said)?;
    let status = child.wait()?;
    ensure!(status.success(), "it ended with {status}: {said}");
    assert_seen(&said)?;
    let of_demo = folder.path().display().to_string();
    for process in fs::read_dir("/proc")? {
        let command = fs::read(process?.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        ensure!(!command.starts_with(&of_demo), "{command} still runs");
    }
    assert_eq!(audit_state()?, before);
    Ok(())
}
