//! From batches in memory to standing alerts: a fleet posts sealed batches over HTTPS, and the collector stores, judges
//! and correlates them. Once with the rules that ship, once with all SigmaHQ rules for Linux besides.
//!
//! The fleet shares the machine with the collector. So there are two figures: events per second of the clock, and what
//! two cores do that have nothing else to do, by the collector's own CPU time.

#![allow(missing_docs, reason = "a bench, read by nobody but its runner")]

#[path = "../fleet/mod.rs"]
mod fleet;
#[path = "../fleet/rounds.rs"]
mod rounds;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use auditflow_tests::bench::{Bench, Missing, Target, cpu_of, folder, median};
use auditflow_tests::{Binaries, Collector};
use fleet::{Recording, Sender, post_all, until_analysed};
use rounds::seal_rounds;

const NODES: usize = 4;
/// Events per batch: full ones, as of a node that has a backlog.
const BATCH: usize = 2048;
/// How often the recording is sent, by all nodes together.
const ROUNDS: u64 = 16;
const REPEATS: usize = 3;
const CORES: f64 = 2.0;

fn main() -> ExitCode {
    Bench::run("ingest", measure)
}

fn measure(bench: &Bench) -> anyhow::Result<()> {
    let recording = Recording::read()?;
    run(bench, &recording, "shipped rules", None, 100_000.0)?;
    let sigma = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/sigma/rules");
    if !sigma.is_dir() {
        return Err(Missing(format!("no SigmaHQ rules at {}", sigma.display())).into());
    }
    run(bench, &recording, "shipped and all SigmaHQ Linux rules", Some(&sigma), 30_000.0)?;
    let events = recording.len() as u64 * ROUNDS;
    bench.note(&format!(
        "medians of {REPEATS} runs of {events} events from {NODES} nodes in batches of {BATCH}"
    ));
    Ok(())
}

/// What one run took.
struct Run {
    events: u64,
    wall: Duration,
    collector: Duration,
    fleet: Duration,
    alerts: u64,
}

fn run(
    bench: &Bench,
    recording: &Recording,
    what: &str,
    rules: Option<&Path>,
    target: f64,
) -> anyhow::Result<()> {
    let runs = (0..REPEATS).map(|_| once(recording, rules)).collect::<anyhow::Result<Vec<Run>>>()?;
    let middle = |of: &dyn Fn(&Run) -> f64| median(runs.iter().map(of).collect());
    let per_cpu = middle(&|run| CORES * run.events as f64 / run.collector.as_secs_f64());
    let wall = middle(&|run| run.events as f64 / run.wall.as_secs_f64());
    bench.figure(&format!("{what}: two cores' CPU time"), per_cpu, "events/s", Target::AtLeast(target));
    bench.figure(&format!("{what}: by the clock, fleet included"), wall, "events/s", Target::AtLeast(target));
    let micros =
        |time: &dyn Fn(&Run) -> Duration| middle(&|run| time(run).as_secs_f64() * 1e6 / run.events as f64);
    bench.figure(
        &format!("{what}: collector"),
        micros(&|run| run.collector),
        "µs of CPU time per event",
        Target::None,
    );
    bench.figure(
        &format!("{what}: fleet"),
        micros(&|run| run.fleet),
        "µs of CPU time per event",
        Target::None,
    );
    bench.figure(&format!("{what}: alerts"), middle(&|run| run.alerts as f64), "standing", Target::None);
    Ok(())
}

fn once(recording: &Recording, rules: Option<&Path>) -> anyhow::Result<Run> {
    let (binaries, dir) = (Binaries::find()?, folder()?);
    let data = dir.path().join("collector").join("data");
    std::fs::create_dir_all(&data)?;
    if let Some(rules) = rules {
        std::os::unix::fs::symlink(std::fs::canonicalize(rules)?, data.join("rules.d"))?;
    }
    let collector = Collector::start(&binaries, &data)?;
    let join = |number| Sender::join(&binaries, &collector, &dir.path().join(format!("node-{number}")));
    let mut senders = (0..NODES).map(join).collect::<anyhow::Result<Vec<Sender>>>()?;
    let frames = seal_rounds(recording, &mut senders, ROUNDS, BATCH)?;
    let events = frames.iter().flatten().map(|sealed| sealed.events).sum();

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let before = (cpu_of(collector.pid()?)?, cpu_of(std::process::id().cast_signed())?);
    let begin = Instant::now();
    runtime.block_on(post_all(senders.iter().zip(frames).collect()))?;
    until_analysed(&collector, &data, events)?;
    let wall = begin.elapsed();
    let run = Run {
        events,
        wall,
        collector: cpu_of(collector.pid()?)?.saturating_sub(before.0),
        fleet: cpu_of(std::process::id().cast_signed())?.saturating_sub(before.1),
        alerts: collector.metric("auditflow_alerts_opened_total")? as u64,
    };
    ensure!(collector.stop()?.success(), "the collector stops when asked to");
    Ok(run)
}
