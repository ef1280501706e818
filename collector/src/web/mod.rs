//! What people and programs see: page and API, on one port.
//!
//! Fed by the store, by health, metrics and the rules in force; feeds browsers, scripts and the ancestor's dashboard. It
//! guarantees that nothing but health, metrics and the login is answered without a credential (unless the configuration
//! lets anonymous people look), that whatever changes something needs the role for it, that every answer is bounded, and
//! that nothing that came from an event becomes markup.
//!
//! `api` answers programs, `pages` people; both read through the same few functions of `overview`, `proof` and `found`.

pub mod access;
pub mod api;
pub mod found;
pub mod overview;
mod pages;
pub mod proof;
mod serve;
pub mod show;
pub mod state;
mod stream;

#[cfg(test)]
mod tests;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use http::StatusCode;
use tower_http::timeout::{RequestBodyTimeoutLayer, TimeoutLayer};

pub use serve::serve;
pub use state::{AppState, Surroundings};

/// The largest body that is taken: a form, or a note on an alert.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Every route, guarded and bounded.
pub fn router(state: AppState) -> Router {
    let (api, document) = api::router().split_for_parts();
    let routes = api.merge(api::openapi::router(&document)).merge(pages::router());
    routes
        .fallback(pages::unknown)
        .method_not_allowed_fallback(auditflow_service::problem::unknown_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(RequestBodyTimeoutLayer::new(serve::BODY_TIME))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, serve::ANSWER_TIME))
        .layer(middleware::from_fn_with_state(state.clone(), access::guard))
        .layer(middleware::from_fn_with_state(state.clone(), serve::take_turn))
        .layer(middleware::from_fn(access::headers::add))
        .with_state(state)
}
