//! Events of the ancestor's programs, from their queue `audit_events`: each message one event as JSON.
//!
//! What is an event becomes part of a batch, and is acknowledged to the broker when that is stored. What is none is
//! rejected, which the broker's policy turns into a dead letter. A message that comes again after a fault is the same
//! event by its id, so whatever counts events counts it once.

use std::convert::Infallible;
use std::time::Duration;

use auditflow_event::{Event, EventId, NodeId, OriginError};
use auditflow_service::backoff::Backoff;
use auditflow_service::health::Part;
use futures_util::StreamExt as _;
use lapin::Acker;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::intake::{Intake, IntakeError};
use crate::bus::{BusError, Link, Options, link, names};
use crate::metrics::IngestMetrics;

/// Messages that the broker hands out before the first is acknowledged. Each has at most 1 MiB, or is set aside.
const PREFETCH: u16 = 1024;
/// Text that is sealed together at most, in bytes: with one more event it still fits a batch.
const TOGETHER: usize = 1 << 20;
/// Delays between links.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
const LOST: &[&str] = &["events of the ancestor's programs"];
/// The namespace of ids of events that have none: of their text.
const NAMESPACE: Uuid = Uuid::from_u128(0x3d0c_7a51_2f64_5b0e_a9d7_84c3_1e5b_60f2);

/// Takes from the queue.
pub struct AncestorEvents {
    options: Options,
    intake: Intake,
    metrics: IngestMetrics,
    health: Part,
}

/// Why a message is no event.
#[derive(Debug, thiserror::Error)]
pub enum NoEvent {
    /// Its bytes.
    #[error("it is no UTF-8")]
    NotText,
    /// Its text.
    #[error("{0}")]
    Origin(#[from] OriginError),
    /// Its id.
    #[error("its event_id is no UUID")]
    Id,
}

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

impl AncestorEvents {
    /// Takes what is in the queue at `options`, and says in its part how that goes.
    pub fn new(options: Options, intake: Intake, metrics: IngestMetrics, health: Part) -> Self {
        health.down("not connected yet", LOST);
        Self { options, intake, metrics, health }
    }

    /// Takes until `stop`, however often it has to connect again.
    ///
    /// # Errors
    /// None: what fails is shown in health and tried again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut retry = Backoff::new(RECONNECT.0, RECONNECT.1, std::process::id().into());
        loop {
            let error = match self.serve(&stop, &mut retry).await {
                Ok(()) | Err(ServeError::Intake(IntakeError::Stopping)) => return Ok(()),
                Err(error) => error,
            };
            tracing::warn!(%error, broker = %self.options, "the ancestor's events wait; trying again");
            self.health.down(&format!("{}: {error}", self.options), LOST);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(retry.failed()) => {}
            }
        }
    }

    /// One link, to its end or to the stop. What was handed out and not acknowledged goes back with it.
    async fn serve(&mut self, stop: &CancellationToken, retry: &mut Backoff) -> Result<(), ServeError> {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = Link::open(&self.options, PREFETCH) => opened,
        };
        let link = opened?;
        let mut state = link.state();
        let mut messages = link.consume(names::ANCESTOR_EVENTS).await?.ready_chunks(PREFETCH.into());
        self.health.up();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                // What is taken needs no answer: a broker that takes nothing more is no matter here.
                error = link::ended(&mut state) => return Err(error.into()),
                some = messages.next() => match some {
                    Some(some) => self.take(some, stop).await?,
                    None => return Err(BusError::Deleted(names::ANCESTOR_EVENTS.to_owned()).into()),
                },
            }
            retry.succeeded();
        }
    }

    async fn take(
        &mut self,
        messages: Vec<lapin::Result<Delivery>>,
        stop: &CancellationToken,
    ) -> Result<(), ServeError> {
        let (mut events, mut bytes, mut last) = (Vec::new(), 0, None);
        for message in messages {
            let Delivery { data, acker, .. } = message.map_err(BusError::from)?;
            match event(self.intake.node(), &data) {
                Ok(event) => {
                    bytes += data.len();
                    events.push(event);
                    last = Some(acker);
                }
                Err(error) => {
                    self.metrics.dead_lettered.with_label_values(&["no_event"]).inc();
                    tracing::warn!(%error, "what came for the ancestor is no event");
                    acker.reject(BasicRejectOptions { requeue: false }).await.map_err(BusError::from)?;
                }
            }
            if bytes >= TOGETHER {
                self.store(std::mem::take(&mut events), last.take(), stop).await?;
                bytes = 0;
            }
        }
        self.store(events, last, stop).await
    }

    /// Stores events, then lets the broker forget all up to the last.
    async fn store(
        &mut self,
        events: Vec<Event>,
        last: Option<Acker>,
        stop: &CancellationToken,
    ) -> Result<(), ServeError> {
        let Some(last) = last else { return Ok(()) };
        self.intake.take(events, stop).await?;
        last.ack(BasicAckOptions { multiple: true }).await.map_err(BusError::from)?;
        Ok(())
    }
}

/// The event that a message is. Its id is its own; without one, it is made from what it says.
pub fn event(node: NodeId, body: &[u8]) -> Result<Event, NoEvent> {
    #[derive(Deserialize)]
    struct Identity {
        event_id: Option<Value>,
    }
    let text = std::str::from_utf8(body).map_err(|_| NoEvent::NotText)?;
    let event = Event::synthetic(Some(node), [0; 16], 0, text)?;
    let Identity { event_id } = serde_json::from_str(text).map_err(OriginError::NotJson)?;
    let id = match event_id {
        None => Uuid::new_v5(&NAMESPACE, body),
        Some(Value::String(text)) => text.parse().map_err(|_| NoEvent::Id)?,
        Some(_) => return Err(NoEvent::Id),
    };
    Ok(Event { id: EventId::from_uuid(id), ..event })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([7; 16]);
    const ID: &str = "0b9c2f5e-4a1d-4d6e-9a51-1c7f1d2e3a4b";

    fn message(more: &str) -> String {
        format!(r#"{{"event_type":"user_login","timestamp":"2026-11-24T10:00:00+00:00Z"{more}}}"#)
    }

    #[test]
    fn an_event_is_known_by_its_own_id_or_by_what_it_says() {
        let with_id = event(NODE, message(&format!(r#","event_id":"{ID}""#)).as_bytes()).unwrap();
        assert_eq!(with_id.id.to_string(), ID);
        let [one, again, other] =
            ["", "", r#","user_id":"eve""#].map(|more| event(NODE, message(more).as_bytes()).unwrap().id);
        assert_eq!(one, again);
        assert_ne!(one, other);
    }

    #[test]
    fn what_is_no_event_is_told_why() {
        let long = message(&format!(r#","user_id":"{}""#, "x".repeat(1 << 20)));
        let deep = message(&format!(r#","details":{}1{}"#, "[".repeat(100), "]".repeat(100)));
        for (body, why) in [
            ("no json", "json object"),
            ("[]", "json object"),
            (r#"{"event_type":"x""#, "valid json"),
            (r#"{"event_type":"x"}"#, "no timestamp"),
            (r#"{"timestamp":"2026-11-24T10:00:00Z"}"#, "no event_type"),
            (r#"{"event_type":["x"],"timestamp":"2026-11-24T10:00:00Z"}"#, "no event_type"),
            (r#"{"event_type":"x","timestamp":"yesterday"}"#, "unreadable timestamp"),
            (&message(r#","event_id":"seven""#), "no UUID"),
            (&message(r#","event_id":7"#), "no UUID"),
            (&long, "exceeds the limit"),
            (&deep, "nested deeper"),
        ] {
            let error = event(NODE, body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(matches!(event(NODE, b"\xff"), Err(NoEvent::NotText)));
    }
}
