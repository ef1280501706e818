//! Whether it lives, whether it takes work, and what it has counted: for probes and Prometheus, without a credential.

use auditflow_service::health::HealthReport;
use auditflow_service::metrics;
use auditflow_service::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::web::AppState;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(healthz)).routes(routes!(readyz)).routes(routes!(scrape))
}

/// Whether the collector lives, and how each of its parts and dependencies is
///
/// A part that is down does not make this fail: restarting would not heal it.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses(
    (status = 200, description = "It lives; the body says how its parts are", body = HealthReport),
    (status = 503, description = "A part of it hangs", body = HealthReport),
))]
async fn healthz(State(state): State<AppState>) -> Response {
    report(state.health.alive(), &state)
}

/// Whether the collector takes work
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses(
    (status = 200, description = "It takes work", body = HealthReport),
    (status = 503, description = "It doesn't: it starts, stops, or a part that it needs is down", body = HealthReport),
))]
async fn readyz(State(state): State<AppState>) -> Response {
    report(state.health.ready(), &state)
}

/// Metrics in Prometheus' text exposition
#[utoipa::path(get, path = "/metrics", tag = "health", security(()), responses(
    (status = 200, description = "All metrics", content_type = "text/plain; version=0.0.4; charset=utf-8", body = String),
))]
async fn scrape(State(state): State<AppState>) -> Result<Response, Problem> {
    let text = state.metrics.render().map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

fn report(good: bool, state: &AppState) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(state.health.report())).into_response()
}
