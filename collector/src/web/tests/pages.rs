//! Pages: what they show, and that nothing of an event becomes markup.

use http::{Method, StatusCode, header};

use super::{HOSTILE, World, id};
use crate::store::Role;

fn paths(world: &World) -> Vec<String> {
    let at = world.batch;
    vec![
        "/".to_owned(),
        "/view/alerts".to_owned(),
        "/view/alerts?text=%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
        format!("/view/alerts/{}", id(1)),
        "/view/events".to_owned(),
        "/view/events?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
        "/view/events?type=%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
        format!("/view/events/{}/{}/{}/1", at.node, at.epoch, at.seq),
        format!("/view/nodes/{}", world.node.id),
        "/view/rules".to_owned(),
        "/login?next=%22%3E%3Cscript%3Ealert(1)%3C/script%3E".to_owned(),
        "/docs".to_owned(),
    ]
}

#[tokio::test]
async fn nothing_of_an_event_a_node_or_a_query_becomes_markup() {
    let world = World::new().await;
    for path in paths(&world) {
        for role in [Role::Viewer, Role::Admin] {
            let page = world.ask(role, Method::GET, &path, None).await;
            assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.body);
            assert_eq!(page.header(header::CONTENT_TYPE), "text/html; charset=utf-8", "{path}");
            let lower = page.body.to_lowercase();
            assert_eq!(lower.matches("<script").count(), 1, "{path} holds a script that is not ours");
            assert!(!lower.contains("<img"), "{path}");
            assert!(!page.body.contains("\"'>"), "{path} lets a value out of its attribute");
        }
    }
}

#[tokio::test]
async fn a_problem_page_escapes_what_it_quotes() {
    let world = World::new().await;
    let request = http::Request::get("/%3Cscript%3Ealert(1)%3C/script%3E")
        .header(header::HOST, "localhost")
        .header(header::ACCEPT, "text/html")
        .header(header::AUTHORIZATION, format!("Bearer {}", world.tokens[&Role::Viewer]));
    let page = world.send(request.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(page.status, StatusCode::NOT_FOUND);
    assert_eq!(page.body.matches("<script").count(), 1);
}

#[tokio::test]
async fn the_first_page_says_verdict_alerts_nodes_rates_and_what_to_do() {
    let world = World::new().await;
    let page = world.get("/").await.body;
    for part in [
        "1 critical alert open",
        "Open alerts",
        "What to do next",
        "Noisiest rules",
        "Events per minute",
        "<svg",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    assert!(page.contains(&format!("/view/alerts/{}", id(1))));
    assert!(page.contains(&format!("/view/nodes/{}", world.node.id)));
    assert!(!page.contains("auditflow-agent join"), "a node has joined");
}

#[tokio::test]
async fn the_alerts_page_shows_events_rule_reason_and_proof() {
    let world = World::new().await;
    let page = world.get(&format!("/view/alerts/{}", id(0))).await.body;
    for part in [
        "Why it fired",
        "user_id",
        "alice",
        "Proof",
        "verified just now",
        "Rule alice",
        "RULE-0",
        "event_type",
    ] {
        assert!(page.contains(part), "{part} is missing");
    }
    assert!(!page.contains("Acknowledge"), "a viewer can't");
    let page = world.ask(Role::Operator, Method::GET, &format!("/view/alerts/{}", id(0)), None).await.body;
    assert!(page.contains("Acknowledge") && page.contains("method=\"post\""));
}

#[tokio::test]
async fn pages_have_landmarks_labels_and_one_heading() {
    let world = World::new().await;
    for path in paths(&world) {
        let page = world.ask(Role::Admin, Method::GET, &path, None).await.body;
        for part in [
            "<html lang=\"en\">",
            "<main id=\"main\"",
            "href=\"#main\"",
            "<nav aria-label=",
            "aria-live=\"polite\"",
        ] {
            assert!(page.contains(part), "{path}: {part} is missing");
        }
        assert_eq!(page.matches("<h1").count(), 1, "{path}");
        for input in page.split("<input").skip(1) {
            let tag = input.split('>').next().unwrap();
            let before = &page[..page.find(input).unwrap()];
            let labelled =
                before.rfind("<label").is_some_and(|open| before[open..].find("</label>").is_none());
            assert!(labelled || tag.contains("type=\"hidden\""), "{path}: <input{tag}> has no label");
        }
        for handler in [" onclick=", " onload=", " style=\"", "javascript:"] {
            assert!(!page.contains(handler), "{path}: {handler} can't work under our policy");
        }
    }
}

#[tokio::test]
async fn without_nodes_the_first_page_is_the_way_to_the_first_one() {
    let world = World::new().await;
    // The same page over a store in which nothing has happened.
    let directory = tempfile::tempdir().unwrap();
    let options = crate::store::sqlite::Options::for_cap(1 << 30);
    let empty = crate::store::sqlite::SqliteStore::open(directory.path(), options).unwrap();
    let state = crate::web::AppState::new(crate::web::Surroundings {
        store: std::sync::Arc::new(empty),
        site_keys: world.state.site_keys.clone(),
        health: world.state.health.clone(),
        metrics: world.state.metrics.clone(),
        rules: world.state.rules.clone(),
        anonymous: true,
        session: std::time::Duration::from_mins(1),
        names: Vec::new(),
        agents_port: 17_443,
        option: " --data /srv/af".to_owned(),
        stop: world.state.stop.clone(),
    });
    let request =
        http::Request::get("/").header(header::HOST, "localhost").body(axum::body::Body::empty()).unwrap();
    let answer = tower::ServiceExt::oneshot(crate::web::router(state), request).await.unwrap();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
    let page = String::from_utf8(body.to_vec()).unwrap();
    assert!(page.contains("No node has joined yet"));
    assert!(page.contains("auditflow-collector token create --data /srv/af"));
    assert!(page.contains("auditflow-agent join https://COLLECTOR:17443 TOKEN"));
}

#[tokio::test]
async fn hostile_text_is_shown_as_it_is() {
    let world = World::new().await;
    let page = world.get(&format!("/view/nodes/{}", world.node.id)).await.body;
    let escaped =
        HOSTILE.replace('&', "&#38;").replace('<', "&#60;").replace('>', "&#62;").replace('\'', "&#39;");
    assert!(page.contains(&escaped), "the host name as text");
}
