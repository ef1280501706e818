//! The API's own resources.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use utoipa::openapi::path::PathItem;

use super::{HOSTILE, World, id};
use crate::proof::checkpoint::Checkpoints;
use crate::store::{Limits, Role};
use crate::testing::at;
use crate::web::api::openapi;

fn ids(page: &Value) -> Vec<String> {
    let alerts = page["alerts"].as_array().unwrap();
    alerts.iter().map(|alert| alert["alert_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn alerts_are_found_by_each_filter() {
    let world = World::new().await;
    let node = world.node.id;
    let (first, second, both) = (vec![id(0)], vec![id(1)], vec![id(1), id(0)]);
    let cases = [
        (String::new(), &both),
        ("severity=critical".to_owned(), &second),
        ("type=SECURITY".to_owned(), &both),
        ("type=OTHER".to_owned(), &vec![]),
        ("rule=RULE-0".to_owned(), &first),
        ("host=web-1".to_owned(), &both),
        (format!("node={node}"), &both),
        ("user=alice".to_owned(), &first),
        ("from=2026-11-23T12:00:02Z".to_owned(), &second),
        ("to=2026-11-23T12:00:01Z".to_owned(), &first),
        ("text=ALICE".to_owned(), &first),
        ("text=onerror".to_owned(), &second),
        ("status=open".to_owned(), &both),
        ("status=resolved".to_owned(), &vec![]),
        ("severity=&status=&node=&limit=".to_owned(), &both),
    ];
    for (query, expected) in cases {
        let found = world.get(&format!("/api/v1/alerts?{query}")).await;
        assert_eq!(found.status, StatusCode::OK, "{query}: {}", found.body);
        let expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        assert_eq!(ids(&found.json()), expected, "{query}");
    }
    for query in ["status=nonsense", "node=x", "from=yesterday", "cursor=1", "limit=many"] {
        assert_eq!(
            world.get(&format!("/api/v1/alerts?{query}")).await.status,
            StatusCode::BAD_REQUEST,
            "{query}"
        );
    }
}

#[tokio::test]
async fn pages_of_alerts_follow_one_another_without_gap_or_repetition() {
    let world = World::new().await;
    let first = world.get("/api/v1/alerts?limit=1").await.json();
    let next = first["next"].as_str().unwrap();
    let second = world.get(&format!("/api/v1/alerts?limit=1&cursor={next}")).await.json();
    assert_eq!([ids(&first), ids(&second)].concat(), [id(1).to_string(), id(0).to_string()]);
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test]
async fn an_alert_says_why_and_proves_it() {
    let world = World::new().await;
    let alert = world.get(&format!("/api/v1/alerts/{}", id(0))).await.json();
    assert_eq!(
        alert["metadata"]["matched"][0],
        json!({ "selection": "s", "field": "user_id", "value": "alice" })
    );
    assert_eq!(alert["event_copies"][0]["user_id"], "alice");
    let proof = &alert["proof"][0];
    assert_eq!((proof["signature"].as_bool(), proof["payload"].as_str()), (Some(true), Some("verified")));
    assert_eq!(proof["seq"].as_u64(), Some(world.batch.seq.get()));
    assert_eq!(alert["evidence"][0]["index"], 0);
}

#[tokio::test]
async fn what_a_checkpoint_stands_for_is_shown_as_such() {
    let world = World::new().await;
    let limits = Limits { max_bytes: u64::MAX, max_age_seconds: 60 };
    let (later, keys) = (at(20 * 86_400), world.state.site_keys.clone());
    world.store.retain(limits, later).await.unwrap();
    let mut checkpoints = Checkpoints::new(std::sync::Arc::clone(&world.store), keys.clone());
    let stop = tokio_util::sync::CancellationToken::new();
    assert_eq!(checkpoints.pass(limits, later, &stop).await.unwrap().numbers, 1);

    let alert = world.get(&format!("/api/v1/alerts/{}", id(0))).await.json();
    let proof = &alert["proof"][0];
    assert_eq!((proof["signature"].as_bool(), proof["payload"].as_str()), (Some(true), Some("checkpointed")));
    assert_eq!(proof["key"], keys.get().signing.id().to_string());
    assert_eq!((&proof["digest"], &proof["checkpointed_at"]), (&Value::Null, &json!(later.to_string())));
    assert_eq!(alert["event_copies"][0]["user_id"], "alice");
    let page = world.get(&format!("/view/alerts/{}", id(0))).await.body;
    assert!(page.contains("the site’s checkpoint stands for 1 header"), "{page}");

    let epochs = world.get(&format!("/api/v1/nodes/{}/epochs", world.node.id)).await.json();
    let of = |name: &str| epochs[0][name].as_u64();
    assert_eq!((of("stored_through"), of("checkpointed_through")), (Some(1), Some(1)));
    let page = world.get(&format!("/view/nodes/{}", world.node.id)).await.body;
    assert!(page.contains("1–1 (2026-12-13 12:00:00)"), "{page}");
    assert_eq!(world.get("/api/v1/nodes/zz/epochs").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn people_set_status_and_note_and_absent_parts_stay() {
    let world = World::new().await;
    let path = format!("/api/v1/alerts/{}", id(0));
    let patch = |body: Value| world.ask(Role::Operator, Method::PATCH, &path, Some(body));
    let alert = patch(json!({ "status": "false_positive", "note": "a test" })).await.json();
    assert_eq!((alert["status"].as_str(), alert["note"].as_str()), (Some("false_positive"), Some("a test")));
    let alert = patch(json!({ "assignee": "olga" })).await.json();
    assert_eq!(
        (alert["status"].as_str(), alert["assignee"].as_str()),
        (Some("false_positive"), Some("olga"))
    );
    let alert = patch(json!({ "note": "" })).await.json();
    assert_eq!(alert["note"], Value::Null);
    for body in [json!({ "status": "nonsense" }), json!({ "stats": "open" }), json!(7)] {
        let status = patch(body.clone()).await.status;
        assert!(
            status == StatusCode::BAD_REQUEST || status == StatusCode::UNPROCESSABLE_ENTITY,
            "{body}: {status}"
        );
    }
    let missing = format!("/api/v1/alerts/{}", id(9));
    let answer = world.ask(Role::Operator, Method::PATCH, &missing, Some(json!({ "status": "open" }))).await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn events_are_found_and_opened_by_their_place() {
    let world = World::new().await;
    let all = world.get("/api/v1/events").await.json();
    assert_eq!(all["events"].as_array().unwrap().len(), 2);
    assert_eq!((all["partial"].as_bool(), all["batches_decoded"].as_u64()), (Some(false), Some(1)));
    for (query, expected) in
        [("q=alice", 1), ("q=nobody", 0), ("type=user_login", 1), ("user=alice", 1), ("q=user.name:alice", 1)]
    {
        let found = world.get(&format!("/api/v1/events?{query}")).await.json();
        assert_eq!(found["events"].as_array().unwrap().len(), expected, "{query}");
    }
    let first = world.get("/api/v1/events?limit=1").await.json();
    let rest = world.get(&format!("/api/v1/events?cursor={}", first["next"].as_str().unwrap())).await.json();
    assert_eq!(first["events"][0]["event"]["event_type"], "file_modified");
    assert_eq!(rest["events"][0]["event"]["event_type"], "user_login");

    let at = &rest["events"][0]["at"];
    let place = format!(
        "/api/v1/events/{}/{}/{}/{}",
        at["node"].as_str().unwrap(),
        at["epoch"].as_str().unwrap(),
        at["seq"],
        at["index"]
    );
    let event = world.get(&place).await.json();
    assert_eq!(event["event"]["user_id"], "alice");
    assert_eq!(event["event"]["host"]["name"], HOSTILE, "what its batch says of the node");
    assert_eq!(event["event"]["labels"]["rack"], HOSTILE);
    assert_eq!(world.get(&format!("{place}99")).await.status, StatusCode::NOT_FOUND);
    for query in ["type=nonsense", "cursor=x", "node=x", &format!("q={}", "a+".repeat(20))] {
        assert_eq!(
            world.get(&format!("/api/v1/events?{query}")).await.status,
            StatusCode::BAD_REQUEST,
            "{query}"
        );
    }
}

#[tokio::test]
async fn nodes_and_the_summary_say_how_complete_it_is() {
    let world = World::new().await;
    let nodes = world.get("/api/v1/nodes").await.json();
    assert_eq!((nodes[0]["chain"].as_str(), nodes[0]["batches"].as_u64()), (Some("sound"), Some(1)));
    let one = world.get(&format!("/api/v1/nodes/{}", world.node.id)).await.json();
    assert_eq!(one["id"], world.node.id.to_string());
    assert_eq!(world.get("/api/v1/nodes/zz").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.get(&format!("/api/v1/nodes/{}", "0".repeat(32))).await.status, StatusCode::NOT_FOUND);
    let summary = world.get("/api/v1/summary").await.json();
    assert_eq!(summary["nodes"], 1);
    assert_eq!(summary["open_alerts"][0], json!({ "severity": "CRITICAL", "alerts": 1 }));
    assert_eq!(summary["events_per_minute"].as_array().unwrap().len(), 60);
}

#[tokio::test]
async fn rules_in_force_are_listed_with_their_text() {
    let world = World::new().await;
    let rules = world.get("/api/v1/rules").await.json();
    assert_eq!(rules["rules"], json!([]));
    assert_eq!(world.get("/api/v1/rules/none").await.status, StatusCode::NOT_FOUND);
}

#[test]
fn the_description_is_openapi_3_1_and_names_each_route_once() {
    let document = serde_json::to_value(openapi::document()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths: BTreeSet<&str> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    let expected = BTreeSet::from([
        "/healthz",
        "/readyz",
        "/metrics",
        "/alerts",
        "/alerts/{alert_id}",
        "/api/v1/audit",
        "/api/v1/summary",
        "/api/v1/alerts",
        "/api/v1/alerts/{alert_id}",
        "/api/v1/events",
        "/api/v1/events/{node}/{epoch}/{seq}/{index}",
        "/api/v1/nodes",
        "/api/v1/nodes/{node}",
        "/api/v1/nodes/{node}/epochs",
        "/api/v1/flags/{flag}/close",
        "/api/v1/rules",
        "/api/v1/rules/{rule}",
        "/api/v1/stream",
    ]);
    assert_eq!(paths, expected);
}

#[test]
fn every_operation_has_an_id_a_tag_a_summary_and_only_schemas_that_exist() {
    let document = openapi::document();
    let mut seen = BTreeSet::new();
    for (path, item) in &document.paths.paths {
        let PathItem { get, post, patch, delete, .. } = item;
        for operation in [get, post, patch, delete].into_iter().flatten() {
            let summary = operation.summary.as_deref().unwrap_or_default();
            assert!(!summary.is_empty() && !summary.ends_with('.'), "{path}: {summary:?}");
            assert_eq!(operation.tags.as_ref().map(Vec::len), Some(1), "{path}");
            let id = operation.operation_id.clone().unwrap();
            assert!(seen.insert(id.clone()), "{path}: {id} is there twice");
            assert!(!operation.responses.responses.is_empty(), "{path}");
        }
    }
    let value = serde_json::to_value(&document).unwrap();
    let text = value.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(value["components"]["schemas"][name].is_object(), "{name} is not described");
    }
}
