//! What each user of the shipped definitions may do at RabbitMQ, and that everything else is refused.

use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_tests::services::{RabbitMq, Vhost};
use lapin::message::BasicGetMessage;
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, ErrorKind, ExchangeKind,
};

const LIMIT: Duration = Duration::from_mins(1);
const NODE: &str = "00112233445566778899aabbccddeeff";
/// What an unanchored expression would let through besides what it names.
const AROUND: [&str; 2] = ["x-", "-x"];

/// Something that a client may try.
#[derive(Debug, Clone)]
enum Attempt {
    Declare(String),
    DeclareExchange(String),
    Delete(String),
    Purge(String),
    /// A queue of this name to an exchange.
    Bind(&'static str, &'static str),
    Publish(String, String),
    Get(String),
}

impl Attempt {
    fn publish(exchange: &str, key: &str) -> Self {
        Self::Publish(exchange.to_owned(), key.to_owned())
    }

    fn get(queue: &str) -> Self {
        Self::Get(queue.to_owned())
    }

    async fn on(self, channel: &Channel) -> lapin::Result<()> {
        match self {
            Self::Declare(queue) => {
                let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                channel.queue_declare(queue.into(), options, FieldTable::default()).await.map(drop)
            }
            Self::DeclareExchange(name) => {
                let options = ExchangeDeclareOptions::default();
                channel
                    .exchange_declare(name.into(), ExchangeKind::Fanout, options, FieldTable::default())
                    .await
            }
            Self::Delete(queue) => {
                channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop)
            }
            Self::Purge(queue) => {
                channel.queue_purge(queue.into(), QueuePurgeOptions::default()).await.map(drop)
            }
            Self::Bind(queue, exchange) => {
                let options = QueueBindOptions::default();
                let (queue, exchange) = (queue.into(), exchange.into());
                channel.queue_bind(queue, exchange, "#".into(), options, FieldTable::default()).await
            }
            Self::Publish(exchange, key) => {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
                let sent =
                    channel.basic_publish(exchange.into(), key.into(), options, b"x", properties).await?;
                sent.await.map(|confirmed: Confirmation| assert!(confirmed.is_ack(), "it was not taken"))
            }
            Self::Get(queue) => {
                channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.map(drop)
            }
        }
    }
}

/// Whether each attempt of a user's goes as it should.
async fn expect(url: &str, attempts: &[Attempt], is_allowed: bool) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    for attempt in attempts {
        // A refusal ends the channel.
        let channel = connection.create_channel().await?;
        let outcome = attempt.clone().on(&channel).await;
        match &outcome {
            Ok(()) => ensure!(is_allowed, "{url}: {attempt:?} was allowed"),
            Err(error) => ensure!(!is_allowed && is_refusal(error), "{url}: {attempt:?}: {error}"),
        }
    }
    Ok(())
}

/// The user has nothing to do in that vhost.
async fn ensure_locked_out(url: &str) -> anyhow::Result<()> {
    let connected = Connection::connect(url, ConnectionProperties::default()).await;
    ensure!(connected.is_err(), "{url} was let in");
    Ok(())
}

/// Not just any failure: the one for want of a right.
fn is_refusal(error: &lapin::Error) -> bool {
    let refused = AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED);
    matches!(error.kind(), ErrorKind::ProtocolError(error) if *error.kind() == refused)
}

/// What none of our own services may do, whatever it is.
fn never() -> Vec<Attempt> {
    let mut never = vec![
        Attempt::Declare("audit_batches.7".to_owned()),
        Attempt::Declare("own".to_owned()),
        Attempt::DeclareExchange("own".to_owned()),
        Attempt::Bind("alerts.notify", "amq.topic"),
        Attempt::publish("", "audit_batches.0"),
        Attempt::publish("audit_batches", &format!("audit.{NODE}.batch")),
        Attempt::publish("amq.fanout", ""),
        Attempt::publish("dead.batches", ""),
    ];
    for queue in ["audit_batches.0", "alerts.notify", "dead.batches"] {
        never.push(Attempt::Delete(queue.to_owned()));
    }
    never
}

/// The topics that a user must not publish to though it may publish to others.
fn topics(refused: &[&str]) -> Vec<Attempt> {
    refused.iter().map(|key| Attempt::publish("amq.topic", key)).collect()
}

fn run(test: impl AsyncFnOnce(&Vhost<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let Some(rabbitmq) = RabbitMq::of_this_run()? else { return Ok(()) };
    let vhost = rabbitmq.vhost()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(test(&vhost))
}

/// The first message of a queue, which the broker brings there in its own time.
async fn first_of(channel: &Channel, queue: &str) -> anyhow::Result<BasicGetMessage> {
    loop {
        if let Some(found) = channel.basic_get(queue.into(), BasicGetOptions::default()).await? {
            return Ok(found);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn batch() -> String {
    format!("audit.{NODE}.batch")
}

fn ack() -> String {
    format!("audit.{NODE}.ack")
}

#[test]
fn ingest_publishes_batches_and_can_do_nothing_else() -> anyhow::Result<()> {
    run(async |vhost| {
        let url = vhost.url("auditflow-ingest");
        expect(&url, &topics(&[&batch()]), true).await?;
        expect(&url, &never(), false).await?;
        expect(
            &url,
            &topics(&[&ack(), &format!("x.{}", batch()), &format!("{}.x", batch()), "anything"]),
            false,
        )
        .await?;
        let reads = ["audit_batches.0", "alerts.notify", "dead.batches", "dead.alerts"].map(Attempt::get);
        expect(&url, &reads, false).await?;
        expect(&url, &[Attempt::publish("alerts", "")], false).await?;

        let ancestor = vhost.ancestor_url("auditflow-ingest");
        expect(&ancestor, &[Attempt::get("audit_events")], true).await?;
        expect(&ancestor, &[Attempt::get("audit_alerts"), Attempt::publish("", "audit_events")], false).await
    })
}

#[test]
fn the_analyzer_takes_batches_and_publishes_but_configures_and_reads_no_alerts() -> anyhow::Result<()> {
    run(async |vhost| {
        let url = vhost.url("auditflow-analyzer");
        let may = [
            Attempt::get("audit_batches.0"),
            Attempt::publish("alerts", ""),
            Attempt::publish("amq.topic", &ack()),
        ];
        expect(&url, &may, true).await?;
        expect(&url, &never(), false).await?;
        // It could feed itself what no node has sent.
        expect(&url, &topics(&[&batch(), &format!("x.{}", ack()), &format!("{}.x", ack())]), false).await?;
        let reads = ["alerts.notify", "dead.batches", "dead.alerts"].map(Attempt::get);
        expect(&url, &reads, false).await?;
        expect(&url, &[Attempt::Purge("alerts.notify".to_owned())], false).await?;

        let ancestor = vhost.ancestor_url("auditflow-analyzer");
        expect(&ancestor, &[Attempt::publish("alerts", "")], true).await?;
        let refused = [
            Attempt::publish("", "audit_alerts"),
            Attempt::get("audit_alerts"),
            Attempt::get("audit_events"),
        ];
        expect(&ancestor, &refused, false).await
    })
}

#[test]
fn the_notifier_takes_alerts_and_publishes_nothing() -> anyhow::Result<()> {
    run(async |vhost| {
        let url = vhost.url("auditflow-notifier");
        expect(&url, &[Attempt::get("alerts.notify")], true).await?;
        expect(&url, &never(), false).await?;
        expect(&url, &topics(&[&batch(), &ack(), "anything"]), false).await?;
        let refused =
            [Attempt::publish("alerts", ""), Attempt::get("audit_batches.0"), Attempt::get("dead.alerts")];
        expect(&url, &refused, false).await?;
        ensure_locked_out(&vhost.ancestor_url("auditflow-notifier")).await
    })
}

#[test]
fn the_operator_takes_dead_letters_and_sends_them_again() -> anyhow::Result<()> {
    run(async |vhost| {
        let url = vhost.url("auditflow-operator");
        let may = [
            Attempt::get("dead.batches"),
            Attempt::get("dead.alerts"),
            Attempt::publish("alerts", ""),
            Attempt::publish("amq.topic", &batch()),
        ];
        expect(&url, &may, true).await?;
        expect(&url, &never(), false).await?;
        expect(&url, &topics(&[&ack(), "anything"]), false).await?;
        expect(&url, &["audit_batches.0", "alerts.notify"].map(Attempt::get), false).await?;

        let ancestor = vhost.ancestor_url("auditflow-operator");
        expect(&ancestor, &[Attempt::get("dead.events"), Attempt::publish("events", "")], true).await?;
        expect(&ancestor, &[Attempt::get("audit_events"), Attempt::publish("", "audit_events")], false).await
    })
}

#[test]
fn programs_of_the_ancestor_declare_publish_and_take_as_ever_in_their_own_vhost_alone() -> anyhow::Result<()>
{
    run(async |vhost| {
        let url = vhost.ancestor_url("ancestor");
        for queue in ["audit_events", "audit_alerts"] {
            let may = [Attempt::Declare(queue.to_owned()), Attempt::publish("", queue), Attempt::get(queue)];
            expect(&url, &may, true).await?;
            let others = AROUND.map(|around| Attempt::Declare(format!("{around}{queue}{around}")));
            expect(&url, &others, false).await?;
        }
        let refused =
            [Attempt::get("dead.events"), Attempt::publish("events", ""), Attempt::publish("alerts", "")];
        expect(&url, &refused, false).await?;
        ensure_locked_out(&vhost.url("ancestor")).await
    })
}

#[test]
fn every_expression_of_the_shipped_definitions_is_anchored_and_every_user_of_a_topic_has_one()
-> anyhow::Result<()> {
    let shipped: serde_json::Value = serde_json::from_str(include_str!("../../rabbitmq/definitions.json"))?;
    let rights = |kind: &str| shipped[kind].as_array().cloned().unwrap_or_default();
    for right in rights("permissions").iter().chain(&rights("topic_permissions")) {
        for access in ["configure", "write", "read"].iter().filter(|access| right.get(**access).is_some()) {
            let expression = right[*access].as_str().context("an expression")?;
            ensure!(expression.starts_with('^') && expression.ends_with('$'), "{access}: {right}");
            // `^a|b$` is anchored at one end each.
            ensure!(!expression.contains('|') || expression.contains('('), "{access}: {right}");
        }
    }
    let defined: Vec<_> = rights("topic_permissions").iter().map(|right| right["user"].clone()).collect();
    for right in rights("permissions").iter().filter(|right| right["vhost"] == "auditflow") {
        ensure!(
            defined.contains(&right["user"]),
            "{} has no topic permission: it may do everything",
            right["user"]
        );
    }
    Ok(())
}

#[test]
fn a_node_s_batches_reach_one_shard_and_come_back_from_the_dead_with_their_key() -> anyhow::Result<()> {
    run(async |vhost| {
        let connect =
            async |user: &str| Connection::connect(&vhost.url(user), ConnectionProperties::default()).await;
        let (ingest, analyzer, operator) = (
            connect("auditflow-ingest").await?,
            connect("auditflow-analyzer").await?,
            connect("auditflow-operator").await?,
        );
        Attempt::publish("amq.topic", &batch()).on(&ingest.create_channel().await?).await?;
        let channel = analyzer.create_channel().await?;
        let taken = channel.basic_get("audit_batches.0".into(), BasicGetOptions::default()).await?;
        let taken = taken.context("the batch is in its shard")?;
        ensure!(taken.routing_key.as_str() == batch(), "{}", taken.routing_key);
        taken.delivery.reject(BasicRejectOptions { requeue: false }).await?;
        let channel = operator.create_channel().await?;
        let dead = tokio::time::timeout(LIMIT, first_of(&channel, "dead.batches")).await??;
        ensure!(dead.routing_key.as_str() == batch(), "{}", dead.routing_key);
        Ok(())
    })
}
