//! From a program that runs to its event in the store, in both modes, and what is said where some are lost.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use auditflow_tests::{Agent, Collector, Node, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::machine::{OtherDaemon, Turn};

const UID: u32 = 64_801;

/// Collector and agent, the agent's only source being the kernel.
pub(crate) struct Scene<'t> {
    turn: &'t Turn,
    pub(crate) collector: Collector,
    node: Node,
    pub(crate) agent: Agent,
}

impl<'t> Scene<'t> {
    pub(crate) fn start(turn: &'t Turn, mode: &str) -> anyhow::Result<Self> {
        let collector = Collector::start(&turn.binaries, &turn.folder().join("collector"))?;
        let state = turn.state().display().to_string();
        let sections = format!("[sources.kernel_audit]\nmode = {mode:?}\nrules_state = {state:?}\n");
        let node = Node::make(turn.folder(), &sections)?;
        node.join(&turn.binaries, &collector)?;
        let agent = node.start(&turn.binaries)?;
        let scene = Self { turn, collector, node, agent };
        scene.coverage()?;
        Ok(scene)
    }

    /// Kills the agent, if it is not dead already, and starts another.
    fn restart_agent(self) -> anyhow::Result<Self> {
        let Self { turn, collector, node, agent } = self;
        agent.kill()?;
        let agent = node.start(&turn.binaries)?;
        let scene = Self { turn, collector, node, agent };
        scene.coverage()?;
        Ok(scene)
    }

    /// What the source says of how it is attached, once it is.
    fn coverage(&self) -> anyhow::Result<String> {
        until("the kernel source is attached", || {
            let status = self.agent.ask("GET", "/status", "")?.json()?;
            let sources = status["sources"].as_array().context("a status has sources")?.iter();
            let source = sources.clone().find(|source| source["name"] == "kernel_audit");
            let running = source.filter(|source| source["state"] == "running");
            Ok(running.and_then(|source| source["detail"].as_str()).map(str::to_owned))
        })
    }

    /// The events of programs that were run with a number.
    fn numbered(&self) -> anyhow::Result<Vec<(u32, Value)>> {
        let events = self.collector.events(&format!("type=process_execution&user={UID}"))?;
        Ok(events.into_iter().filter_map(|event| Some((number_of(&event)?, event))).collect())
    }

    fn wait_for(&self, number: u32) -> anyhow::Result<Value> {
        until(&format!("program {number} is in the store"), || {
            Ok(self.numbered()?.into_iter().find(|(found, _)| *found == number).map(|(_, event)| event))
        })
    }

    /// Which of these programs are missing in the store.
    fn missing(&self, numbers: std::ops::Range<u32>) -> anyhow::Result<usize> {
        let found: Vec<u32> = self.numbered()?.into_iter().map(|(number, _)| number).collect();
        let distinct: BTreeSet<u32> = found.iter().copied().collect();
        ensure!(found.len() == distinct.len(), "a program is stored twice");
        Ok(numbers.filter(|number| !distinct.contains(number)).count())
    }

    /// What the collector knows to be lost of the kernel's records.
    fn declared(&self) -> anyhow::Result<Declared> {
        let nodes = self.collector.json("/api/v1/nodes")?;
        let nodes = nodes.as_array().or_else(|| nodes["nodes"].as_array()).context("a list of nodes")?;
        let losses = nodes.iter().filter_map(|node| node["losses"].as_array()).flatten();
        let unwanted = losses.filter(|loss| loss["source"] == "kernel_audit" && loss["wanted"] != true);
        let mut declared = Declared { records: 0, is_open: false, reasons: Vec::new() };
        for loss in unwanted {
            declared.records += loss["count"].as_u64().unwrap_or_default();
            declared.is_open |= loss["unknown"].as_u64().unwrap_or_default() > 0;
            declared.reasons.extend(loss["reason"].as_str().map(str::to_owned));
        }
        Ok(declared)
    }

    /// Nothing may be missing that is not declared.
    fn assert_declared(&self, missing: usize) -> anyhow::Result<Declared> {
        let declared = until("what is missing is declared", || {
            let declared = self.declared()?;
            let enough = declared.records >= missing as u64 || declared.is_open;
            Ok(Some(declared).filter(|_| enough))
        })?;
        eprintln!("{missing} missing, declared: {declared:?}");
        Ok(declared)
    }
}

#[derive(Debug)]
struct Declared {
    records: u64,
    /// Some loss could not say how much it was.
    is_open: bool,
    reasons: Vec<String>,
}

fn number_of(event: &Value) -> Option<u32> {
    let arguments = event.pointer("/process/args")?.as_array()?;
    let program = arguments.first()?.as_str()?;
    (program == "/bin/true" && arguments.len() == 3).then(|| arguments[2].as_str()?.parse().ok())?
}

fn a_program_reaches_the_store(test: &str, mode: &str, expected: &str) -> anyhow::Result<()> {
    let Some(turn) = Turn::take(test, UID)? else { return Ok(()) };
    turn.record_programs()?;
    let scene = Scene::start(&turn, mode)?;
    let coverage = scene.coverage()?;
    ensure!(coverage.starts_with(expected), "attached as {coverage}");
    eprintln!("kernel audit mode that ran: {coverage}");

    let arguments = ["a b", "uid=0 key=\"other\"", "line\nbreak"];
    let mut child = turn.command("/bin/echo").args(arguments).stdout(std::process::Stdio::null()).spawn()?;
    let pid = child.id();
    ensure!(child.wait()?.success());
    turn.run_programs(7..8, 1)?;
    scene.wait_for(7)?;

    let events = scene.collector.events(&format!("type=process_execution&user={UID}"))?;
    let of_pid: Vec<&Value> = events.iter().filter(|event| event["process"]["pid"] == pid).collect();
    let [event] = of_pid[..] else { anyhow::bail!("{} events of process {pid}", of_pid.len()) };
    let expected = [
        ("/event_type", json!("process_execution")),
        ("/event/outcome", json!("success")),
        ("/event/category", json!(["process"])),
        ("/user/id", json!(UID.to_string())),
        ("/user/effective/id", json!(UID.to_string())),
        ("/process/executable", json!("/usr/bin/echo")),
        ("/process/name", json!("echo")),
        ("/process/args", json!(["/bin/echo", arguments[0], arguments[1], arguments[2]])),
        ("/process/working_directory", json!("/")),
        ("/process/parent/pid", json!(std::process::id())),
        ("/auditd/syscall", json!("execve")),
        ("/auditd/keys", json!(["af-exec"])),
        ("/host/id", json!(Node::id(&scene.agent)?)),
    ];
    for (place, value) in expected {
        assert_eq!(event.pointer(place), Some(&value), "{place} of {event:#}");
    }
    let declared = scene.declared()?;
    ensure!(declared.records == 0 && !declared.is_open, "nothing was lost, yet {declared:?}");
    Ok(())
}

#[test]
fn a_program_reaches_the_store_by_unicast() -> anyhow::Result<()> {
    a_program_reaches_the_store("unicast", "unicast", "unicast (configured)")
}

#[test]
fn a_program_reaches_the_store_by_multicast() -> anyhow::Result<()> {
    a_program_reaches_the_store("multicast", "multicast", "multicast (configured)")
}

#[test]
fn auto_registers_where_no_daemon_is() -> anyhow::Result<()> {
    a_program_reaches_the_store("auto, alone", "auto", "unicast (no other audit daemon)")
}

#[test]
fn auto_listens_beside_another_daemon() -> anyhow::Result<()> {
    let Some(turn) = Turn::take("auto, beside another daemon", UID)? else { return Ok(()) };
    turn.record_programs()?;
    let _other = OtherDaemon::register()?;
    let scene = Scene::start(&turn, "auto")?;
    let coverage = scene.coverage()?;
    let expected = format!("multicast (process {} is the audit daemon)", std::process::id());
    assert_eq!(coverage, expected);
    eprintln!("kernel audit mode that ran: {coverage}");
    turn.run_programs(0..20, 1)?;
    scene.wait_for(19)?;
    assert_eq!(scene.missing(0..20)?, 0);
    Ok(())
}

/// What the kernel recorded while the agent did not read: more than fits, so that something must go.
fn what_a_flood_takes_is_declared(test: &str, mode: &str) -> anyhow::Result<()> {
    const PROGRAMS: u32 = 2000;
    let Some(turn) = Turn::take(test, UID)? else { return Ok(()) };
    turn.record_programs()?;
    // Whoever runs a program does not wait for room: this is about loss.
    let file = turn.write_rules("no-wait.rules", &["--backlog_wait_time 0", "-b 64"])?;
    turn.load_rules(&[&file.display().to_string()])?.success()?;
    let scene = Scene::start(&turn, mode)?;
    turn.run_programs(0..10, 1)?;
    scene.wait_for(9)?;

    scene.agent.signal(Signal::SIGSTOP)?;
    let flooded = turn.run_programs(10..PROGRAMS, 20_000);
    scene.agent.signal(Signal::SIGCONT)?;
    flooded?;
    // What comes after the flood shows that the agent has read through it.
    let mut last = PROGRAMS;
    until("the agent is through", || {
        turn.run_programs(last..last + 1, 1)?;
        last += 1;
        Ok(scene.numbered()?.iter().any(|(number, _)| *number >= PROGRAMS).then_some(()))
    })?;
    let missing = scene.missing(0..PROGRAMS)?;
    ensure!(missing > 0, "the flood was too small to lose anything, so this test shows nothing");
    let declared = scene.assert_declared(missing)?;
    ensure!(!declared.reasons.iter().any(|reason| reason == "not_running"), "{declared:?}");
    Ok(())
}

#[test]
fn what_a_flood_takes_on_unicast_is_declared() -> anyhow::Result<()> {
    what_a_flood_takes_is_declared("flood, unicast", "unicast")
}

#[test]
fn what_a_flood_takes_on_multicast_is_declared() -> anyhow::Result<()> {
    what_a_flood_takes_is_declared("flood, multicast", "multicast")
}

/// Killed while programs run, started again in the same boot: what is not stored is declared.
fn what_a_kill_takes_is_declared(test: &str, mode: &str) -> anyhow::Result<()> {
    let Some(turn) = Turn::take(test, UID)? else { return Ok(()) };
    turn.record_programs()?;
    let mut scene = Scene::start(&turn, mode)?;
    turn.run_programs(0..20, 1)?;
    scene.wait_for(19)?;
    let mut next = 20;
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let running = scope.spawn(|| turn.run_programs(next..next + 300, 1));
            scene.wait_for(next + 20)?;
            scene.agent.signal(Signal::SIGKILL)?;
            running.join().map_err(|_| anyhow::anyhow!("running programs panicked"))?
        })?;
        next += 300;
        scene = scene.restart_agent()?;
        turn.run_programs(next..next + 20, 1)?;
        next += 20;
        scene.wait_for(next - 1)?;
    }
    let missing = scene.missing(0..next)?;
    let declared = scene.assert_declared(missing)?;
    ensure!(missing == 0 || declared.reasons.iter().any(|reason| reason == "not_running"), "{declared:?}");
    Ok(())
}

#[test]
fn what_a_kill_takes_on_unicast_is_declared() -> anyhow::Result<()> {
    what_a_kill_takes_is_declared("kill, unicast", "unicast")
}

#[test]
fn what_a_kill_takes_on_multicast_is_declared() -> anyhow::Result<()> {
    what_a_kill_takes_is_declared("kill, multicast", "multicast")
}

#[test]
fn a_killed_agent_takes_its_own_place_again() -> anyhow::Result<()> {
    let Some(turn) = Turn::take("its own place", UID)? else { return Ok(()) };
    turn.record_programs()?;
    let scene = Scene::start(&turn, "auto")?;
    let killed = scene.agent.pid()?;
    let scene = scene.restart_agent()?;
    // The kernel finds out only when it has a record for its daemon; until then it names the dead one.
    eprintln!("process {killed} was killed");
    assert_eq!(scene.coverage()?, "unicast (no other audit daemon)");
    Ok(())
}
