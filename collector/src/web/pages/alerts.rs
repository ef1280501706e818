//! Alerts that were found.

use askama::Template;
use axum::Extension;
use axum::extract::State;

use super::home::AlertLine;
use super::{Frame, Page, html};
use crate::web::AppState;
use crate::web::access::{Principal, form_encoded};
use crate::web::api::Asked;
use crate::web::api::alerts::{Query, find};
use crate::web::state::now;

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsPage {
    frame: Frame,
    query: Shown,
    alerts: Vec<AlertLine>,
    next: Option<String>,
    first: bool,
}

/// What was asked, for the form's fields.
struct Shown {
    severity: String,
    status: String,
    rule: String,
    host: String,
    node: String,
    user: String,
    from: String,
    to: String,
    text: String,
    kind: String,
    retracted: bool,
}

pub(super) async fn show(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Asked(query): Asked<Query>,
) -> Page {
    let page = find(&state, &query).await?;
    let now = now();
    Ok(html(&AlertsPage {
        frame: Frame::new("Alerts", "alerts", &who),
        alerts: page.alerts.into_iter().map(|alert| AlertLine::of(alert, now)).collect(),
        next: page.next.map(|cursor| link(&query, &cursor)),
        first: query.cursor.as_deref().is_none_or(str::is_empty),
        query: shown(query),
    }))
}

fn shown(query: Query) -> Shown {
    Shown {
        severity: query.severity.unwrap_or_default().to_ascii_uppercase(),
        status: query.status.unwrap_or_default(),
        rule: query.rule.unwrap_or_default(),
        host: query.host.unwrap_or_default(),
        node: query.node.unwrap_or_default(),
        user: query.user.unwrap_or_default(),
        from: query.from.unwrap_or_default(),
        to: query.to.unwrap_or_default(),
        text: query.text.unwrap_or_default(),
        kind: query.kind.unwrap_or_default(),
        retracted: query.retracted.as_deref() == Some("true"),
    }
}

/// The next page of the same question.
fn link(query: &Query, cursor: &str) -> String {
    let parts = [
        ("severity", &query.severity),
        ("status", &query.status),
        ("rule", &query.rule),
        ("host", &query.host),
        ("node", &query.node),
        ("user", &query.user),
        ("from", &query.from),
        ("to", &query.to),
        ("text", &query.text),
        ("type", &query.kind),
        ("retracted", &query.retracted),
    ];
    next_link("/view/alerts", &parts, cursor)
}

/// A page's address with these parts of a query, the empty ones left out, and a cursor.
pub(super) fn next_link(path: &str, parts: &[(&str, &Option<String>)], cursor: &str) -> String {
    let mut out = format!("{path}?cursor={}", form_encoded(cursor));
    for (name, value) in parts {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            out.extend(["&", *name, "=", &*form_encoded(value)]);
        }
    }
    out
}
