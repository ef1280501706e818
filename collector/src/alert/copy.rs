//! Copies of events in alerts, so that pruning payloads never empties an alert. Bounded.

use auditflow_event::{Event, EventJson, HostFacts};
use serde_json::{Value, json};

/// The largest copy of one event, in bytes of JSON; of a larger one only its head is kept.
pub const MAX_BYTES: usize = 32 << 10;

/// An event as JSON. A larger one than [`MAX_BYTES`] (a Kubernetes object may be a megabyte) is cut to what identifies
/// it, and says so.
pub fn of(event: &Event, host: &HostFacts) -> Value {
    let text = EventJson { event, host: Some(host) }.to_text();
    if text.len() <= MAX_BYTES
        && let Ok(copy) = serde_json::from_str(&text)
    {
        return copy;
    }
    let meaning = event.meaning();
    json!({
        "event_id": event.id.to_string(),
        "timestamp": event.time.to_string(),
        "source_service": meaning.source_service,
        "event_type": meaning.event_type.as_str(),
        "severity": meaning.severity.as_str(),
        "event": { "action": meaning.action },
        "details": { "left_out_bytes": text.len() },
    })
}
