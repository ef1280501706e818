//! What programs ask: one file per resource. Every route is described for OpenAPI where it is written.

pub mod alerts;
pub mod audit;
pub mod compat;
pub mod events;
pub mod flags;
pub mod health;
pub mod nodes;
pub mod openapi;
pub mod rules;
pub mod stream;
pub mod summary;

use auditflow_event::Timestamp;
use auditflow_service::problem::Problem;
use axum::extract::{FromRequestParts, Path, Query};
use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;
use utoipa_axum::router::OpenApiRouter;

use super::AppState;
use crate::store::StoreError;

/// Every route of the API, with its description.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::frame())
        .merge(health::router())
        .merge(compat::router())
        .merge(summary::router())
        .merge(alerts::router())
        .merge(events::router())
        .merge(nodes::router())
        .merge(flags::router())
        .merge(rules::router())
        .merge(audit::router())
        .merge(stream::router())
}

/// What the store could not do, as a caller is told.
pub(super) fn problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Busy | StoreError::Closed | StoreError::Away | StoreError::Full(_) => {
            Problem::unavailable(error.to_string())
        }
        _ => Problem::internal(error),
    }
}

/// `axum::extract::Query` whose rejections are problems.
pub struct Asked<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        Ok(Self(asked))
    }
}

/// `axum::extract::Path` whose rejections are problems.
pub struct Named<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(named) = Path::<T>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        Ok(Self(named))
    }
}

/// A value that the text of a parameter stands for; an empty text is none.
pub(super) fn parsed<T: std::str::FromStr>(
    name: &str,
    text: Option<&str>,
    example: &str,
) -> Result<Option<T>, Problem> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else { return Ok(None) };
    let read = text.parse().map(Some);
    read.map_err(|_| Problem::bad_request(format!("{name} is not what it should be: give it as {example}")))
}

/// A time as RFC 3339, or as a browser's date field says it (UTC, without zone).
pub(super) fn time(name: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let padded = text.map(str::trim).map(|text| match text.len() {
        10 if !text.contains('T') => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text.to_owned(),
    });
    parsed(name, padded.as_deref(), "2026-11-23T05:00:00Z")
}

/// A number of things asked for, at least 1 and at most `most`.
pub(super) fn bounded(limit: Option<usize>, usual: usize, most: usize) -> usize {
    limit.unwrap_or(usual).clamp(1, most)
}

/// 404.
pub(super) fn none(what: &str) -> Problem {
    Problem::new(StatusCode::NOT_FOUND).detail(format!("there is no such {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_zone() {
        let five = Some(1_795_410_000_000_000);
        for text in
            ["2026-11-23T05:00:00Z", "2026-11-23T06:00:00+01:00", "2026-11-23T05:00", "2026-11-23T05:00:00"]
        {
            assert_eq!(time("from", Some(text)).unwrap().map(Timestamp::as_micros), five, "{text}");
        }
        assert_eq!(
            time("from", Some("2026-11-23")).unwrap().unwrap().to_string(),
            "2026-11-23T00:00:00.000Z"
        );
        assert_eq!(time("from", Some(" ")).unwrap(), None);
        let problem = time("from", Some("yesterday")).unwrap_err();
        assert!(problem.detail.unwrap().starts_with("from is not"), "names the parameter");
    }
}
