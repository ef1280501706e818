//! Alerts as the ancestor's notification service serves them, for its dashboard and for scripts written against it.

use auditflow_service::problem::Problem;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Asked, Named, bounded, none, parsed, problem};
use crate::store::{AlertFilter, AlertRow};
use crate::web::AppState;

/// What an answer holds if nothing is asked, and at most.
const USUAL: usize = 100;
const MOST: usize = 200;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// Which alerts.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// At most so many, 1 to 200
    #[param(minimum = 1, maximum = 200, default = 100)]
    limit: Option<usize>,
    /// After so many of the newest
    #[param(minimum = 0, default = 0)]
    offset: Option<u64>,
}

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

/// Alerts, newest first, as the ancestor lists them
#[utoipa::path(get, operation_id = "list_alerts_compatibly", path = "/alerts", tag = "compatibility", params(Page), responses(
    (status = 200, description = "Alerts that stand, newest first", body = [CompatAlert]),
    (status = 400, description = "A parameter is no number", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    State(state): State<AppState>,
    Asked(page): Asked<Page>,
) -> Result<Json<Vec<CompatAlert>>, Problem> {
    let limit = bounded(page.limit, USUAL, MOST);
    let offset = page.offset.unwrap_or_default();
    let rows = state.store.alerts(AlertFilter::default(), None, offset, limit).await;
    let rows = rows.map_err(|error| problem(&error))?;
    Ok(Json(rows.into_iter().map(CompatAlert::of).collect()))
}

/// One alert, as the ancestor shows it
#[utoipa::path(get, operation_id = "get_alert_compatibly", path = "/alerts/{alert_id}", tag = "compatibility",
    params(("alert_id" = String, Path, description = "Its id (UUID)")),
    responses(
        (status = 200, description = "The alert", body = CompatAlert),
        (status = 400, description = "The id is no UUID", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id", body = Problem, content_type = "application/problem+json"),
    ))]
async fn get(State(state): State<AppState>, Named(id): Named<String>) -> Result<Json<CompatAlert>, Problem> {
    let id = parsed("alert_id", Some(&id), "a UUID")?.ok_or_else(|| none("alert"))?;
    let row = state.store.alert(id).await.map_err(|error| problem(&error))?;
    let row = row.filter(|row| row.deleted_at.is_none()).ok_or_else(|| none("alert"))?;
    Ok(Json(CompatAlert::of(row)))
}
