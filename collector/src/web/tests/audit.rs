//! The audit trail through page and API: what is in it, who may read it, and that strangers can't fill it.

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use super::access::{form, log_in};
use super::{HOSTILE, PASSWORD, World, id};
use crate::store::{Act, Action, Actor, By, Role};
use crate::testing::at;
use crate::web::access::tell_refusals;

/// What an admin reads.
async fn entries(world: &World, query: &str) -> Vec<Value> {
    let answer = world.ask(Role::Admin, Method::GET, &format!("/api/v1/audit{query}"), None).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.json()["entries"].as_array().unwrap().clone()
}

async fn guess(world: &World, user: &str) -> StatusCode {
    form(world, "/login", "", format!("user={user}&password=hunter2"), "same-origin").await.status
}

#[tokio::test]
async fn acts_of_people_and_programs_are_told_with_their_names() {
    let world = World::new().await;
    let cookie = log_in(&world).await;
    let page = super::access::with_cookie(&world, "/", &cookie).await;
    let csrf = page.body.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let path = format!("/view/alerts/{}/status", id(0));
    form(&world, &path, &cookie, format!("csrf={csrf}&status=resolved"), "same-origin").await;
    let path = format!("/api/v1/alerts/{}", id(1));
    let status = json!({ "status": "acknowledged" });
    assert_eq!(world.ask(Role::Operator, Method::PATCH, &path, Some(status)).await.status, StatusCode::OK);
    form(&world, "/logout", &cookie, format!("csrf={csrf}"), "same-origin").await;

    let said = entries(&world, "?limit=4").await;
    let text = |index: usize, key: &str| said[index][key].as_str().unwrap().to_owned();
    let actions: Vec<String> = (0..4).map(|index| text(index, "action")).collect();
    assert_eq!(actions, ["session.close", "alert.change", "alert.change", "session.open"]);
    for index in [0, 2, 3] {
        assert_eq!(text(index, "actor"), "user:olga");
    }
    assert!(text(1, "actor").starts_with("token:") && text(1, "actor").ends_with(":operator"));
    assert_eq!((text(2, "object"), &said[2]["detail"]["status"]), (id(0).to_string(), &json!("resolved")));
    assert_eq!(said[0]["previous"], said[1]["digest"]);
}

#[tokio::test]
async fn the_trail_is_paged_and_filtered_and_read_by_admins_only() {
    let world = World::new().await;
    let all = entries(&world, "").await;
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/api/v1/audit?limit=2&cursor={cursor}");
        let page = world.ask(Role::Admin, Method::GET, &path, None).await.json();
        paged.extend(page["entries"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    assert_eq!(paged, all);
    assert_eq!(entries(&world, "?actor=collector&action=user.create").await.len(), 1);
    for wrong in ["?limit=x", "?cursor=x", "?from=x"] {
        let answer = world.ask(Role::Admin, Method::GET, &format!("/api/v1/audit{wrong}"), None).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    for path in ["/api/v1/audit", "/view/audit"] {
        for role in [Role::Viewer, Role::Operator] {
            assert_eq!(world.ask(role, Method::GET, path, None).await.status, StatusCode::FORBIDDEN);
        }
    }
    let said = entries(&world, "?action=access.refuse").await;
    assert_eq!((&said[0]["outcome"], &said[0]["object"]), (&json!("refused"), &json!("GET /api/v1/audit")));
    assert!(!world.get("/").await.body.contains("/view/audit"), "a viewer is not sent there");
}

#[tokio::test]
async fn what_somebody_called_something_does_not_become_markup_on_the_audit_page() {
    let world = World::new().await;
    let by = By { actor: Actor::User(HOSTILE.to_owned()), origin: None };
    let detail = json!({ "note": HOSTILE });
    world.store.record(Act::done(at(9), by, Action::RuleExclude, HOSTILE, detail)).await.unwrap();
    let page = world.ask(Role::Admin, Method::GET, "/view/audit?actor=%22%3E%3Cscript%3E", None).await.body;
    assert!(page.contains("No entry is like that") && page.matches("<script").count() == 1);
    let page = world.ask(Role::Admin, Method::GET, "/view/audit", None).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.body.contains("rule.exclude") && page.body.contains("user.create"));
    assert!(page.body.contains("auditflow-collector audit verify --data /srv/af"));
    assert_eq!((page.body.matches("<script").count(), page.body.matches("<img").count()), (1, 0));
    assert_eq!(page.body.matches("<h1").count(), 1);
}

#[tokio::test]
async fn failed_logins_are_told_once_and_then_counted_and_say_nothing_of_what_was_typed() {
    let world = World::new().await;
    let before = entries(&world, "").await.len();
    for _ in 0..100 {
        guess(&world, "my+secret+password").await;
    }
    guess(&world, &"x".repeat(5000)).await;
    let said = entries(&world, "?action=session.refuse").await;
    assert_eq!((said.len(), &said[0]["actor"], &said[0]["object"]), (1, &json!("anonymous"), &json!("")));
    assert_eq!((&said[0]["outcome"], &said[0]["detail"]["attempts"]), (&json!("refused"), &json!(1)));
    // What was only counted is written when the collector stops.
    world.state.stop.cancel();
    tell_refusals(world.state.clone()).await.unwrap();
    let said = entries(&world, "").await;
    assert_eq!((said.len(), &said[0]["detail"]["attempts"]), (before + 2, &json!(100)));
    let text = format!("{said:?}");
    assert!(!text.contains("secret password") && !text.contains("hunter2") && !text.contains(PASSWORD));
}

#[tokio::test]
async fn a_failed_login_of_a_user_that_there_is_names_the_user() {
    let world = World::new().await;
    assert_eq!(guess(&world, "olga").await, StatusCode::UNAUTHORIZED);
    assert_eq!(entries(&world, "?action=session.refuse").await[0]["object"], "olga");
}

#[tokio::test]
async fn a_wrong_token_is_told_and_not_repeated() {
    let world = World::new().await;
    let token = "aft_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for _ in 0..5 {
        let request = Request::get("/alerts")
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {token}"));
        let answer = world.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(entries(&world, "?action=api_token.refuse").await.len(), 1);
    assert!(!format!("{:?}", entries(&world, "").await).contains(token));
}
