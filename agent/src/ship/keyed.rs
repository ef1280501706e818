//! The way to the collector with whatever key the node has now: presents a new key, then sends with its certificate.
//!
//! Between [`Https`] and [`Mqtt`], which know one certificate, and the shipper, which knows of none. A new key is
//! presented to the collector by HTTPS, whichever way batches go: a broker has no use for it, and the certificate is
//! needed before the connection. Meanwhile nothing is sent, and it is presented only when nothing is under way: so
//! nothing that the old certificate carried arrives after it has lost its meaning. What fails is tried again by the
//! schedule, with the next frame.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use auditflow_wire::enrol::{KEYS_PATH, RekeyRequest, RekeyResponse};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use tokio::sync::{RwLock, RwLockReadGuard};

use super::https::{ClientIdentity, Config, Https, SetupError};
use super::mqtt::{self, Answers, Mqtt};
use super::{Reply, Transport, TransportError};
use crate::http_client::{HttpClient, Trust, beginning};
use crate::identity::{Identity, Kept};

/// The transport. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Keyed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Its `client` is filled from the identity.
    config: Config,
    /// The broker, if batches go over one.
    broker: Option<mqtt::Config>,
    /// Tells this process from another one with the same identity.
    instance: String,
    identity: Kept,
    way: RwLock<Option<Way>>,
    /// What is heard over a broker, whichever connection it comes on.
    answers: Arc<Answers>,
    introduce: AtomicBool,
}

/// A connection that proves one key.
#[derive(Debug)]
struct Way {
    carrier: Carrier,
    /// [`Kept::keys`] at that time.
    keys: u64,
}

#[derive(Debug)]
enum Carrier {
    Https(Box<Https>),
    Mqtt(Box<Mqtt>),
}

impl Keyed {
    /// Checks the collector's address; connects at the first frame. With a `broker`, batches go over that.
    pub fn new(config: Config, broker: Option<mqtt::Config>, identity: Kept) -> Result<Self, SetupError> {
        Https::new(&Config { client: None, ..config.clone() })?;
        let instance = format!("{:08x}", getrandom::u32().unwrap_or_else(|_| std::process::id()));
        let (way, answers, introduce) = Default::default();
        Ok(Self(Arc::new(Inner { config, broker, instance, identity, way, answers, introduce })))
    }

    /// Presents the key in use to the collector now, if it does not know it yet.
    pub async fn present(&self) -> Result<(), TransportError> {
        self.way().await.map(drop)
    }

    async fn way(&self) -> Result<RwLockReadGuard<'_, Carrier>, TransportError> {
        loop {
            let current = self.0.way.read().await;
            if let Ok(carrier) =
                RwLockReadGuard::try_map(current, |way| Some(&self.usable(way.as_ref())?.carrier))
            {
                return Ok(carrier);
            }
            let mut way = self.0.way.write().await;
            if self.usable(way.as_ref()).is_none() {
                *way = None;
                *way = Some(self.connect().await?);
                self.0.introduce.store(false, Ordering::Release);
            }
        }
    }

    fn usable<'a>(&self, way: Option<&'a Way>) -> Option<&'a Way> {
        let introduce = self.0.introduce.load(Ordering::Acquire);
        way.filter(|way| !introduce && way.keys == self.0.identity.keys())
    }

    async fn connect(&self) -> Result<Way, TransportError> {
        let failed = |error: anyhow::Error| TransportError::Key(format!("{error:#}"));
        let keys = self.0.identity.keys();
        let unknown = self.0.introduce.load(Ordering::Acquire);
        let mut identity = self.identity().map_err(failed)?;
        if identity.uncertified || (unknown && !identity.rotations.is_empty()) {
            let certificate = self.fetch_certificate(&identity).await?;
            let certified = self.0.identity.certify(identity.key.id(), &certificate);
            certified.map_err(|error| failed(error.into()))?;
            tracing::info!(node.key = %identity.key.id(), "the collector knows the node's key");
            identity = self.identity().map_err(failed)?;
        }
        let client = client_of(&identity).map_err(failed)?;
        let carrier = if let Some(broker) = &self.0.broker {
            let (instance, answers) = (&self.0.instance, Arc::clone(&self.0.answers));
            let mqtt = Mqtt::new(broker, identity.node, instance, &client, answers);
            Carrier::Mqtt(Box::new(mqtt.map_err(|error| failed(error.into()))?))
        } else {
            let config = Config { client: Some(client), ..self.0.config.clone() };
            Carrier::Https(Box::new(Https::new(&config).map_err(|error| failed(error.into()))?))
        };
        Ok(Way { carrier, keys })
    }

    fn identity(&self) -> anyhow::Result<Identity> {
        let identity = self.0.identity.read()?.filter(|identity| identity.site.is_some());
        identity
            .ok_or_else(|| anyhow::anyhow!("the node's identity is gone from its data directory: join again"))
    }

    /// Asks for a certificate with the rotations that led to the key in use.
    async fn fetch_certificate(&self, identity: &Identity) -> Result<String, TransportError> {
        let refused = |error: anyhow::Error| TransportError::Key(format!("{error:#}"));
        let request = RekeyRequest {
            rotations: identity.rotations.clone(),
            certificate_request: identity.certificate_request().map_err(|error| refused(error.into()))?,
        };
        let body = serde_json::to_vec(&request).map_err(|error| refused(error.into()))?;
        let uri = format!("{}{KEYS_PATH}", self.0.config.url.trim_end_matches('/'));
        let post = Request::post(uri)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| refused(error.into()))?;
        let client = HttpClient::new(Trust::Authority(&self.0.config.ca_certificates)).map_err(refused)?;
        let unreachable = |error: anyhow::Error| TransportError::Connection(format!("{error:#}"));
        let (status, body) = client.send(post).await.map_err(unreachable)?;
        match status {
            status if status.is_success() => {
                let response: RekeyResponse = serde_json::from_slice(&body)
                    .map_err(|error| TransportError::Answer(error.to_string()))?;
                response.check().map_err(|error| TransportError::Answer(error.to_string()))?;
                Ok(response.client_certificate)
            }
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => Err(TransportError::Key(format!(
                "the collector does not take the node's new key: {}",
                beginning(&body)
            ))),
            status => Err(TransportError::Answer(format!("{status}: {}", beginning(&body)))),
        }
    }
}

impl Transport for Keyed {
    async fn send(&self, frame: Vec<u8>) -> Result<Reply, TransportError> {
        match &*self.way().await? {
            Carrier::Https(https) => https.send(frame).await,
            Carrier::Mqtt(mqtt) => mqtt.send(frame).await,
        }
    }

    async fn ask(&self, frame: Vec<u8>) -> Result<Reply, TransportError> {
        match &*self.way().await? {
            Carrier::Https(https) => https.ask(frame).await,
            Carrier::Mqtt(mqtt) => mqtt.ask(frame).await,
        }
    }

    async fn heard(&self) -> Vec<u8> {
        self.0.answers.next().await
    }

    fn introduce(&self) {
        self.0.introduce.store(true, Ordering::Release);
    }
}

/// What proves the node, as its identity has it.
fn client_of(identity: &Identity) -> anyhow::Result<ClientIdentity> {
    let certificates = identity.site.as_ref().map(|site| site.client_certificate.clone()).unwrap_or_default();
    Ok(ClientIdentity { certificates, key: identity.key.to_pkcs8_pem()? })
}
