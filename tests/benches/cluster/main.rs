//! A fleet publishes sealed batches over MQTT to RabbitMQ; two analyzers take them from the queue, store them in PostgreSQL,
//! judge and correlate them. All of it shares this machine.
//!
//! First as fast as it goes: events per second by the clock, and which of the processes used the processors. Then at half
//! the rate that was promised, with an alert in every batch: how long after an event its alert stands.

#![allow(missing_docs, reason = "a bench, read by nobody but its runner")]

#[allow(dead_code, reason = "what posts over HTTPS is for the other benches")]
#[path = "../fleet/mod.rs"]
mod fleet;
mod publish;
#[path = "../fleet/rounds.rs"]
mod rounds;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use auditflow_agent::ship::mqtt::Mqtt;
use auditflow_audit_record::{AuditEvent, Completion, Record, Stamp};
use auditflow_tests::bench::{Bench, Missing, Target, cpu_of, cpu_of_family, folder};
use auditflow_tests::node::NO_KERNEL;
use auditflow_tests::{Agent, Binaries, Cluster, Node, until};
use fleet::{Recording, Sender};
use publish::{connect, publish, publish_all};
use rounds::seal_rounds;

const NODES: usize = 4;
const ANALYZERS: usize = 2;
/// Events per batch as fast as it goes: full ones, as of a node that has a backlog.
const BATCH: usize = 2048;
/// How often the recording is sent, by all nodes together.
const ROUNDS: u64 = 8;
/// Events per second that two cores have to carry.
const PROMISED: f64 = 30_000.0;
/// Events per batch at half of that: what a node of the four has after a few hundredths of a second.
const SMALL: usize = 256;
/// How long that goes on.
const STEADY: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    Bench::run("cluster", measure)
}

fn measure(bench: &Bench) -> anyhow::Result<()> {
    let recording = Recording::read()?;
    let (binaries, dir) = (Binaries::find()?, folder()?);
    let missing = || Missing("PostgreSQL, RabbitMQ or Redis is not installed".to_owned());
    let mut cluster = Cluster::start(&binaries, dir.path())?.ok_or_else(missing)?;
    let said = cluster.ingest.run(&["token", "create", "--uses", &NODES.to_string()])?.success()?;
    let token = said.stdout.lines().next().context("a token on the first line")?;
    let join = |number: usize| {
        let node = Node::make(&dir.path().join(format!("node-{number}")), NO_KERNEL)?;
        Agent::join(&binaries, &node.config, &cluster.agents, token)?.success()?;
        Sender::of(&node)
    };
    let mut senders = (0..NODES).map(join).collect::<anyhow::Result<Vec<Sender>>>()?;
    if !cluster.open_services()? {
        return Err(missing().into());
    }
    for _ in 0..ANALYZERS {
        cluster.add_analyzer()?;
    }
    cluster.analyzers.iter_mut().try_for_each(auditflow_tests::Member::until_ready)?;
    until("the analyzers take from RabbitMQ", || {
        let parts: Vec<_> =
            cluster.analyzers.iter().map(|member| member.health("rabbitmq")).collect::<Result<_, _>>()?;
        Ok(parts.iter().all(|part| part["state"] == "up").then_some(()))
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let _entered = runtime.enter();
    let ways =
        senders.iter().map(|sender| connect(sender, cluster.mqtt)).collect::<anyhow::Result<Vec<_>>>()?;

    let before = analysed(&cluster)?;
    let frames = seal_rounds(&recording, &mut senders, ROUNDS, BATCH)?;
    let events: u64 = frames.iter().flatten().map(|sealed| sealed.events).sum();
    let (begin, costs) = (Instant::now(), Costs::now(&cluster)?);
    runtime.block_on(publish_all(ways.iter().cloned().zip(frames).collect()))?;
    until_analysed(&cluster, before + events)?;
    let wall = begin.elapsed().as_secs_f64();
    bench.figure("by the clock", events as f64 / wall, "events/s", Target::AtLeast(PROMISED));
    costs.tell(bench, &Costs::now(&cluster)?, events);

    let earlier = Latencies::of(&cluster)?;
    let late = runtime.block_on(steadily(&recording, &mut senders, &ways))?;
    until_analysed(&cluster, before + events + late.events)?;
    bench.figure("steadily", late.events as f64 / late.took.as_secs_f64(), "events/s", Target::None);
    let latencies = Latencies::of(&cluster)?.since(&earlier);
    let p99 = latencies.at(0.99)?;
    bench.figure("steadily: 99 % of alerts stand after at most", p99, "s", Target::AtMost(1.0));
    let half = latencies.at(0.5)?;
    bench.figure("steadily: half of the alerts stand after at most", half, "s", Target::None);
    bench.note(&format!("{events} events in batches of {BATCH}, {ANALYZERS} analyzers, {NODES} nodes"));
    drop(ways);
    cluster.stop()
}

/// What the parts of the machine have cost so far.
struct Costs([(&'static str, Duration); 5]);

impl Costs {
    fn now(cluster: &Cluster) -> anyhow::Result<Self> {
        let redis = cluster.redis.as_ref().context("there is a Redis")?;
        let broker = cluster.broker.as_ref().context("there is a broker")?;
        let mut analyzers = Duration::ZERO;
        for member in &cluster.analyzers {
            analyzers += cpu_of(member.pid()?)?;
        }
        Ok(Self([
            ("analyzers", analyzers),
            ("PostgreSQL", cpu_of_family(cluster.database.pid()?)?),
            ("RabbitMQ", cpu_of_family(broker.pid()?)?),
            ("Redis", cpu_of(redis.server.pid()?)?),
            ("the fleet", cpu_of(std::process::id().cast_signed())?),
        ]))
    }

    fn tell(&self, bench: &Bench, after: &Self, events: u64) {
        for ((what, before), (_, after)) in self.0.iter().zip(&after.0) {
            let micros = after.saturating_sub(*before).as_secs_f64() * 1e6 / events as f64;
            bench.figure(what, micros, "µs of CPU time per event", Target::None);
        }
    }
}

fn analysed(cluster: &Cluster) -> anyhow::Result<u64> {
    let of = |member: &auditflow_tests::Member| member.metric("auditflow_analysed_events_total");
    cluster.analyzers.iter().map(of).sum::<anyhow::Result<f64>>().map(|sum| sum as u64)
}

fn until_analysed(cluster: &Cluster, events: u64) -> anyhow::Result<()> {
    let mut before = 0;
    while before < events {
        before = until("analysis goes on", || {
            let analysed = analysed(cluster)?;
            Ok((analysed > before).then_some(analysed))
        })?;
    }
    ensure!(before == events, "{before} events were judged, not {events}");
    Ok(())
}

/// What was sent steadily.
struct Steady {
    events: u64,
    took: Duration,
}

/// Sends small batches of what has just happened, each with an event that raises an alert, at half of what was promised.
async fn steadily(
    recording: &Recording,
    senders: &mut [Sender],
    ways: &[Arc<Mqtt>],
) -> anyhow::Result<Steady> {
    let begin = Instant::now();
    let mut source = std::iter::repeat_with(|| recording.round(0, 0)).flatten();
    let mut publishing = tokio::task::JoinSet::new();
    let mut events = 0;
    for number in 0.. {
        let due = Duration::from_secs_f64(events as f64 / (PROMISED / 2.0));
        if due >= STEADY {
            break;
        }
        tokio::time::sleep_until((begin + due).into()).await;
        let node = number % senders.len();
        let (sender, way) = senders.get_mut(node).zip(ways.get(node)).context("a node for each batch")?;
        let millis = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
        let batch = (0..SMALL).map(|index| {
            let stamp = Stamp { millis, serial: (number * SMALL + index) as u32 };
            match index {
                0 => user_added(stamp),
                _ => source.next().map(|event| fleet::at(event, stamp)).context("the recording has events"),
            }
        });
        let sealed = sender.seal(batch.collect::<anyhow::Result<Vec<_>>>()?)?;
        events += sealed.events;
        let way = Arc::clone(way);
        publishing.spawn(async move { publish(&way, sealed).await });
    }
    let took = begin.elapsed();
    while let Some(published) = publishing.join_next().await {
        published??;
    }
    Ok(Steady { events, took })
}

fn user_added(stamp: Stamp) -> anyhow::Result<AuditEvent> {
    let Stamp { millis, serial } = stamp;
    let line = format!(
        "type=ADD_USER msg=audit({}.{:03}:{serial}): pid=4711 uid=0 auid=1000 ses=3 msg='op=adding user id={serial} \
         exe=\"/usr/sbin/useradd\" hostname=? addr=? terminal=pts/0 res=success'",
        millis / 1000,
        millis % 1000
    );
    let records = vec![Record::from_line(line.as_bytes())?];
    Ok(AuditEvent { stamp, node: None, records, completion: Completion::Single })
}

/// How many alerts stood within so many seconds of their events, by the bounds that the analyzers count in.
struct Latencies(Vec<(f64, f64)>);

impl Latencies {
    fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for member in &cluster.analyzers {
            for line in member.ask("/metrics")?.body.lines() {
                let Some(rest) = line.strip_prefix("auditflow_alert_latency_seconds_bucket{") else {
                    continue;
                };
                let Some((labels, count)) = rest.split_once("} ") else { continue };
                if !labels.contains("since=\"event\"") {
                    continue;
                }
                let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
                let bound: f64 = bound.context("a bucket has a bound")?.parse()?;
                let count: f64 = count.parse()?;
                match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                    Some((_, sum)) => *sum += count,
                    None => buckets.push((bound, count)),
                }
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(Self(buckets))
    }

    fn since(self, earlier: &Self) -> Self {
        let before = |bound: f64| earlier.0.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
        let without = |(bound, count)| (bound, count - before(bound).map_or(0.0, |(_, count)| *count));
        Self(self.0.into_iter().map(without).collect())
    }

    /// The bound within which this part of them stood.
    fn at(&self, part: f64) -> anyhow::Result<f64> {
        let all = self.0.last().context("there were alerts")?.1;
        ensure!(all > 0.0, "there were no alerts");
        let found = self.0.iter().find(|(_, count)| *count >= all * part);
        Ok(found.context("a bucket holds them")?.0)
    }
}
