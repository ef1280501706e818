//! The agent's own routes on the admin interface, beside those that every program has.

use std::sync::{Arc, OnceLock};

use auditflow_service::admin::Admin;
use auditflow_service::lifecycle::ReloadTrigger;
use auditflow_service::problem::{JsonBody, Problem};
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::oneshot;
use utoipa::ToSchema;
use utoipa::openapi::{Info, License, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::identity::RotateError;
use crate::pipeline::Command;
use crate::ship::Keyed;
use crate::source::outlet::Commands;
use crate::source::synthetic::{Control, PostError};
use crate::status::AgentStatus;

/// What the routes act on.
#[derive(Clone)]
pub struct Routes {
    /// The pipeline.
    pub commands: Commands<Command>,
    /// The generator, once its source runs; empty for good if it is switched off.
    pub synthetic: Arc<OnceLock<Control>>,
    /// What reloads.
    pub reload: ReloadTrigger,
    /// The way to the collector, once the node has joined.
    pub collector: Arc<OnceLock<Keyed>>,
}

impl Routes {
    /// The routes.
    pub fn router(self) -> OpenApiRouter {
        routes().with_state(self)
    }

    fn generator(&self) -> Result<&Control, Problem> {
        self.synthetic.get().ok_or_else(|| {
            Problem::new(StatusCode::CONFLICT).detail(
                "the generator is switched off; set sources.synthetic.enabled = true and restart the agent",
            )
        })
    }
}

/// The whole admin interface of the agent, described.
pub fn openapi() -> OpenApi {
    let mut document = Admin::openapi::<AgentStatus>().merge_from(routes().into_openapi());
    document.info = Info::builder()
        .title("AuditFlow agent")
        .description(Some("The agent's admin interface, on a Unix socket and optionally on loopback."))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(License::new(env!("CARGO_PKG_LICENSE"))))
        .build();
    document
}

fn routes() -> OpenApiRouter<Routes> {
    OpenApiRouter::new()
        .routes(routes!(generate_event))
        .routes(routes!(rate, set_rate))
        .routes(routes!(test_alert))
        .routes(routes!(reload))
        .routes(routes!(rotate_key))
}

/// How many events the generator makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rate {
    /// Events per second.
    #[schema(minimum = 0, maximum = 100_000, example = 100)]
    pub rate: u32,
}

/// A posted event was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// `success`, as the ancestor's generator answers.
    pub status: String,
    /// Its id (UUID), under which the collector stores it.
    pub event_id: String,
}

/// Takes one event in the ancestor's shape
///
/// `event_type` is required. `event_id`, `timestamp` and `source_service` are set here; `server_hostname`, `user_id`,
/// `action_result`, `severity` and `details` have defaults.
#[utoipa::path(post, path = "/generate_event", tag = "synthetic", request_body = Object, responses(
    (status = 202, description = "It is on its way", body = Accepted),
    (status = 400, description = "It is no event, or has no event_type", body = Problem),
    (status = 409, description = "The generator is switched off", body = Problem),
    (status = 503, description = "The pipeline is full", body = Problem),
))]
async fn generate_event(
    State(routes): State<Routes>,
    JsonBody(event): JsonBody<Map<String, Value>>,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    match routes.generator()?.post(event) {
        Ok(id) => {
            let accepted = Accepted { status: "success".to_owned(), event_id: id.to_string() };
            Ok((StatusCode::ACCEPTED, Json(accepted)))
        }
        Err(error @ PostError::Full) => Err(Problem::unavailable(error.to_string())),
        Err(error) => Err(Problem::bad_request(error.to_string())),
    }
}

/// How many events the generator makes
#[utoipa::path(get, path = "/rate", tag = "synthetic", responses(
    (status = 200, description = "The rate", body = Rate),
    (status = 409, description = "The generator is switched off", body = Problem),
))]
async fn rate(State(routes): State<Routes>) -> Result<Json<Rate>, Problem> {
    Ok(Json(Rate { rate: routes.generator()?.rate() }))
}

/// Changes how many events the generator makes, until the next change or restart
#[utoipa::path(put, path = "/rate", tag = "synthetic", request_body = Rate, responses(
    (status = 200, description = "The new rate", body = Rate),
    (status = 400, description = "It is above 100,000 or no number", body = Problem),
    (status = 409, description = "The generator is switched off", body = Problem),
))]
async fn set_rate(
    State(routes): State<Routes>,
    JsonBody(rate): JsonBody<Rate>,
) -> Result<Json<Rate>, Problem> {
    let generator = routes.generator()?;
    generator.set_rate(rate.rate).map_err(|error| Problem::bad_request(error.to_string()))?;
    Ok(Json(rate))
}

/// The test event that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestAlert {
    /// Its id (UUID).
    pub event_id: String,
}

/// Makes a harmless event on which a shipped rule alerts
#[utoipa::path(post, path = "/test-alert", tag = "agent", responses(
    (status = 202, description = "It is on its way", body = TestAlert),
    (status = 503, description = "The agent is stopping", body = Problem),
))]
async fn test_alert(State(routes): State<Routes>) -> Result<(StatusCode, Json<TestAlert>), Problem> {
    let (reply, answer) = oneshot::channel();
    let stopping = || Problem::unavailable("the agent is stopping");
    routes.commands.send(Command::TestAlert(reply)).map_err(|_| stopping())?;
    let id = answer.await.map_err(|_| stopping())?;
    Ok((StatusCode::ACCEPTED, Json(TestAlert { event_id: id.to_string() })))
}

/// A reload was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reloading {
    /// `reloading`.
    pub status: String,
}

/// Reads rules and identity again, as SIGHUP does; what comes of it shows in the health
#[utoipa::path(post, path = "/reload", tag = "agent", responses(
    (status = 202, description = "It is under way", body = Reloading),
))]
async fn reload(State(routes): State<Routes>) -> (StatusCode, Json<Reloading>) {
    routes.reload.request();
    (StatusCode::ACCEPTED, Json(Reloading { status: "reloading".to_owned() }))
}

/// The node's new key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewKey {
    /// Its id, 16 hexadecimal digits.
    pub key: String,
    /// Why the collector has not taken it yet; it is presented again before the next batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untold: Option<String>,
}

/// Signs with a new key from now on, and presents it to the collector
#[utoipa::path(post, path = "/rotate-key", tag = "agent", responses(
    (status = 200, description = "The new key is in use", body = NewKey),
    (status = 409, description = "The node has not joined a site, or earlier keys wait to be presented", body = Problem),
    (status = 503, description = "The disk failed, or the agent is stopping; the key is the one of before", body = Problem),
))]
async fn rotate_key(State(routes): State<Routes>) -> Result<Json<NewKey>, Problem> {
    let (reply, answer) = oneshot::channel();
    let stopping = || Problem::unavailable("the agent is stopping");
    routes.commands.send(Command::RotateKey(reply)).map_err(|_| stopping())?;
    let key = answer.await.map_err(|_| stopping())?.map_err(|error| match error {
        RotateError::Spool(_) | RotateError::Identity(_) => Problem::unavailable(error.to_string()),
        refused => Problem::new(StatusCode::CONFLICT).detail(refused.to_string()),
    })?;
    let untold = match routes.collector.get() {
        Some(collector) => collector.present().await.err().map(|error| error.to_string()),
        None => Some("the agent does not ship yet".to_owned()),
    };
    Ok(Json(NewKey { key: key.to_string(), untold }))
}
