//! Frames over HTTPS: one `POST` each, mutual TLS, the site's certification authority pinned.
//!
//! Plain HTTP goes to this machine only, or where the configuration says so.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use auditflow_wire::frame::{CONTENT_TYPE, HTTP_PATH};
use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Reply, Transport, TransportError};

/// An answer holds a few acknowledgements of at most 4 KiB.
const MAX_ANSWER: usize = 256 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_mins(1);

/// Where to post and how to prove who asks and who answers.
#[derive(Debug, Clone)]
pub struct Config {
    /// The collector's address: `https://host:port`, or `http://` if that is allowed.
    pub url: String,
    /// The certificates that are trusted to sign the collector's, in PEM: the site's, and no other.
    pub ca_certificates: String,
    /// This node's certificate chain and key, in PEM; `None` before it is enrolled.
    pub client: Option<ClientIdentity>,
    /// Allows `http://` to other machines.
    pub allow_plain_http: bool,
    /// How long one request may take, its answer included.
    pub timeout: Duration,
}

/// What a node proves itself with, in PEM.
#[derive(Clone)]
pub struct ClientIdentity {
    /// The certificate, then those that lead to the site's.
    pub certificates: String,
    /// The private key (PKCS#8).
    pub key: String,
}

impl std::fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientIdentity").finish_non_exhaustive()
    }
}

/// Why the transport cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not an address.
    #[error("collector.url {url} is not an address: write https://host:port")]
    Url {
        /// What was given.
        url: String,
    },
    /// Plain HTTP to another machine.
    #[error(
        "collector.url {url} is plain http to another machine, where everybody on the way could read along: use \
         https, or set collector.allow_plain_http"
    )]
    Plain {
        /// What was given.
        url: String,
    },
    /// A certificate or key that cannot be read.
    #[error("cannot read the {what}: {reason}: join the site again")]
    Pem {
        /// Which.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// Certificate and key don't belong together, or are of a kind that is not supported.
    #[error("cannot set up tls: {0}: join the site again")]
    Tls(#[from] rustls::Error),
}

/// The transport.
#[derive(Debug, Clone)]
pub struct Https {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    uri: Uri,
    timeout: Duration,
}

impl Https {
    /// Checks the address and the certificates; connects at the first frame.
    pub fn new(config: &Config) -> Result<Self, SetupError> {
        let uri = frames_uri(&config.url, config.allow_plain_http)?;
        let tls = client_tls(&config.ca_certificates, config.client.as_ref())?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Ok(Self { client, uri, timeout: config.timeout })
    }

    async fn post(&self, frame: Vec<u8>) -> Result<Reply, TransportError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::CONTENT_TYPE, CONTENT_TYPE)
            .body(Full::new(Bytes::from(frame)))
            .map_err(|error| TransportError::Connection(error.to_string()))?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| TransportError::Connection(with_sources(&error)))?;
        read(response).await
    }
}

impl Transport for Https {
    async fn send(&self, frame: Vec<u8>) -> Result<Reply, TransportError> {
        tokio::time::timeout(self.timeout, self.post(frame))
            .await
            .unwrap_or(Err(TransportError::Timeout(self.timeout)))
    }
}

async fn read(response: Response<Incoming>) -> Result<Reply, TransportError> {
    let (parts, body) = response.into_parts();
    if matches!(parts.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return Ok(Reply::Throttled(retry_after(&parts.headers)));
    }
    let body = Limited::new(body, MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| TransportError::Connection(format!("reading the answer: {error}")))?
        .to_bytes();
    let is_frame = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == CONTENT_TYPE);
    if is_frame && !parts.status.is_server_error() {
        return Ok(Reply::Frame(body.to_vec()));
    }
    match parts.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(Reply::Stranger),
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            Ok(Reply::Refused(format!("{}: {}", parts.status, beginning(&body))))
        }
        status => Err(TransportError::Answer(format!("{status}: {}", beginning(&body)))),
    }
}

/// `Retry-After` in seconds; a date is not worth a parser, the schedule has its own delay then.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// What a person may want to see of an unexpected body.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..200).unwrap_or(body));
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// hyper's errors say what happened in their sources only.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn frames_uri(url: &str, allow_plain: bool) -> Result<Uri, SetupError> {
    let malformed = || SetupError::Url { url: url.to_owned() };
    let uri: Uri = format!("{}{HTTP_PATH}", url.trim_end_matches('/')).parse().map_err(|_| malformed())?;
    let host = uri.host().ok_or_else(malformed)?;
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if allow_plain || is_loopback(host) => Ok(uri),
        Some("http") => Err(SetupError::Plain { url: url.to_owned() }),
        _ => Err(malformed()),
    }
}

/// Names are not looked up: what `localhost` means is certain, what others mean is not.
fn is_loopback(host: &str) -> bool {
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || literal.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// TLS that trusts who has a certificate of this authority (PEM), and shows the node's if it has one.
pub(super) fn client_tls(
    ca_certificates: &str,
    client: Option<&ClientIdentity>,
) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("site's certificate", ca_certificates)? {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match client {
        None => Ok(builder.with_no_client_auth()),
        Some(client) => {
            let chain = certificates("node's certificate", &client.certificates)?;
            let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes())
                .map_err(|error| SetupError::Pem { what: "node's key", reason: error.to_string() })?;
            Ok(builder.with_client_auth_cert(chain, key)?)
        }
    }
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, SetupError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| SetupError::Pem { what, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_leaves_the_machine_only_where_it_is_allowed() {
        for url in
            ["http://127.0.0.1:8080", "http://[::1]:8080/", "http://localhost", "https://collector:7443/"]
        {
            let uri = frames_uri(url, false).unwrap();
            assert_eq!(uri.path(), HTTP_PATH);
        }
        for url in ["http://collector:7480", "http://127.0.0.1.example.org", "http://10.0.0.1"] {
            assert!(matches!(frames_uri(url, false), Err(SetupError::Plain { .. })), "{url}");
            assert!(frames_uri(url, true).is_ok(), "{url}");
        }
        for url in ["", "collector:7443", "ftp://collector", "https://", "https://a b"] {
            assert!(matches!(frames_uri(url, true), Err(SetupError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_nothing_else_is_made_of_it() {
        for (value, expected) in
            [("30", Some(30)), (" 5 ", Some(5)), ("-1", None), ("soon", None), ("1e3", None)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            assert_eq!(retry_after(&headers), expected.map(Duration::from_secs), "{value:?}");
        }
    }
}
