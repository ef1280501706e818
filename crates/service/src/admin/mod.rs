//! The admin API of both programs: health, metrics, status and log level, for the operator on this machine.
//!
//! Served on a Unix socket that only its owner can open, optionally on a loopback address. Programs merge their own
//! routes into [`Admin::router`]; the OpenAPI description comes from the same code.

mod client;
mod limit;
mod listener;

use std::future::Future;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathsBuilder};
use utoipa::openapi::{ContentBuilder, OpenApi, PathItem, Ref, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use crate::health::{Health, HealthReport};
use crate::metrics::{self, Metrics};
use crate::problem::{JsonBody, Problem, unknown_method, unknown_path};
use crate::telemetry::LogControl;

pub use client::{Client, ClientError};
pub use listener::{AdminConfig, AdminListener, ListenError};

/// Upper bound of a request body in bytes, for the programs' own routes too unless they set another.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// What the admin API's own routes need.
#[derive(Clone)]
pub struct Admin {
    /// Answers `/healthz` and `/readyz`.
    pub health: Health,
    /// Answers `/metrics`.
    pub metrics: Metrics,
    /// Answers `/log-level`.
    pub log: LogControl,
}

impl Admin {
    /// The routes, with `/status` answering what `snapshot` gives; to be merged with the program's own, then
    /// given to [`finish`].
    pub fn router<T, F, Fut>(self, snapshot: F) -> OpenApiRouter
    where
        T: Serialize + ToSchema + 'static,
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        own_routes().with_state(self).routes(status_route(snapshot))
    }

    /// What these routes say of themselves, for a program whose `/status` answers `T`.
    pub fn openapi<T: Serialize + ToSchema + 'static + Send>() -> OpenApi {
        let never = std::future::pending::<T>;
        OpenApiRouter::<()>::new()
            .routes(status_route(never))
            .into_openapi()
            .merge_from(own_routes().into_openapi())
    }
}

fn own_routes() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(scrape))
        .routes(routes!(log_level, set_log_level))
}

/// Makes the router servable: its description at `/api/openapi.json`, bounded bodies, and problem details for whatever
/// isn't there.
pub fn finish(router: OpenApiRouter, description: OpenApi) -> Router {
    let (router, _) = router.split_for_parts();
    router
        .route("/api/openapi.json", get(async move || Json(description.clone())))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
}

/// The level of logging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogLevelBody {
    /// `off`, `error`, `warn`, `info`, `debug` or `trace`, optionally with single modules: `info,auditflow_agent=debug`.
    #[schema(example = "debug")]
    pub level: String,
}

/// Whether the program lives, and how its parts are
///
/// A part that is down does not make this fail: restarting would not heal it.
#[utoipa::path(get, path = "/healthz", tag = "admin", responses(
    (status = 200, description = "It lives; the body says how its parts are", body = HealthReport),
    (status = 503, description = "A part of it hangs", body = HealthReport),
))]
async fn healthz(State(admin): State<Admin>) -> Response {
    report(admin.health.alive(), &admin.health)
}

/// Whether the program takes work
#[utoipa::path(get, path = "/readyz", tag = "admin", responses(
    (status = 200, description = "It takes work", body = HealthReport),
    (status = 503, description = "It doesn't: it starts, stops, or a part that it needs is down", body = HealthReport),
))]
async fn readyz(State(admin): State<Admin>) -> Response {
    report(admin.health.ready(), &admin.health)
}

/// Metrics in Prometheus' text exposition
#[utoipa::path(get, path = "/metrics", tag = "admin", responses(
    (status = 200, description = "All metrics", content_type = "text/plain", body = String),
))]
async fn scrape(State(admin): State<Admin>) -> Result<Response, Problem> {
    let text = admin.metrics.render().map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// The level of logging
#[utoipa::path(get, path = "/log-level", tag = "admin", responses(
    (status = 200, description = "The level in force", body = LogLevelBody),
))]
async fn log_level(State(admin): State<Admin>) -> Json<LogLevelBody> {
    Json(LogLevelBody { level: admin.log.level() })
}

/// Changes the level of logging until the next change or restart
#[utoipa::path(put, path = "/log-level", tag = "admin", request_body = LogLevelBody, responses(
    (status = 200, description = "The level now in force", body = LogLevelBody),
    (status = 400, description = "Not a log level", body = Problem, content_type = "application/problem+json"),
))]
async fn set_log_level(
    State(admin): State<Admin>,
    JsonBody(body): JsonBody<LogLevelBody>,
) -> Result<Json<LogLevelBody>, Problem> {
    admin.log.set_level(&body.level).map_err(|error| Problem::bad_request(error.to_string()))?;
    let level = admin.log.level();
    tracing::info!(log.level = level, "log level is now {level}");
    Ok(Json(LogLevelBody { level }))
}

fn report(good: bool, health: &Health) -> Response {
    let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health.report())).into_response()
}

/// `GET /status`, described by hand: utoipa's macro doesn't take a handler that is generic over its answer.
fn status_route<T, F, Fut>(snapshot: F) -> UtoipaMethodRouter
where
    T: Serialize + ToSchema + 'static,
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + Send + 'static,
{
    let schema = Ref::from_schema_name(T::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let answer =
        ResponseBuilder::new().description("What the program does now").content("application/json", content);
    let operation = OperationBuilder::new()
        .tag("admin")
        .operation_id(Some("status"))
        .summary(Some("What the program does now"))
        .response("200", answer.build());
    let mut schemas = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut schemas);
    let paths = PathsBuilder::new().path("/status", PathItem::new(HttpMethod::Get, operation)).build();

    let snapshot = Arc::new(snapshot);
    let handler = get(move || {
        let snapshot = Arc::clone(&snapshot);
        async move { Json(snapshot().await) }
    });
    (schemas, paths, handler)
}
