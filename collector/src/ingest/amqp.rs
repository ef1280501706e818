//! Batches from RabbitMQ's queues, where its MQTT plugin puts what nodes publish: stored, then acknowledged to the
//! broker, then answered to the node by way of the plugin again.
//!
//! Several analysers take from one queue: what one of them had in hand when it died is handed to another, and finds that
//! it is a duplicate or not. A message that is no frame, or whose routing key names no node, is rejected, which the
//! broker's definitions turn into a dead letter. While the store does not take anything, the queue grows to its bound and
//! agents keep what it then refuses.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use auditflow_service::backoff::Backoff;
use auditflow_service::health::Part;
use auditflow_wire::frame::MAX_FRAME_LEN;
use bytes::Bytes;
use futures_util::stream::{self, SelectAll};
use futures_util::{Stream, StreamExt as _};
use lapin::Acker;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::brokered::{Brokered, Outcome};
use crate::bus::link::State;
use crate::bus::{BusError, Link, Options, names};

/// Bytes that the broker may have handed out, if every message were as large as one may be.
const MAX_HELD: usize = 128 << 20;
/// The same as a number of messages, which is what the protocol can bound.
#[expect(clippy::cast_possible_truncation, reason = "a small number, by its own computation")]
const PREFETCH: u16 = (MAX_HELD / MAX_FRAME_LEN) as u16;
/// Frames that are worked on at once.
const FRAMES: usize = 8;
/// Delays between links.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long an answer may take to reach the broker. A node that misses one asks again.
const ANSWER: Duration = Duration::from_secs(5);
/// The features that a broker which is down takes away.
const LOST: &[&str] = &["batches that come over RabbitMQ"];
/// Those that one which takes nothing takes away.
const LOST_WHILE_BLOCKED: &[&str] = &["answers to nodes over RabbitMQ"];

type Deliveries = SelectAll<std::pin::Pin<Box<dyn Stream<Item = Result<Delivery, BusError>> + Send>>>;

/// Takes from the queues.
pub struct Consumer {
    options: Options,
    shards: u16,
    parts: Arc<Brokered>,
    health: Part,
}

impl Consumer {
    /// A consumer of the first so many shards' queues that says in its part how the broker is.
    pub fn new(options: Options, shards: u16, parts: Arc<Brokered>, health: Part) -> Self {
        health.down("not connected yet", LOST);
        Self { options, shards, parts, health }
    }

    /// Takes what is in the queues until `stop`, however often it has to connect again.
    ///
    /// # Errors
    /// None: what fails is shown in health and tried again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut retry = Backoff::new(RECONNECT.0, RECONNECT.1, std::process::id().into());
        let mut under_way = JoinSet::new();
        loop {
            let served = self.serve(&stop, &mut retry, &mut under_way).await;
            let Err(error) = served else { break };
            tracing::warn!(%error, broker = %self.options, "RabbitMQ is not there; trying again");
            self.health.down(&format!("{}: {error}", self.options), LOST);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(retry.failed()) => {}
            }
        }
        Ok(())
    }

    /// One link, to its end or to the stop. What was taken is finished in either case; what was only handed out goes
    /// back with the link.
    async fn serve(
        &self,
        stop: &CancellationToken,
        retry: &mut Backoff,
        under_way: &mut JoinSet<()>,
    ) -> Result<(), BusError> {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = self.open() => opened,
        };
        let (link, mut deliveries) = opened?;
        let mut state = link.state();
        state.mark_changed();
        retry.succeeded();
        let ended = loop {
            tokio::select! {
                () = stop.cancelled() => break Ok(()),
                Ok(()) = state.changed() => {
                    if let Err(error) = self.show(&state.borrow_and_update()) {
                        break Err(error);
                    }
                }
                Some(delivery) = deliveries.next(), if under_way.len() < FRAMES => match delivery {
                    Ok(delivery) => {
                        let parts = Arc::clone(&self.parts);
                        under_way.spawn(take(parts, Arc::clone(&link), delivery, stop.clone()));
                    }
                    Err(error) => break Err(error),
                },
                Some(_) = under_way.join_next() => {}
            }
        };
        while under_way.join_next().await.is_some() {}
        ended
    }

    async fn open(&self) -> Result<(Arc<Link>, Deliveries), BusError> {
        let link = Link::open(&self.options, PREFETCH).await?;
        let mut deliveries = SelectAll::new();
        for queue in (0..self.shards).map(names::batches) {
            let consumer = link.consume(&queue).await?;
            let taken = consumer.map(|delivery| delivery.map_err(BusError::from));
            let deleted = stream::once(async { Err(BusError::Deleted(queue)) });
            deliveries.push(taken.chain(deleted).boxed());
        }
        Ok((Arc::new(link), deliveries))
    }

    fn show(&self, state: &State) -> Result<(), BusError> {
        match state {
            State::Up => self.health.up(),
            State::Blocked(why) => {
                let why = format!("{}: the broker takes nothing: {why}", self.options);
                tracing::warn!("{why}");
                self.health.degraded(&why, LOST_WHILE_BLOCKED);
            }
            State::Ended(why) => return Err(BusError::Ended(why.clone())),
        }
        Ok(())
    }
}

/// Takes one message, lets the broker forget it, and answers its node.
async fn take(parts: Arc<Brokered>, link: Arc<Link>, delivery: Delivery, stop: CancellationToken) {
    let Delivery { routing_key, data, acker, .. } = delivery;
    let Some(node) = names::node_of_key(routing_key.as_str()) else {
        parts.metrics.dead_lettered.with_label_values(&["routing_key"]).inc();
        tracing::warn!(key = routing_key.as_str(), "what came over RabbitMQ is of no node");
        return reject(&acker).await;
    };
    match parts.take(node, Bytes::from(data), u32::MAX, &stop).await {
        Outcome::Answer(frame) => {
            // First, for an alarm that blocks answers ends only when queues are emptied.
            if let Err(error) = acker.ack(BasicAckOptions::default()).await {
                tracing::debug!(%error, node.id = %node, "a message that is stored will come again");
            }
            let key = names::ack_key(node);
            let answer = link.publish(names::TOPICS, &key, &frame);
            match tokio::time::timeout(ANSWER, answer).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, node.id = %node, "an answer did not get through"),
                Err(_) => tracing::debug!(node.id = %node, "the broker takes no answers"),
            }
        }
        Outcome::Poison(_) => {
            parts.metrics.dead_lettered.with_label_values(&["no_frame"]).inc();
            reject(&acker).await;
        }
        // It goes back with the link.
        Outcome::GivenUp | Outcome::Again => {}
    }
}

async fn reject(acker: &Acker) {
    if let Err(error) = acker.reject(BasicRejectOptions { requeue: false }).await {
        tracing::debug!(%error, "a message that nobody can take will come again");
    }
}
