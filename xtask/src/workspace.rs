//! Where things are, and how other programs are run from here.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use auditflow_tests::Binaries;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The repository's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Cargo as it called us, in the repository's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Both programs, built.
pub(crate) struct Programs {
    pub(crate) agent: PathBuf,
    pub(crate) collector: PathBuf,
}

/// Both programs: those that the tests were told to use, else built now.
pub(crate) fn programs() -> anyhow::Result<Binaries> {
    if std::env::var_os("AUDITFLOW_TEST_AGENT").is_some() {
        return Binaries::find();
    }
    println!("building both programs (the first time takes a few minutes)");
    let programs = build_programs(Profile::Debug)?;
    Ok(Binaries { agent: programs.agent, collector: programs.collector })
}

/// How programs are built.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// Quickly.
    Debug,
    /// As they ship.
    Release,
}

/// Builds both programs and says where they are.
pub(crate) fn build_programs(profile: Profile) -> anyhow::Result<Programs> {
    let mut build = cargo();
    build.args([
        "build",
        "--locked",
        "--package",
        "auditflow-agent",
        "--package",
        "auditflow-collector",
        "--bins",
    ]);
    let folder = match profile {
        Profile::Debug => target().join("debug"),
        Profile::Release => target().join("release"),
    };
    if matches!(profile, Profile::Release) {
        build.arg("--release");
    }
    run(&mut build)?;
    Ok(Programs { agent: folder.join("auditflow-agent"), collector: folder.join("auditflow-collector") })
}

/// Runs a command to its end; anything but success is an error that names the command.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shown(command)))?;
    ended(command, status)
}

/// Runs a command to its end, or asks it to end once `stop` is set.
pub(crate) fn run_unless(stop: &AtomicBool, command: &mut Command) -> anyhow::Result<()> {
    const ROUND: Duration = Duration::from_millis(50);
    let mut child = command.spawn().with_context(|| format!("cannot start {}", shown(command)))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut is_told = false;
    loop {
        if let Some(status) = child.try_wait()? {
            return ended(command, status);
        }
        if !is_told && stop.load(Ordering::Acquire) {
            is_told = true;
            kill(pid, Signal::SIGTERM)?;
        }
        thread::sleep(ROUND);
    }
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}: {}", shown(command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} printed something other than UTF-8", shown(command)))
}

fn ended(command: &Command, status: ExitStatus) -> anyhow::Result<()> {
    if !status.success() {
        bail!("{} ended with {status}", shown(command));
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
