//! From a kernel event to its alert at the API, while a thousand other events a second happen on the node.
//!
//! A user id that nobody has opens files at that rate, and every now and then opens one for writing that is called as a
//! file of SSH keys is, which a shipped rule is about. The agent runs with its defaults. The time is counted from the
//! kernel's own stamp to the moment at which a listener of `/api/v1/stream` is told of the alert.

#![allow(missing_docs, reason = "a bench, read by nobody but its runner")]

#[path = "../../tests/kernel_audit/machine.rs"]
#[allow(dead_code, reason = "made for the tests, which need more of it")]
mod machine;
mod notices;

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use auditflow_tests::bench::{Bench, Missing, Target, median};
use auditflow_tests::{Agent, Collector, until};
use machine::Turn;
use notices::Notices;

/// A user id that nobody has.
const UID: u32 = 64_741;
/// Of the background.
const EVENTS_PER_SECOND: u32 = 1000;
const ACTS: usize = 200;
/// Between two acts; not a divisor of any of the agent's intervals.
const PAUSE: Duration = Duration::from_millis(137);
/// Before the acts begin, so that background and programs run evenly.
const WARM_UP: Duration = Duration::from_secs(5);
/// Tells this program that it is the background or the actor, and where to work.
const ROLE: &str = "AUDITFLOW_BENCH_ROLE";
const RULE: &str = "3901b498-a6a8-5fc8-b9e3-89d6a5e61f4e";

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("background") => background(),
        Ok("actor") => act(),
        _ => Bench::run("latency", measure),
    }
}

fn measure(bench: &Bench) -> anyhow::Result<()> {
    let Some(turn) = Turn::take("latency", UID)? else {
        return Err(Missing("kernel audit, and root to use it".to_owned()).into());
    };
    let data = turn.folder().join("collector").join("data");
    let collector = Collector::start(&turn.binaries, &data)?;
    let (config, socket) = configure(turn.folder())?;
    Agent::join(&turn.binaries, &config, &collector.agents, &collector.token(1)?)?.success()?;
    let agent = Agent::start(&turn.binaries, &config, &socket)?;
    until("the agent reads the kernel's events", || {
        let status = agent.ask("GET", "/status", "")?.json()?.to_string();
        Ok(status.contains("kernel_audit").then_some(()))
    })?;
    let rule = format!("-a always,exit -F arch=b64 -S openat -F uid={UID} -k af-latency");
    let rules = turn.write_rules("latency.rules", &["-e 1", "-b 8192", &rule])?;
    turn.load_rules(&[&rules.display().to_string()])?.success()?;

    let workplace = turn.folder().join("home");
    fs::create_dir_all(workplace.join(".ssh"))?;
    std::os::unix::fs::chown(workplace.join(".ssh"), Some(UID), Some(UID))?;
    let mut notices = Notices::listen(&collector)?;
    let background = Role::start("background", &workplace)?;
    thread::sleep(WARM_UP);
    let (begin, stored) = (Instant::now(), collector.metric("auditflow_ingest_events_total")?);
    let actor = Role::start("actor", &workplace)?;
    let latencies = notices.latencies(RULE, ACTS)?;
    let rate = (collector.metric("auditflow_ingest_events_total")? - stored) / begin.elapsed().as_secs_f64();
    drop((actor, background));
    agent.stop()?;
    ensure!(collector.stop()?.success(), "the collector stops when asked to");
    say(bench, latencies, rate);
    Ok(())
}

fn say(bench: &Bench, mut latencies: Vec<f64>, rate: f64) {
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies.get(((latencies.len() - 1) as f64 * share).round() as usize).copied();
    bench.figure("alert latency, median", median(latencies.clone()), "ms", Target::AtMost(250.0));
    let percentile = at(0.99).unwrap_or(f64::NAN);
    bench.figure("alert latency, 99th percentile", percentile, "ms", Target::AtMost(1000.0));
    bench.figure("alert latency, greatest", at(1.0).unwrap_or(f64::NAN), "ms", Target::None);
    bench.figure("background", rate, "events/s stored meanwhile", Target::None);
    bench.note(&format!("{} acts", latencies.len()));
}

/// The agent with its defaults, and only the kernel's events.
fn configure(folder: &Path) -> anyhow::Result<(std::path::PathBuf, std::path::PathBuf)> {
    let (config, socket) = (folder.join("agent.toml"), folder.join("agent.sock"));
    let data = folder.join("agent").display().to_string();
    let own = format!("[node]\ndata_dir = {data:?}\n[admin]\nsocket = {:?}\n", socket.display().to_string());
    fs::write(&config, own + "[sources.kubernetes_audit]\nenabled = false\n")?;
    Ok((config, socket))
}

/// Opens a file for reading, so often a second, until its standard input ends.
fn background() -> ExitCode {
    let ended = thread::spawn(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let begin = Instant::now();
    for turn in 1.. {
        if ended.is_finished() {
            break;
        }
        let _ = File::open("file");
        let due = Duration::from_secs(1) * turn / EVENTS_PER_SECOND;
        thread::sleep(due.saturating_sub(begin.elapsed()));
    }
    ExitCode::SUCCESS
}

/// Opens the file of keys for writing, again and again.
fn act() -> ExitCode {
    for _ in 0..ACTS {
        if File::create(".ssh/authorized_keys").is_err() {
            return ExitCode::FAILURE;
        }
        thread::sleep(PAUSE);
    }
    ExitCode::SUCCESS
}

/// This program again, in another role, as the user id; ends with its value.
struct Role(Child);

impl Role {
    fn start(role: &str, workplace: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env_clear().env(ROLE, role).uid(UID).gid(UID).current_dir(workplace);
        Ok(Self(command.stdin(Stdio::piped()).spawn().with_context(|| format!("cannot start the {role}"))?))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Its standard input ends, and with it the background.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
