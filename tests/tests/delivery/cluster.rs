//! The collector in roles, as processes of their own on PostgreSQL, RabbitMQ and Redis: processes and services come and go, the
//! events are stored once, and the alerts are those of a collector to which nothing happened.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_event::NodeId;
use auditflow_tests::{Binaries, Cluster, Fault, Member, Random, until};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::log::{Appending, AuditLog};
use crate::stored::{Copies, Stored};
use crate::undisturbed::ensure_alerts_are_as_undisturbed;
use crate::world::{Node, Settings, Way};

/// How often something happens to the cluster.
const FAULTS: usize = 32;
/// How long is waited between two things.
const ROUND: Duration = Duration::from_secs(1);
/// What is shown of each log after a failure.
const LAST_LINES: usize = 15;

/// A cluster, and nodes that send to it: the first over HTTPS, the others over MQTT.
struct Fleet {
    cluster: Cluster,
    nodes: Vec<Node>,
    random: Random,
    _folder: TempDir,
}

impl Fleet {
    /// Has something happen to a fleet of so many nodes while they send, then looks at what became of what they sent.
    fn run(nodes: usize, happens: impl FnOnce(&mut Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Some(mut fleet) = Self::make(nodes)? else { return Ok(()) };
        let outcome = fleet.begin().and_then(|appending| {
            happens(&mut fleet)?;
            fleet.end(appending)
        });
        if outcome.is_err() {
            for member in fleet.cluster.members() {
                eprintln!("--- {}\n{}", member.name, member.last_lines(LAST_LINES));
            }
        }
        outcome
    }

    fn make(nodes: usize) -> anyhow::Result<Option<Self>> {
        let random = Random::announced(thread::current().name().unwrap_or("cluster"));
        let (binaries, folder) = (Binaries::find()?, tempfile::tempdir()?);
        let Some(mut cluster) = Cluster::start(&binaries, folder.path())? else { return Ok(None) };
        let said = cluster.ingest.run(&["token", "create", "--uses", &nodes.to_string()])?.success()?;
        let token = said.stdout.lines().next().context("a token on the first line")?;
        let join = |number: usize| {
            let way = if number == 0 { Way::Https } else { Way::broker(cluster.mqtt) };
            let settings = Settings { way, ..Settings::default() };
            let place = folder.path().join(format!("node-{number}"));
            Node::join(&binaries, &place, &settings, (&cluster.agents, token))
        };
        let nodes = (0..nodes).map(join).collect::<anyhow::Result<Vec<_>>>()?;
        if !cluster.open_services()? {
            return Ok(None);
        }
        cluster.add_analyzer()?;
        Ok(Some(Self { cluster, nodes, random, _folder: folder }))
    }

    /// Starts the nodes, which find something to send all the time.
    fn begin(&mut self) -> anyhow::Result<Vec<Appending>> {
        self.nodes
            .iter_mut()
            .map(|node| {
                let appending = node.audit_log(self.random.split())?.append_steadily();
                node.start()?;
                Ok(appending)
            })
            .collect()
    }

    /// Everything that the nodes' logs hold is stored once, the alerts are those of an undisturbed collector, every process
    /// stops when it is asked to, and `verify` finds the store sound.
    fn end(&mut self, appending: Vec<Appending>) -> anyhow::Result<()> {
        let logs = appending.into_iter().map(Appending::stop).collect::<anyhow::Result<Vec<AuditLog>>>()?;
        let url = self.cluster.database_url();
        for (node, log) in self.nodes.iter().zip(&logs) {
            until("every event is stored", || {
                thread::sleep(ROUND);
                let missing = Stored::read_database(&url, node.id)?.missing(log);
                ensure!(missing == 0, "{missing} of {} are not", log.len());
                Ok(Some(()))
            })?;
        }
        let ids: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        let alerts = ensure_alerts_are_as_undisturbed(&url, &ids)?;
        eprintln!("alerts that stand: {alerts:?}");
        ensure!(alerts.contains_key("Repeated Failed Logins"), "a correlation is among them");
        self.nodes.iter_mut().try_for_each(Node::stop)?;
        self.cluster.members().try_for_each(Member::stop)?;
        for (node, log) in self.nodes.iter().zip(&logs) {
            let verdict = self.cluster.ingest.run(&["verify", "--node", &node.id.to_string()])?.success()?;
            ensure!(verdict.stdout.ends_with("sound\n"), "verify says {}", verdict.stdout);
            let stored = Stored::read_database(&url, node.id)?;
            stored.ensure_complete(&[log], Copies::One)?;
            stored.ensure_unblemished()?;
        }
        Ok(())
    }

    /// Something happens to a process or a service, and passes.
    fn disturb(&mut self) -> anyhow::Result<()> {
        let length = self.random.up_to(Duration::from_millis(1500));
        let Cluster { ingest, web, analyzers, broker, redis, proxy, database, .. } = &mut self.cluster;
        let broker = broker.as_mut().context("there is a broker")?;
        let redis = redis.as_mut().context("there is a Redis")?;
        let which = self.random.below(analyzers.len() as u64) as usize;
        let analyzer = &mut analyzers[which];
        let happens = self.random.below(13);
        eprintln!("{happens} happens, {} ms long", length.as_millis());
        match happens {
            0 => {
                database.kill()?;
                thread::sleep(length);
                database.start()
            }
            1 => {
                broker.kill()?;
                thread::sleep(length);
                broker.start()
            }
            2 => kill_and_start(ingest, length),
            3 => kill_and_start(analyzer, length),
            4 => {
                // As a rollout has it.
                for member in [ingest, web, analyzer] {
                    member.stop()?;
                    member.start()?;
                }
                Ok(())
            }
            5 => {
                analyzer.signal(Signal::SIGSTOP)?;
                thread::sleep(length);
                analyzer.signal(Signal::SIGCONT)
            }
            6 => {
                broker.signal(Signal::SIGSTOP)?;
                thread::sleep(length);
                broker.signal(Signal::SIGCONT)
            }
            7 => {
                database.signal(Signal::SIGSTOP)?;
                thread::sleep(length);
                database.signal(Signal::SIGCONT)
            }
            8 => {
                redis.server.kill()?;
                thread::sleep(length);
                redis.server.start()
            }
            9 => {
                redis.server.signal(Signal::SIGSTOP)?;
                thread::sleep(length);
                redis.server.signal(Signal::SIGCONT)
            }
            10 => redis.server.ask(&["FLUSHALL"]).map(drop),
            _ => {
                let proxy = if happens == 11 { &redis.proxy } else { proxy };
                proxy.set(if self.random.below(2) == 0 { Fault::Cut } else { Fault::Slow });
                thread::sleep(length);
                proxy.set(Fault::None);
                Ok(())
            }
        }
    }

    /// How many windows the analyzers that run now have read from Redis.
    fn read_from_redis(&self) -> anyhow::Result<f64> {
        let of = |member: &Member| member.metric("auditflow_window_reads_total{from=\"redis\"}");
        self.cluster.analyzers.iter().map(of).sum()
    }
}

fn kill_and_start(member: &mut Member, after: Duration) -> anyhow::Result<()> {
    member.kill()?;
    thread::sleep(after);
    member.start()
}

#[test]
fn whatever_happens_to_processes_and_services_events_are_stored_once_and_the_same_alerts_stand()
-> anyhow::Result<()> {
    Fleet::run(3, |fleet| {
        fleet.cluster.add_analyzer()?;
        for _ in 0..FAULTS {
            thread::sleep(fleet.random.up_to(ROUND));
            fleet.disturb()?;
        }
        Ok(())
    })
}

#[test]
fn analyzers_are_added_and_taken_away_under_load_and_one_episode_is_one_alert() -> anyhow::Result<()> {
    Fleet::run(3, |fleet| {
        for _ in 0..3 {
            fleet.cluster.add_analyzer()?;
            fleet.cluster.analyzers.last_mut().context("it was added")?.until_ready()?;
            thread::sleep(ROUND);
        }
        until("windows are read from Redis", || Ok((fleet.read_from_redis()? > 0.0).then_some(())))?;
        for _ in 0..3 {
            fleet.cluster.remove_analyzer()?;
            thread::sleep(ROUND);
        }
        Ok(())
    })
}
