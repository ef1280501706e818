//! How much memory the agent holds while it replays the recorded log through the whole way: read, filtered, committed
//! to the spool, sealed, delivered over HTTPS to a collector on this machine, acknowledged.

#![allow(missing_docs, reason = "a bench, read by nobody but its runner")]

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use auditflow_tests::bench::{Bench, RECORDED, Target, folder, recorded_log};
use auditflow_tests::node::NO_KERNEL;
use auditflow_tests::{Agent, Binaries, Collector, Node, until};
use serde_json::Value;

const MIB: f64 = 1024.0 * 1024.0;

fn main() -> ExitCode {
    Bench::run("agent_memory", measure)
}

fn measure(bench: &Bench) -> anyhow::Result<()> {
    let log = recorded_log()?;
    let binaries = Binaries::find()?;
    let folder = folder()?;
    let collector = Collector::start(&binaries, &folder.path().join("collector"))?;
    let path = log.display().to_string();
    // Nothing is dropped, so that every event goes the whole way.
    let sections = format!(
        "{NO_KERNEL}[sources.audit_log]\nenabled = true\npath = {path:?}\n[rules]\nshipped = false\n"
    );
    let node = Node::make(folder.path(), &sections)?;
    node.join(&binaries, &collector)?;
    let begin = Instant::now();
    let agent = node.start(&binaries)?;
    let at_start = Memory::of(&agent)?;
    until("the whole log is delivered", || {
        let status = agent.ask("GET", "/status", "")?.json()?;
        Ok(is_delivered(&status).then_some(()))
    })?;
    let took = begin.elapsed();
    let memory = Memory::of(&agent)?;
    bench.figure("resident at most", memory.peak / MIB, "MiB", Target::AtMost(24.0));
    bench.figure("of it the agent's own, at the end", memory.own / MIB, "MiB", Target::None);
    bench.figure("of it the program and its libraries, at the end", memory.files / MIB, "MiB", Target::None);
    bench.figure("resident before the first event", at_start.now / MIB, "MiB", Target::None);
    bench.figure(
        "read to acknowledged",
        RECORDED.1 as f64 / took.as_secs_f64(),
        "events per second",
        Target::None,
    );
    agent.stop()?;
    collector.stop()?;
    Ok(())
}

/// Whether everything of the log was committed, and everything committed was sealed and acknowledged.
fn is_delivered(status: &Value) -> bool {
    let count = |name: &str| status["spool"][name].as_u64().unwrap_or_default();
    count("events") >= RECORDED.1 && count("batches") > 0 && count("released") == count("batches")
}

/// What a process holds, in bytes.
struct Memory {
    peak: f64,
    now: f64,
    own: f64,
    files: f64,
}

impl Memory {
    fn of(agent: &Agent) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.pid()?))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = line.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<f64>().ok());
            kib.map(|kib| kib * 1024.0).with_context(|| format!("the kernel does not tell {name}"))
        };
        Ok(Self {
            peak: field("VmHWM")?,
            now: field("VmRSS")?,
            own: field("RssAnon")?,
            files: field("RssFile")?,
        })
    }
}
