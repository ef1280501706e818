//! The ancestor's programs beside the collector: they declare, publish and take as they always did. Their events become
//! batches of a node that the collector seals for, and alerts that they hear of.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_event::NodeId;
use auditflow_tests::services::{RabbitMqServer, definitions};
use auditflow_tests::until;
use chrono::Utc;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::alerts::Listener;
use crate::queues::{dead_letters_at, disturb};
use crate::stored::Stored;
use crate::world::{Besides, World};

const EVENTS: &str = "audit_events";
const ALERTS: &str = "audit_alerts";
const FAULTS: usize = 8;

/// Runs a test with a RabbitMQ and a collector that serves the ancestor's programs there.
fn with_ancestor(
    test: impl FnOnce(&mut World, &mut RabbitMqServer) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    World::run(|world| {
        let folder = world.folder("broker")?;
        let Some(mut server) = RabbitMqServer::make(&folder, &definitions::shipped()?, None)? else {
            return Ok(());
        };
        let password_file = folder.join("password");
        fs::write(&password_file, definitions::PASSWORD)?;
        let [events, alerts] =
            ["auditflow-ingest", "auditflow-analyzer"].map(|user| server.ancestor_url(user));
        world.restart_with(Besides::Ancestor { events, alerts, password_file })?;
        world.until_state("ancestor_events", "down", "amqp://127.0.0.1")?;
        server.start()?;
        world.until_state("ancestor_events", "up", "")?;
        test(world, &mut server)
    })
}

/// As the ancestor's generator writes it, with its own mistake in the time stamp.
fn event(kind: &str, result: &str, user: &str, details: &Value) -> Value {
    json!({
        "event_id": Uuid::new_v4().to_string(),
        "timestamp": Utc::now().format("%Y-%m-%dT%H:%M:%S%.6f+00:00Z").to_string(),
        "source_service": "auth-service",
        "server_hostname": "server-01",
        "event_type": kind,
        "severity": "WARNING",
        "user_id": user,
        "action_result": result,
        "details": details,
    })
}

fn failed_login(user: &str) -> Value {
    event("user_login", "FAILURE", user, &json!({ "ip_address": "192.0.2.7", "reason": "bad password" }))
}

/// A connection of the ancestor's generator: it declares the queue and publishes to it by name.
async fn connect(url: &str) -> lapin::Result<(Connection, Channel)> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(EVENTS.into(), durable, FieldTable::default()).await?;
    Ok((connection, channel))
}

async fn publish(channel: &Channel, body: &[u8]) -> lapin::Result<bool> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish("".into(), EVENTS.into(), options, body, properties).await?;
    Ok(published.await?.is_ack())
}

fn publish_all(server: &RabbitMqServer, messages: &[Vec<u8>]) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (_connection, channel) = connect(&url(server)).await?;
        for message in messages {
            ensure!(publish(&channel, message).await?, "the broker refused an event");
        }
        Ok(())
    })
}

fn url(server: &RabbitMqServer) -> String {
    definitions::with_password(&server.ancestor_url("ancestor"))
}

fn bodies(events: &[Value]) -> Vec<Vec<u8>> {
    events.iter().map(|event| event.to_string().into_bytes()).collect()
}

/// The node that the collector seals as.
fn node(world: &World) -> anyhow::Result<NodeId> {
    let nodes = world.collector()?.json("/api/v1/nodes")?;
    let nodes = nodes.as_array().or_else(|| nodes["nodes"].as_array()).context("a list of nodes")?;
    let of_events = nodes.iter().find(|node| node["hostname"] == EVENTS);
    let of_events = of_events.with_context(|| format!("no node stands for the events: {nodes:?}"))?;
    Ok(of_events["node"].as_str().or(of_events["id"].as_str()).context("its id")?.parse()?)
}

/// What the collector tells of alerts over its compatible API and over the queue is the same.
fn until_heard(world: &World, listener: &mut Listener, name: &str, user: &str) -> anyhow::Result<Value> {
    until(&format!("the ancestor hears of {name}"), || {
        listener.listen()?;
        let is_it = |alert: &&Value| alert["alert_name"] == name && alert["triggered_by"]["actor_id"] == user;
        let Some(alert) = listener.heard.values().find(is_it) else { return Ok(None) };
        let id = alert["alert_id"].as_str().context("an id")?;
        let shown = world.collector()?.json(&format!("/alerts/{id}"))?;
        for field in ["alert_id", "alert_name", "severity", "analysis_rule", "triggered_by"] {
            ensure!(shown[field] == alert[field], "{field}: {shown} instead of {alert}");
        }
        Ok(Some(alert.clone()))
    })
}

#[test]
fn the_ancestor_s_events_become_alerts_that_it_hears_of_and_one_that_comes_again_counts_once()
-> anyhow::Result<()> {
    with_ancestor(|world, server| {
        let mut listener = Listener::ancestor(server);
        let again = failed_login("bob");
        publish_all(server, &bodies(&[again.clone(), again.clone(), again]))?;
        let logins = [(); 3].map(|()| failed_login("alice"));
        let file = event("file_modified", "MODIFIED", "root", &json!({ "resource": "/etc/shadow" }));
        publish_all(server, &bodies(&[&logins[..], std::slice::from_ref(&file)].concat()))?;
        let alert = until_heard(world, &mut listener, "Repeated Failed Logins", "alice")?;
        ensure!(alert["analysis_rule"]["rule_id"] == "ANLY-SEC-001", "{alert}");
        ensure!(alert["correlation_id"] == logins[2]["event_id"], "{alert}");
        ensure!(alert["raw_event_data"]["event_id"] == logins[2]["event_id"], "{alert}");
        let alert = until_heard(world, &mut listener, "Sensitive File Modified", "root")?;
        ensure!(alert["correlation_id"] == file["event_id"], "{alert}");
        let of_bob = listener.heard.values().find(|alert| alert["triggered_by"]["actor_id"] == "bob");
        ensure!(of_bob.is_none(), "one login that came three times is three: {of_bob:?}");
        ensure!(server.waiting_in("/", EVENTS)? == 0, "something was not taken");
        ensure!(server.waiting_in("/", "dead.events")? == 0, "something was set aside");
        Ok(())
    })
}

#[test]
fn what_is_no_event_is_set_aside_with_the_reason_and_never_comes_back() -> anyhow::Result<()> {
    with_ancestor(|world, server| {
        let with = |field: &str, value: Value| {
            let mut event = failed_login("mallory");
            event[field] = value;
            event
        };
        let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let malformed = [
            ("not JSON", b"user_login alice".to_vec()),
            ("not text", vec![0xff, 0xfe]),
            ("no object", b"[1, 2]".to_vec()),
            ("missing field", br#"{"event_type": "user_login"}"#.to_vec()),
            ("wrong type", with("event_type", json!(["user_login"])).to_string().into_bytes()),
            ("bad time", with("timestamp", json!("yesterday")).to_string().into_bytes()),
            ("bad UUID", with("event_id", json!("0xdeadbeef")).to_string().into_bytes()),
            ("long string", with("user_id", json!("x".repeat(1 << 20))).to_string().into_bytes()),
            ("deep nesting", format!(r#"{{"event_type":"x","details":{nested}}}"#).into_bytes()),
        ];
        let messages: Vec<Vec<u8>> = malformed.iter().map(|(_, message)| message.clone()).collect();
        publish_all(server, &messages)?;
        // Wrong as well, but what they say is no worse for it.
        let odd = [
            with("details", json!({ "ip_address": "300.1.2.3" })),
            with("details", json!("none")),
            with("action_result", json!(["FAILURE"])),
            with("server_hostname", Value::Null),
        ];
        publish_all(server, &bodies(&odd))?;
        until("every message has its end", || {
            let (taken, dead) = (server.waiting_in("/", EVENTS)?, server.waiting_in("/", "dead.events")?);
            ensure!(taken == 0 && dead == malformed.len() as u64, "{taken} wait and {dead} are set aside");
            Ok(Some(()))
        })?;
        let expected: BTreeSet<String> = ids(&odd);
        until("the others are stored", || {
            let stored = stored(world)?;
            ensure!(stored.is_superset(&expected), "{stored:?}");
            Ok(Some(()))
        })?;
        let operator = server.ancestor_url("auditflow-operator");
        let dead = |words: &[&str]| {
            dead_letters_at(world, &operator, &[words, &["--queue", "dead.events"]].concat())
        };
        let listed = dead(&["list", "--json"])?;
        for why in [
            "no UTF-8",
            "no timestamp",
            "no event_type",
            "unreadable timestamp",
            "no UUID",
            "exceeds the limit",
        ] {
            ensure!(listed.contains(why), "{why} is not in {listed}");
        }
        // Put back, they are found as bad as before.
        dead(&["requeue", "--all"])?;
        until("they are set aside again", || {
            Ok((server.waiting_in("/", "dead.events")? == malformed.len() as u64).then_some(()))
        })
    })
}

fn ids(events: &[Value]) -> BTreeSet<String> {
    events.iter().filter_map(|event| event["event_id"].as_str().map(str::to_owned)).collect()
}

/// The ids of all events that the collector sealed.
fn stored(world: &World) -> anyhow::Result<BTreeSet<String>> {
    let stored = Stored::read(&world.collector_data(), node(world)?)?;
    Ok(stored.events.iter().map(|event| event.id.to_string()).collect())
}

/// Publishes events until told to stop, each until the broker has answered for it.
struct Publishing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<BTreeSet<String>>>,
}

impl Publishing {
    fn start(server: &RabbitMqServer) -> Self {
        const PAUSE: Duration = Duration::from_millis(5);
        let (stop, url) = (Arc::new(AtomicBool::new(false)), url(server));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(async {
                let (mut published, mut link, mut next) = (BTreeSet::new(), None, failed_login("carol"));
                while !stopped.load(Ordering::Acquire) {
                    tokio::time::sleep(PAUSE).await;
                    if link.is_none() {
                        link = connect(&url).await.ok();
                    }
                    let Some((_, channel)) = &link else { continue };
                    match publish(channel, next.to_string().as_bytes()).await {
                        Ok(true) => {
                            published.extend(ids(&[next]));
                            next = failed_login("carol");
                        }
                        Ok(false) => {}
                        Err(_) => link = None,
                    }
                }
                Ok(published)
            })
        });
        Self { stop, thread }
    }

    fn stop(self) -> anyhow::Result<BTreeSet<String>> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow::anyhow!("the publisher panicked"))?
    }
}

#[test]
fn every_event_that_the_broker_took_is_stored_whatever_becomes_of_broker_and_collector() -> anyhow::Result<()>
{
    with_ancestor(|world, server| {
        let publishing = Publishing::start(server);
        for _ in 0..FAULTS {
            disturb(world, server)?;
        }
        let published = publishing.stop()?;
        ensure!(!published.is_empty(), "nothing was published");
        until("every event is stored", || {
            let missing = published.difference(&stored(world)?).count();
            ensure!(missing == 0, "{missing} of {} are not", published.len());
            Ok(Some(()))
        })?;
        let (node, listener) = (node(world)?, &mut Listener::ancestor(server));
        until_heard(world, listener, "Repeated Failed Logins", "carol")?;
        let of_node = node.to_string();
        let verdict = world.collector()?.run(&["verify", "--node", &of_node])?.success()?;
        ensure!(verdict.stdout.ends_with("sound\n"), "verify says {}", verdict.stdout);
        Stored::read(&world.collector_data(), node)?.ensure_unblemished()?;
        ensure!(server.waiting_in("/", ALERTS)? == 0, "the listener took all");
        Ok(())
    })
}
