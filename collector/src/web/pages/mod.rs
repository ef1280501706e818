//! What people see: one file per page. Rendered on the server; every page works without a script, and forms too.
//!
//! Values are escaped where they are written (askama does it for every template here, and no template switches it off),
//! so that nothing of an event becomes markup.

mod alert;
mod alerts;
mod audit;
mod digest;
pub(super) mod docs;
mod event;
mod events;
mod home;
mod login;
mod node;
mod rule;
mod rules;
mod statics;

use askama::Template;
use auditflow_service::problem::{Problem, unknown_path};
use axum::Router;
use axum::extract::Request;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode, header};

use super::AppState;
use super::access::Principal;

pub(super) fn router() -> Router<AppState> {
    Router::new()
        .route("/", get(home::show))
        .route("/view/alerts", get(alerts::show))
        .route("/view/alerts/{id}", get(alert::show))
        .route("/view/alerts/{id}/status", post(alert::set_status))
        .route("/view/alerts/{id}/delete", post(alert::delete))
        .route("/view/events", get(events::show))
        .route("/view/events/{node}/{epoch}/{seq}/{index}", get(event::show))
        .route("/view/nodes/{id}", get(node::show))
        .route("/view/nodes/{id}/status", post(node::set_status))
        .route("/view/flags/{id}/close", post(node::close_flag))
        .route("/view/audit", get(audit::show))
        .route("/view/rules", get(rules::show))
        .route("/view/rules/{id}", get(rule::show))
        .route("/login", get(login::show).post(login::log_in))
        .route("/logout", post(login::log_out))
        .route("/static/style.css", get(statics::style))
        .route("/static/page.js", get(statics::script))
        .route("/static/icon.svg", get(statics::icon))
        .route("/favicon.ico", get(statics::icon))
}

/// What is around every page.
pub(super) struct Frame {
    /// The page's own part of the title.
    pub title: String,
    /// Which entry of the navigation it belongs to.
    pub tab: &'static str,
    /// Who looks.
    pub who: Option<Principal>,
}

impl Frame {
    fn new(title: impl Into<String>, tab: &'static str, who: &Principal) -> Self {
        Self { title: title.into(), tab, who: Some(who.clone()) }
    }

    /// What forms carry.
    fn csrf(&self) -> &str {
        self.who.as_ref().map_or("", Principal::csrf)
    }

    /// Whether buttons for operators are shown.
    fn operates(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.may(crate::store::Role::Operator))
    }

    /// Whether buttons for admins are shown.
    fn administers(&self) -> bool {
        self.who.as_ref().is_some_and(|who| who.may(crate::store::Role::Admin))
    }

    fn is_session(&self) -> bool {
        self.who.as_ref().is_some_and(Principal::is_session)
    }

    fn name(&self) -> String {
        self.who.as_ref().map(Principal::name).unwrap_or_default()
    }

    /// For the navigation: what tells a screen reader where it is.
    fn current(&self, tab: &str) -> &'static str {
        if self.tab == tab { "page" } else { "false" }
    }
}

/// A problem as people see it.
pub(super) struct Refusal(Problem);

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<crate::store::StoreError> for Refusal {
    fn from(error: crate::store::StoreError) -> Self {
        Self(super::api::problem(&error))
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage {
    frame: Frame,
    problem: Problem,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.0.status_code();
        let frame = Frame { title: self.0.title.clone(), tab: "", who: None };
        (status, html(&ProblemPage { frame, problem: self.0 })).into_response()
    }
}

/// A page, or why there is none.
pub(super) type Page = Result<Response, Refusal>;

fn html(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// Refuses a form that another site's page may have sent.
fn check_form(who: &Principal, token: &str) -> Result<(), Refusal> {
    if who.accepts(token) {
        return Ok(());
    }
    let detail = "this form is from another session: go back, reload the page and try again";
    Err(Refusal(Problem::new(StatusCode::FORBIDDEN).detail(detail)))
}

/// What isn't there: for people as a page, for programs as a problem.
pub(super) async fn unknown(headers: HeaderMap, request: Request) -> Response {
    let wants_page = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let problem = unknown_path(request).await;
    match wants_page {
        Some(accept) if accept.contains("text/html") => Refusal(problem).into_response(),
        _ => problem.into_response(),
    }
}
