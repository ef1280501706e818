//! One rule with its text.

use askama::Template;
use axum::Extension;
use axum::extract::State;

use super::{Frame, Page, html};
use crate::web::AppState;
use crate::web::access::{Principal, form_encoded};
use crate::web::api::Named;
use crate::web::api::rules::{RuleText, open};

#[derive(Template)]
#[template(path = "rule.html")]
struct RulePage {
    frame: Frame,
    text: RuleText,
    counted_by: Vec<(String, String)>,
    references: Vec<Reference>,
    alerts: String,
}

/// A reference, and whether it is an address that a browser may follow: not every text is one.
struct Reference {
    text: String,
    follow: bool,
}

pub(super) async fn show(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
) -> Page {
    let text = open(&state, &id).await?;
    let counted_by = text.counted_by.iter().map(|id| (id.clone(), super::rules::link(id))).collect();
    let references = text.references.iter().map(|text| Reference {
        follow: text.starts_with("https://") || text.starts_with("http://"),
        text: text.clone(),
    });
    let references = references.collect();
    let alerts = format!("/view/alerts?rule={}", form_encoded(&text.rule.id));
    let frame = Frame::new(text.rule.title.clone(), "rules", &who);
    Ok(html(&RulePage { frame, text, counted_by, references, alerts }))
}
