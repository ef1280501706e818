//! Alerts in the ancestor's names: what its services, and ours, are told of them.
//!
//! docs/contracts/alert.schema.json is what they may count on. Whatever an event says, the alert fits the table that the
//! ancestor's notification service keeps; what had to give way for that is in the event as it was.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::store::AlertRow;

/// An alert in the ancestor's names.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompatAlert {
    /// Its id (UUID).
    alert_id: String,
    /// What its events have in common.
    correlation_id: String,
    /// When it happened (RFC 3339, UTC).
    timestamp: String,
    /// When it was first written here.
    received_at: String,
    /// The rule's name.
    alert_name: String,
    /// `SECURITY`.
    alert_type: String,
    /// `INFO`, `WARNING` or `CRITICAL`.
    severity: String,
    /// One sentence for people.
    description: String,
    /// Which service's events these are.
    source_service_name: String,
    /// The rule.
    analysis_rule: AnalysisRule,
    /// `actor_type`, `actor_id`, `client_ip`.
    #[schema(value_type = Object)]
    triggered_by: Map<String, Value>,
    /// `resource_type`, `resource_id`, `server_hostname`.
    #[schema(value_type = Object)]
    impacted_resource: Map<String, Value>,
    /// What was done.
    action_observed: String,
    /// Anything else.
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    /// The event that raised it.
    #[schema(value_type = Object)]
    raw_event_data: Value,
}

/// The rule in the ancestor's names.
#[derive(Debug, Serialize, ToSchema)]
pub struct AnalysisRule {
    /// Its id.
    #[serde(rename = "rule_id")]
    id: String,
    /// Its name.
    #[serde(rename = "rule_name")]
    name: String,
    /// Its description.
    #[serde(rename = "rule_description")]
    description: String,
}

impl CompatAlert {
    /// A stored alert in the ancestor's names. It shows the event that completed the rule.
    pub fn of(row: AlertRow) -> Self {
        let AlertRow { alert, received_at, status, .. } = row;
        let of_trigger =
            |event: &&Value| event.get("event_id").and_then(Value::as_str) == Some(&alert.correlation_id);
        let trigger = alert.events.iter().find(of_trigger).or_else(|| alert.events.last());
        let raw_event_data = trigger.cloned().unwrap_or_else(|| Value::Object(Map::new()));
        let mut metadata = alert.metadata;
        metadata.insert("status".to_owned(), status.name().into());
        let mut triggered_by = alert.triggered_by;
        if !triggered_by.get("client_ip").and_then(Value::as_str).is_some_and(is_address) {
            triggered_by.remove("client_ip");
        }
        Self {
            alert_id: alert.alert_id.to_string(),
            correlation_id: alert.correlation_id,
            timestamp: alert.timestamp.to_string(),
            received_at: received_at.to_string(),
            alert_name: text(&alert.rule.name, NAME),
            alert_type: text(&alert.alert_type, WORD),
            severity: alert.severity,
            description: text(&alert.description, usize::MAX),
            source_service_name: text(&alert.source_service_name, SERVICE),
            analysis_rule: AnalysisRule {
                id: text(&alert.rule.id, SERVICE),
                name: text(&alert.rule.name, NAME),
                description: text(&alert.rule.description, usize::MAX),
            },
            triggered_by: map(triggered_by, NAME),
            impacted_resource: map(alert.impacted_resource, NAME),
            action_observed: text(&alert.action_observed, NAME),
            metadata: map(metadata, usize::MAX),
            raw_event_data: value(raw_event_data, usize::MAX),
        }
    }
}

/// Characters that the ancestor's columns hold: of names and words, of a service or a rule's id, of a type.
const NAME: usize = 255;
const SERVICE: usize = 100;
const WORD: usize = 50;

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// At most so many characters, and no NUL: PostgreSQL has none, neither in text nor in JSON.
fn text(text: &str, most: usize) -> String {
    let whole = without_nul(text);
    match whole.char_indices().nth(most) {
        None => whole.into_owned(),
        // One less, for the sign that something is left out.
        Some(_) => whole.chars().take(most - 1).chain(['…']).collect(),
    }
}

fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{2400}").into() } else { text.into() }
}

fn map(entries: Map<String, Value>, most: usize) -> Map<String, Value> {
    entries.into_iter().map(|(name, value)| (text(&name, usize::MAX), self::value(value, most))).collect()
}

fn value(value: Value, most: usize) -> Value {
    match value {
        Value::String(said) => text(&said, most).into(),
        Value::Array(values) => values.into_iter().map(|value| self::value(value, most)).collect(),
        Value::Object(entries) => map(entries, most).into(),
        other => other,
    }
}
