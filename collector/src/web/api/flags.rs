//! Flags: what is wrong with a node's data, until somebody has looked into it.

use auditflow_service::problem::Problem;
use axum::Extension;
use axum::extract::State;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Named, none, problem};
use crate::web::AppState;
use crate::web::access::Principal;
use crate::web::state::now;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(close))
}

/// Closes a flag: somebody has looked into it. It opens again if it is raised again. Needs an operator
#[utoipa::path(post, operation_id = "close_flag", path = "/api/v1/flags/{flag}/close", tag = "nodes",
    params(("flag" = i64, Path, description = "Its id")),
    responses(
        (status = 204, description = "It is closed"),
        (status = 400, description = "The id is none", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Not an operator", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id, or it is closed", body = Problem, content_type = "application/problem+json"),
    ))]
async fn close(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<i64>,
) -> Result<StatusCode, Problem> {
    let done = state.store.close_flag(id, who.by(), now()).await.map_err(|error| problem(&error))?;
    if done { Ok(StatusCode::NO_CONTENT) } else { Err(none("open flag")) }
}
