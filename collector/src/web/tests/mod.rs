//! Page and API through the whole router, over a real store.

mod access;
mod api;
mod audit;
mod compat;
mod pages;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use auditflow_event::{EventJson, HostFacts};
use auditflow_rules::{Current, RuleSet};
use auditflow_service::health::Health;
use auditflow_service::metrics::Metrics;
use auditflow_wire::NodeFacts;
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use super::access::new_api_token;
use super::{AppState, Surroundings, router};
use crate::detect::Rules;
use crate::site::password;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{
    AlertRule, BatchFindings, BatchKey, By, Enrolment, EventRef, JoinToken, NewAlert, Pass, Role, Store, User,
};
use crate::testing::{TestNode, at};

/// What an attacker would like to see as markup.
const HOSTILE: &str = "<script>alert(1)</script>'><img src=x onerror=alert(1)>{{7*7}}";
/// The same within JSON, with a quotation mark too.
const HOSTILE_JSON: &str = "<script>alert(1)</script>\\\"'><img src=x onerror=alert(1)>{{7*7}}";
const PASSWORD: &str = "correct horse battery staple";

/// A store with a node, a batch of hostile events and their alerts, and the router over it.
struct World {
    _directory: TempDir,
    store: Arc<dyn Store>,
    state: AppState,
    router: Router,
    node: TestNode,
    batch: BatchKey,
    tokens: BTreeMap<Role, String>,
}

/// An answer, read whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl World {
    async fn new() -> Self {
        Self::with(false).await
    }

    async fn with(anonymous: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path(), Options::for_cap(1 << 30)).unwrap();
        let store: Arc<dyn Store> = Arc::new(store);
        let mut node = TestNode::new(1);
        let labels = [("rack".to_owned(), HOSTILE.to_owned())];
        node.about = NodeFacts::new(HOSTILE, HOSTILE, HOSTILE, HOSTILE, labels);
        enrol(&store, &node).await;
        store.apply_state(node.state(Vec::new()), at(1)).await.unwrap();
        let events = [
            node.event(1, "user_login", "alice", "sshd"),
            node.event(2, "file_modified", HOSTILE_JSON, HOSTILE_JSON),
        ];
        let batch = node.seal(&events);
        store.store_batches(vec![batch.arrival()]).await.unwrap();
        let key = batch.key();
        let alerts = (0..).zip(&events).map(|(index, event)| alert(key, index, event)).collect();
        let findings = BatchFindings {
            rule_set: "v1".to_owned(),
            pass: Pass::First,
            detections: Vec::new(),
            alerts,
            dirty: Vec::new(),
        };
        store.record_detections(key, findings).await.unwrap();
        let mut tokens = BTreeMap::new();
        for role in [Role::Viewer, Role::Operator, Role::Admin] {
            let (token, secret) = new_api_token(role.name(), role, "test", at(0), None).unwrap();
            store.add_api_token(token, secret.hash(), By::COLLECTOR).await.unwrap();
            tokens.insert(role, secret.reveal());
        }
        let user = User {
            name: "olga".to_owned(),
            role: Role::Operator,
            password_hash: password::hash(PASSWORD).unwrap(),
            created_at: at(0),
            disabled_at: None,
        };
        store.set_user(user, By::COLLECTOR, at(0)).await.unwrap();
        let (_, site) = crate::testing::site();
        let state = AppState::new(Surroundings {
            store: Arc::clone(&store),
            site_keys: site.keys.clone(),
            health: Health::requiring(&["store"]),
            metrics: Metrics::new("1").unwrap(),
            rules: Current::fixed(Rules::new(RuleSet::empty())),
            anonymous,
            session: Duration::from_hours(1),
            names: vec!["audit.example.org".to_owned()],
            agents_port: 7443,
            option: " --data /srv/af".to_owned(),
            stop: CancellationToken::new(),
        });
        let router = router(state.clone());
        Self { _directory: directory, store, state, router, node, batch: key, tokens }
    }

    /// Sends a request as it is.
    async fn send(&self, request: Request<Body>) -> Answer {
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    /// Asks with the token of a role.
    async fn ask(&self, role: Role, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:7480");
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.tokens[&role]));
        let body = match body {
            Some(value) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(value.to_string())
            }
            None => Body::empty(),
        };
        self.send(request.body(body).unwrap()).await
    }

    /// Looks, as a viewer.
    async fn get(&self, path: &str) -> Answer {
        self.ask(Role::Viewer, Method::GET, path, None).await
    }
}

async fn enrol(store: &Arc<dyn Store>, node: &TestNode) {
    let token = JoinToken { secret_hash: [5; 32], created_at: at(0), expires_at: at(100), uses_left: 1 };
    store.add_join_token(token, By::COLLECTOR).await.unwrap();
    let enrolment = Enrolment {
        node: node.id,
        token: [5; 32],
        key: node.key.public(),
        hostname: HOSTILE.to_owned(),
        version: HOSTILE.to_owned(),
        fingerprint: "board".to_owned(),
        former: None,
        origin: None,
        now: at(1),
    };
    store.enrol(enrolment).await.unwrap();
}

/// An alert that rests on one event.
fn alert(batch: BatchKey, index: u32, event: &auditflow_event::Event) -> NewAlert {
    let BatchKey { node, epoch, seq } = batch;
    let meaning = event.meaning();
    let user = meaning.user_id.as_deref().unwrap_or_default().to_owned();
    let host = HostFacts::default();
    let copy = serde_json::from_str(&EventJson { event, host: Some(&host) }.to_text()).unwrap();
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    NewAlert {
        alert_id: Uuid::from_u128(u128::from(index) + 1),
        correlation_id: event.id.to_string(),
        fingerprint: "0123456789abcdef".to_owned(),
        rule: AlertRule {
            id: format!("RULE-{index}"),
            name: format!("Rule {user}"),
            description: format!("Looks for {user}"),
            level: "high".to_owned(),
            version: "v1".to_owned(),
        },
        group: None,
        stamp: Some(event.time),
        timestamp: event.time,
        severity: if index == 0 { "WARNING" } else { "CRITICAL" }.to_owned(),
        alert_type: "SECURITY".to_owned(),
        triggered_by: object(json!({ "actor_type": "USER", "actor_id": user, "client_ip": "10.0.0.1" })),
        impacted_resource: object(
            json!({ "resource_type": "FILE", "resource_id": user, "server_hostname": "web-1" }),
        ),
        action_observed: "LOGIN_FAILURE".to_owned(),
        source_service_name: "sshd".to_owned(),
        server_hostname: "web-1".to_owned(),
        node: Some(node),
        description: format!("Rule {user}: it happened"),
        evidence: vec![EventRef { node, epoch, seq, index, event_id: event.id }],
        events: vec![copy],
        metadata: object(
            json!({ "matched": [{ "selection": "s", "field": "user_id", "value": user }], "tags": [user] }),
        ),
    }
}

/// The id of the alert with this place.
fn id(index: u128) -> Uuid {
    Uuid::from_u128(index + 1)
}

/// A metadata map for asserting.
fn keys(value: &Map<String, Value>) -> Vec<&str> {
    value.keys().map(String::as_str).collect()
}
