//! The door for agents: TLS with client certificates, limits, and the few things that may be asked; and for a broker, which
//! asks what agents may do there.
//!
//! Everything is bounded before it is read: connections, the time of a handshake and of a body, its size, how many
//! bodies are held at once (in all and per node). What exceeds a bound is told to come again later and is not waited
//! for. A connection without a client certificate may enrol and nothing else.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use auditflow_event::{NodeId, Timestamp};
use auditflow_service::health::Part;
use auditflow_service::problem::{Problem, unknown_method, unknown_path};
use auditflow_wire::enrol::{CA_PATH, ENROL_PATH, KEYS_PATH, MAX_MESSAGE_LEN, MAX_REKEY_LEN};
use auditflow_wire::frame::{CONTENT_TYPE, HTTP_PATH, MAX_FRAME_LEN};
use axum::body::Body;
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::raised::{self, ALERTS_PATH};
use super::rights::{Kind, Question, RIGHTS_PATH};
use super::{Ingest, IngestError, enrol, rekey};
use crate::bus::connections;
use crate::metrics::IngestMetrics;
use crate::site::authority::Peer;
use crate::site::{Site, authority};
use crate::store::{NodeStatus, Store, StoreError};

/// How much is taken at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; more wait in the kernel's queue.
    pub connections: usize,
    /// Frames held in memory, over all nodes; each has at most 8 MiB.
    pub frames: usize,
    /// Frames held in memory per node.
    pub frames_per_node: usize,
    /// Enrolments at once.
    pub enrolments: usize,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// How long a request's headers and its body may take, each.
    pub body: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            frames: 16,
            frames_per_node: 4,
            enrolments: 4,
            handshake: Duration::from_secs(10),
            body: Duration::from_mins(1),
        }
    }
}

/// Why the door can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address.
    #[error("cannot listen on {address}: choose another [listen] agents or stop what uses it")]
    Address {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate or its use.
    #[error("cannot set up tls: {0}")]
    Tls(String),
}

/// What requests share.
pub struct Door {
    /// Takes frames.
    pub ingest: Arc<Ingest>,
    /// For enrolment.
    pub store: Arc<dyn Store>,
    /// For enrolment.
    pub site: Site,
    /// Counts what is turned away.
    pub metrics: IngestMetrics,
    /// How the store is: what it can't take shows there at once.
    pub health: Part,
    /// The bounds.
    pub limits: Limits,
}

/// An open port that nobody is served at yet.
pub struct Listener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

/// Whom a connection was authenticated as, if as anybody, and where it comes from.
#[derive(Clone, Copy)]
struct Caller {
    peer: Option<Peer>,
    /// A broker of the site.
    is_broker: bool,
    origin: Option<IpAddr>,
}

struct Shared {
    door: Door,
    frames: Arc<Semaphore>,
    enrolments: Semaphore,
    busy: Mutex<HashMap<NodeId, usize>>,
}

impl Listener {
    /// Opens the port. `names` are the host names and addresses that the certificate is made for.
    pub async fn bind(address: SocketAddr, site: &Site, names: &[String]) -> Result<Self, BindError> {
        let tls = tls(site, names).map_err(|error| BindError::Tls(error.to_string()))?;
        let tcp =
            TcpListener::bind(address).await.map_err(|source| BindError::Address { address, source })?;
        Ok(Self { tcp, tls: TlsAcceptor::from(Arc::new(tls)) })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop`, then lets requests that are being answered finish.
    pub async fn serve(self, door: Door, stop: CancellationToken) -> io::Result<()> {
        let limits = door.limits;
        let turns = Arc::new(Semaphore::new(limits.connections));
        let connections = door.metrics.connections.clone();
        let router = router(door);
        let mut open = JoinSet::new();
        loop {
            let turn = tokio::select! {
                () = stop.cancelled() => break,
                turn = Arc::clone(&turns).acquire_owned() => turn.map_err(io::Error::other)?,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            while open.try_join_next().is_some() {}
            match accepted {
                Ok((stream, _)) => {
                    let (tls, router, stop) = (self.tls.clone(), router.clone(), stop.clone());
                    let connections = connections.clone();
                    open.spawn(async move {
                        connections.inc();
                        serve_connection(stream, tls, router, limits, stop).await;
                        connections.dec();
                        drop(turn);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, or a peer that has gone: wait, or this loop is all that runs.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        while open.join_next().await.is_some() {}
        Ok(())
    }
}

/// One connection: handshake, then requests as the peer that its certificate names.
async fn serve_connection(
    stream: TcpStream,
    tls: TlsAcceptor,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    // Small answers to large requests: waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let origin = stream.peer_addr().ok().map(|address| address.ip());
    let handshake = tokio::time::timeout(limits.handshake, tls.accept(stream));
    let stream = tokio::select! {
        () = stop.cancelled() => return,
        shaken = handshake => match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
            Err(_) => return,
        },
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let caller = Caller {
        peer: certificate.and_then(authority::peer_of),
        is_broker: certificate.is_some_and(authority::is_broker),
        origin,
    };
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(limits.body);
    server.http2().timer(TokioTimer::new()).max_concurrent_streams(16).keep_alive_interval(Some(limits.body));
    let service = TowerToHyperService::new(router.layer(Extension(caller)));
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut stopping = false;
    loop {
        tokio::select! {
            done = connection.as_mut() => {
                if let Err(error) = done {
                    tracing::debug!(error, "a connection ended early");
                }
                return;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

fn router(door: Door) -> Router {
    let shared = Arc::new(Shared {
        frames: Arc::new(Semaphore::new(door.limits.frames)),
        enrolments: Semaphore::new(door.limits.enrolments),
        busy: Mutex::new(HashMap::new()),
        door,
    });
    Router::new()
        .route(HTTP_PATH, post(take_frame))
        .route(ENROL_PATH, post(take_enrolment))
        .route(KEYS_PATH, post(take_new_key))
        .route(CA_PATH, get(authority_certificate))
        .route(ALERTS_PATH, get(raised_alert))
        .route(RIGHTS_PATH, get(right_at_broker))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .with_state(shared)
}

async fn take_frame(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    request: axum::extract::Request,
) -> Response {
    let Some(peer) = caller.peer else { return nobody() };
    let Some(_turn) = shared.turn_of(peer.node) else {
        shared.door.metrics.turned_away.with_label_values(&["frames_per_node"]).inc();
        return later(StatusCode::TOO_MANY_REQUESTS, "this node is sending too much at once", 1);
    };
    let Ok(_frame) = Arc::clone(&shared.frames).try_acquire_owned() else {
        shared.door.metrics.turned_away.with_label_values(&["frames"]).inc();
        return later(StatusCode::SERVICE_UNAVAILABLE, "the collector is taking as much as it can", 2);
    };
    let body = match read_body(request.into_body(), MAX_FRAME_LEN, shared.door.limits.body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    match shared.door.ingest.take(peer.into(), body, now()).await {
        Ok(answers) => {
            shared.door.health.up();
            let frame = shared.door.ingest.sign(&answers);
            (answers.status(), [(header::CONTENT_TYPE, CONTENT_TYPE)], frame).into_response()
        }
        Err(IngestError::Malformed(error)) => Problem::bad_request(error.to_string()).into_response(),
        Err(IngestError::Store(error)) => store_failed(&shared, &error),
        Err(error @ IngestError::Stopping) => later(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), 2),
    }
}

async fn take_enrolment(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    request: axum::extract::Request,
) -> Response {
    let (_turn, body) = match shared.enrolling(request, MAX_MESSAGE_LEN).await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    match enrol::enrol(&shared.door.store, &shared.door.site, &body, caller.origin, now()).await {
        Ok(response) => Json(response).into_response(),
        Err(error @ (enrol::EnrolError::Message(_) | enrol::EnrolError::Certificate(_))) => {
            Problem::bad_request(error.to_string()).into_response()
        }
        Err(error @ (enrol::EnrolError::Token | enrol::EnrolError::KeyRetired)) => {
            Problem::new(StatusCode::FORBIDDEN).detail(error.to_string()).into_response()
        }
        Err(enrol::EnrolError::Store(error)) => store_failed(&shared, &error),
        Err(error @ enrol::EnrolError::Random(_)) => Problem::internal(&error).into_response(),
    }
}

async fn take_new_key(State(shared): State<Arc<Shared>>, request: axum::extract::Request) -> Response {
    let (_turn, body) = match shared.enrolling(request, MAX_REKEY_LEN).await {
        Ok(admitted) => admitted,
        Err(response) => return response,
    };
    match rekey::rekey(&shared.door.store, &shared.door.site, &body, now()).await {
        Ok(response) => Json(response).into_response(),
        Err(error @ (rekey::RekeyError::Message(_) | rekey::RekeyError::Certificate(_))) => {
            Problem::bad_request(error.to_string()).into_response()
        }
        Err(rekey::RekeyError::Store(error)) => store_failed(&shared, &error),
        Err(error) => {
            shared.door.metrics.refused.with_label_values(&["new_key"]).inc();
            Problem::new(StatusCode::FORBIDDEN).detail(error.to_string()).into_response()
        }
    }
}

/// Whether an event of the node that asks has raised an alert yet.
async fn raised_alert(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    uri: http::Uri,
) -> Response {
    let Some(peer) = caller.peer else { return nobody() };
    let asked = uri.query().and_then(|query| query.strip_prefix("event_id="));
    let Some(event) = asked.filter(|event| event.len() == 36) else {
        return Problem::bad_request("ask with ?event_id=UUID").into_response();
    };
    match raised::by(&shared.door.store, peer.node, event).await {
        Ok(Some(raised)) => Json(raised).into_response(),
        Ok(None) => Problem::not_found("this event has raised no alert yet").into_response(),
        Err(error) => store_failed(&shared, &error),
    }
}

/// Whether a node may do at the broker what the broker asks; anything but a plain answer is no, and asked again.
async fn right_at_broker(
    State(shared): State<Arc<Shared>>,
    Extension(caller): Extension<Caller>,
    Path(kind): Path<Kind>,
    Query(question): Query<Question>,
) -> Response {
    if !caller.is_broker {
        let detail = "only a broker with a certificate of broker-certificate may ask";
        return Problem::new(StatusCode::UNAUTHORIZED).detail(detail).into_response();
    }
    if let Some((node, password)) = question.login(kind)
        && connections::is_password(&shared.door.site.keys.get(), node, password, now())
    {
        return "allow management".into_response();
    }
    let Some(node) = question.node(kind) else {
        tracing::debug!(?kind, ?question, "the broker asked for what no node may do");
        return "deny".into_response();
    };
    match shared.door.store.node_access(node).await {
        Ok(Some((NodeStatus::Active, _))) => "allow".into_response(),
        Ok(_) => "deny".into_response(),
        Err(error) => store_failed(&shared, &error),
    }
}

fn nobody() -> Response {
    let detail = "a client certificate of this site is needed: join with a token first";
    Problem::new(StatusCode::UNAUTHORIZED).detail(detail).into_response()
}

async fn authority_certificate(State(shared): State<Arc<Shared>>) -> Response {
    let kind = (header::CONTENT_TYPE, "application/pem-certificate-chain");
    ([kind], shared.door.site.authority.pem().to_owned()).into_response()
}

/// A node's place among those that are served; given back when dropped.
struct Turn {
    shared: Arc<Shared>,
    node: NodeId,
}

impl Shared {
    /// A place among the few that are served without a certificate, and the body; or the answer that says no.
    async fn enrolling(
        &self,
        request: axum::extract::Request,
        most: usize,
    ) -> Result<(SemaphorePermit<'_>, Bytes), Response> {
        let Ok(turn) = self.enrolments.try_acquire() else {
            self.door.metrics.turned_away.with_label_values(&["enrolments"]).inc();
            return Err(later(StatusCode::SERVICE_UNAVAILABLE, "others are enrolling right now", 1));
        };
        let body = read_body(request.into_body(), most, self.door.limits.body).await;
        Ok((turn, body.map_err(IntoResponse::into_response)?))
    }

    fn turn_of(self: &Arc<Self>, node: NodeId) -> Option<Turn> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let count = busy.entry(node).or_insert(0);
        if *count >= self.door.limits.frames_per_node {
            return None;
        }
        *count += 1;
        Some(Turn { shared: Arc::clone(self), node })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut busy = self.shared.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = busy.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.node);
            }
        }
    }
}

async fn read_body(body: Body, most: usize, within: Duration) -> Result<Bytes, Problem> {
    let collected = tokio::time::timeout(within, Limited::new(body, most).collect()).await;
    let slow = |_| Problem::new(StatusCode::REQUEST_TIMEOUT).detail("the body took too long");
    match collected.map_err(slow)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            let detail = format!("a body may have at most {most} bytes: send less at once");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE).detail(detail))
        }
        Err(error) => Err(Problem::bad_request(format!("the body broke off: {error}"))),
    }
}

fn store_failed(shared: &Shared, error: &StoreError) -> Response {
    shared.door.metrics.turned_away.with_label_values(&["store"]).inc();
    match error {
        StoreError::Busy | StoreError::Closed => {
            later(StatusCode::SERVICE_UNAVAILABLE, &error.to_string(), 2)
        }
        // Whoever looks after the database says so in health.
        StoreError::Away => {
            later(StatusCode::SERVICE_UNAVAILABLE, "the collector's database is not there", 5)
        }
        _ => {
            shared.door.health.down(&error.to_string(), &["new batches are not taken"]);
            later(StatusCode::SERVICE_UNAVAILABLE, "the collector's store is in trouble", 10)
        }
    }
}

/// Come again in so many seconds.
fn later(status: StatusCode, detail: &str, seconds: u32) -> Response {
    let mut response = Problem::new(status).detail(detail).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

fn tls(site: &Site, names: &[String]) -> Result<ServerConfig, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    roots.add(site.authority.der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let identity = site.authority.server(names)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain, identity.key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Now, by the collector's clock.
fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}
