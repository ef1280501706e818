//! `cargo xtask test`: everything, on this machine, with nothing left behind.

use crate::install;
use crate::workspace::{self, Profile, build_programs, cargo};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    install::tools()?;
    // The system tests run both programs as a user would: as processes.
    let programs = build_programs(Profile::Debug)?;
    let mut tests = cargo();
    if install::on_path("cargo-nextest") {
        tests.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
    } else {
        tests.args(["test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    tests.args(&args.filter);
    tests.env("AUDITFLOW_TEST_AGENT", &programs.agent).env("AUDITFLOW_TEST_COLLECTOR", &programs.collector);
    workspace::run(&mut tests)?;
    if args.filter.is_none() {
        workspace::run(cargo().args(["test", "--workspace", "--locked", "--doc", "--quiet"]))?;
    }
    Ok(())
}
