//! `cargo xtask bench`: the figures of docs/performance.md.

use crate::workspace::{cargo, run as run_command};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only benches whose name contains this
    filter: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    run_command(cargo().args(["bench", "--workspace", "--locked", "--benches", "--"]).args(&args.filter))
}
