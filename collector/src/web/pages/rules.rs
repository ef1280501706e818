//! The rules in force.

use askama::Template;
use axum::Extension;
use axum::extract::State;

use super::{Frame, Page, html};
use crate::web::AppState;
use crate::web::access::{Principal, form_encoded};
use crate::web::api::rules::{Rule, Rules, all};

#[derive(Template)]
#[template(path = "rules.html")]
struct RulesPage {
    frame: Frame,
    version: String,
    rules: Vec<Line>,
    gaps: usize,
    disabled: Vec<String>,
    warnings: Vec<String>,
}

struct Line {
    rule: Rule,
    link: String,
}

pub(super) async fn show(State(state): State<AppState>, Extension(who): Extension<Principal>) -> Page {
    let Rules { version, mut rules, disabled, warnings } = all(&state).await?;
    rules.sort_by(|a, b| (b.alerts_lately, &a.title).cmp(&(a.alerts_lately, &b.title)));
    let gaps = rules.iter().filter(|rule| rule.gap.is_some()).count();
    let line = |rule: Rule| Line { link: link(&rule.id), rule };
    let rules = rules.into_iter().map(line).collect();
    Ok(html(&RulesPage {
        frame: Frame::new("Rules", "rules", &who),
        version,
        rules,
        gaps,
        disabled,
        warnings,
    }))
}

/// A rule's page. Its id may be any text.
pub(super) fn link(id: &str) -> String {
    format!("/view/rules/{}", form_encoded(id).replace('/', "%2F"))
}
