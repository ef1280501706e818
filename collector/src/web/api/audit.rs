//! The audit trail: who changed what here. For admins.

use auditflow_service::problem::Problem;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Asked, bounded, parsed, problem, time};
use crate::store::{Entry as Stored, TrailFilter};
use crate::web::AppState;

/// How many an answer holds if nothing is asked, and at most.
const USUAL: usize = 50;
const MOST: usize = 200;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Which entries.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct Query {
    /// Who: an actor as it is written, or its beginning up to a colon (`cli`, `user:olga`)
    pub actor: Option<String>,
    /// What was done, `alert.change`
    pub action: Option<String>,
    /// Written from here on (RFC 3339)
    pub from: Option<String>,
    /// At most so many, 1 to 200
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    pub limit: Option<String>,
    /// `next` of the page before
    pub cursor: Option<String>,
}

/// An entry of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEntry)]
pub struct Entry {
    /// From 1, without gaps.
    pub number: u64,
    /// When (RFC 3339, UTC).
    pub at: String,
    /// Who: `user:NAME`, `token:ID:NAME`, `cli:UID:NAME`, `node:ID`, `collector` or `anonymous`.
    pub actor: String,
    /// From which address, as far as known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// Particulars.
    #[schema(value_type = Object)]
    pub detail: Value,
    /// The digest of the entry before.
    pub previous: String,
    /// This entry's digest.
    pub digest: String,
}

/// A page of the audit trail.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPage {
    /// The entries, newest first.
    pub entries: Vec<Entry>,
    /// Give this as `cursor` for the next page; absent: there is no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Entry {
    /// Of a stored entry.
    pub fn of(entry: Stored) -> Self {
        Self {
            number: entry.number,
            at: entry.at.to_string(),
            actor: entry.actor,
            origin: Some(entry.origin).filter(|origin| !origin.is_empty()),
            action: entry.action,
            object: entry.object,
            outcome: entry.outcome,
            // What is no JSON any more is shown as it is.
            detail: serde_json::from_str(&entry.detail).unwrap_or(Value::String(entry.detail)),
            previous: entry.previous.to_string(),
            digest: entry.digest.to_string(),
        }
    }
}

impl Query {
    fn filter(&self) -> Result<TrailFilter, Problem> {
        let text = |value: &Option<String>| {
            value.as_deref().map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
        };
        Ok(TrailFilter {
            actor: text(&self.actor),
            action: text(&self.action),
            since: time("from", self.from.as_deref())?,
        })
    }
}

/// A page of entries; also what the page shows.
pub async fn find(state: &AppState, query: &Query) -> Result<AuditPage, Problem> {
    let limit = bounded(parsed("limit", query.limit.as_deref(), "a number")?, USUAL, MOST);
    let before = parsed("cursor", query.cursor.as_deref(), "what the page before said")?;
    let entries = state.store.trail(query.filter()?, before, limit + 1).await;
    let mut entries = entries.map_err(|error| problem(&error))?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().filter(|_| more).map(|entry| entry.number.to_string());
    Ok(AuditPage { entries: entries.into_iter().map(Entry::of).collect(), next })
}

/// The audit trail, newest first: who changed what here; needs an admin
///
/// Entries are chained by their digests; `auditflow-collector audit verify` walks the chain.
#[utoipa::path(get, operation_id = "list_audit_trail", path = "/api/v1/audit", tag = "audit", params(Query), responses(
    (status = 200, description = "A page of the trail", body = AuditPage),
    (status = 400, description = "A parameter is not what it should be", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "Not an admin", body = Problem, content_type = "application/problem+json"),
))]
async fn list(State(state): State<AppState>, Asked(query): Asked<Query>) -> Result<Json<AuditPage>, Problem> {
    find(&state, &query).await.map(Json)
}
