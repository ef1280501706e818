//! Alerts in the ancestor's names: what its services, and ours, are told of them.

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
        Self {
            alert_id: alert.alert_id.to_string(),
            correlation_id: alert.correlation_id,
            timestamp: alert.timestamp.to_string(),
            received_at: received_at.to_string(),
            alert_name: alert.rule.name.clone(),
            alert_type: alert.alert_type,
            severity: alert.severity,
            description: alert.description,
            source_service_name: alert.source_service_name,
            analysis_rule: AnalysisRule {
                id: alert.rule.id,
                name: alert.rule.name,
                description: alert.rule.description,
            },
            triggered_by: alert.triggered_by,
            impacted_resource: alert.impacted_resource,
            action_observed: alert.action_observed,
            metadata,
            raw_event_data,
        }
    }
}
