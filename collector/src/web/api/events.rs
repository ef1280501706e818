//! Events: searched newest first, and one by its place.

use auditflow_event::{EventType, NodeId};
use auditflow_service::problem::Problem;
use auditflow_wire::{BatchSeq, EpochId};
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::alerts::Evidence;
use super::{Asked, Named, bounded, none, parsed, problem, time};
use crate::store::{BatchKey, Budget, Cursor, EventPage, EventQuery};
use crate::web::{AppState, found};

/// How many an answer holds if nothing is asked, and at most.
const USUAL: usize = 50;
const MOST: usize = 500;
/// Terms in one search.
const TERMS: usize = 16;
/// The longest text of terms.
const MAX_TERMS: usize = 2048;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// Which events.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct Query {
    /// A node's id
    pub node: Option<String>,
    /// Event times from here on (RFC 3339)
    pub from: Option<String>,
    /// Event times up to here (RFC 3339)
    pub to: Option<String>,
    /// An event type, such as `process_execution`; several with commas between them
    #[serde(rename = "type")]
    #[param(rename = "type")]
    pub kind: Option<String>,
    /// A user's name or number, in any role
    pub user: Option<String>,
    /// Terms that an event must all hold, with spaces between them: whole words (`curl`), or `field:value` with the
    /// field's path in the event (`file.path:/etc/shadow`, `labels.site:north`). A value with spaces stands in double quotes
    #[param(example = "curl process.executable:/usr/bin/curl")]
    pub q: Option<String>,
    /// At most so many, 1 to 500
    #[param(value_type = Option<u32>, minimum = 1, maximum = 500, default = 50)]
    pub limit: Option<String>,
    /// `next` of the page before
    pub cursor: Option<String>,
}

impl Query {
    /// What the store is asked.
    pub fn checked(&self) -> Result<EventQuery, Problem> {
        let kinds = self
            .kind
            .as_deref()
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|kind| !kind.is_empty());
        let kind = |name| {
            let detail = || format!("there is no event type {name}: it is one of {}", kinds_in_words());
            EventType::from_name(name).ok_or_else(|| Problem::bad_request(detail()))
        };
        let text = self.q.as_deref().unwrap_or_default();
        let terms = terms(text);
        if text.len() > MAX_TERMS || terms.len() > TERMS {
            let detail = format!("q may have at most {TERMS} terms and {MAX_TERMS} bytes");
            return Err(Problem::bad_request(detail));
        }
        let user = self.user.as_deref().map(str::trim).filter(|user| !user.is_empty());
        Ok(EventQuery {
            node: parsed::<NodeId>("node", self.node.as_deref(), "32 hexadecimal digits")?,
            from: time("from", self.from.as_deref())?,
            to: time("to", self.to.as_deref())?,
            event_types: kinds.map(kind).collect::<Result<_, _>>()?,
            user: user.map(|user| user.chars().take(256).collect()),
            terms,
            before: parsed::<Cursor>("cursor", self.cursor.as_deref(), "the page before gave it")?,
            limit: bounded(parsed("limit", self.limit.as_deref(), "a number")?, USUAL, MOST),
            budget: Budget::default(),
        })
    }
}

fn kinds_in_words() -> String {
    EventType::ALL.map(EventType::as_str).join(", ")
}

/// The terms in a text: divided at spaces, except within double quotes, which don't count.
pub fn terms(text: &str) -> Vec<String> {
    let (mut terms, mut term, mut quoted) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            character if character.is_whitespace() && !quoted => {
                if !term.is_empty() {
                    terms.push(std::mem::take(&mut term));
                }
            }
            character => term.push(character),
        }
    }
    if !term.is_empty() {
        terms.push(term);
    }
    terms
}

/// An event and where it is kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FoundEvent)]
pub struct Found {
    /// Where.
    pub at: Evidence,
    /// The event.
    #[schema(value_type = Object)]
    pub event: Box<RawValue>,
}

/// A page of events.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventPage)]
pub struct Page {
    /// The events, newest first.
    pub events: Vec<Found>,
    /// Give this as `cursor` for the next page; absent: there is no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The search's budget ended the page, not its limit: there may be more, and `next` goes on.
    pub partial: bool,
    /// Batches that were decoded for it.
    pub batches_decoded: u32,
    /// Batches that were ruled out unread.
    pub batches_pruned: u64,
}

/// A page of events that were found; also what the page shows.
pub async fn find(state: &AppState, query: &Query) -> Result<Page, Problem> {
    let page = found::search(state, query.checked()?).await?;
    let EventPage { events, next, partial, batches_decoded, batches_pruned } = page;
    let shown = events.iter().map(|found| Found { at: Evidence::of(&found.at), event: found::listed(found) });
    let next = next.map(|cursor| cursor.to_string());
    Ok(Page { events: shown.collect(), next, partial, batches_decoded, batches_pruned })
}

/// One event by its place; also what the page shows.
pub async fn open(state: &AppState, node: &str, epoch: &str, seq: u64, index: u32) -> Result<Found, Problem> {
    let node = parsed::<NodeId>("node", Some(node), "32 hexadecimal digits")?.ok_or_else(|| none("event"))?;
    let epoch =
        parsed::<EpochId>("epoch", Some(epoch), "32 hexadecimal digits")?.ok_or_else(|| none("event"))?;
    let seq = BatchSeq::new(seq).ok_or_else(|| none("event"))?;
    let found =
        state.store.event(BatchKey { node, epoch, seq }, index).await.map_err(|error| problem(&error))?;
    let found = found.ok_or_else(|| none("event, or its payload is not kept any more"))?;
    Ok(Found { at: Evidence::of(&found.at), event: found::json(&found) })
}

/// Events, newest first
///
/// A search decodes within a budget. When that runs out before the page is full, the page is `partial`, and `next` goes
/// on from there; every page gets further.
#[utoipa::path(get, operation_id = "search_events", path = "/api/v1/events", tag = "events", params(Query), responses(
    (status = 200, description = "A page of events", body = Page),
    (status = 400, description = "A parameter is not what it should be", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "Too many searches are running", body = Problem, content_type = "application/problem+json"),
))]
async fn list(State(state): State<AppState>, Asked(query): Asked<Query>) -> Result<Json<Page>, Problem> {
    find(&state, &query).await.map(Json)
}

/// One event by its place
#[utoipa::path(get, operation_id = "get_event", path = "/api/v1/events/{node}/{epoch}/{seq}/{index}", tag = "events",
    params(
        ("node" = String, Path, description = "The node's id"),
        ("epoch" = String, Path, description = "The epoch"),
        ("seq" = u64, Path, description = "The batch's number"),
        ("index" = u32, Path, description = "The event's place in the batch"),
    ),
    responses(
        (status = 200, description = "The event", body = Found),
        (status = 400, description = "An id is none", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none, or its payload is not kept any more", body = Problem, content_type = "application/problem+json"),
    ))]
async fn get(
    State(state): State<AppState>,
    Named((node, epoch, seq, index)): Named<(String, String, u64, u32)>,
) -> Result<Json<Found>, Problem> {
    open(&state, &node, &epoch, seq, index).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_divided_at_spaces_outside_of_quotes() {
        let cases: [(&str, &[&str]); 5] = [
            ("", &[]),
            ("  curl  wget ", &["curl", "wget"]),
            ("file.path:/etc/shadow", &["file.path:/etc/shadow"]),
            (r#"process.title:"ls -l" x"#, &["process.title:ls -l", "x"]),
            (r#""never closed"#, &["never closed"]),
        ];
        for (text, expected) in cases {
            assert_eq!(terms(text), expected, "{text}");
        }
    }

    #[test]
    fn what_can_not_be_asked_is_refused_with_the_reason() {
        let kind = Query { kind: Some("user_login,nonsense".into()), ..Query::default() };
        assert!(kind.checked().unwrap_err().detail.unwrap().contains("nonsense"));
        let many = Query { q: Some("a ".repeat(17)), ..Query::default() };
        assert!(many.checked().is_err());
        let limit = Query { limit: Some("100000".into()), ..Query::default() };
        assert_eq!(limit.checked().unwrap().limit, MOST);
    }
}
