//! Dead letters: messages that the broker was told to set aside, or gave up itself. Looked at, put back or thrown away
//! by an operator.

use auditflow_event::NodeId;
use auditflow_wire::frame::Parts;
use chrono::{DateTime, SecondsFormat, Utc};
use lapin::Acker;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::{AMQPValue, FieldTable};

use super::{BusError, Link, Options, names};
use crate::ingest::ancestor;

/// Dead letters that were taken out of their queue. Those that are neither put back nor thrown away return to it when
/// this is dropped.
pub struct DeadLetters {
    link: Link,
    queue: String,
    /// The letters, oldest first.
    pub letters: Vec<DeadLetter>,
}

/// A message that was set aside.
pub struct DeadLetter {
    /// Made from what it says, so that it stays the same however often one looks.
    pub id: String,
    /// Where it was published, and how routed.
    pub sent_to: (String, String),
    /// Whose it is, if that is a node's.
    pub node: Option<NodeId>,
    /// Since when it has been here (RFC 3339, UTC), by the broker's clock.
    pub since: Option<String>,
    /// Why, in the broker's words: `rejected`, `delivery_limit`, `maxlen`, `expired`.
    pub reason: String,
    /// What is found wrong with it now.
    pub finding: String,
    /// What it says.
    pub body: Vec<u8>,
    acker: Acker,
}

impl DeadLetters {
    /// Takes at most so many out of a queue.
    pub async fn take(options: &Options, queue: &str, at_most: usize) -> Result<Self, BusError> {
        let link = Link::open(options, 0).await?;
        let mut letters = Vec::new();
        while letters.len() < at_most {
            let got = link.taking().basic_get(queue.into(), BasicGetOptions { no_ack: false }).await?;
            let Some(message) = got else { break };
            letters.push(DeadLetter::of(message));
        }
        Ok(Self { link, queue: queue.to_owned(), letters })
    }

    /// Publishes a letter again as it was, then forgets it. What dies in between is there twice.
    pub async fn requeue(&self, letter: &DeadLetter) -> Result<(), BusError> {
        let (exchange, key) = &letter.sent_to;
        self.link.publish(exchange, key, &letter.body).await?;
        self.discard(letter).await
    }

    /// Forgets a letter.
    pub async fn discard(&self, letter: &DeadLetter) -> Result<(), BusError> {
        if letter.acker.ack(BasicAckOptions::default()).await? {
            return Ok(());
        }
        Err(BusError::Ended(format!("{} may still be in {}", letter.id, self.queue)))
    }
}

impl DeadLetter {
    fn of(message: BasicGetMessage) -> Self {
        let delivery = message.delivery;
        let death = delivery.properties.headers().as_ref().and_then(first_death);
        let text = |name: &str| death.as_ref().and_then(|death| text(death, name));
        let key = death.as_ref().and_then(first_key).unwrap_or_else(|| delivery.routing_key.to_string());
        let exchange = match text("exchange") {
            // By name to the queue, as the ancestor's programs publish and none of our users may.
            Some(exchange) if exchange.is_empty() => names::EVENTS.to_owned(),
            Some(exchange) => exchange,
            None => names::TOPICS.to_owned(),
        };
        let sent_to = (exchange, key);
        let since = death.as_ref().and_then(|death| match death.inner().get("time")? {
            AMQPValue::Timestamp(seconds) => {
                DateTime::<Utc>::from_timestamp(i64::try_from(*seconds).ok()?, 0)
            }
            _ => None,
        });
        let id: String = blake3::hash(&delivery.data).to_hex().chars().take(12).collect();
        Self {
            id,
            node: names::node_of_key(&sent_to.1),
            since: since.map(|since| since.to_rfc3339_opts(SecondsFormat::Secs, true)),
            reason: text("reason").unwrap_or_else(|| "unknown".to_owned()),
            finding: finding(&sent_to.1, &delivery.data),
            sent_to,
            body: delivery.data,
            acker: delivery.acker,
        }
    }
}

/// What a collector of this release would find wrong with a message.
fn finding(key: &str, body: &[u8]) -> String {
    if key == names::ANCESTOR_EVENTS {
        return match ancestor::event(NodeId::from_bytes([0; 16]), body) {
            Ok(_) => "an event".to_owned(),
            Err(error) => format!("it is no event: {error}"),
        };
    }
    if names::node_of_key(key).is_none() {
        return format!("its routing key {key:?} names no node");
    }
    match Parts::new(body) {
        Err(error) => format!("it is no frame: {error}"),
        Ok(parts) => {
            let (readable, unreadable): (Vec<_>, Vec<_>) = parts.partition(Result::is_ok);
            format!("a frame of {} readable and {} unreadable parts", readable.len(), unreadable.len())
        }
    }
}

/// RabbitMQ's record of where a message died first: the last entry, for the newest comes first.
fn first_death(headers: &FieldTable) -> Option<FieldTable> {
    match headers.inner().get("x-death")? {
        AMQPValue::FieldArray(deaths) => match deaths.as_slice().last()? {
            AMQPValue::FieldTable(death) => Some(death.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn first_key(death: &FieldTable) -> Option<String> {
    match death.inner().get("routing-keys")? {
        AMQPValue::FieldArray(keys) => string(keys.as_slice().first()?),
        _ => None,
    }
}

fn text(death: &FieldTable, name: &str) -> Option<String> {
    string(death.inner().get(name)?)
}

fn string(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        _ => None,
    }
}
