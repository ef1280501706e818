//! The units that ship: systemd understands every line of them, and they leave the programs little to abuse.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use auditflow_tests::{Binaries, Outcome};

const UNITS: [&str; 3] =
    ["auditflow-agent.service", "auditflow-audit-rules.service", "auditflow-collector.service"];

/// The most that `systemd-analyze security` may find exposed, of 10.
const MAX_EXPOSURE: f64 = 2.0;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd")
}

/// Whether systemd's tools are here; says so aloud if not.
fn is_here(test: &str) -> bool {
    let is_here = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !is_here {
        eprintln!("SKIPPED: {test}: systemd-analyze (Debian package systemd) is not here");
    }
    is_here
}

/// The units with the programs where they were built, in a folder of their own.
fn with_built_programs(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let binaries = Binaries::find()?;
    let mut units = Vec::new();
    for name in UNITS {
        let mut text = fs::read_to_string(shipped().join(name))?;
        for program in [&binaries.agent, &binaries.collector] {
            let name = program.file_name().context("a program has a name")?.to_string_lossy();
            text = text.replace(&format!("/usr/bin/{name}"), &program.display().to_string());
        }
        ensure!(!text.contains("/usr/bin/auditflow"), "{name} runs a program that was not built");
        let unit = folder.join(name);
        fs::write(&unit, text)?;
        units.push(unit);
    }
    Ok(units)
}

fn verify(units: &[PathBuf]) -> anyhow::Result<Outcome> {
    Outcome::of(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units))
}

#[test]
fn systemd_understands_every_line_of_the_units() -> anyhow::Result<()> {
    if !is_here("units") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let units = with_built_programs(folder.path())?;
    let outcome = verify(&units)?;
    ensure!(outcome.status.success() && outcome.stderr.is_empty(), "{}{}", outcome.stdout, outcome.stderr);

    // The same must fail on a typo, or it shows nothing.
    let text = fs::read_to_string(&units[0])?;
    fs::write(&units[0], text.replace("ProtectClock=", "ProtectClok="))?;
    ensure!(!verify(&units)?.stderr.is_empty(), "a typo went unnoticed");
    Ok(())
}

#[test]
fn the_units_expose_little() -> anyhow::Result<()> {
    if !is_here("exposure") {
        return Ok(());
    }
    for name in UNITS {
        let mut command = Command::new("systemd-analyze");
        command.args(["security", "--offline=true", "--no-pager"]).arg(shipped().join(name));
        let printed = Outcome::of(command.env("LC_ALL", "C"))?.success()?.stdout;
        let verdict =
            printed.lines().find(|line| line.contains("Overall exposure level")).context("a verdict")?;
        let number =
            verdict.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).context("a number")?;
        let exposure: f64 = number.parse().with_context(|| format!("no number in {verdict:?}"))?;
        eprintln!("{name}: {exposure}");
        ensure!(
            exposure <= MAX_EXPOSURE,
            "{name} is exposed by {exposure}, more than {MAX_EXPOSURE}:\n{printed}"
        );
    }
    Ok(())
}

#[test]
fn the_users_that_units_run_as_are_made() -> anyhow::Result<()> {
    if !is_here("users") {
        return Ok(());
    }
    let conf = fs::canonicalize(shipped().join("sysusers.d/auditflow.conf"))?;
    Outcome::of(Command::new("systemd-sysusers").arg("--dry-run").arg(&conf))?.success()?;
    let made = fs::read_to_string(conf)?;
    for name in UNITS {
        let unit = fs::read_to_string(shipped().join(name))?;
        for user in unit.lines().filter_map(|line| line.strip_prefix("User=")) {
            let makes = |line: &str| line.split_whitespace().take(2).eq(["u", user]);
            ensure!(made.lines().any(makes), "{name} runs as {user}, whom nothing makes");
        }
    }
    Ok(())
}
