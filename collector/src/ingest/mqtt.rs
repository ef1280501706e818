//! Batches over a broker: subscribes to every node's, answers each on its node's own topic.
//!
//! The broker's access rules say who may publish where; the topic is all that is known of who did. So a frame is taken
//! as its topic's node, and what in it is another node's is refused, as over HTTPS. Nothing here is acknowledged to the
//! broker before it is stored and answered: what was under way when the connection broke comes again, and finds that it
//! is a duplicate. A broker that forgets, or drops what is too much for it, costs time and nothing else, for agents let
//! go of nothing before they are answered.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use auditflow_mqtt::{Address, Connection, Message, MqttError, Options, topic};
use auditflow_service::backoff::Backoff;
use auditflow_service::health::Part;
use auditflow_wire::frame::MAX_FRAME_LEN;
use bytes::Bytes;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::brokered::{Brokered, Outcome};
use crate::config::IngestMqttConfig;
use crate::site::Site;

/// Frames that are worked on at once; more wait, and beyond [`MAX_HELD`] with the broker.
const FRAMES: usize = 8;
/// Bytes of frames that are held.
const MAX_HELD: usize = 64 << 20;
/// What a packet has besides the frame: its topic and its own head.
const PACKET_HEAD: usize = 256;
/// Delays between connections.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// Attempts to store a frame; then its agent is left to send it again, for the broker's room is small.
const STORE_ATTEMPTS: u32 = 8;
/// How long an answer may take to reach the broker.
const ANSWER: Duration = Duration::from_secs(30);
/// The features that a broker which is down takes away.
const LOST: &[&str] = &["batches that come over the broker"];

/// Why there is no way over the broker.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The authority of the broker's certificate.
    #[error("cannot read {}: check [ingest.mqtt] ca_file", .path.display())]
    Authority {
        /// Its file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address.
    #[error("[ingest.mqtt] url: {0}")]
    Address(#[from] auditflow_mqtt::AddressError),
    /// Our own certificate.
    #[error("cannot make a certificate for the broker: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS.
    #[error("cannot set up tls for the broker: {0}")]
    Tls(#[from] rustls::Error),
}

/// The subscriber.
pub struct Subscriber {
    options: Options,
    parts: Arc<Brokered>,
    health: Part,
}

/// How to reach the broker that the configuration names, if it names one.
pub fn broker(config: &IngestMqttConfig, site: &Site) -> Result<Option<Options>, SetupError> {
    let Some(url) = &config.url else { return Ok(None) };
    Ok(Some(Options {
        address: Address::parse(url)?,
        tls: Arc::new(tls(config, site)?),
        client_id: config.client_id.clone(),
        // What comes while no collector is there waits with the broker, as far as that goes.
        keeps_session: true,
        filter: topic::ALL_BATCHES.to_owned(),
        max_packet: MAX_FRAME_LEN + PACKET_HEAD,
        max_held: MAX_HELD,
    }))
}

impl Subscriber {
    /// A subscriber that says in its part how the broker is.
    pub fn new(options: Options, parts: Arc<Brokered>, health: Part) -> Self {
        health.down("not connected yet", LOST);
        Self { options, parts, health }
    }

    /// Takes what the broker passes on until `stop`, however often it has to connect again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut retry = Backoff::new(RECONNECT.0, RECONNECT.1, std::process::id().into());
        let mut under_way = JoinSet::new();
        loop {
            let served = self.serve(&stop, &mut retry, &mut under_way).await;
            let Err(error) = served else { break };
            tracing::warn!(%error, broker = %self.options.address, "the broker is not there; trying again");
            self.health.down(&format!("{}: {error}", self.options.address), LOST);
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(retry.failed()) => {}
            }
        }
        // What was taken is finished; what waits comes again to whoever subscribes next.
        under_way.join_all().await;
        Ok(())
    }

    /// One connection, to its end or to the stop.
    async fn serve(
        &self,
        stop: &CancellationToken,
        retry: &mut Backoff,
        under_way: &mut JoinSet<()>,
    ) -> Result<(), MqttError> {
        let (arriving, mut messages) = mpsc::unbounded_channel();
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = Connection::open(&self.options, arriving) => opened,
        };
        let connection = Arc::new(opened?);
        self.health.up();
        retry.succeeded();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                error = connection.ended() => return Err(error),
                Some(message) = messages.recv(), if under_way.len() < FRAMES => {
                    let parts = Arc::clone(&self.parts);
                    under_way.spawn(take(parts, Arc::clone(&connection), message, stop.clone()));
                }
                Some(_) = under_way.join_next() => {}
            }
        }
    }
}

/// Takes one message, answers it, and lets the broker forget it.
async fn take(parts: Arc<Brokered>, connection: Arc<Connection>, message: Message, stop: CancellationToken) {
    let Some(node) = topic::node_of_batch(&message.topic) else {
        parts.metrics.turned_away.with_label_values(&["topic"]).inc();
        return message.acknowledge();
    };
    match parts.take(node, message.payload.clone(), STORE_ATTEMPTS, &stop).await {
        Outcome::Answer(frame) => {
            let topic = topic::ack(node);
            let published = connection.publish(&topic, Bytes::from(frame));
            match tokio::time::timeout(ANSWER, published).await {
                Ok(Ok(())) => message.acknowledge(),
                Ok(Err(error)) => {
                    tracing::debug!(%error, node.id = %node, "an answer did not get through");
                }
                Err(_) => tracing::debug!(node.id = %node, "the broker takes no answers"),
            }
        }
        Outcome::Poison(_) | Outcome::GivenUp => message.acknowledge(),
        Outcome::Again => {}
    }
}

fn tls(config: &IngestMqttConfig, site: &Site) -> Result<ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    match &config.ca_file {
        None => roots.add(site.authority.der().clone())?,
        Some(path) => {
            let failed = |source| SetupError::Authority { path: path.clone(), source };
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(error.into()))? {
                roots.add(certificate.map_err(|error| failed(error.into()))?)?;
            }
        }
    }
    let own = site.authority.service(&config.client_id)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_client_auth_cert(own.chain, own.key)?)
}
