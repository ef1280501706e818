//! `cargo xtask bench`: the figures of docs/performance.md.
//!
//! System benches measure both programs as they ship, as processes, and lie in `tests/benches`; the others measure a
//! part of them and lie with its crate. Adding one is a file, its entry in that package's manifest, and a line here.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser};

use crate::install;
use crate::workspace::{Profile, build_programs, cargo, run as run_command, target};

/// A bench: its name as `cargo bench --bench` knows it, its package, and the figure that it gives.
struct Bench {
    name: &'static str,
    package: &'static str,
    about: &'static str,
}

const BENCHES: &[Bench] = &[
    system("decode", "decode's throughput against laurel 0.8.2, in CPU and wall time"),
    system("ingest", "events per second from sealed batches to standing alerts"),
    system(
        "cluster",
        "the same from MQTT through RabbitMQ and analyzers to PostgreSQL, and how late alerts are",
    ),
    system("growth", "the same for 10 and 100 nodes: how soon they are connected, events per second, memory"),
    system(
        "ancestor",
        "events analysed and alerts inserted per second, against the ancestor's way; needs Python and PyPI",
    ),
    system("agent_memory", "the agent's resident memory while it replays the recorded log to a collector"),
    system("search", "a rare token among ten million stored events; takes 2 GiB of disk and some minutes"),
    system("latency", "from a kernel event to its alert at the API, at 1,000 events per second; needs root"),
    part("spool", "auditflow-agent", "events per second into the spool, every commit synced"),
    part("records", "auditflow-audit-record", "reading and assembling records against plain line splitting"),
    part("meaning", "auditflow-event", "an event's meaning and its JSON"),
    part("detect", "auditflow-rules", "matching alone, with the shipped and with all SigmaHQ Linux rules"),
];

const fn system(name: &'static str, about: &'static str) -> Bench {
    Bench { name, package: "auditflow-tests", about }
}

const fn part(name: &'static str, package: &'static str, about: &'static str) -> Bench {
    Bench { name, package, about }
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these
    #[arg(value_name = "NAME", value_parser = names())]
    names: Vec<String>,
}

fn names() -> PossibleValuesParser {
    BENCHES.iter().map(|bench| PossibleValue::new(bench.name).help(bench.about)).collect::<Vec<_>>().into()
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    install::tools()?;
    let programs = build_programs(Profile::Release)?;
    // On the checkout's disk: what /tmp is differs from machine to machine.
    let folder =
        std::env::var_os("AUDITFLOW_BENCH_DIR").map_or_else(|| target().join("bench"), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let is_asked = |bench: &&Bench| args.names.is_empty() || args.names.iter().any(|name| name == bench.name);
    for bench in BENCHES.iter().filter(is_asked) {
        let mut command = cargo();
        command.args(["bench", "--quiet", "--locked", "--package", bench.package, "--bench", bench.name]);
        command.env("AUDITFLOW_TEST_AGENT", &programs.agent);
        command.env("AUDITFLOW_TEST_COLLECTOR", &programs.collector);
        run_command(command.env("AUDITFLOW_BENCH_DIR", &folder))?;
    }
    Ok(())
}
