//! Stored batches with their events, and the node as rules see it: as ingest hands them over, or opened again.

use std::sync::Arc;

use auditflow_event::{Event, HostFacts, Timestamp};
use auditflow_wire::BootId;
use auditflow_wire::payload::Decoder;

use crate::detect::Matched;
use crate::store::{BatchKey, Payload, Result, Store};

/// A stored batch with its events.
#[derive(Clone, Debug)]
pub struct OpenBatch {
    /// Which.
    pub key: BatchKey,
    /// During which boot of the node it was sealed: its header's clocks say.
    pub boot: BootId,
    /// The node, as the header says.
    pub host: Arc<HostFacts>,
    /// When it was first received, as stored.
    pub received_at: Timestamp,
    /// Its events; none if the payload is gone or can't be read.
    pub events: Arc<Vec<Event>>,
    /// What they match, if that is known already.
    pub matched: Option<Matched>,
}

/// Opens batches.
pub(super) struct Opener {
    store: Arc<dyn Store>,
}

impl Opener {
    /// Over a store.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// A batch, and whether its findings are recorded; none if there is no such batch.
    pub(super) async fn open(&self, key: BatchKey) -> Result<Option<(OpenBatch, bool)>> {
        let Some(batch) = self.store.batch(key).await? else { return Ok(None) };
        let host = Arc::new(batch.signed.header.host());
        let facts = batch.signed.header.facts;
        let boot = facts.as_ref().map_or(BootId::UNKNOWN, |facts| facts.clocks.boot);
        let events = match (facts, batch.payload) {
            (Some(facts), Payload::Present(payload)) => {
                let decoding =
                    move || Decoder::new().and_then(|mut decoder| decoder.decode(key.node, &facts, &payload));
                // Ingest has flagged a payload that can't be read.
                tokio::task::spawn_blocking(decoding).await.ok().and_then(Result::ok).unwrap_or_default()
            }
            _ => Vec::new(),
        };
        let (received_at, analysed) = (batch.received_at, batch.analysed);
        let events = Arc::new(events);
        Ok(Some((OpenBatch { key, boot, host, received_at, events, matched: None }, analysed)))
    }
}
