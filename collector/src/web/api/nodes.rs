//! Nodes: how complete what they sent is, and what is wrong with it.

use std::collections::BTreeMap;

use auditflow_event::NodeId;
use auditflow_service::problem::{JsonBody, Problem};
use auditflow_wire::BatchSeq;
use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Named, none, parsed, problem};
use crate::store::{EpochRow, FlagKind, FlagRow, NodeRow, NodeStatus};
use crate::web::access::Principal;
use crate::web::state::now;
use crate::web::{AppState, overview};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, change)).routes(routes!(epochs))
}

/// Epochs that one answer lists.
const EPOCHS: usize = 1000;

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// Its host name.
    pub hostname: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its agent's version.
    pub version: String,
    /// Its kernel's release, as far as it said.
    pub kernel: String,
    /// Its processor's architecture, as far as it said.
    pub architecture: String,
    /// `active`, `pending` (waits for approval) or `revoked`.
    pub status: String,
    /// When it enrolled (RFC 3339, UTC).
    pub enrolled_at: String,
    /// When it was last heard, by the collector's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<String>,
    /// The newest event time stored, by the node's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_event: Option<String>,
    /// Seconds from the newest event's time to its arrival: how far behind what the node sends is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// Whether it was heard lately and everything that it numbered is here and linked, save what is on its way.
    pub complete: bool,
    /// The epoch last heard of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// How far that epoch is stored without a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_through: Option<u64>,
    /// Batches missing below what is stored that it may still send.
    pub holes: u64,
    /// Batches that it said it holds and that are not stored.
    pub owed: u64,
    /// Batches that are missing for good and unexplained.
    pub lost: u64,
    /// Batches stored, ever.
    pub batches: u64,
    /// `sound`, or `broken` where a flag says that the chain is not.
    pub chain: &'static str,
    /// What each source last said of itself.
    pub coverage: BTreeMap<String, SourceState>,
    /// Declared losses.
    pub losses: Vec<Loss>,
    /// What is wrong and not closed, newest first.
    pub flags: Vec<Flag>,
}

/// A run of a node's agent.
#[derive(Debug, Serialize, ToSchema)]
pub struct Epoch {
    /// Its id.
    pub epoch: String,
    /// The one before, as it says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<String>,
    /// When it was first heard of (RFC 3339, UTC).
    pub first_seen: String,
    /// When it was last heard of.
    pub last_seen: String,
    /// Through which batch it is stored without a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_through: Option<u64>,
    /// That batch's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The highest batch stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub highest: Option<u64>,
    /// Through which batch the site's signed checkpoint stands for headers that are not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpointed_through: Option<u64>,
    /// When that was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpointed_at: Option<String>,
}

impl Epoch {
    fn of(row: &EpochRow) -> Self {
        Self {
            epoch: row.epoch.to_string(),
            predecessor: row.predecessor.map(|epoch| epoch.to_string()),
            first_seen: row.first_seen.to_string(),
            last_seen: row.last_seen.to_string(),
            stored_through: row.through.map(|head| head.number.get()),
            digest: row.through.map(|head| head.digest.to_string()),
            highest: row.highest.map(BatchSeq::get),
            checkpointed_through: row.checkpoint.map(|(last, _)| last.get()),
            checkpointed_at: row.checkpoint.map(|(_, at)| at.to_string()),
        }
    }
}

/// What a source said of itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct SourceState {
    /// `running`, `degraded`, `unavailable`, `not_applicable` or `not_running`.
    pub state: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it said so, by the node's clock.
    pub at: String,
    /// Its counters.
    #[schema(value_type = Object)]
    pub counts: Map<String, Value>,
}

/// Losses that a node declared for one source and reason.
#[derive(Debug, Serialize, ToSchema)]
pub struct Loss {
    /// Where.
    pub source: String,
    /// Why.
    pub reason: String,
    /// Whether a rule of the operator wanted it (filtered, sampled, rate-limited).
    pub wanted: bool,
    /// How many events.
    pub count: u64,
    /// How many declarations could not say how many.
    pub unknown: u64,
    /// When the last declaration arrived.
    pub last_at: String,
}

/// Something wrong with a node's data.
#[derive(Debug, Serialize, ToSchema)]
pub struct Flag {
    /// Its id.
    pub id: i64,
    /// What: `fork`, `broken_link`, `gap`, `bad_signature`, `unknown_version`, `unreadable`, `unknown_predecessor`.
    pub kind: String,
    /// In words.
    pub detail: String,
    /// In which epoch.
    pub epoch: String,
    /// At which batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When it was noticed.
    pub at: String,
    /// How often it was raised.
    pub count: u64,
}

/// Whether a rule of the operator wanted the events gone.
pub fn is_wanted(reason: &str) -> bool {
    matches!(reason, "filtered" | "sampled" | "rate_limited")
}

/// Whether what is wrong breaks the chain of a node's batches.
pub fn breaks_chain(kind: FlagKind) -> bool {
    matches!(
        kind,
        FlagKind::Fork | FlagKind::BrokenLink | FlagKind::BadSignature | FlagKind::UnknownPredecessor
    )
}

impl Flag {
    fn of(row: &FlagRow) -> Self {
        let flag = &row.flag;
        Self {
            id: row.id,
            kind: flag.kind.name().to_owned(),
            detail: flag.detail.clone(),
            epoch: flag.epoch.to_string(),
            seq: flag.seq.map(BatchSeq::get),
            at: flag.at.to_string(),
            count: row.count,
        }
    }
}

impl Node {
    /// Of a stored node.
    pub fn of(row: &NodeRow) -> Self {
        let coverage = row.coverage.iter().map(|(source, said)| {
            let counts = said.counts.clone();
            let state = SourceState {
                state: said.state.clone(),
                reason: said.reason.clone(),
                at: said.at.to_string(),
                counts,
            };
            (source.clone(), state)
        });
        let losses = row.losses.iter().map(|loss| Loss {
            source: loss.source.clone(),
            reason: loss.reason.clone(),
            wanted: is_wanted(&loss.reason),
            count: loss.count,
            unknown: loss.unknown,
            last_at: loss.last_at.to_string(),
        });
        let broken = row.flags.iter().any(|flag| breaks_chain(flag.flag.kind));
        Self {
            id: row.id.to_string(),
            hostname: row.hostname.clone(),
            labels: row.labels.clone(),
            version: row.version.clone(),
            kernel: row.kernel.clone(),
            architecture: row.architecture.clone(),
            status: row.status.name().to_owned(),
            enrolled_at: row.enrolled_at.to_string(),
            last_seen: row.last_seen.map(|time| time.to_string()),
            last_event: row.last_event.map(|time| time.to_string()),
            lag_seconds: row.lag.map(|micros| micros as f64 / 1e6),
            complete: overview::is_complete(row, now()),
            epoch: row.stored_through.as_ref().map(|(epoch, _)| epoch.to_string()),
            stored_through: row
                .stored_through
                .as_ref()
                .and_then(|(_, head)| Some(head.as_ref()?.number.get())),
            holes: row.holes,
            owed: row.owed,
            lost: row.lost,
            batches: row.batches,
            chain: if broken { "broken" } else { "sound" },
            coverage: coverage.collect(),
            losses: losses.collect(),
            flags: row.flags.iter().map(Flag::of).collect(),
        }
    }
}

/// What is to be changed about a node.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NodeChange)]
pub struct Change {
    /// `active` approves it, `revoked` shuts it out.
    pub status: String,
}

/// Approves a node or shuts it out; also what the page does.
pub async fn set_status(state: &AppState, who: &Principal, id: &str, status: &str) -> Result<(), Problem> {
    let id = parsed::<NodeId>("node", Some(id), "32 hexadecimal digits")?.ok_or_else(|| none("node"))?;
    let status = match status {
        "active" => NodeStatus::Active,
        "revoked" => NodeStatus::Revoked,
        _ => return Err(Problem::bad_request("status is active or revoked")),
    };
    let done = state.store.set_node_status(id, status, who.by(), now()).await;
    if done.map_err(|error| problem(&error))? { Ok(()) } else { Err(none("node")) }
}

/// One node; also what the page shows.
pub async fn open(state: &AppState, id: &str) -> Result<NodeRow, Problem> {
    let id = parsed::<NodeId>("node", Some(id), "32 hexadecimal digits")?.ok_or_else(|| none("node"))?;
    state.store.node(id).await.map_err(|error| problem(&error))?.ok_or_else(|| none("node"))
}

/// Every node, by host name
#[utoipa::path(get, operation_id = "list_nodes", path = "/api/v1/nodes", tag = "nodes", responses(
    (status = 200, description = "Every node", body = [Node]),
))]
async fn list(State(state): State<AppState>) -> Result<Json<Vec<Node>>, Problem> {
    let rows = state.store.nodes().await.map_err(|error| problem(&error))?;
    Ok(Json(rows.iter().map(Node::of).collect()))
}

/// One node
#[utoipa::path(get, operation_id = "get_node", path = "/api/v1/nodes/{node}", tag = "nodes",
    params(("node" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The node", body = Node),
        (status = 400, description = "The id is none", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id", body = Problem, content_type = "application/problem+json"),
    ))]
async fn get(State(state): State<AppState>, Named(id): Named<String>) -> Result<Json<Node>, Problem> {
    Ok(Json(Node::of(&open(&state, &id).await?)))
}

/// A node's epochs (runs of its agent), newest first
#[utoipa::path(get, operation_id = "list_epochs", path = "/api/v1/nodes/{node}/epochs", tag = "nodes",
    params(("node" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "At most the newest 1000", body = [Epoch]),
        (status = 400, description = "The id is none", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id", body = Problem, content_type = "application/problem+json"),
    ))]
async fn epochs(
    State(state): State<AppState>,
    Named(id): Named<String>,
) -> Result<Json<Vec<Epoch>>, Problem> {
    let node = open(&state, &id).await?.id;
    let rows = state.store.epochs(node).await.map_err(|error| problem(&error))?;
    Ok(Json(rows.iter().rev().take(EPOCHS).map(Epoch::of).collect()))
}

/// Approves a node that waits for it, or shuts one out; needs an admin
#[utoipa::path(patch, operation_id = "change_node", path = "/api/v1/nodes/{node}", tag = "nodes", request_body = Change,
    params(("node" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The node as it is now", body = Node),
        (status = 400, description = "The id or the status is none", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Not an admin", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id", body = Problem, content_type = "application/problem+json"),
    ))]
async fn change(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
    JsonBody(change): JsonBody<Change>,
) -> Result<Json<Node>, Problem> {
    set_status(&state, &who, &id, &change.status).await?;
    Ok(Json(Node::of(&open(&state, &id).await?)))
}
