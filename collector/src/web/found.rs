//! Events that were found, with their JSON.

use auditflow_event::EventJson;
use auditflow_service::problem::Problem;
use serde_json::value::RawValue;

use super::AppState;
use super::api::problem;
use crate::alert::copy;
use crate::store::{EventPage, EventQuery, FoundEvent};

/// An event as JSON for a list, where a very large one is cut to what identifies it and says so.
pub fn listed(found: &FoundEvent) -> Box<RawValue> {
    let whole = json(found);
    if whole.get().len() <= copy::MAX_BYTES {
        return whole;
    }
    RawValue::from_string(copy::of(&found.event, &found.host).to_string()).unwrap_or(whole)
}

/// An event as JSON, whole.
pub fn json(found: &FoundEvent) -> Box<RawValue> {
    let text = EventJson { event: &found.event, host: Some(&found.host) }.to_text();
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
