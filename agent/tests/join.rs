//! `join` against a site made for the test: what is trusted, what is sent to whom, and what is kept.

// A test that cannot go on says so by panicking, also in the functions it calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use auditflow_agent::identity::Identity;
use auditflow_wire::enrol::{EnrolRequest, EnrolResponse, JoinToken};
use auditflow_wire::frame::{CONTENT_TYPE, HTTP_PATH};
use auditflow_wire::{CaHash, FrameWriter, Part, Parts, SiteKey, SitePins};
use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const SECRET: &str = "a-secret-of-the-test";

/// A collector as far as a node that joins can tell.
struct Site {
    url: String,
    ca: CaHash,
    asked: Arc<Mutex<Vec<EnrolRequest>>>,
    frames: Arc<Mutex<usize>>,
}

impl Site {
    async fn start(answer: StatusCode) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer =
            Arc::new(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap());
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();

        let (asked, frames) = (Arc::<Mutex<Vec<EnrolRequest>>>::default(), Arc::<Mutex<usize>>::default());
        let ca_pem = issuer.pem();
        let routes = Router::new()
            .route(
                "/agent/v1/ca.pem",
                get({
                    let pem = ca_pem.clone();
                    move || async move { pem }
                }),
            )
            .route("/agent/v1/enrol", post(enrol(Arc::clone(&asked), Arc::clone(&issuer), answer)))
            .route(HTTP_PATH, post(take_frame(Arc::clone(&frames))));

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(
                vec![certificate.der().clone(), issuer.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), routes));
        Self { url, ca: CaHash::of(issuer.der()), asked, frames }
    }

    fn token(&self) -> String {
        JoinToken::new(self.ca, SECRET).unwrap().reveal()
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, routes: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, routes) = (tls.clone(), routes.clone());
        tokio::spawn(async move {
            if let Ok(stream) = tls.accept(stream).await {
                let service = TowerToHyperService::new(routes);
                let _ =
                    Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
}

fn enrol(
    asked: Arc<Mutex<Vec<EnrolRequest>>>,
    issuer: Arc<CertifiedIssuer<'static, KeyPair>>,
    answer: StatusCode,
) -> impl Fn(Bytes) -> std::future::Ready<(StatusCode, Vec<u8>)> + Clone {
    move |body: Bytes| {
        let request: EnrolRequest = serde_json::from_slice(&body).unwrap();
        request.check().unwrap();
        let signing = CertificateSigningRequestParams::from_pem(&request.certificate_request).unwrap();
        let client = CertificateParams::default().signed_by(&signing.public_key, &*issuer).unwrap();
        let response = EnrolResponse {
            node: request.proposed_node.unwrap(),
            pending: false,
            site_keys: SitePins {
                current: SiteKey::generate().unwrap().public(),
                next: Some(SiteKey::generate().unwrap().public()),
            },
            client_certificate: client.pem(),
            ca_certificate: issuer.pem(),
        };
        asked.lock().unwrap().push(request);
        std::future::ready((answer, serde_json::to_vec(&response).unwrap()))
    }
}

type FrameAnswer = (StatusCode, [(header::HeaderName, &'static str); 1], Vec<u8>);

fn take_frame(frames: Arc<Mutex<usize>>) -> impl Fn(Bytes) -> std::future::Ready<FrameAnswer> + Clone {
    move |body: Bytes| {
        let parts: Vec<_> = Parts::new(&body).unwrap().collect();
        assert!(matches!(parts.as_slice(), [Ok(Part::State(_))]));
        *frames.lock().unwrap() += 1;
        let answer = FrameWriter::new().finish();
        std::future::ready((StatusCode::OK, [(header::CONTENT_TYPE, CONTENT_TYPE)], answer))
    }
}

async fn join(data_dir: &Path, url: &str, token: &str) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("auditflow-agent"));
    command.env_clear().args(["join", url, token]).env("AUDITFLOW_NODE__DATA_DIR", data_dir);
    command.env("AUDITFLOW_ADMIN__SOCKET", data_dir.join("none.sock"));
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_node_that_joins_keeps_its_id_and_what_the_site_gave_and_tests_the_way() {
    let site = Site::start(StatusCode::OK).await;
    let dir = tempfile::tempdir().unwrap();
    let output = join(dir.path(), &site.url, &site.token()).await;
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("works"), "{output:?}");

    let identity = Identity::read(dir.path()).unwrap().unwrap();
    let asked = site.asked.lock().unwrap();
    assert_eq!((asked.len(), asked[0].secret.as_str()), (1, SECRET));
    assert_eq!(asked[0].proposed_node, Some(identity.node));
    assert!(asked[0].public_key == identity.key.public());
    let kept = identity.site.unwrap();
    assert_eq!((kept.url, kept.keys.next.is_some()), (site.url.clone(), true));
    assert_eq!(*site.frames.lock().unwrap(), 1);
}

#[tokio::test]
async fn nothing_is_sent_to_a_site_with_another_authority_than_the_tokens() {
    let site = Site::start(StatusCode::OK).await;
    let dir = tempfile::tempdir().unwrap();
    let token = JoinToken::new(CaHash::from_bytes([7; 32]), SECRET).unwrap().reveal();
    let output = join(dir.path(), &site.url, &token).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another certificate authority"), "{output:?}");
    assert!(site.asked.lock().unwrap().is_empty());
    assert_eq!(Identity::read(dir.path()).unwrap().unwrap().site, None);
}

#[tokio::test]
async fn a_refused_token_changes_nothing_and_its_secret_is_not_printed() {
    let site = Site::start(StatusCode::FORBIDDEN).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, site.token() + "\n").unwrap();
    let output = join(dir.path(), &site.url, &format!("@{}", file.display())).await;
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stderr) + &text(&output.stdout);
    assert!(printed.contains("403") && !printed.contains(SECRET), "{printed}");
    assert_eq!(Identity::read(dir.path()).unwrap().unwrap().site, None);
}

#[tokio::test]
async fn what_is_no_token_or_no_address_is_said_before_anything_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let token = JoinToken::new(CaHash::from_bytes([7; 32]), SECRET).unwrap().reveal();
    for (url, token, message) in [
        ("https://127.0.0.1:1", "nonsense", "not a join token"),
        ("collector", token.as_str(), "not an address"),
        ("http://collector.example", token.as_str(), "not encrypted"),
        ("https://127.0.0.1:1", token.as_str(), "cannot reach"),
    ] {
        let output = join(dir.path(), url, token).await;
        assert_eq!(output.status.code(), Some(1), "{url}");
        assert!(text(&output.stderr).contains(message), "{url}: {output:?}");
    }
}
