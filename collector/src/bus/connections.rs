//! Closing the connections that a node has at RabbitMQ, over its management plugin.
//!
//! Fed by `ingest::brokered`, which names nodes whose frames come though they may not send: the MQTT plugin asks about the
//! rights of a connection that is never idle once and not again. The plugin lets everybody see and close what is their own,
//! so this logs in as the node, with a password that only the site can make and that is good for a minute or two; the
//! broker asks the collector about it (`ingest::rights`). No user of the broker with a right over others' connections is
//! needed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use auditflow_event::{NodeId, Timestamp};
use auditflow_service::health::Part;
use bytes::Bytes;
use data_encoding::BASE64;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::SetupError;
use crate::config::BusConfig;
use crate::site::keys::Keys;
use crate::site::{Site, SiteKeys};

/// Nodes that may wait. One that finds no room is named again by its next frame.
const WAITING: usize = 64;
/// How long after its connections were closed a node is left alone: what it had published before still comes.
const AGAIN: Duration = Duration::from_secs(2);
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most that the list of one node's connections may be.
const MAX_ANSWER: usize = 1 << 20;
/// What the passwords are derived for.
const PURPOSE: &str = "auditflow 2026-11-24 logging in to the broker's management plugin as a node";
const MINUTE: i64 = 60_000_000;
/// What is lost without the plugin.
const LOST: &[&str] = &["a revoked node that never pauses keeps its connection to RabbitMQ"];

/// Where nodes are named.
#[derive(Debug, Clone)]
pub struct Named(mpsc::Sender<NodeId>);

/// Closes connections.
pub struct Closer {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    keys: SiteKeys,
    named: mpsc::Receiver<NodeId>,
    closed: HashMap<NodeId, Instant>,
    health: Part,
}

#[derive(Debug, thiserror::Error)]
enum CloseError {
    #[error("{0} does not answer in time")]
    Silent(String),
    #[error("cannot ask {url}: {reason}")]
    Request { url: String, reason: String },
    #[error("{url} answers {status}: does RabbitMQ ask the collector about nodes, as docs/mqtt.md has it?")]
    Refused { url: String, status: StatusCode },
}

/// A connection, as the plugin lists it.
#[derive(Deserialize)]
struct Connection {
    name: String,
}

impl Named {
    /// Has a node's connections closed, in a moment.
    pub fn name(&self, node: NodeId) {
        let _ = self.0.try_send(node);
    }
}

impl Closer {
    /// One that closes what is open at the broker of the configuration, if that says where its management plugin is.
    pub fn from_config(
        config: &BusConfig,
        site: &Site,
        health: impl FnOnce() -> Part,
    ) -> Result<Option<(Named, Self)>, SetupError> {
        let Some(url) = &config.management else { return Ok(None) };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(config, site)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let (sender, named) = mpsc::channel(WAITING);
        let closer = Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            url: parse(url)?,
            keys: site.keys.clone(),
            named,
            closed: HashMap::new(),
            health: health(),
        };
        Ok(Some((Named(sender), closer)))
    }

    /// Closes the connections of whoever is named, until stopped.
    ///
    /// # Errors
    /// None: what fails is shown in health, and the node's next frame names it again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        self.health.up();
        loop {
            let node = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(node) = self.named.recv() => node,
            };
            self.closed.retain(|_, at| at.elapsed() < AGAIN);
            if self.closed.contains_key(&node) {
                continue;
            }
            self.closed.insert(node, Instant::now());
            match self.close(node).await {
                Ok(closed) => {
                    self.health.up();
                    if closed > 0 {
                        tracing::warn!(node.id = %node, connections = closed, "closed the connections of a node that may not send");
                    }
                }
                Err(error) => self.health.degraded(&error.to_string(), LOST),
            }
        }
    }

    /// Closes every connection of the node; returns how many there were.
    async fn close(&self, node: NodeId) -> Result<usize, CloseError> {
        let (_, body) = self.ask(node, Method::GET, "/api/connections?columns=name").await?;
        let found: Vec<Connection> = serde_json::from_slice(&body).map_err(|error| CloseError::Request {
            url: self.url.clone(),
            reason: format!("its list of connections is none: {error}"),
        })?;
        for connection in &found {
            let path = format!("/api/connections/{}", encoded(&connection.name));
            self.ask(node, Method::DELETE, &path).await?;
        }
        Ok(found.len())
    }

    async fn ask(&self, node: NodeId, method: Method, path: &str) -> Result<(StatusCode, Bytes), CloseError> {
        let url = || self.url.clone();
        let failed = |reason: String| CloseError::Request { url: url(), reason };
        let password = password(&self.keys.get(), node, now()).to_hex();
        let credentials = BASE64.encode(format!("{node}:{password}").as_bytes());
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::AUTHORIZATION, format!("Basic {credentials}"))
            .body(Full::default())
            .map_err(|error| failed(error.to_string()))?;
        let asking = async {
            let answer = self.client.request(request).await.map_err(|error| failed(with_source(&error)))?;
            let status = answer.status();
            // One that is gone by itself is not there to be closed.
            if !status.is_success() && status != StatusCode::NOT_FOUND {
                return Err(CloseError::Refused { url: url(), status });
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            Ok((status, body.map_err(|error| failed(error.to_string()))?.to_bytes()))
        };
        tokio::time::timeout(TIMEOUT, asking).await.map_err(|_| CloseError::Silent(url()))?
    }
}

/// Whether this is the password by which the site logs in as the node at about `now`.
pub fn is_password(keys: &Keys, node: NodeId, given: &str, now: Timestamp) -> bool {
    let Ok(given) = blake3::Hash::from_hex(given) else { return false };
    // Machines differ by a little, and a minute may end on the way. Hashes compare in constant time.
    [-MINUTE, 0, MINUTE]
        .into_iter()
        .any(|by| password(keys, node, Timestamp::from_micros(now.as_micros().saturating_add(by))) == given)
}

fn password(keys: &Keys, node: NodeId, now: Timestamp) -> blake3::Hash {
    let key = blake3::derive_key(PURPOSE, keys.signing.to_seed_hex().as_bytes());
    let minute = now.as_micros().div_euclid(MINUTE).to_le_bytes();
    blake3::Hasher::new_keyed(&key).update(node.as_bytes()).update(&minute).finalize()
}

/// Reads `https://host[:port]`; `http://` is for this machine alone.
pub fn parse(url: &str) -> Result<String, SetupError> {
    let invalid = || SetupError::Management(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| invalid())?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_here =
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_safe = uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && is_here);
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if host.is_empty() || !is_safe || has_user || uri.query().is_some() {
        return Err(invalid());
    }
    Ok(url.trim_end_matches('/').to_owned())
}

fn tls(config: &BusConfig, site: &Site) -> Result<ClientConfig, SetupError> {
    let pem = match &config.ca_file {
        None => site.authority.pem().to_owned(),
        Some(path) => {
            fs::read_to_string(path).map_err(|source| SetupError::File { path: path.clone(), source })?
        }
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| SetupError::Tls(error.to_string()))?;
        roots.add(certificate).map_err(|error| SetupError::Tls(error.to_string()))?;
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// A connection's name (`1.2.3.4:5 -> 6.7.8.9:10`) as a part of a path.
fn encoded(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string never fails.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn with_source(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, site};

    #[test]
    fn a_password_is_one_site_s_for_one_node_for_a_minute_or_two() {
        let ((_one, site), (_other, elsewhere)) = (site(), site());
        let node = NodeId::from_bytes([7; 16]);
        let (keys, foreign) = (site.keys.get(), elsewhere.keys.get());
        let made = password(&keys, node, at(0)).to_hex();
        for (seconds, is_good) in [(-61, false), (-60, true), (0, true), (119, true), (120, false)] {
            assert_eq!(is_password(&keys, node, &made, at(seconds)), is_good, "{seconds} s later");
        }
        assert!(!is_password(&foreign, node, &made, at(0)));
        assert!(!is_password(&keys, NodeId::from_bytes([8; 16]), &made, at(0)));
        for guess in ["", "x", &made[1..], &made.to_uppercase()[..63]] {
            assert!(!is_password(&keys, node, guess, at(0)), "{guess}");
        }
    }

    #[test]
    fn the_plugin_is_reached_encrypted_or_on_this_machine_and_never_with_a_password_in_the_address() {
        assert_eq!(parse("https://rabbit.example:15671/").unwrap(), "https://rabbit.example:15671");
        assert!(parse("http://127.0.0.1:15672").is_ok() && parse("http://[::1]:15672").is_ok());
        for url in [
            "",
            "rabbit",
            "http://rabbit.example:15672",
            "https://a:b@rabbit.example",
            "amqps://rabbit.example",
        ] {
            assert!(matches!(parse(url), Err(SetupError::Management(_))), "{url}");
        }
    }

    #[test]
    fn a_connection_s_name_is_a_part_of_a_path() {
        assert_eq!(encoded("127.0.0.1:5 -> [::1]:6"), "127.0.0.1%3A5%20-%3E%20%5B%3A%3A1%5D%3A6");
    }
}
