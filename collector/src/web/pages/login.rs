//! Logging in and out.

use askama::Template;
use axum::Form;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, RequestExt};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use super::{Frame, Page, Refusal, check_form, html};
use crate::web::AppState;
use crate::web::access::{self, LoginError, Principal};
use auditflow_service::problem::Problem;

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    next: String,
    user: String,
    error: Option<String>,
    option: String,
}

/// Where to go afterwards.
#[derive(Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

/// What the form says.
#[derive(Deserialize)]
struct Credentials {
    #[serde(default)]
    user: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct Leaving {
    #[serde(default)]
    csrf: String,
}

pub(super) async fn show(State(state): State<AppState>, Query(next): Query<Next>) -> Response {
    page(&state, next.next, "admin".to_owned(), None)
}

pub(super) async fn log_in(State(state): State<AppState>, headers: HeaderMap, request: Request) -> Response {
    let peer = access::peer(request.extensions());
    let form = match request.extract::<Form<Credentials>, _>().await {
        Ok(Form(form)) => form,
        Err(error) => return Refusal(Problem::bad_request(error.to_string())).into_response(),
    };
    match access::log_in(&state, peer, &form.user, form.password).await {
        Ok(secret) => {
            let cookie = access::set_cookie(&state, &secret, &headers);
            ([(header::SET_COOKIE, cookie)], Redirect::to(local(&form.next))).into_response()
        }
        Err(LoginError::Store(error)) => Refusal::from(error).into_response(),
        Err(LoginError::Password(error)) => Refusal(Problem::internal(&error)).into_response(),
        Err(error) => {
            let status = match error {
                LoginError::Wait(_) | LoginError::Busy => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::UNAUTHORIZED,
            };
            (status, page(&state, form.next, form.user, Some(error.to_string()))).into_response()
        }
    }
}

pub(super) async fn log_out(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    headers: HeaderMap,
    Form(leaving): Form<Leaving>,
) -> Page {
    check_form(&who, &leaving.csrf)?;
    access::log_out(&state, &who, &headers).await?;
    Ok(([(header::SET_COOKIE, access::clear_cookie(&headers))], Redirect::to("/login")).into_response())
}

fn page(state: &AppState, next: String, user: String, error: Option<String>) -> Response {
    let frame = Frame { title: "Log in".to_owned(), tab: "", who: None };
    html(&LoginPage { frame, next, user, error, option: state.option.clone() })
}

/// A path of ours, never another site's address: `//host` and `/\host` are addresses to a browser.
fn local(next: &str) -> &str {
    let path = next.starts_with('/') && !next.starts_with("//") && !next.contains(['\\', '\r', '\n', '\t']);
    if path && next.is_ascii() { next } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_to_another_site_after_logging_in() {
        for (next, to) in [
            ("/view/alerts?status=open", "/view/alerts?status=open"),
            ("", "/"),
            ("https://evil.example/", "/"),
            ("//evil.example/", "/"),
            ("/\\evil.example", "/"),
            ("/\t/evil.example", "/"),
            ("javascript:alert(1)", "/"),
        ] {
            assert_eq!(local(next), to, "{next}");
        }
    }
}
