//! The admin API over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the functions around the tests are tests too")]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use auditflow_service::admin::{
    self, Admin, AdminConfig, AdminListener, Client, ClientError, ListenError, LogLevelBody,
};
use auditflow_service::health::{Health, HealthReport, PartState, Phase};
use auditflow_service::metrics::Metrics;
use auditflow_service::problem::Problem;
use auditflow_service::telemetry::{self, LogConfig, LogControl};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

/// A program's status, with a type inside that must be described too.
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
struct Status {
    version: String,
    spool: SpoolStatus,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
struct SpoolStatus {
    bytes: u64,
}

fn status() -> Status {
    Status { version: "1.2.3".to_owned(), spool: SpoolStatus { bytes: 17 } }
}

/// Logging can be set up once per process.
fn log() -> LogControl {
    static LOG: OnceLock<LogControl> = OnceLock::new();
    LOG.get_or_init(|| telemetry::init("test", &LogConfig::default(), false).unwrap()).clone()
}

struct Running {
    health: Health,
    directory: tempfile::TempDir,
    tcp: Option<SocketAddr>,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Running {
    async fn start() -> Self {
        Self::start_with(None).await
    }

    async fn start_with(listen: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = AdminConfig {
            socket: Some(directory.path().join("admin.sock")),
            listen: listen.map(|at| at.parse().unwrap()),
        };
        let health = Health::requiring(&["spool"]);
        let admin = Admin { health: health.clone(), metrics: Metrics::new("1.2.3").unwrap(), log: log() };
        let listener = AdminListener::bind(&config).await.unwrap();
        let tcp = listener.local_addr();
        let stop = CancellationToken::new();
        let router = admin::finish(admin.router(|| async { status() }), Admin::openapi::<Status>());
        let serving = tokio::spawn(listener.serve(router, stop.clone()));
        Self { health, directory, tcp, stop, serving }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    fn client(&self) -> Client {
        Client::new(&self.socket())
    }

    /// Head and body of the answer to a request as it goes over the wire.
    async fn raw(&self, request: &str) -> (String, String) {
        exchange(UnixStream::connect(self.socket()).await.unwrap(), request).await
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

fn request(method: &str, path: &str, host: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn the_interface_describes_itself() {
    let program = Running::start().await;
    let description: serde_json::Value = program.client().get("/api/openapi.json").await.unwrap();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    for path in ["/healthz", "/metrics", "/status", "/log-level"] {
        assert!(description["paths"][path].is_object(), "{path} is not described");
    }
}

#[tokio::test]
async fn health_lives_while_a_part_is_down_and_readiness_follows_it() {
    let program = Running::start().await;
    let spool = program.health.part("spool");
    spool.up();
    program.health.enter(Phase::Running);
    let report: HealthReport = program.client().get("/readyz").await.unwrap();
    assert!(report.ready);

    spool.down("disk full", &["keeping events"]);
    let report: HealthReport = program.client().get("/readyz").await.unwrap();
    assert!(!report.ready);
    let (head, body) = program.raw(&request("GET", "/readyz", "x", "")).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    let (head, _) = program.raw(&request("GET", "/healthz", "x", "")).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let report: HealthReport = serde_json::from_str(&body).unwrap();
    assert_eq!(report.parts["spool"].state, PartState::Down);
    assert_eq!(report.parts["spool"].features_lost, ["keeping events"]);
}

#[tokio::test]
async fn hung_part_makes_health_fail() {
    let program = Running::start().await;
    program.health.heartbeat("pipeline", Duration::ZERO);
    let (head, body) = program.raw(&request("GET", "/healthz", "x", "")).await;
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    assert!(body.contains("no sign of life"), "{body}");
}

#[tokio::test]
async fn metrics_are_served_with_version_and_charset() {
    let program = Running::start().await;
    let (head, body) = program.raw(&request("GET", "/metrics", "x", "")).await;
    assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    assert!(body.contains("auditflow_build_info{version=\"1.2.3\"} 1"), "{body}");
    assert_eq!(program.client().get_text("/metrics").await.unwrap().lines().next(), body.lines().next());
}

#[tokio::test]
async fn status_is_the_program_s_own_snapshot() {
    let program = Running::start().await;
    assert_eq!(program.client().get::<Status>("/status").await.unwrap(), status());
}

#[tokio::test]
async fn log_level_is_changed_and_a_bad_one_refused_with_what_to_write() {
    let program = Running::start().await;
    let client = program.client();
    let asked = LogLevelBody { level: "debug,hyper=warn".to_owned() };
    let set: LogLevelBody = client.put("/log-level", &asked).await.unwrap();
    assert_eq!(set, asked);
    let refused = client.put::<LogLevelBody>("/log-level", &json!({"level": "loud"})).await.unwrap_err();
    assert!(matches!(&refused, ClientError::Refused { problem, .. } if problem.status == 400), "{refused}");
    assert!(refused.to_string().contains("write off, error, warn"), "{refused}");
    assert_eq!(client.get::<LogLevelBody>("/log-level").await.unwrap(), asked, "the old one stays");
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let program = Running::start().await;
    let large = format!("{{\"level\": \"{}\"}}", "x".repeat(admin::MAX_BODY_BYTES));
    for (method, path, body, expected) in [
        ("GET", "/nothing", "", 404),
        ("DELETE", "/status", "", 405),
        ("PUT", "/log-level", "{", 400),
        ("PUT", "/log-level", "{\"lvl\": 1}", 422),
        ("PUT", "/log-level", large.as_str(), 413),
    ] {
        let (head, body) = program.raw(&request(method, path, "x", body)).await;
        assert!(head.contains("content-type: application/problem+json"), "{method} {path}: {head}");
        let problem: Problem = serde_json::from_str(&body).unwrap();
        assert_eq!((problem.status, problem.kind.as_str()), (expected, "about:blank"), "{method} {path}");
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{head}");
        assert!(problem.detail.is_some());
    }
}

#[tokio::test]
async fn socket_is_the_owner_s_alone_and_gone_after_the_stop() {
    let program = Running::start().await;
    let socket = program.socket();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(program.directory.path()).unwrap().count(), 1, "nothing temporary stays");
    program.stop.cancel();
    program.serving.await.unwrap().unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn request_that_never_ends_does_not_hold_up_the_stop() {
    let program = Running::start().await;
    let mut half = UnixStream::connect(program.socket()).await.unwrap();
    half.write_all(b"PUT /log-level HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    // Its connection was accepted once a later one is answered.
    program.client().get::<Status>("/status").await.unwrap();
    program.stop.cancel();
    program.serving.await.unwrap().unwrap();
    assert!(!program.directory.path().join("admin.sock").exists());
}

#[tokio::test]
async fn stale_socket_is_replaced_a_live_one_and_other_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let config = AdminConfig { socket: Some(directory.path().join("admin.sock")), listen: None };
    let socket = config.socket.clone().unwrap();

    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let live = AdminListener::bind(&config).await.expect("a stale socket is replaced");

    let refused = AdminListener::bind(&config).await.unwrap_err();
    assert!(matches!(&refused, ListenError::InUse(path) if *path == socket), "{refused}");
    assert!(socket.exists(), "the live one is left alone");
    drop(live);
    assert!(!socket.exists());

    fs::write(&socket, "precious").unwrap();
    let refused = AdminListener::bind(&config).await.unwrap_err();
    assert!(matches!(refused, ListenError::NotASocket(_)), "{refused}");
    assert_eq!(fs::read(&socket).unwrap(), b"precious");
}

#[tokio::test]
async fn socket_of_a_successor_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let config = AdminConfig { socket: Some(directory.path().join("admin.sock")), listen: None };
    let socket = config.socket.clone().unwrap();
    let first = AdminListener::bind(&config).await.unwrap();
    fs::remove_file(&socket).unwrap();
    let _second = AdminListener::bind(&config).await.unwrap();
    drop(first);
    assert!(socket.exists());
}

#[tokio::test]
async fn address_that_others_can_reach_is_refused() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let config = AdminConfig { socket: None, listen: Some(address.parse().unwrap()) };
        let refused = AdminListener::bind(&config).await.unwrap_err();
        assert!(matches!(refused, ListenError::NotLoopback(_)), "{refused}");
    }
}

#[tokio::test]
async fn loopback_address_answers_to_local_hosts_only() {
    let program = Running::start_with(Some("127.0.0.1:0")).await;
    let address = program.tcp.unwrap();
    for (host, expected) in [(address.to_string().as_str(), 200), ("localhost", 200), ("evil.example", 421)] {
        let stream = TcpStream::connect(address).await.unwrap();
        let (head, _) = exchange(stream, &request("GET", "/status", host, "")).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {expected} ")), "{host}: {head}");
    }
}

#[tokio::test]
async fn client_says_what_to_do_when_nobody_answers() {
    let error = Client::new("/nonexistent/admin.sock".as_ref()).get::<Value>("/status").await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/nonexistent/admin.sock") && text.contains("is the program running"), "{text}");
}

#[tokio::test]
async fn client_gives_up_on_a_program_that_hangs() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let _deaf = tokio::net::UnixListener::bind(&socket).unwrap();
    let client = Client::new(&socket).timeout(Duration::from_millis(20));
    let error = client.get::<Value>("/status").await.unwrap_err();
    assert!(error.to_string().contains("no answer within 0.02 s"), "{error}");
}

#[tokio::test]
async fn openapi_describes_every_route_and_the_program_s_status() {
    let admin = Admin { health: Health::requiring(&[]), metrics: Metrics::new("1").unwrap(), log: log() };
    let api = serde_json::to_value(admin.router(|| async { status() }).into_openapi()).unwrap();
    assert!(api["openapi"].as_str().unwrap().starts_with("3.1"));
    for (path, method) in [
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        ("/status", "get"),
        ("/log-level", "get"),
        ("/log-level", "put"),
    ] {
        assert!(api["paths"][path][method]["responses"]["200"].is_object(), "{method} {path} in {api:#}");
    }
    let answer = &api["paths"]["/status"]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
    assert_eq!(answer["$ref"], "#/components/schemas/Status");
    for schema in ["Status", "SpoolStatus", "HealthReport", "PartReport", "Problem", "LogLevelBody"] {
        assert!(api["components"]["schemas"][schema].is_object(), "{schema} in {api:#}");
    }
}
