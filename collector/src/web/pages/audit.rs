//! The audit trail, for admins.

use askama::Template;
use axum::Extension;
use axum::extract::State;

use super::alerts::next_link;
use super::{Frame, Page, digest, html};
use crate::store::Action;
use crate::web::access::Principal;
use crate::web::api::Asked;
use crate::web::api::audit::{Entry, Query, find};
use crate::web::{AppState, show};

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    frame: Frame,
    actor: String,
    action: String,
    from: String,
    actions: Vec<&'static str>,
    entries: Vec<Line>,
    next: Option<String>,
    verify: String,
}

struct Line {
    entry: Entry,
    when: String,
    class: &'static str,
    detail: String,
}

pub(super) async fn show(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Asked(query): Asked<Query>,
) -> Page {
    let page = find(&state, &query).await?;
    let parts = [("actor", &query.actor), ("action", &query.action), ("from", &query.from)];
    let next = page.next.map(|cursor| next_link("/view/audit", &parts, &cursor));
    Ok(html(&AuditPage {
        frame: Frame::new("Audit trail", "audit", &who),
        actions: Action::ALL.map(Action::name).to_vec(),
        entries: page.entries.into_iter().map(Line::of).collect(),
        next,
        verify: format!("auditflow-collector audit verify{}", state.option),
        actor: query.actor.unwrap_or_default(),
        action: query.action.unwrap_or_default(),
        from: query.from.unwrap_or_default(),
    }))
}

impl Line {
    fn of(entry: Entry) -> Self {
        let fields = entry.detail.as_object().into_iter().flatten();
        let said = fields.map(|(name, value)| {
            format!("{} {}", show::words(name), digest::text(Some(value)).unwrap_or_default())
        });
        Self {
            when: entry.at.get(..19).unwrap_or(&entry.at).replace('T', " "),
            class: match &*entry.outcome {
                "done" => "good",
                "refused" => "attention",
                _ => "bad",
            },
            detail: said.collect::<Vec<_>>().join(", "),
            entry,
        }
    }
}
