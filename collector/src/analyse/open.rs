//! Stored batches opened again: their events, and the node as rules see it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use auditflow_event::{Event, HostFacts, NodeId, Timestamp};
use auditflow_wire::BootId;
use auditflow_wire::payload::Decoder;

use crate::store::{BatchKey, Payload, Result, Store};

/// How long what is known of a node is used again.
const FRESH: Duration = Duration::from_mins(1);
/// Nodes remembered.
const REMEMBERED: usize = 10_000;

/// A batch with its events.
#[derive(Clone, Debug)]
pub(super) struct Opened {
    /// Which.
    pub key: BatchKey,
    /// The boot during which it was sealed.
    pub boot: BootId,
    /// When it was first received.
    pub received_at: Timestamp,
    /// Its events; none if the payload is gone or can't be read.
    pub events: Arc<Vec<Event>>,
    /// Whether its findings are recorded.
    pub analysed: bool,
}

/// Opens batches.
pub(super) struct Opener {
    store: Arc<dyn Store>,
    hosts: Mutex<HashMap<NodeId, (Instant, HostFacts)>>,
}

impl Opener {
    /// Over a store.
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, hosts: Mutex::default() }
    }

    /// A batch; none if there is no such.
    pub(super) async fn open(&self, key: BatchKey) -> Result<Option<Opened>> {
        let Some(batch) = self.store.batch(key).await? else { return Ok(None) };
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
        Ok(Some(Opened { key, boot, received_at, events: Arc::new(events), analysed }))
    }

    /// The node as rules and copies of events see it.
    pub(super) async fn host(&self, node: NodeId, boot: BootId) -> Result<HostFacts> {
        let boot_id = (boot != BootId::UNKNOWN).then(|| boot.to_string().into());
        let known = self.hosts.lock().unwrap_or_else(PoisonError::into_inner).get(&node).cloned();
        if let Some((at, facts)) = known
            && at.elapsed() < FRESH
        {
            return Ok(HostFacts { boot_id, ..facts });
        }
        let row = self.store.node(node).await?;
        let facts = HostFacts {
            id: Some(node),
            name: row.as_ref().map(|row| row.hostname.as_str().into()),
            labels: row
                .map(|row| row.labels)
                .unwrap_or_default()
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
            ..HostFacts::default()
        };
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= REMEMBERED {
            hosts.clear();
        }
        hosts.insert(node, (Instant::now(), facts.clone()));
        Ok(HostFacts { boot_id, ..facts })
    }
}
