//! The ancestor's messages, by a minimal equivalent of its services (Python, pika, psycopg) and by the collector, one after
//! the other on the same RabbitMQ and PostgreSQL: events as JSON from `audit_events`, judged; alerts into a table.
//!
//! The queue is filled first. The ancestor keeps nothing of an event; the collector seals and stores each on the way.

#![allow(missing_docs, reason = "a bench, read by nobody but its runner")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use auditflow_collector::store::postgres::{Options, PostgresStore};
use auditflow_collector::store::{AlertRule, AlertStore, By, NewAlert};
use auditflow_event::Timestamp;
use auditflow_tests::bench::{Bench, Missing, Target, cpu_of, folder};
use auditflow_tests::services::{PostgresServer, RabbitMqServer, definitions};
use auditflow_tests::{Binaries, Collector, Outcome, Random, until};
use chrono::Utc;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const EVENTS: usize = 100_000;
/// Of these the ancestor's equivalent takes fewer, for it takes longer.
const ITS_EVENTS: usize = 30_000;
const ALERTS: usize = 50_000;
const ITS_ALERTS: usize = 5_000;
/// Alerts that are written together: as many as a batch of events may raise.
const TOGETHER: usize = 256;
/// How much faster was promised.
const PROMISED: f64 = 20.0;
const PACKAGES: [&str; 2] = ["pika==1.4.4", "psycopg[binary]==3.3.9"];
/// As its notification service makes it.
const TABLE: &str = "CREATE TABLE alerts (alert_id UUID PRIMARY KEY, correlation_id UUID NOT NULL, timestamp TIMESTAMPTZ \
    NOT NULL, received_at TIMESTAMPTZ NOT NULL DEFAULT now(), alert_name VARCHAR(255) NOT NULL, alert_type VARCHAR(50) \
    NOT NULL, severity VARCHAR(50) NOT NULL, description TEXT, source_service_name VARCHAR(100), rule_id VARCHAR(100), \
    rule_name VARCHAR(255), actor_type VARCHAR(50), actor_id VARCHAR(255), client_ip INET, resource_type VARCHAR(100), \
    resource_id VARCHAR(255), server_hostname VARCHAR(255), action_observed VARCHAR(255), analysis_rule_details JSONB, \
    triggered_by_details JSONB, impacted_resource_details JSONB, metadata JSONB, raw_event_data JSONB)";

fn main() -> ExitCode {
    Bench::run("ancestor", measure)
}

/// What some work took.
struct Took {
    messages: usize,
    wall: Duration,
    cpu: Duration,
}

impl Took {
    fn per_second(&self) -> f64 {
        self.messages as f64 / self.wall.as_secs_f64()
    }

    fn micros(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.messages as f64
    }
}

fn measure(bench: &Bench) -> anyhow::Result<()> {
    let (dir, mut random) = (folder()?, Random::announced("ancestor"));
    let python = python(dir.path())?;
    let missing = || Missing("RabbitMQ or PostgreSQL is not installed".to_owned());
    let made = RabbitMqServer::make(&dir.path().join("broker"), &definitions::shipped()?, None)?;
    let mut broker = made.ok_or_else(missing)?;
    broker.start()?;
    let mut database = PostgresServer::make()?.ok_or_else(missing)?;
    database.start()?;
    let theirs =
        Theirs { python, broker: definitions::with_password(&broker.ancestor_url("ancestor")), database };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;

    runtime.block_on(fill(&theirs.broker, "audit_events", many(ITS_EVENTS, &mut random, event)))?;
    let its = theirs.run("analyse", ITS_EVENTS)?;
    runtime.block_on(fill(&theirs.broker, "audit_events", many(EVENTS, &mut random, event)))?;
    let ours = analyse(dir.path(), &broker)?;
    tell(bench, "events analysed", &its, &ours);
    bench.figure("events: the ancestor", its.micros(), "µs of CPU time each", Target::None);
    bench.figure("events: the collector", ours.micros(), "µs of CPU time each", Target::None);

    theirs.sql(TABLE)?;
    runtime.block_on(fill(&theirs.broker, "audit_alerts", many(ITS_ALERTS, &mut random, message)))?;
    let its = theirs.run("keep", ITS_ALERTS)?;
    theirs.sql("DROP TABLE alerts")?;
    let ours = runtime.block_on(keep(&theirs.database, many(ALERTS, &mut random, alert)))?;
    tell(bench, "alerts inserted", &its, &ours);
    bench.note(&format!("alerts are written {TOGETHER} at a time, the ancestor's one by one"));
    Ok(())
}

fn tell(bench: &Bench, what: &str, its: &Took, ours: &Took) {
    bench.figure(&format!("{what}: the ancestor"), its.per_second(), "a second", Target::None);
    bench.figure(&format!("{what}: the collector"), ours.per_second(), "a second", Target::None);
    let ratio = ours.per_second() / its.per_second();
    bench.figure(&format!("{what}: ratio"), ratio, "times", Target::AtLeast(PROMISED));
}

/// A Python with what the ancestor's services need.
fn python(dir: &Path) -> anyhow::Result<PathBuf> {
    let venv = dir.join("venv");
    let missing = |what: &str| Missing(format!("{what}: it takes Python 3 with venv, and PyPI"));
    let made = Outcome::of(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    made.and_then(Outcome::success).map_err(|error| missing(&error.to_string()))?;
    let python = venv.join("bin/python");
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
    Outcome::of(&mut install)?.success().map_err(|error| missing(&error.to_string()))?;
    Ok(python)
}

/// The equivalent of its services, and the servers.
struct Theirs {
    python: PathBuf,
    broker: String,
    database: PostgresServer,
}

impl Theirs {
    fn run(&self, what: &str, messages: usize) -> anyhow::Result<Took> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/ancestor/services.py");
        let mut command = Command::new(&self.python);
        command.arg(script).args([what, &self.broker, &self.database.url(), &messages.to_string()]);
        let said = Outcome::of(&mut command)?.success()?.stdout;
        let seconds = said.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [wall, cpu] = seconds[..] else { anyhow::bail!("it said {said}") };
        Ok(Took { messages, wall: Duration::from_secs_f64(wall), cpu: Duration::from_secs_f64(cpu) })
    }

    fn sql(&self, statement: &str) -> anyhow::Result<()> {
        let script =
            "import psycopg, sys; psycopg.connect(sys.argv[1], autocommit=True).execute(sys.argv[2])";
        let mut command = Command::new(&self.python);
        Outcome::of(command.args(["-c", script, &self.database.url(), statement]))?.success().map(drop)
    }
}

/// Puts messages into a queue, and waits until the broker has them.
async fn fill(url: &str, queue: &str, messages: Vec<Value>) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut confirms = Vec::with_capacity(messages.len());
    for message in messages {
        let (options, properties) =
            (BasicPublishOptions::default(), BasicProperties::default().with_delivery_mode(2));
        let body = message.to_string();
        confirms.push(
            channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await?,
        );
    }
    for confirm in confirms {
        ensure!(confirm.await?.is_ack(), "the broker refused a message");
    }
    Ok(())
}

/// An event as the ancestor's generator makes it: of seven kinds, by five users, on four hosts.
fn event(random: &mut Random) -> Value {
    let (kind, severity, result) = *random.pick(&[
        ("user_login", "WARNING", "FAILURE"),
        ("user_login", "INFO", "SUCCESS"),
        ("sudo_command", "INFO", "SUCCESS"),
        ("file_modified", "CRITICAL", "MODIFIED"),
        ("service_status_change", "INFO", "STARTED"),
        ("service_status_change", "WARNING", "STOPPED"),
        ("user_account_management", "INFO", "CREATED"),
    ]);
    let (user, host) = (random.below(5), random.below(4));
    json!({
        "event_id": Uuid::new_v4().to_string(),
        "timestamp": Utc::now().format("%Y-%m-%dT%H:%M:%S%.6f+00:00Z").to_string(),
        "source_service": "audit-event-generator",
        "server_hostname": format!("server-0{host}"),
        "event_type": kind,
        "severity": severity,
        "user_id": format!("user-{user}"),
        "action_result": result,
        "details": { "resource": "/etc/nginx/nginx.conf", "ip_address": "192.0.2.7", "message": random.text(40) },
    })
}

/// The collector takes what is in the queue, seals, stores and judges it.
fn analyse(dir: &Path, broker: &RabbitMqServer) -> anyhow::Result<Took> {
    let data = dir.join("collector/data");
    std::fs::create_dir_all(&data)?;
    let password = dir.join("password");
    std::fs::write(&password, definitions::PASSWORD)?;
    let (config, url) = (dir.join("collector.toml"), broker.ancestor_url("auditflow-ingest"));
    let text = format!(
        "[listen]\nagents = \"127.0.0.1:0\"\nweb = \"127.0.0.1:0\"\n[storage]\ndata_dir = \"{}\"\n[rules]\ndirs = []\n\
         [admin]\nsocket = \"{}\"\n[ancestor.events]\nurl = {url:?}\npassword_file = \"{}\"\n",
        data.display(),
        dir.join("admin.sock").display(),
        password.display()
    );
    std::fs::write(&config, text)?;
    let begin = Instant::now();
    let words = ["run", "--config", config.to_str().context("a path in UTF-8")?];
    let collector = Collector::start_as(&Binaries::find()?, &data, &words)?;
    until("all events are judged", || {
        let judged = collector.metric("auditflow_analysed_events_total")? as usize;
        Ok((judged == EVENTS).then_some(()))
    })?;
    let took = Took { messages: EVENTS, wall: begin.elapsed(), cpu: cpu_of(collector.pid()?)? };
    ensure!(collector.stop()?.success(), "the collector stops when asked to");
    Ok(took)
}

/// The collector's store writes alerts.
async fn keep(database: &PostgresServer, alerts: Vec<NewAlert>) -> anyhow::Result<Took> {
    let store = PostgresStore::new(&Options { url: database.url(), connections: 4 })?;
    store.migrate(By::COLLECTOR).await?;
    let (begin, cpu) = (Instant::now(), cpu_of(std::process::id().cast_signed())?);
    for some in alerts.chunks(TOGETHER) {
        ensure!(store.insert_alerts(some.to_vec()).await?.len() == some.len(), "each is new");
    }
    let cpu = cpu_of(std::process::id().cast_signed())?.saturating_sub(cpu);
    Ok(Took { messages: ALERTS, wall: begin.elapsed(), cpu })
}

fn many<T>(count: usize, random: &mut Random, one: impl Fn(&mut Random) -> T) -> Vec<T> {
    (0..count).map(|_| one(random)).collect()
}

fn alert(random: &mut Random) -> NewAlert {
    let event = event(random);
    let map = |value: Value| value.as_object().cloned().unwrap_or_default();
    let words = message(random);
    let word = |name: &str| words[name].as_str().unwrap_or_default().to_owned();
    NewAlert {
        alert_id: Uuid::new_v4(),
        correlation_id: Uuid::new_v4().to_string(),
        fingerprint: "0123456789abcdef".to_owned(),
        rule: AlertRule {
            id: "ANLY-SEC-001".to_owned(),
            name: word("alert_name"),
            description: String::new(),
            level: "high".to_owned(),
            version: "1".to_owned(),
        },
        group: None,
        stamp: Some(Timestamp::from_micros(Utc::now().timestamp_micros())),
        timestamp: Timestamp::from_micros(Utc::now().timestamp_micros()),
        severity: word("severity"),
        alert_type: word("alert_type"),
        triggered_by: map(words["triggered_by"].clone()),
        impacted_resource: map(words["impacted_resource"].clone()),
        action_observed: word("action_observed"),
        source_service_name: word("source_service_name"),
        server_hostname: "server-01".to_owned(),
        node: None,
        description: word("description"),
        evidence: Vec::new(),
        events: vec![event],
        metadata: Map::new(),
    }
}

/// An alert as the ancestor's analysis publishes it.
fn message(random: &mut Random) -> Value {
    json!({
        "alert_id": Uuid::new_v4().to_string(),
        "correlation_id": Uuid::new_v4().to_string(),
        "timestamp": "2026-11-24T10:00:00Z",
        "alert_name": "Repeated Failed Logins",
        "alert_type": "SECURITY",
        "severity": "CRITICAL",
        "description": "three failed logins of one user on one host within a minute",
        "source_service_name": "audit-log-analysis",
        "analysis_rule": { "rule_id": "ANLY-SEC-001", "rule_name": "Failed logins", "rule_description": "" },
        "triggered_by": { "actor_type": "USER", "actor_id": "alice", "client_ip": "192.0.2.7" },
        "impacted_resource": { "resource_type": "SERVER", "resource_id": "server-01", "server_hostname": "server-01" },
        "action_observed": "LOGIN_FAILURE",
        "metadata": {},
        "raw_event_data": event(random),
    })
}
