//! What people and programs see: page and API.

use std::sync::Arc;

use auditflow_service::health::{Health, HealthReport};
use auditflow_service::problem::{unknown_method, unknown_path};
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;

use crate::store::Store;

/// What every route may use.
#[derive(Clone)]
pub struct AppState {
    /// Everything that is kept.
    pub store: Arc<dyn Store>,
    /// How the parts are.
    pub health: Health,
}

/// Every route.
pub fn router(state: AppState) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(state)
}

async fn healthz(State(state): State<AppState>) -> (StatusCode, Json<HealthReport>) {
    let status = if state.health.alive() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(state.health.report()))
}
