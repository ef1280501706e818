//! What the ancestor's dashboard and scripts rely on.

use http::{Method, StatusCode, header};

use super::{World, id, keys};
use crate::store::Role;

#[tokio::test]
async fn alerts_have_the_ancestors_names_newest_first() {
    let world = World::new().await;
    let answer = world.get("/alerts").await;
    assert_eq!((answer.status, answer.header(header::CONTENT_TYPE)), (StatusCode::OK, "application/json"));
    let alerts = answer.json();
    let ids: Vec<&str> =
        alerts.as_array().unwrap().iter().map(|alert| alert["alert_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [id(1).to_string(), id(0).to_string()]);
    let mut alert = alerts[1].clone();
    // By the collector's own clock.
    alert["received_at"] = "now".into();
    insta::assert_json_snapshot!("an_alert_in_the_ancestors_names", alert);
}

#[tokio::test]
async fn limit_and_offset_page_and_are_bounded() {
    let world = World::new().await;
    let cases = [
        ("/alerts?limit=1", vec![id(1)]),
        ("/alerts?limit=1&offset=1", vec![id(0)]),
        ("/alerts?offset=2", vec![]),
        ("/alerts?limit=1000000", vec![id(1), id(0)]),
        ("/alerts?limit=0", vec![id(1)]),
    ];
    for (path, expected) in cases {
        let alerts = world.get(path).await.json();
        let ids = alerts
            .as_array()
            .unwrap()
            .iter()
            .map(|alert| alert["alert_id"].as_str().unwrap().parse().unwrap());
        assert_eq!(ids.collect::<Vec<uuid::Uuid>>(), expected, "{path}");
    }
    assert_eq!(world.get("/alerts?limit=many").await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.get("/alerts?offset=-1").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn one_alert_is_200_404_or_400() {
    let world = World::new().await;
    let found = world.get(&format!("/alerts/{}", id(0))).await;
    assert_eq!(
        (found.status, found.json()["alert_id"].as_str().unwrap()),
        (StatusCode::OK, &*id(0).to_string())
    );
    let cases = [
        (format!("/alerts/{}", id(99)), StatusCode::NOT_FOUND),
        ("/alerts/not-a-uuid".to_owned(), StatusCode::BAD_REQUEST),
        ("/alerts/%3Cscript%3E".to_owned(), StatusCode::BAD_REQUEST),
    ];
    for (path, status) in cases {
        let answer = world.get(&path).await;
        assert_eq!(
            (answer.status, answer.header(header::CONTENT_TYPE)),
            (status, "application/problem+json"),
            "{path}"
        );
        assert_eq!(keys(answer.json().as_object().unwrap()), ["detail", "status", "title", "type"]);
    }
}

#[tokio::test]
async fn a_deleted_alert_is_in_no_list_and_stays_readable_by_its_id() {
    let world = World::new().await;
    let path = format!("/api/v1/alerts/{}", id(0));
    assert_eq!(world.ask(Role::Operator, Method::DELETE, &path, None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(world.get("/alerts").await.json().as_array().unwrap().len(), 1);
    assert_eq!(world.get(&format!("/alerts/{}", id(0))).await.status, StatusCode::NOT_FOUND);
    assert!(world.get(&path).await.json()["deleted_at"].is_string());
}

#[tokio::test]
async fn health_names_the_parts_and_metrics_are_prometheus_text() {
    let world = World::new().await;
    let store = world.state.health.part("store");
    store.up();
    let health = world.get("/healthz").await;
    assert_eq!(
        (health.status, health.json()["parts"]["store"]["state"].as_str()),
        (StatusCode::OK, Some("up"))
    );
    assert_eq!(world.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE, "it has not begun to run");
    let metrics = world.get("/metrics").await;
    assert_eq!(metrics.header(header::CONTENT_TYPE), "text/plain; version=0.0.4; charset=utf-8");
    assert!(metrics.body.contains("# TYPE auditflow_build_info gauge"));
}
