//! The API's description, from the code that answers, and a page to read it.

use std::future::ready;
use std::sync::Arc;

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, Info, OpenApi, OpenApiBuilder, Tag};

use crate::web::{AppState, pages};

/// The description of every route, as `reference openapi` prints it.
pub fn document() -> OpenApi {
    super::router().split_for_parts().1
}

/// Title, tags and how to be let in.
pub(super) fn frame() -> OpenApi {
    let mut info = Info::new("AuditFlow collector", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Alerts, events, nodes and rules. Times are RFC 3339 in UTC. What a list gives as “next” is asked for as “cursor”. \
         Errors are problem details (RFC 9457). Looking needs the role viewer, handling alerts operator, managing nodes \
         and reading the audit trail admin."
            .to_owned(),
    );
    let tag = |name: &str, description: &str| {
        let mut tag = Tag::new(name);
        tag.description = Some(description.to_owned());
        tag
    };
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    OpenApiBuilder::new()
        .info(info)
        .components(Some(ComponentsBuilder::new().security_scheme("token", bearer).build()))
        .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]))
        .tags(Some([
            tag("alerts", "What the rules found, and what people make of it"),
            tag("events", "What the nodes saw"),
            tag("nodes", "Who sends, and how complete it is"),
            tag("rules", "What is looked for"),
            tag("audit", "Who changed what"),
            tag("summary", "All of it on one screen"),
            tag("stream", "What changes, as it changes"),
            tag("compatibility", "As the ancestor's notification service answers"),
            tag("health", "For probes and Prometheus"),
        ]))
        .build()
}

/// The routes that show a description.
pub(in crate::web) fn router(document: &OpenApi) -> Router<AppState> {
    let text: Arc<str> = serde_json::to_string_pretty(document).unwrap_or_default().into();
    let page: Arc<str> = pages::docs::render(document).into();
    Router::new()
        .route("/api/openapi.json", get(move || ready(answer("application/json", &text))))
        .route("/docs", get(move || ready(answer("text/html; charset=utf-8", &page))))
}

fn answer(kind: &'static str, text: &str) -> Response {
    ([(header::CONTENT_TYPE, kind)], text.to_owned()).into_response()
}
