//! Alerts, from the collector to RabbitMQ: whatever happens, our notifiers' queue and the ancestor's get every alert.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use auditflow_collector::store::sqlite::{Options, SqliteStore};
use auditflow_collector::store::{AlertFilter, AlertRow, AlertStore, Destination, OutboxStore};
use auditflow_event::Timestamp;
use auditflow_tests::services::{RabbitMqServer, definitions};
use auditflow_tests::until;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::{Connection, ConnectionProperties};
use serde_json::Value;

use crate::log::AuditLog;
use crate::queues::{disturb, with_queue};
use crate::world::{Node, World};

const FAULTS: usize = 8;
const DESTINATIONS: [Destination; 2] = [Destination::Notifiers, Destination::Ancestor];
/// More than any test makes.
const ALL: usize = 100_000;
/// The fields of the ancestor's message.
const FIELDS: [&str; 15] = [
    "action_observed",
    "alert_id",
    "alert_name",
    "alert_type",
    "analysis_rule",
    "correlation_id",
    "description",
    "impacted_resource",
    "metadata",
    "raw_event_data",
    "received_at",
    "severity",
    "source_service_name",
    "timestamp",
    "triggered_by",
];

/// Who takes alerts, at which queue, and what has come.
pub(crate) struct Listener {
    destination: Destination,
    url: String,
    queue: &'static str,
    /// By their ids.
    pub(crate) heard: BTreeMap<String, Value>,
}

impl Listener {
    /// Our notifiers.
    fn notifiers(server: &RabbitMqServer) -> Self {
        let url = definitions::with_password(&server.url("auditflow-notifier"));
        Self { destination: Destination::Notifiers, url, queue: "alerts.notify", heard: BTreeMap::new() }
    }

    /// The ancestor's notification service.
    pub(crate) fn ancestor(server: &RabbitMqServer) -> Self {
        let url = definitions::with_password(&server.ancestor_url("ancestor"));
        Self { destination: Destination::Ancestor, url, queue: "audit_alerts", heard: BTreeMap::new() }
    }

    /// Takes all that is in the queue now.
    pub(crate) fn listen(&mut self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let heard = &mut self.heard;
        runtime.block_on(async {
            let connection = Connection::connect(&self.url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            while let Some(message) = channel.basic_get(self.queue.into(), BasicGetOptions::default()).await?
            {
                let alert: Value = serde_json::from_slice(&message.delivery.data)?;
                let id = alert["alert_id"].as_str().context("it has an id")?.to_owned();
                let named = message.delivery.properties.message_id().as_ref().map(ToString::to_string);
                ensure!(named.as_deref() == Some(&*id), "its message is named {named:?}");
                heard.insert(id, alert);
                message.delivery.acker.ack(BasicAckOptions::default()).await?;
            }
            Ok(())
        })
    }

    /// Whoever listens has heard of `announced`, and of nothing but what was `opened`.
    fn ensure_heard(&self, announced: &BTreeSet<String>, opened: &BTreeSet<String>) -> anyhow::Result<()> {
        let heard: BTreeSet<String> = self.heard.keys().cloned().collect();
        let unheard: Vec<&String> = announced.difference(&heard).collect();
        let unknown: Vec<&String> = heard.difference(opened).collect();
        let queue = self.queue;
        ensure!(!announced.is_empty(), "{queue}: there was nothing to hear of");
        ensure!(unheard.is_empty(), "{queue}: {} of {} never came", unheard.len(), announced.len());
        ensure!(unknown.is_empty(), "{queue}: nobody knows {unknown:?}");
        for alert in self.heard.values() {
            let fields: Vec<&String> = alert.as_object().context("an object")?.keys().collect();
            ensure!(fields == FIELDS, "{queue}: {fields:?}");
        }
        Ok(())
    }
}

/// How many alerts somebody has still to hear of.
async fn waiting(store: &SqliteStore) -> anyhow::Result<u64> {
    let mut waiting = 0;
    for destination in DESTINATIONS {
        waiting += store.announcements_waiting(destination).await?;
    }
    Ok(waiting)
}

/// Looks into the collector's store, which may be in use.
fn look<T>(world: &World, at: impl AsyncFnOnce(&SqliteStore) -> anyhow::Result<T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let store = SqliteStore::open(&world.collector_data(), Options::for_cap(1 << 30))?;
    runtime.block_on(at(&store))
}

fn until_announced(world: &World) -> anyhow::Result<()> {
    until("every alert is announced", || {
        let waiting = look(world, waiting)?;
        ensure!(waiting == 0, "{waiting} wait");
        Ok(Some(()))
    })
}

/// Both destinations have heard of every alert that was opened, whatever became of it, but for those that wait, and of
/// nothing else.
fn stop_and_listen(world: &mut World, server: &RabbitMqServer, node: &mut Node) -> anyhow::Result<()> {
    node.stop()?;
    until_announced(world)?;
    world.stop_collector()?;
    for mut listener in [Listener::notifiers(server), Listener::ancestor(server)] {
        listener.listen()?;
        let (opened, waiting) = look(world, async |store| {
            let everything =
                AlertFilter { include_retracted: true, include_deleted: true, ..AlertFilter::default() };
            let opened = ids(store.alerts(everything, None, 0, ALL).await?);
            let taken =
                store.take_announcements(listener.destination, Timestamp::MAX, Timestamp::MAX, ALL).await?;
            Ok((opened, ids(taken.into_iter().map(|waiting| waiting.alert).collect())))
        })?;
        eprintln!("{}: {} alerts, {} wait", listener.queue, opened.len(), waiting.len());
        listener.ensure_heard(&opened.difference(&waiting).cloned().collect(), &opened)?;
    }
    Ok(())
}

fn ids(alerts: Vec<AlertRow>) -> BTreeSet<String> {
    alerts.into_iter().map(|row| row.alert.alert_id.to_string()).collect()
}

#[test]
fn every_alert_reaches_both_queues_whatever_becomes_of_broker_and_collector() -> anyhow::Result<()> {
    with_queue(|world, server, node| {
        let appending = world.audit_log(node)?.append_steadily();
        for _ in 0..FAULTS {
            disturb(world, server)?;
        }
        let log = appending.stop()?;
        world.until_stored(node, &log)?;
        stop_and_listen(world, server, node)
    })
}

#[test]
fn alerts_wait_while_a_queue_is_gone_or_full_and_health_says_so() -> anyhow::Result<()> {
    with_queue(|world, server, node| {
        let mut log = world.audit_log(node)?;
        let more = |world: &World, log: &mut AuditLog, node: &Node| {
            log.append(100)?;
            world.until_stored(node, log)
        };
        more(world, &mut log, node)?;
        until_announced(world)?;

        server.control(&["delete_queue", "--vhost", "/", "audit_alerts"])?;
        more(world, &mut log, node)?;
        world.until_state("alerts_ancestor", "down", "no queue is bound to exchange alerts")?;
        world.until_state("alerts_notifiers", "up", "")?;
        ensure!(look(world, waiting)? > 0, "what went nowhere is not forgotten");
        server.import_again()?;
        world.until_state("alerts_ancestor", "up", "")?;
        until_announced(world)?;

        let policy = |bytes: u32| {
            let definition = format!("{{\"max-length-bytes\":{bytes},\"overflow\":\"reject-publish\"}}");
            let words = [
                "set_policy",
                "-p",
                "auditflow",
                "--priority",
                "9",
                "full",
                "^alerts\\.notify$",
                &definition,
            ];
            server.control(&words).map(drop)
        };
        policy(1)?;
        more(world, &mut log, node)?;
        world.until_state("alerts_notifiers", "down", "took no message")?;
        ensure!(look(world, waiting)? > 0, "what was refused is not forgotten");
        policy(1 << 28)?;
        world.until_state("alerts_notifiers", "up", "")?;
        until_announced(world)
    })
}
