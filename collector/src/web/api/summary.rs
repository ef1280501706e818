//! All of it on one screen, for programs; the first page shows the same.

use auditflow_service::problem::Problem;
use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::problem;
use crate::web::AppState;
use crate::web::overview::{self, Summary};

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(summary))
}

/// The verdict, open alerts by severity, the noisiest rules, events per minute, and what to do next
#[utoipa::path(get, path = "/api/v1/summary", tag = "summary", responses(
    (status = 200, description = "How it stands", body = Summary),
))]
async fn summary(State(state): State<AppState>) -> Result<Json<Summary>, Problem> {
    let overview = overview::of(&state).await.map_err(|error| problem(&error))?;
    Ok(Json(overview.summary))
}
