//! `cargo xtask test`: everything, on this machine, with nothing left behind.

use auditflow_tests::services::Services;

use crate::install;
use crate::signals::stop_on_signals;
use crate::workspace::{self, Profile, build_programs, cargo};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    install::tools()?;
    // From here on a signal ends the tests, and then us, with all that was started.
    let stop = stop_on_signals()?;
    let folder = tempfile::Builder::new().prefix("auditflow-test-").tempdir()?;
    // They start while the programs are built.
    let mut services = Services::launch(folder.path())?;
    // The system tests run both programs as a user would: as processes.
    let programs = build_programs(Profile::Debug)?;
    services.until_ready()?;
    let mut tests = cargo();
    if install::on_path("cargo-nextest") {
        tests.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
    } else {
        tests.args(["test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    }
    tests.args(&args.filter).envs(services.environment());
    tests.env("AUDITFLOW_TEST_AGENT", &programs.agent).env("AUDITFLOW_TEST_COLLECTOR", &programs.collector);
    workspace::run_unless(&stop, &mut tests)?;
    if args.filter.is_none() {
        workspace::run_unless(&stop, cargo().args(["test", "--workspace", "--locked", "--doc", "--quiet"]))?;
    }
    Ok(())
}
