//! `cargo xtask cluster`: the collector in roles, each a process of its own, on a private PostgreSQL, RabbitMQ and
//! Redis, with nodes that send to it; to look at, and to break by hand.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use auditflow_tests::node::{NO_KERNEL, Node};
use auditflow_tests::{Agent, Binaries, Cluster, http};

use crate::demo;
use crate::install;
use crate::signals::stop_on_signals;
use crate::workspace::programs;

/// How often it looks for new alerts.
const ROUND: Duration = Duration::from_secs(1);
/// Events per second that each node makes.
const RATE: u32 = 5;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many nodes send: the first over HTTPS, the others over MQTT
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=50))]
    nodes: u16,
    /// How many analyzers share the work
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=16))]
    analyzers: u16,
    /// End by itself after so many seconds; fails unless alerts were seen
    #[arg(long)]
    seconds: Option<u64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    install::servers()?;
    let stop = stop_on_signals()?;
    let binaries = programs()?;
    let folder = tempfile::Builder::new().prefix("auditflow-cluster-").tempdir()?;
    println!("starting PostgreSQL, ingest, web");
    let Some(mut cluster) = Cluster::start(&binaries, folder.path())? else {
        bail!("PostgreSQL is missing: install Debian package postgresql");
    };
    let nodes = join(&cluster, &binaries, folder.path(), args.nodes)?;
    println!("starting RabbitMQ, Redis, {} analyzers, {} nodes", args.analyzers, args.nodes);
    ensure!(
        cluster.open_services()?,
        "a server is missing: install Debian packages rabbitmq-server and redis-server"
    );
    for _ in 0..args.analyzers {
        cluster.add_analyzer()?;
    }
    let agents = nodes.iter().map(|node| node.start(&binaries)).collect::<anyhow::Result<Vec<_>>>()?;
    greet(&mut cluster, folder.path())?;
    let seen = show(&cluster, &stop, args.seconds.map(Duration::from_secs))?;
    println!("\nstopping");
    for agent in agents {
        let status = agent.stop()?;
        ensure!(status.success(), "an agent ended with {status}");
    }
    cluster.stop()?;
    if args.seconds.is_some() {
        ensure!(seen > 0, "the cluster should have raised alerts");
    }
    Ok(())
}

/// Has so many nodes join.
fn join(cluster: &Cluster, binaries: &Binaries, folder: &Path, count: u16) -> anyhow::Result<Vec<Node>> {
    let said = cluster.ingest.run(&["token", "create", "--uses", &count.to_string()])?.success()?;
    let token = said.stdout.lines().next().context("a token on the first line")?;
    let join = |number: u16| {
        let mqtt = format!(
            "[collector]\ntransport = \"mqtt\"\n[collector.mqtt]\nurl = \"mqtts://localhost:{}\"\n",
            cluster.mqtt
        );
        let way = if number == 0 { "" } else { &mqtt };
        let source = format!("[sources.synthetic]\nenabled = true\nrate = {RATE}\n");
        let node = Node::make(&folder.join(format!("node-{number}")), &[NO_KERNEL, &source, way].concat())?;
        Agent::join(binaries, &node.config, &cluster.agents, token)?.success()?;
        Ok(node)
    };
    (0..count).map(join).collect()
}

/// Says what runs, and how to get at it.
fn greet(cluster: &mut Cluster, folder: &Path) -> anyhow::Result<()> {
    let password = cluster.web.run(&["admin", "reset-password"])?.success()?.stdout;
    let password = password.lines().next().unwrap_or_default().to_owned();
    println!("\nopen        http://{}/", cluster.page);
    println!("log in      admin, {password}");
    println!("database    psql {}", cluster.database_url());
    if let Some(broker) = &cluster.broker {
        println!("rabbitmq    {}", broker.management());
    }
    if let Some(redis) = &cluster.redis {
        let pid = redis.server.pid()?;
        println!("{:<11} kill -9 {pid} (past TLS: port {})", "redis", redis.server.inside());
    }
    println!("folder      {} (configurations, logs)", folder.display());
    for member in cluster.members() {
        println!("{:<11} kill -9 {}", member.name, member.pid()?);
    }
    println!("stop        Ctrl-C\n");
    Ok(())
}

/// Shows alerts as they come, until told to stop; returns how many alerts there were.
fn show(cluster: &Cluster, stop: &AtomicBool, limit: Option<Duration>) -> anyhow::Result<usize> {
    let token =
        cluster.web.run(&["token", "api", "--name", "cluster", "--role", "viewer"])?.success()?.stdout;
    let authorization = format!("Bearer {}", token.trim());
    let begin = Instant::now();
    let mut shown: Vec<String> = Vec::new();
    while !stop.load(Ordering::Acquire) && limit.is_none_or(|limit| begin.elapsed() < limit) {
        thread::sleep(ROUND);
        // What is broken by hand may be the page.
        let headers = [("Authorization", authorization.as_str())];
        let Ok(answer) = http::ask(&cluster.page, "GET", "/alerts?limit=200", &headers, "") else { continue };
        let Ok(alerts) = answer.json() else { continue };
        for alert in alerts.as_array().into_iter().flatten().rev() {
            let id = alert["alert_id"].as_str().unwrap_or_default().to_owned();
            if !shown.contains(&id) {
                println!("{}", demo::line(alert));
                shown.push(id);
            }
        }
    }
    Ok(shown.len())
}
