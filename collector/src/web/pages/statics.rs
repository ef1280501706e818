//! Style sheet, script and icon: inside the program, so that there is nothing to install or to fetch from elsewhere.

use axum::response::{IntoResponse, Response};
use http::header;

const STYLE: &str = include_str!("../../../static/style.css");
const SCRIPT: &str = include_str!("../../../static/page.js");
const ICON: &str = include_str!("../../../static/icon.svg");

/// Asked again after a release at the latest; small enough for that.
const CACHE: &str = "public, max-age=300";

pub(super) async fn style() -> Response {
    answer("text/css; charset=utf-8", STYLE)
}

pub(super) async fn script() -> Response {
    answer("text/javascript; charset=utf-8", SCRIPT)
}

pub(super) async fn icon() -> Response {
    answer("image/svg+xml", ICON)
}

fn answer(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, CACHE)], text).into_response()
}
