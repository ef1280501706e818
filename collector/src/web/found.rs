//! Events that were found, with their JSON.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use auditflow_event::{Event, EventJson, HostFacts, NodeId};
use auditflow_service::problem::Problem;
use serde_json::value::RawValue;

use super::AppState;
use super::api::problem;
use crate::alert::copy;
use crate::store::{EventPage, EventQuery, NodeRow, Store};

/// What is known of a node, for the JSON of its events.
pub fn host(row: Option<&NodeRow>, id: NodeId) -> HostFacts {
    HostFacts {
        id: Some(id),
        name: row.map(|row| row.hostname.as_str().into()),
        labels: row.map(labels).unwrap_or_default(),
        ..HostFacts::default()
    }
}

fn labels(row: &NodeRow) -> Vec<(Box<str>, Box<str>)> {
    row.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect()
}

/// What is known of the nodes of these events.
pub async fn hosts(
    store: &Arc<dyn Store>,
    nodes: impl Iterator<Item = NodeId>,
) -> crate::store::Result<HashMap<NodeId, HostFacts>> {
    let mut hosts = HashMap::new();
    for node in nodes {
        if let Entry::Vacant(entry) = hosts.entry(node) {
            entry.insert(host(store.node(node).await?.as_ref(), node));
        }
    }
    Ok(hosts)
}

/// An event as JSON for a list, where a very large one is cut to what identifies it and says so.
pub fn listed(event: &Event, host: &HostFacts) -> Box<RawValue> {
    let whole = json(event, host);
    if whole.get().len() <= copy::MAX_BYTES {
        return whole;
    }
    RawValue::from_string(copy::of(event, host).to_string()).unwrap_or(whole)
}

/// An event as JSON, whole.
pub fn json(event: &Event, host: &HostFacts) -> Box<RawValue> {
    let text = EventJson { event, host: Some(host) }.to_text();
    // What `EventJson` writes is JSON.
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Searches, if not too many others do.
pub async fn search(state: &AppState, query: EventQuery) -> Result<EventPage, Problem> {
    let Ok(_turn) = state.searches.try_acquire() else {
        return Err(Problem::unavailable("too many searches are running: try again in a moment"));
    };
    state.store.search_events(query).await.map_err(|error| problem(&error))
}
