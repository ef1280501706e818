//! `cargo xtask demo`: both programs on this machine, with embedded storage, showing events becoming alerts.
//!
//! As root on a kernel with audit it records what a throw-away user id really does; otherwise it replays a recording.
//! It stops everything it started and puts the audit settings back that it found.

mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use auditflow_tests::{Agent, Binaries, Collector, Outcome};
use serde_json::Value;
use workload::Workload;

use crate::signals::stop_on_signals;
use crate::workspace::programs;

/// How often the demo looks for new alerts.
const ROUND: Duration = Duration::from_secs(1);

/// It acts once in so many rounds.
const ROUNDS_PER_ACT: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// End by itself after so many seconds; fails unless events and alerts were seen
    #[arg(long)]
    seconds: Option<u64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let binaries = programs()?;
    let stop = stop_on_signals()?;
    let folder = tempfile::Builder::new().prefix("auditflow-demo-").tempdir()?;
    let demo = Demo::start(&binaries, folder.path())?;
    demo.greet();
    let seen = demo.show(&stop, args.seconds.map(Duration::from_secs))?;
    demo.stop()?;
    println!("\n{} events were stored, {} alerts were raised", seen.events, seen.alerts);
    if args.seconds.is_some() {
        ensure!(seen.events > 0 && seen.alerts > 0, "the demo should have seen events and alerts");
    }
    Ok(())
}

/// Everything that runs.
struct Demo<'b> {
    collector: Collector,
    agent: Agent,
    workload: Workload<'b>,
    password: String,
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    events: u64,
    alerts: usize,
}

impl<'b> Demo<'b> {
    fn start(binaries: &'b Binaries, folder: &Path) -> anyhow::Result<Self> {
        let collector = Collector::start(binaries, &folder.join("collector"))?;
        let password = collector.run(&["admin", "reset-password"])?.success()?;
        let password = password.stdout.lines().next().unwrap_or_default().to_owned();
        let workload = Workload::prepare(binaries, folder)?;
        let (config, socket) = configure(folder, &workload)?;
        Agent::join(binaries, &config, &collector.agents, &collector.token(1)?)?.success()?;
        let agent = Agent::start(binaries, &config, &socket)?;
        Ok(Self { collector, agent, workload, password })
    }

    fn greet(&self) {
        println!("\n{}", self.workload.described());
        println!("open      http://{}/", self.collector.page);
        println!("log in    admin, {}", self.password);
        println!("stop      Ctrl-C\n");
    }

    /// Acts and shows alerts as they come, until told to stop.
    fn show(&self, stop: &AtomicBool, limit: Option<Duration>) -> anyhow::Result<Seen> {
        let begin = Instant::now();
        let mut shown: Vec<String> = Vec::new();
        let mut seen = Seen::default();
        for round in 0_u32.. {
            if stop.load(Ordering::Acquire) || limit.is_some_and(|limit| begin.elapsed() >= limit) {
                break;
            }
            if round % ROUNDS_PER_ACT == 0 {
                self.workload.act(&self.agent)?;
            }
            thread::sleep(ROUND);
            let alerts = self.collector.json("/alerts?limit=200")?;
            for alert in alerts.as_array().into_iter().flatten().rev() {
                let id = text(alert, "/alert_id").to_owned();
                if !shown.contains(&id) {
                    println!("{}", line(alert));
                    shown.push(id);
                }
            }
            seen = Seen { events: self.events()?, alerts: shown.len() };
        }
        Ok(seen)
    }

    fn events(&self) -> anyhow::Result<u64> {
        let summary = self.collector.json("/api/v1/summary")?;
        let minutes =
            summary["events_per_minute"].as_array().context("the summary tells events per minute")?;
        Ok(minutes.iter().filter_map(|minute| minute["events"].as_u64()).sum())
    }

    fn stop(self) -> anyhow::Result<()> {
        println!("\nstopping");
        let agent = self.agent.stop()?;
        let restored = self.workload.restore();
        let collector = self.collector.stop()?;
        restored?;
        ensure!(
            agent.success() && collector.success(),
            "agent ended with {agent}, collector with {collector}"
        );
        Ok(())
    }
}

/// An alert on one line.
pub(crate) fn line(alert: &Value) -> String {
    let severity = text(alert, "/severity").to_lowercase();
    let (name, host) = (text(alert, "/alert_name"), text(alert, "/impacted_resource/server_hostname"));
    format!("{severity:<10}{name}  ({host})")
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("-")
}

/// Writes the agent's configuration; returns where it is and where the admin socket will be.
fn configure(folder: &Path, workload: &Workload<'_>) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (config, socket) = (folder.join("agent.toml"), folder.join("agent.sock"));
    let text = format!(
        "[node]\ndata_dir = {data:?}\n[admin]\nsocket = {socket:?}\n[sources.synthetic]\nenabled = true\nrate = 5\n\
         [sources.kubernetes_audit]\nenabled = false\n{sources}\n[log]\nformat = \"text\"\n",
        data = folder.join("agent").display().to_string(),
        socket = socket.display().to_string(),
        sources = workload.sources(),
    );
    fs::write(&config, text)?;
    Ok((config, socket))
}

/// Runs one of the agent's commands.
fn agent_command(binaries: &Binaries, arguments: &[&str]) -> anyhow::Result<Outcome> {
    Outcome::of(std::process::Command::new(&binaries.agent).args(arguments))
}
