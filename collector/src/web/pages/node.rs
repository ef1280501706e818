//! One node: what it covers, what it owes, what it lost, what is wrong.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect};
use axum::{Extension, Form};
use serde::Deserialize;

use super::home::state_class;
use super::{Frame, Page, check_form, html};
use crate::web::access::Principal;
use crate::web::api::nodes::{Node, open, set_status as change_status};
use crate::web::api::{Named, none};
use crate::web::overview;
use crate::web::state::now;
use crate::web::{AppState, show};

/// Epochs listed, newest first.
const EPOCHS: usize = 20;

#[derive(Template)]
#[template(path = "node.html")]
struct NodePage {
    frame: Frame,
    node: Node,
    complete: bool,
    seen: String,
    newest: String,
    enrolled: String,
    batches: String,
    coverage: Vec<Source>,
    losses: Vec<Lost>,
    epochs: Vec<Epoch>,
    verify: String,
}

struct Source {
    name: String,
    state: String,
    class: &'static str,
    reason: String,
    counts: String,
}

struct Lost {
    source: String,
    reason: String,
    wanted: bool,
    count: String,
    last: String,
}

struct Epoch {
    id: String,
    first: String,
    last: String,
    through: String,
    highest: String,
    digest: String,
    checkpointed: String,
}

#[derive(Deserialize)]
pub(super) struct StatusForm {
    #[serde(default)]
    csrf: String,
    status: String,
}

#[derive(Deserialize)]
pub(super) struct CloseForm {
    #[serde(default)]
    csrf: String,
    #[serde(default)]
    node: String,
}

pub(super) async fn show(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
) -> Page {
    let row = open(&state, &id).await?;
    let now = now();
    let epochs = state.store.epochs(row.id).await?;
    let node = Node::of(&row);
    let coverage = node.coverage.iter().map(|(name, said)| Source {
        name: show::words(name),
        state: show::words(&said.state),
        class: state_class(&said.state),
        reason: said.reason.clone().unwrap_or_default(),
        counts: said
            .counts
            .iter()
            .map(|(name, value)| format!("{} {value}", show::words(name)))
            .collect::<Vec<_>>()
            .join(", "),
    });
    let losses = row.losses.iter().zip(&node.losses).map(|(loss, shown)| Lost {
        source: show::words(&loss.source),
        reason: show::words(&loss.reason),
        wanted: shown.wanted,
        count: match (loss.count, loss.unknown) {
            (0, 1..) => "not counted".to_owned(),
            (count, 0) => show::number(count),
            (count, _) => format!("{} or more", show::number(count)),
        },
        last: show::ago(loss.last_at, now),
    });
    let epochs = epochs.iter().rev().take(EPOCHS).map(|epoch| Epoch {
        id: epoch.epoch.to_string(),
        first: show::second(epoch.first_seen),
        last: show::second(epoch.last_seen),
        through: epoch
            .through
            .as_ref()
            .map_or_else(|| "–".to_owned(), |head| show::number(head.number.get())),
        highest: epoch.highest.map_or_else(|| "–".to_owned(), |number| show::number(number.get())),
        checkpointed: epoch.checkpoint.map_or_else(
            || "–".to_owned(),
            |(last, at)| format!("1–{} ({})", show::number(last.get()), show::second(at)),
        ),
        digest: epoch.through.as_ref().map_or_else(String::new, |head| head.digest.to_string()),
    });
    Ok(html(&NodePage {
        frame: Frame::new(row.hostname.clone(), "overview", &who),
        complete: overview::is_complete(&row, now),
        seen: row.last_seen.map_or_else(|| "never".to_owned(), |seen| show::ago(seen, now)),
        newest: row.last_event.map_or_else(|| "none".to_owned(), show::second),
        enrolled: show::second(row.enrolled_at),
        batches: show::number(row.batches),
        coverage: coverage.collect(),
        losses: losses.collect(),
        epochs: epochs.collect(),
        verify: format!("auditflow-collector verify{} --node {}", state.option, row.id),
        node,
    }))
}

pub(super) async fn set_status(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
    Form(form): Form<StatusForm>,
) -> Page {
    check_form(&who, &form.csrf)?;
    change_status(&state, &who, &id, &form.status).await?;
    // It was the id of a node, so it is hexadecimal digits.
    Ok(Redirect::to(&format!("/view/nodes/{id}")).into_response())
}

pub(super) async fn close_flag(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<i64>,
    Form(form): Form<CloseForm>,
) -> Page {
    check_form(&who, &form.csrf)?;
    if !state.store.close_flag(id, who.by(), now()).await? {
        return Err(none("open flag").into());
    }
    let node = form.node.parse::<auditflow_event::NodeId>().map(|node| format!("/view/nodes/{node}"));
    Ok(Redirect::to(&node.unwrap_or_else(|_| "/".to_owned())).into_response())
}
