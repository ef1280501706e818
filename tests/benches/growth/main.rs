//! What more nodes cost: the same events over MQTT, RabbitMQ, two analyzers and PostgreSQL, from ten nodes and from a
//! hundred, each with a connection of its own that stays open.

#![allow(missing_docs, reason = "a bench, read by nobody but its runner")]

#[allow(dead_code, reason = "what posts over HTTPS is for the other benches")]
#[path = "../fleet/mod.rs"]
mod fleet;
#[path = "../cluster/publish.rs"]
mod publish;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, ensure};
use auditflow_tests::bench::{Bench, Missing, Target, cpu_of, folder, memory_of_family};
use auditflow_tests::node::NO_KERNEL;
use auditflow_tests::{Agent, Binaries, Cluster, Member, Node, until};
use fleet::{Recording, Sealed, Sender};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use publish::{connect, publish_all};

const FLEETS: [usize; 2] = [10, 100];
const ANALYZERS: usize = 2;
/// Events per batch: what a node has after a while.
const BATCH: usize = 256;
/// How often the recording is sent, by all nodes together.
const ROUNDS: u64 = 6;

fn main() -> ExitCode {
    Bench::run("growth", measure)
}

fn measure(bench: &Bench) -> anyhow::Result<()> {
    // A socket per node, here and in RabbitMQ, which inherits the limit.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let recording = Recording::read()?;
    for nodes in FLEETS {
        let grown = once(&recording, nodes)?;
        let of = |what: &str| format!("{nodes} nodes: {what}");
        bench.figure(&of("all connected and heard once"), grown.connecting, "s", Target::None);
        bench.figure(&of("by the clock"), grown.rate, "events/s", Target::None);
        bench.figure(&of("analyzers"), grown.cpu, "µs of CPU time per event", Target::None);
        for (what, mebibytes) in grown.memory {
            bench.figure(&of(what), mebibytes, "MiB, all connected", Target::None);
        }
    }
    bench.note(&format!(
        "{} events in batches of {BATCH}, {ANALYZERS} analyzers",
        ROUNDS * recording.len() as u64
    ));
    Ok(())
}

/// What one fleet took.
struct Grown {
    connecting: f64,
    rate: f64,
    cpu: f64,
    memory: Vec<(&'static str, f64)>,
}

fn once(recording: &Recording, count: usize) -> anyhow::Result<Grown> {
    let (binaries, dir) = (Binaries::find()?, folder()?);
    let missing = || Missing("PostgreSQL, RabbitMQ or Redis is not installed".to_owned());
    let mut cluster = Cluster::start(&binaries, dir.path())?.ok_or_else(missing)?;
    let said = cluster.ingest.run(&["token", "create", "--uses", &count.to_string()])?.success()?;
    let token = said.stdout.lines().next().context("a token on the first line")?;
    let join = |number: usize| {
        let node = Node::make(&dir.path().join(format!("node-{number}")), NO_KERNEL)?;
        Agent::join(&binaries, &node.config, &cluster.agents, token)?.success()?;
        Sender::of(&node)
    };
    let mut senders = (0..count).map(join).collect::<anyhow::Result<Vec<Sender>>>()?;
    if !cluster.open_services()? {
        return Err(missing().into());
    }
    for _ in 0..ANALYZERS {
        cluster.add_analyzer()?;
    }
    cluster.analyzers.iter_mut().try_for_each(Member::until_ready)?;
    until("the analyzers take from RabbitMQ", || {
        let up = cluster.analyzers.iter().map(|member| Ok(member.health("rabbitmq")?["state"] == "up"));
        Ok(up.collect::<anyhow::Result<Vec<bool>>>()?.iter().all(|up| *up).then_some(()))
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _entered = runtime.enter();
    let ways =
        senders.iter().map(|sender| connect(sender, cluster.mqtt)).collect::<anyhow::Result<Vec<_>>>()?;

    // Each node's first batch opens its connection, all of them at once.
    let begin = Instant::now();
    let mut batches = batches(recording, &mut senders)?;
    let first = ways.iter().cloned().zip(batches.iter_mut().map(|batches| vec![batches.remove(0)])).collect();
    let mut expected = count as u64 * BATCH as u64;
    runtime.block_on(publish_all(first))?;
    until_analysed(&cluster, expected)?;
    let connecting = begin.elapsed().as_secs_f64();
    let mut memory = memory(&cluster, ["analyzers, idle", "RabbitMQ, idle"])?;
    let (begin, cpu) = (Instant::now(), cpu_of_analyzers(&cluster)?);
    let events: u64 = batches.iter().flatten().map(|sealed| sealed.events).sum();
    runtime.block_on(publish_all(ways.iter().cloned().zip(batches).collect()))?;
    expected += events;
    until_analysed(&cluster, expected)?;
    let rate = events as f64 / begin.elapsed().as_secs_f64();
    let cpu = (cpu_of_analyzers(&cluster)? - cpu) * 1e6 / events as f64;
    memory.extend(self::memory(&cluster, ["analyzers, after it", "RabbitMQ, after it"])?);
    drop(ways);
    cluster.stop()?;
    Ok(Grown { connecting, rate, cpu, memory })
}

/// The recording, dealt out to the nodes in full batches.
fn batches(recording: &Recording, senders: &mut [Sender]) -> anyhow::Result<Vec<Vec<Sealed>>> {
    let begin = recording.begin(ROUNDS)?;
    let mut dealt = vec![Vec::new(); senders.len()];
    let mut events = (0..ROUNDS).flat_map(|round| recording.round(begin, round));
    let all = ROUNDS as usize * recording.len() / BATCH;
    for number in 0..all {
        let node = number % senders.len();
        let (sender, dealt) = senders.get_mut(node).zip(dealt.get_mut(node)).context("a node for each")?;
        dealt.push(sender.seal(events.by_ref().take(BATCH))?);
    }
    ensure!(dealt.iter().all(|batches| batches.len() > 1), "every node has something to send");
    Ok(dealt)
}

fn memory(
    cluster: &Cluster,
    [analyzers, rabbitmq]: [&'static str; 2],
) -> anyhow::Result<Vec<(&'static str, f64)>> {
    let mut of_analyzers = 0;
    for member in &cluster.analyzers {
        of_analyzers += memory_of_family(member.pid()?)?;
    }
    let broker = cluster.broker.as_ref().context("there is a broker")?;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(vec![(analyzers, mebibytes(of_analyzers)), (rabbitmq, mebibytes(memory_of_family(broker.pid()?)?))])
}

fn cpu_of_analyzers(cluster: &Cluster) -> anyhow::Result<f64> {
    let of = |member: &Member| Ok(cpu_of(member.pid()?)?.as_secs_f64());
    cluster.analyzers.iter().map(of).sum()
}

/// Waits until so many events are judged, as long as it goes on.
fn until_analysed(cluster: &Cluster, events: u64) -> anyhow::Result<()> {
    let of = |member: &Member| member.metric("auditflow_analysed_events_total");
    let mut before = 0;
    while before < events {
        before = until("analysis goes on", || {
            let analysed = cluster.analyzers.iter().map(of).sum::<anyhow::Result<f64>>()? as u64;
            Ok((analysed > before).then_some(analysed))
        })?;
    }
    ensure!(before == events, "{before} events were judged, not {events}");
    Ok(())
}
