//! Server-sent events over the wire.

use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use http::{Request, Response, header};
use tower::ServiceExt;

use super::{World, id};
use crate::store::{AlertStatus, By, Role, StatusChange};
use crate::testing::at;

/// A stream and what was read of it.
struct Listening {
    stream: BodyDataStream,
    read: String,
}

impl Listening {
    async fn open(world: &World, last: Option<&str>) -> Self {
        let mut request = Request::get("/api/v1/stream")
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {}", world.tokens[&Role::Viewer]));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer: Response<Body> =
            world.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { stream: answer.into_body().into_data_stream(), read: String::new() }
    }

    /// Reads on until a whole event of this name is there; its id and data.
    async fn event(&mut self, name: &str) -> (String, serde_json::Value) {
        loop {
            while let Some(end) = self.read.find("\n\n") {
                let event = self.read[..end].to_owned();
                self.read.drain(..end + 2);
                let field = |key: &str| event.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
                if field("event:") == Some(name) {
                    let data = serde_json::from_str(field("data:").unwrap()).unwrap();
                    return (field("id:").unwrap().to_owned(), data);
                }
            }
            let bytes = self.stream.next().await.expect("the stream ended").unwrap();
            self.read.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

async fn change(world: &World, index: u128) {
    let change = StatusChange { status: Some(AlertStatus::Acknowledged), ..StatusChange::default() };
    assert!(world.store.set_alert_status(id(index), change, By::user("olga"), at(5)).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_told_and_who_comes_back_hears_what_was_missed() {
    let world = World::new().await;
    let (store, changes, stop) = (world.store.clone(), world.store.changes(), world.state.stop.clone());
    let state = world.state.clone();
    let following = tokio::spawn(async move { state.hub.follow(&*store, changes, &stop).await });
    let mut first = Listening::open(&world, None).await;
    change(&world, 0).await;
    let (seen, notice) = first.event("alert_changed").await;
    assert_eq!(notice["alert"]["alert_id"], id(0).to_string());
    assert_eq!(notice["alert"]["status"], "acknowledged");
    drop(first);

    let mut other = Listening::open(&world, Some(&seen)).await;
    change(&world, 1).await;
    let (next, _) = other.event("alert_changed").await;
    drop(other);
    let mut again = Listening::open(&world, Some(&seen)).await;
    let (missed, notice) = again.event("alert_changed").await;
    assert_eq!((missed, notice["alert"]["alert_id"].as_str()), (next, Some(&*id(1).to_string())));

    world.state.stop.cancel();
    following.await.unwrap();
    assert!(again.stream.next().await.is_none(), "a stop ends streams");
}

#[tokio::test]
async fn an_id_of_another_run_or_none_of_ours_is_told_to_reload() {
    let world = World::new().await;
    for last in ["12-7", "nonsense"] {
        let mut listening = Listening::open(&world, Some(last)).await;
        let (id, notice) = listening.event("reload").await;
        assert_eq!(notice["kind"], "reload");
        assert!(Listening::open(&world, Some(&id)).await.read.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_events_are_told_in_sum() {
    let mut world = World::new().await;
    let (store, changes, stop) = (world.store.clone(), world.store.changes(), world.state.stop.clone());
    let state = world.state.clone();
    tokio::spawn(async move { state.hub.follow(&*store, changes, &stop).await });
    let mut listening = Listening::open(&world, None).await;
    let batches: Vec<_> = (0..3).map(|second| world.node.logins(&[second, second]).arrival()).collect();
    world.store.store_batches(batches).await.unwrap();
    let mut events = 0;
    while events < 6 {
        events += listening.event("events_stored").await.1["events"].as_u64().unwrap();
    }
    assert_eq!(events, 6);
    world.state.stop.cancel();
}
