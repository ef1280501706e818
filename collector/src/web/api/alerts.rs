//! Alerts: found by what they are about, opened with their evidence, and handled by people.

use auditflow_event::NodeId;
use auditflow_service::problem::{JsonBody, Problem};
use axum::extract::State;
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::{Asked, Named, bounded, none, parsed, problem, time};
use crate::store::{AlertCursor, AlertFilter, AlertRow, AlertStatus, EventRef, Machine, StatusChange};
use crate::web::AppState;
use crate::web::access::Principal;
use crate::web::proof::{self, Proof};
use crate::web::state::now;

/// How many an answer holds if nothing is asked, and at most.
const USUAL: usize = 50;
const MOST: usize = 200;
/// The longest note, assignee or filter text, in bytes.
pub const MAX_TEXT: usize = 4096;
/// Successors followed to the alert that stands.
const LINEAGE: usize = 16;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, change, delete))
}

/// Which alerts.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct Query {
    /// `INFO`, `WARNING` or `CRITICAL`
    pub severity: Option<String>,
    /// An alert type, such as `SECURITY`
    #[serde(rename = "type")]
    #[param(rename = "type")]
    pub kind: Option<String>,
    /// A rule's id
    pub rule: Option<String>,
    /// A host name
    pub host: Option<String>,
    /// A node's id
    pub node: Option<String>,
    /// Who triggered it
    pub user: Option<String>,
    /// Event times from here on (RFC 3339)
    pub from: Option<String>,
    /// Event times up to here (RFC 3339)
    pub to: Option<String>,
    /// Text in rule, description, actor, resource, host or action
    pub text: Option<String>,
    /// `open`, `acknowledged`, `resolved` or `false_positive`
    pub status: Option<String>,
    /// `true`: also alerts that were superseded or withdrawn
    pub retracted: Option<String>,
    /// At most so many, 1 to 200
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<String>,
    /// `next` of the page before
    pub cursor: Option<String>,
}

impl Query {
    /// What the store is asked.
    pub fn filter(&self) -> Result<AlertFilter, Problem> {
        let text = |value: &Option<String>| {
            let value = value.as_deref().map(str::trim).filter(|value| !value.is_empty());
            value.map(|value| value.chars().take(256).collect::<String>())
        };
        let status = text(&self.status).map(|name| {
            let detail = "status is open, acknowledged, resolved or false_positive";
            AlertStatus::from_name(&name).ok_or_else(|| Problem::bad_request(detail))
        });
        Ok(AlertFilter {
            status: status.transpose()?,
            severity: text(&self.severity).map(|severity| severity.to_ascii_uppercase()),
            rule_id: text(&self.rule),
            node: parsed::<NodeId>("node", self.node.as_deref(), "32 hexadecimal digits")?,
            server_hostname: text(&self.host),
            alert_type: text(&self.kind),
            user: text(&self.user),
            text: text(&self.text),
            from: time("from", self.from.as_deref())?,
            to: time("to", self.to.as_deref())?,
            include_retracted: self.retracted.as_deref() == Some("true"),
            include_deleted: false,
        })
    }

    /// Where the page begins.
    pub fn after(&self) -> Result<Option<AlertCursor>, Problem> {
        let Some(text) = self.cursor.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let read = text.split_once('.').and_then(|(time, id)| {
            let received_at = auditflow_event::Timestamp::from_micros(time.parse().ok()?);
            Some(AlertCursor { received_at, alert_id: Uuid::parse_str(id).ok()? })
        });
        let detail = "not a cursor: give back exactly what the page before said, or none";
        read.map(Some).ok_or_else(|| Problem::bad_request(detail))
    }

    /// How many.
    pub fn limit(&self) -> Result<usize, Problem> {
        Ok(bounded(parsed("limit", self.limit.as_deref(), "a number")?, USUAL, MOST))
    }
}

/// What a page of alerts says of each.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Brief {
    /// Its id (UUID).
    pub alert_id: String,
    /// When it happened (RFC 3339, UTC).
    pub timestamp: String,
    /// When it was first written here.
    pub received_at: String,
    /// When any part of it last changed.
    pub changed_at: String,
    /// `INFO`, `WARNING` or `CRITICAL`.
    pub severity: String,
    /// The ancestor's type, `SECURITY`.
    pub alert_type: String,
    /// The rule's id.
    pub rule_id: String,
    /// The rule's name.
    pub rule_name: String,
    /// Sigma's level.
    pub level: String,
    /// One sentence for people.
    pub description: String,
    /// Who did it, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// On which host.
    pub server_hostname: String,
    /// The node, where there is one only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `standing`, `amended`, `superseded` or `withdrawn`: what the machine says of it.
    pub machine: String,
    /// The alert that says it better, if it is superseded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<String>,
    /// `open`, `acknowledged`, `resolved` or `false_positive`: what people say of it.
    pub status: String,
    /// Who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assignee: Option<String>,
    /// Events in its evidence.
    pub events: usize,
}

impl Brief {
    /// Of a stored alert.
    pub fn of(row: &AlertRow) -> Self {
        let alert = &row.alert;
        let (machine, superseded_by) = match row.machine {
            Machine::Standing => ("standing", None),
            Machine::Amended => ("amended", None),
            Machine::Superseded { by } => ("superseded", Some(by.to_string())),
            Machine::Withdrawn => ("withdrawn", None),
        };
        Self {
            alert_id: alert.alert_id.to_string(),
            timestamp: alert.timestamp.to_string(),
            received_at: row.received_at.to_string(),
            changed_at: row.changed_at.to_string(),
            severity: alert.severity.clone(),
            alert_type: alert.alert_type.clone(),
            rule_id: alert.rule.id.clone(),
            rule_name: alert.rule.name.clone(),
            level: alert.rule.level.clone(),
            description: alert.description.clone(),
            user: alert.triggered_by.get("actor_id").and_then(Value::as_str).map(str::to_owned),
            server_hostname: alert.server_hostname.clone(),
            node: alert.node.map(|node| node.to_string()),
            machine: machine.to_owned(),
            superseded_by,
            status: row.status.name().to_owned(),
            assignee: row.assignee.clone(),
            events: alert.evidence.len(),
        }
    }
}

/// A page of alerts.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlertPage {
    /// The alerts, newest first.
    pub alerts: Vec<Brief>,
    /// Give this as `cursor` for the next page; absent: there is no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Where an event is kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct Evidence {
    /// Whose batch.
    pub node: String,
    /// Of which epoch.
    pub epoch: String,
    /// Which number.
    pub seq: u64,
    /// Its place in the batch.
    pub index: u32,
    /// Its id (UUID).
    pub event_id: String,
}

impl Evidence {
    /// Of a reference.
    pub fn of(at: &EventRef) -> Self {
        Self {
            node: at.node.to_string(),
            epoch: at.epoch.to_string(),
            seq: at.seq.get(),
            index: at.index,
            event_id: at.event_id.to_string(),
        }
    }
}

/// All that is known of an alert.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alert {
    /// What lists say of it.
    #[serde(flatten)]
    pub brief: Brief,
    /// The rule's description, as it was when it judged.
    pub rule_description: String,
    /// The rule set that judged it.
    pub rule_set: String,
    /// What its events have in common.
    pub correlation_id: String,
    /// What makes two alerts the same again.
    pub fingerprint: String,
    /// `actor_type`, `actor_id`, `client_ip`.
    #[schema(value_type = Object)]
    pub triggered_by: Map<String, Value>,
    /// `resource_type`, `resource_id`, `server_hostname`.
    #[schema(value_type = Object)]
    pub impacted_resource: Map<String, Value>,
    /// What was done.
    pub action_observed: String,
    /// Which service's events these are.
    pub source_service_name: String,
    /// A person's note.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// When a person deleted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<String>,
    /// Why it fired and anything else: `matched` fields, `tags`, `group_by`, `episode`.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// Where its events are.
    pub evidence: Vec<Evidence>,
    /// Copies of the events (some, of many).
    #[schema(value_type = Vec<Object>)]
    pub event_copies: Vec<Value>,
    /// The batches that its events came in, verified just now (some, of many).
    pub proof: Vec<Proof>,
}

impl Alert {
    /// Of a stored alert and the proof of its batches.
    pub fn of(row: AlertRow, proof: Vec<Proof>) -> Self {
        let brief = Brief::of(&row);
        let alert = row.alert;
        Self {
            brief,
            rule_description: alert.rule.description,
            rule_set: alert.rule.version,
            correlation_id: alert.correlation_id,
            fingerprint: alert.fingerprint,
            triggered_by: alert.triggered_by,
            impacted_resource: alert.impacted_resource,
            action_observed: alert.action_observed,
            source_service_name: alert.source_service_name,
            note: row.note,
            deleted_at: row.deleted_at.map(|time| time.to_string()),
            metadata: alert.metadata,
            evidence: alert.evidence.iter().map(Evidence::of).collect(),
            event_copies: alert.events,
            proof,
        }
    }
}

/// What is to be changed; what is absent stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AlertChange)]
pub struct Change {
    /// `open`, `acknowledged`, `resolved` or `false_positive`.
    pub status: Option<String>,
    /// Who has it; an empty name takes it away.
    pub assignee: Option<String>,
    /// A note; an empty one takes it away.
    pub note: Option<String>,
}

impl Change {
    /// What the store is told.
    pub fn checked(self) -> Result<StatusChange, Problem> {
        let long = |text: &Option<String>| text.as_ref().is_some_and(|text| text.len() > MAX_TEXT);
        if long(&self.assignee) || long(&self.note) {
            return Err(Problem::bad_request(format!("note and assignee may have at most {MAX_TEXT} bytes")));
        }
        let status = self.status.map(|name| {
            let detail = "status is open, acknowledged, resolved or false_positive";
            AlertStatus::from_name(&name).ok_or_else(|| Problem::bad_request(detail))
        });
        Ok(StatusChange { status: status.transpose()?, assignee: self.assignee, note: self.note })
    }
}

/// A page of alerts that were found; also what the page shows.
pub async fn find(state: &AppState, query: &Query) -> Result<AlertPage, Problem> {
    let limit = query.limit()?;
    let rows = state.store.alerts(query.filter()?, query.after()?, 0, limit + 1).await;
    let mut rows = rows.map_err(|error| problem(&error))?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| more);
    let next = last.map(|row| format!("{}.{}", row.received_at.as_micros(), row.alert.alert_id));
    Ok(AlertPage { alerts: rows.iter().map(Brief::of).collect(), next })
}

/// An alert with its proof; also what the page shows.
pub async fn open(state: &AppState, id: &str) -> Result<(AlertRow, Vec<Proof>), Problem> {
    let id = Uuid::parse_str(id).map_err(|_| Problem::bad_request("the id is no UUID"))?;
    let row = state.store.alert(id).await.map_err(|error| problem(&error))?.ok_or_else(|| none("alert"))?;
    let proof = proof::of(&state.store, &state.site_keys.get(), &row.alert.evidence)
        .await
        .map_err(|error| problem(&error))?;
    Ok((row, proof))
}

/// The alert that stands in the place of a superseded one; none if it was not superseded.
pub async fn successor(state: &AppState, row: &AlertRow) -> Result<Option<Uuid>, Problem> {
    let mut latest = None;
    let mut machine = row.machine;
    for _ in 0..LINEAGE {
        let Machine::Superseded { by } = machine else { break };
        latest = Some(by);
        match state.store.alert(by).await.map_err(|error| problem(&error))? {
            Some(next) => machine = next.machine,
            None => break,
        }
    }
    Ok(latest)
}

/// Alerts, newest first
#[utoipa::path(get, operation_id = "list_alerts", path = "/api/v1/alerts", tag = "alerts", params(Query), responses(
    (status = 200, description = "A page of alerts", body = AlertPage),
    (status = 400, description = "A parameter is not what it should be", body = Problem, content_type = "application/problem+json"),
))]
async fn list(State(state): State<AppState>, Asked(query): Asked<Query>) -> Result<Json<AlertPage>, Problem> {
    find(&state, &query).await.map(Json)
}

/// One alert with its events, and the proof of the batches that they came in
///
/// An alert that was superseded, withdrawn or deleted stays readable and says so.
#[utoipa::path(get, operation_id = "get_alert", path = "/api/v1/alerts/{alert_id}", tag = "alerts",
    params(("alert_id" = String, Path, description = "Its id (UUID)")),
    responses(
        (status = 200, description = "The alert", body = Alert),
        (status = 400, description = "The id is no UUID", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id", body = Problem, content_type = "application/problem+json"),
    ))]
async fn get(State(state): State<AppState>, Named(id): Named<String>) -> Result<Json<Alert>, Problem> {
    let (row, proof) = open(&state, &id).await?;
    Ok(Json(Alert::of(row, proof)))
}

/// Says what people make of an alert; needs an operator
#[utoipa::path(patch, operation_id = "change_alert", path = "/api/v1/alerts/{alert_id}", tag = "alerts", request_body = Change,
    params(("alert_id" = String, Path, description = "Its id (UUID)")),
    responses(
        (status = 200, description = "The alert as it is now", body = Alert),
        (status = 400, description = "The id or the status is none", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Not an operator", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id", body = Problem, content_type = "application/problem+json"),
    ))]
async fn change(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
    JsonBody(change): JsonBody<Change>,
) -> Result<Json<Alert>, Problem> {
    let alert_id = Uuid::parse_str(&id).map_err(|_| Problem::bad_request("the id is no UUID"))?;
    let done = state.store.set_alert_status(alert_id, change.checked()?, who.by(), now()).await;
    if !done.map_err(|error| problem(&error))? {
        return Err(none("alert"));
    }
    let (row, proof) = open(&state, &id).await?;
    Ok(Json(Alert::of(row, proof)))
}

/// Takes an alert out of all lists; it stays readable by its id. Needs an operator
#[utoipa::path(delete, operation_id = "delete_alert", path = "/api/v1/alerts/{alert_id}", tag = "alerts",
    params(("alert_id" = String, Path, description = "Its id (UUID)")),
    responses(
        (status = 204, description = "It is deleted"),
        (status = 400, description = "The id is no UUID", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Not an operator", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id", body = Problem, content_type = "application/problem+json"),
    ))]
async fn delete(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
) -> Result<StatusCode, Problem> {
    let id = Uuid::parse_str(&id).map_err(|_| Problem::bad_request("the id is no UUID"))?;
    let done = state.store.delete_alert(id, who.by(), now()).await.map_err(|error| problem(&error))?;
    if done { Ok(StatusCode::NO_CONTENT) } else { Err(none("alert")) }
}
