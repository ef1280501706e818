//! Alerts as the ancestor's notification service serves them, for its dashboard and for scripts written against it.

use auditflow_service::problem::Problem;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Asked, Named, bounded, none, parsed, problem};
use crate::alert::compat::CompatAlert;
use crate::store::AlertFilter;
use crate::web::AppState;

/// What an answer holds if nothing is asked, and at most.
const USUAL: usize = 100;
const MOST: usize = 200;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// Which alerts.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// At most so many, 1 to 200
    #[param(minimum = 1, maximum = 200, default = 100)]
    limit: Option<usize>,
    /// After so many of the newest
    #[param(minimum = 0, default = 0)]
    offset: Option<u64>,
}

/// Alerts, newest first, as the ancestor lists them
#[utoipa::path(get, operation_id = "list_alerts_compatibly", path = "/alerts", tag = "compatibility", params(Page), responses(
    (status = 200, description = "Alerts that stand, newest first", body = [CompatAlert]),
    (status = 400, description = "A parameter is no number", body = Problem, content_type = "application/problem+json"),
))]
async fn list(
    State(state): State<AppState>,
    Asked(page): Asked<Page>,
) -> Result<Json<Vec<CompatAlert>>, Problem> {
    let limit = bounded(page.limit, USUAL, MOST);
    let offset = page.offset.unwrap_or_default();
    let rows = state.store.alerts(AlertFilter::default(), None, offset, limit).await;
    let rows = rows.map_err(|error| problem(&error))?;
    Ok(Json(rows.into_iter().map(CompatAlert::of).collect()))
}

/// One alert, as the ancestor shows it
#[utoipa::path(get, operation_id = "get_alert_compatibly", path = "/alerts/{alert_id}", tag = "compatibility",
    params(("alert_id" = String, Path, description = "Its id (UUID)")),
    responses(
        (status = 200, description = "The alert", body = CompatAlert),
        (status = 400, description = "The id is no UUID", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none of that id", body = Problem, content_type = "application/problem+json"),
    ))]
async fn get(State(state): State<AppState>, Named(id): Named<String>) -> Result<Json<CompatAlert>, Problem> {
    let id = parsed("alert_id", Some(&id), "a UUID")?.ok_or_else(|| none("alert"))?;
    let row = state.store.alert(id).await.map_err(|error| problem(&error))?;
    let row = row.filter(|row| row.deleted_at.is_none()).ok_or_else(|| none("alert"))?;
    Ok(Json(CompatAlert::of(row)))
}
