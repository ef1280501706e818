//! `auditflow-agent decode` against laurel 0.8.2: both turn the recorded log into JSON in a file, in alternating runs.
//!
//! laurel reads records on standard input as an audit plugin does, and needs each event's end mark, which an audit log
//! does not have: it is given a copy with the marks added. Both write to the same disk.

#![allow(missing_docs, reason = "a bench, read by nobody but its runner")]

mod laurel;

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::ensure;
use auditflow_tests::Binaries;
use auditflow_tests::bench::{Bench, Cost, RECORDED, Target, folder, median, recorded_log};

const ROUNDS: usize = 7;

fn main() -> ExitCode {
    Bench::run("decode", measure)
}

fn measure(bench: &Bench) -> anyhow::Result<()> {
    let log = recorded_log()?;
    let laurel = laurel::find()?;
    let agent = Binaries::find()?.agent;
    let folder = folder()?;
    let marked = folder.path().join("with-end-marks.log");
    laurel::add_end_marks(&log, &marked)?;
    let mut pairs = Vec::new();
    for _ in 0..ROUNDS {
        let theirs = laurel.run(&marked, folder.path())?;
        let ours = decode(&agent, &log, &folder.path().join("decoded.jsonl"))?;
        pairs.push((theirs, ours));
    }
    say(bench, &pairs);
    Ok(())
}

fn decode(agent: &Path, log: &Path, output: &Path) -> anyhow::Result<Cost> {
    let mut command = Command::new(agent);
    command.arg("decode").arg(log).stdin(Stdio::null()).stdout(File::create(output)?);
    let cost = Cost::of(&mut command)?;
    let lines = laurel::count_lines(output)?;
    ensure!(lines == RECORDED.1, "decode made {lines} events of {}", RECORDED.1);
    Ok(cost)
}

fn say(bench: &Bench, pairs: &[(Cost, Cost)]) {
    let middle = |of: &dyn Fn(&(Cost, Cost)) -> f64| median(pairs.iter().map(of).collect());
    let cpu = middle(&|(theirs, ours)| theirs.cpu.div_duration_f64(ours.cpu));
    let wall = middle(&|(theirs, ours)| theirs.wall.div_duration_f64(ours.wall));
    bench.figure("throughput in CPU time", cpu, "times laurel's", Target::AtLeast(5.0));
    bench.figure("throughput in wall time", wall, "times laurel's", Target::AtLeast(5.0));
    let per_second = |seconds: f64| RECORDED.1 as f64 / seconds;
    let ours = per_second(middle(&|(_, ours)| ours.cpu.as_secs_f64()));
    let theirs = per_second(middle(&|(theirs, _)| theirs.cpu.as_secs_f64()));
    bench.figure("decode", ours, "events per second of CPU time", Target::None);
    bench.figure("laurel", theirs, "events per second of CPU time", Target::None);
    bench.note(&format!("medians of {} alternating pairs", pairs.len()));
}
