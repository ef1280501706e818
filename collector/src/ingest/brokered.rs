//! Frames that a broker passed on: taken as the node's whose they are by the broker's access rules, tried again while
//! the store does not take them.
//!
//! Fed by `mqtt` and `amqp`, which bring the answer on its way and let the broker forget the frame.

use std::sync::Arc;
use std::time::Duration;

use auditflow_event::{NodeId, Timestamp};
use auditflow_service::backoff::Backoff;
use auditflow_service::health::Part;
use auditflow_wire::ParseError;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Ingest, IngestError, Speaker};
use crate::bus::connections::Named;
use crate::metrics::IngestMetrics;

/// Delays between attempts to store a frame.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// What every frame needs.
pub struct Brokered {
    /// Takes frames.
    pub ingest: Arc<Ingest>,
    /// What is counted.
    pub metrics: IngestMetrics,
    /// How the store is.
    pub store: Part,
    /// Where to name nodes that send and may not.
    pub intruders: Option<Named>,
}

/// How the work on a frame ended.
#[derive(Debug)]
pub enum Outcome {
    /// With the bytes of an answer.
    Answer(Vec<u8>),
    /// It is no frame, and never will be.
    Poison(ParseError),
    /// The store did not take it in so many attempts; its node sends it again.
    GivenUp,
    /// The collector is stopping: it is to come again, to somebody else.
    Again,
}

impl Brokered {
    /// Stores a frame, in at most so many attempts.
    pub async fn take(&self, node: NodeId, frame: Bytes, attempts: u32, stop: &CancellationToken) -> Outcome {
        let mut retry = Backoff::new(RETRY.0, RETRY.1, u64::from(std::process::id()));
        loop {
            let speaker = Speaker { node, key: None };
            let error = match self.ingest.take(speaker, frame.clone(), now()).await {
                Ok(answers) => {
                    self.store.up();
                    if let (false, Some(intruders)) = (answers.is_let_in, &self.intruders) {
                        intruders.name(node);
                    }
                    return Outcome::Answer(self.ingest.sign(&answers));
                }
                Err(IngestError::Malformed(error)) => {
                    self.metrics.turned_away.with_label_values(&["no_frame"]).inc();
                    tracing::warn!(%error, node.id = %node, "what came over the broker is no frame");
                    return Outcome::Poison(error);
                }
                Err(IngestError::Stopping) => return Outcome::Again,
                Err(IngestError::Store(error)) => error,
            };
            self.metrics.turned_away.with_label_values(&["store"]).inc();
            let delay = retry.failed();
            if retry.failures() > attempts {
                tracing::warn!(%error, node.id = %node, "a frame could not be stored; its agent will send it again");
                return Outcome::GivenUp;
            }
            tokio::select! {
                () = stop.cancelled() => return Outcome::Again,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }
}

/// Now, by the collector's clock.
fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}
