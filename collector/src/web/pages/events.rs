//! Events that were searched for.

use askama::Template;
use auditflow_event::EventType;
use axum::Extension;
use axum::extract::State;

use super::alerts::next_link;
use super::digest::{self, Digest};
use super::{Frame, Page, html};
use crate::web::access::Principal;
use crate::web::api::Asked;
use crate::web::api::events::{Query, find};
use crate::web::{AppState, show};

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    frame: Frame,
    query: Shown,
    kinds: Vec<&'static str>,
    nodes: Vec<(String, String)>,
    events: Vec<Line>,
    next: Option<String>,
    partial: bool,
    decoded: String,
    pruned: String,
    problem: Option<String>,
}

struct Shown {
    q: String,
    node: String,
    kind: String,
    user: String,
    from: String,
    to: String,
}

/// An event that was found.
struct Line {
    digest: Digest,
    link: String,
    host: String,
}

pub(super) async fn show(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Asked(query): Asked<Query>,
) -> Page {
    let nodes = state.store.nodes().await?;
    // What was asked wrongly is said beside the form, which still holds it.
    let (found, problem) = match find(&state, &query).await {
        Ok(found) => (Some(found), None),
        Err(problem) if problem.status < 500 => (None, problem.detail),
        Err(problem) => return Err(problem.into()),
    };
    let parts = [
        ("q", &query.q),
        ("node", &query.node),
        ("type", &query.kind),
        ("user", &query.user),
        ("from", &query.from),
        ("to", &query.to),
    ];
    let next = found.as_ref().and_then(|page| page.next.as_ref());
    let next = next.map(|cursor| next_link("/view/events", &parts, cursor));
    let events = found.iter().flat_map(|page| &page.events).map(|found| {
        let value: serde_json::Value = serde_json::from_str(found.event.get()).unwrap_or_default();
        let at = &found.at;
        Line {
            link: format!("/view/events/{}/{}/{}/{}", at.node, at.epoch, at.seq, at.index),
            host: digest::text(value.get("server_hostname")).unwrap_or_default(),
            digest: digest::of(&value),
        }
    });
    Ok(html(&EventsPage {
        frame: Frame::new("Events", "events", &who),
        kinds: EventType::ALL.map(EventType::as_str).to_vec(),
        nodes: nodes.into_iter().map(|node| (node.id.to_string(), node.hostname)).collect(),
        events: events.collect(),
        partial: found.as_ref().is_some_and(|page| page.partial),
        decoded: found
            .as_ref()
            .map_or_else(String::new, |page| show::count(page.batches_decoded.into(), "batch", "batches")),
        pruned: found.as_ref().map_or_else(String::new, |page| show::number(page.batches_pruned)),
        next,
        problem,
        query: Shown {
            q: query.q.unwrap_or_default(),
            node: query.node.unwrap_or_default(),
            kind: query.kind.unwrap_or_default(),
            user: query.user.unwrap_or_default(),
            from: query.from.unwrap_or_default(),
            to: query.to.unwrap_or_default(),
        },
    }))
}
