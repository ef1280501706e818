//! Who may do what, through every kind of credential.

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use serde_json::json;

use super::{Answer, PASSWORD, World, id};
use crate::store::Role;

async fn bare(world: &World, method: &str, path: &str, host: &str) -> StatusCode {
    let request = Request::builder().method(method).uri(path).header(header::HOST, host);
    world.send(request.body(Body::empty()).unwrap()).await.status
}

pub(super) async fn form(world: &World, path: &str, cookie: &str, body: String, site: &str) -> Answer {
    let request = Request::post(path)
        .header(header::HOST, "127.0.0.1:7480")
        .header(header::COOKIE, cookie)
        .header("sec-fetch-site", site)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    world.send(request.body(Body::from(body)).unwrap()).await
}

/// Logs in as the operator; the cookie.
pub(super) async fn log_in(world: &World) -> String {
    let body = format!("user=olga&password={}&next=/view/events", PASSWORD.replace(' ', "+"));
    let answer = form(world, "/login", "", body, "same-origin").await;
    assert_eq!((answer.status, answer.header(header::LOCATION)), (StatusCode::SEE_OTHER, "/view/events"));
    let cookie = answer.header(header::SET_COOKIE).to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=3600"] {
        assert!(cookie.contains(part), "{part} is not in {cookie}");
    }
    assert!(!cookie.contains("Secure"), "this connection has no TLS: {cookie}");
    cookie.split(';').next().unwrap().to_owned()
}

pub(super) async fn with_cookie(world: &World, path: &str, cookie: &str) -> Answer {
    let request = Request::get(path).header(header::HOST, "127.0.0.1:7480").header(header::COOKIE, cookie);
    world.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn each_role_may_do_what_it_may_and_no_more() {
    let world = World::new().await;
    let alert = format!("/api/v1/alerts/{}", id(0));
    let node = format!("/api/v1/nodes/{}", world.node.id);
    let status = json!({ "status": "acknowledged" });
    let active = json!({ "status": "active" });
    let cases = [
        (Method::GET, "/api/v1/alerts", None, Role::Viewer),
        (Method::GET, "/", None, Role::Viewer),
        (Method::PATCH, &*alert, Some(status), Role::Operator),
        (Method::DELETE, &*alert, None, Role::Operator),
        (Method::POST, "/api/v1/flags/1/close", None, Role::Operator),
        (Method::PATCH, &*node, Some(active), Role::Admin),
    ];
    for (method, path, body, needed) in cases {
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            let answer = world.ask(role, method.clone(), path, body.clone()).await;
            let refused = answer.status == StatusCode::FORBIDDEN;
            assert_eq!(refused, role < needed, "{method} {path} as {role:?}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn without_a_credential_only_what_is_open_is_answered() {
    let world = World::new().await;
    let host = "127.0.0.1:7480";
    for path in [
        "/healthz",
        "/metrics",
        "/login",
        "/docs",
        "/api/openapi.json",
        "/static/style.css",
        "/static/page.js",
    ] {
        assert_eq!(bare(&world, "GET", path, host).await, StatusCode::OK, "{path}");
    }
    for path in
        ["/alerts", "/alerts/x", "/api/v1/alerts", "/api/v1/stream", "/api/v1/summary", "/api/nonsense"]
    {
        assert_eq!(bare(&world, "GET", path, host).await, StatusCode::UNAUTHORIZED, "{path}");
    }
    for path in ["/", "/view/alerts", "/view/events?q=a", "/nonsense"] {
        assert_eq!(bare(&world, "GET", path, host).await, StatusCode::SEE_OTHER, "{path}");
    }
    assert_eq!(bare(&world, "POST", "/view/flags/1/close", host).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn anonymous_viewers_look_under_our_own_names_and_change_nothing() {
    let world = World::with(true).await;
    for host in ["127.0.0.1:7480", "localhost:7480", "audit.example.org"] {
        assert_eq!(bare(&world, "GET", "/alerts", host).await, StatusCode::OK, "{host}");
    }
    assert_eq!(
        bare(&world, "GET", "/alerts", "evil.example:7480").await,
        StatusCode::UNAUTHORIZED,
        "rebound name"
    );
    let path = format!("/api/v1/alerts/{}", id(0));
    assert_eq!(bare(&world, "DELETE", &path, "localhost").await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_wrong_token_is_refused_also_where_anonymous_viewers_may_look() {
    let world = World::with(true).await;
    for token in ["Bearer aft_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "Bearer x", "Basic b2xnYTp4"] {
        let request =
            Request::get("/alerts").header(header::HOST, "localhost").header(header::AUTHORIZATION, token);
        let answer = world.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(
            (answer.status, answer.header(header::WWW_AUTHENTICATE)),
            (StatusCode::UNAUTHORIZED, "Bearer")
        );
    }
}

#[tokio::test]
async fn a_session_begins_with_the_password_and_ends_with_logging_out() {
    let world = World::new().await;
    let cookie = log_in(&world).await;
    let page = with_cookie(&world, "/", &cookie).await;
    assert_eq!(page.status, StatusCode::OK);
    let csrf =
        page.body.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();

    let path = format!("/view/alerts/{}/status", id(0));
    let body = |token: &str| format!("csrf={token}&status=resolved&note=done");
    let forged = form(&world, &path, &cookie, body(""), "same-origin").await;
    assert_eq!(forged.status, StatusCode::FORBIDDEN, "without the form's token");
    let foreign = form(&world, &path, &cookie, body(&csrf), "cross-site").await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN, "from another site");
    let done = form(&world, &path, &cookie, body(&csrf), "same-origin").await;
    assert_eq!(done.status, StatusCode::SEE_OTHER);
    let row = world.store.alert(id(0)).await.unwrap().unwrap();
    assert_eq!((row.status.name(), row.note.as_deref()), ("resolved", Some("done")));

    let api = Request::delete(format!("/api/v1/alerts/{}", id(0)))
        .header(header::HOST, "127.0.0.1:7480")
        .header(header::COOKIE, &cookie);
    let refused = world.send(api.body(Body::empty()).unwrap()).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN, "a script without the token in a header");

    let left = form(&world, "/logout", &cookie, format!("csrf={csrf}"), "same-origin").await;
    assert!(left.header(header::SET_COOKIE).contains("Max-Age=0"));
    assert_eq!(with_cookie(&world, "/", &cookie).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn guessing_a_password_is_slowed_down_and_says_nothing_about_names() {
    let world = World::new().await;
    let mut said = Vec::new();
    for user in ["olga", "nobody"] {
        let answer = form(&world, "/login", "", format!("user={user}&password=guess"), "same-origin").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        said.push(answer.body.replace(user, "USER"));
    }
    assert_eq!(said[0], said[1]);
    for _ in 0..4 {
        form(&world, "/login", "", "user=olga&password=guess".to_owned(), "same-origin").await;
    }
    let right = format!("user=olga&password={}", PASSWORD.replace(' ', "+"));
    let late = form(&world, "/login", "", right, "same-origin").await;
    assert_eq!(late.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_cookie_that_came_over_tls_never_goes_without() {
    let world = World::new().await;
    let request = Request::post("/login")
        .header(header::HOST, "audit.example.org")
        .header(header::ORIGIN, "https://audit.example.org")
        .header("x-forwarded-proto", "https")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let body = format!("user=olga&password={}", PASSWORD.replace(' ', "+"));
    let answer = world.send(request.body(Body::from(body)).unwrap()).await;
    assert!(answer.header(header::SET_COOKIE).ends_with("; Secure"), "{}", answer.status);
}

#[tokio::test]
async fn every_answer_tells_the_browser_to_run_and_frame_nothing_foreign() {
    let world = World::new().await;
    for path in ["/", "/nonsense", "/api/v1/alerts", "/static/page.js", "/healthz"] {
        let answer = world.get(path).await;
        let policy = answer.header(header::CONTENT_SECURITY_POLICY);
        assert!(
            policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"),
            "{path}: {policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff", "{path}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let world = World::new().await;
    let note = json!({ "note": "x".repeat(super::super::MAX_BODY_BYTES) });
    let path = format!("/api/v1/alerts/{}", id(0));
    let answer = world.ask(Role::Operator, Method::PATCH, &path, Some(note)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    let long = json!({ "note": "x".repeat(5000) });
    assert_eq!(
        world.ask(Role::Operator, Method::PATCH, &path, Some(long)).await.status,
        StatusCode::BAD_REQUEST
    );
}
