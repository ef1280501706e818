//! Frames over a broker: published on `audit/<node>/batch`, answered on `audit/<node>/ack` by whichever collector
//! listens there.
//!
//! A broker that has taken a frame ([`Reply::Handed`]) promises nothing: only what the collector signs frees anything,
//! and it is heard later ([`Transport::heard`]). A `State` waits for the next word of the collector, so that a broker
//! behind which nobody listens is not taken for a way. The connection is made by the first frame that finds none; when
//! it breaks, whatever was under way has failed, and is the spool's to send again.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use auditflow_event::NodeId;
use auditflow_mqtt::{Address, AddressError, Connection, Message, MqttError, Options, topic};
use auditflow_wire::frame::MAX_FRAME_LEN;
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::https::{ClientIdentity, SetupError, client_tls};
use super::{Reply, Transport, TransportError};

/// What is held of the collector's answers until the pipeline takes them: each has a few KiB.
const MAX_HELD: usize = 1 << 20;
/// How long the answer to a `State` is waited for before the next is sent: one that comes later counts all the same.
const ANSWER: Duration = Duration::from_secs(3);
/// What a packet has besides the frame: its topic and its own head.
const PACKET_HEAD: usize = 256;

/// Where the broker is and what may be sent there.
#[derive(Debug, Clone)]
pub struct Config {
    /// The broker.
    pub address: Address,
    /// The certificates that are trusted to sign the broker's, in PEM.
    pub ca_certificates: String,
    /// The most bytes of a frame that the broker takes.
    pub max_message: usize,
    /// How long the broker may take to take a frame.
    pub timeout: Duration,
}

/// Why there is no way over a broker.
#[derive(Debug, thiserror::Error)]
pub enum MqttSetupError {
    /// No broker is named.
    #[error("collector.transport is \"mqtt\" and collector.mqtt.url names no broker")]
    NoBroker,
    /// The address.
    #[error("collector.mqtt.url: {0}")]
    Address(#[from] AddressError),
}

/// The transport.
#[derive(Debug)]
pub struct Mqtt {
    options: Options,
    topic: String,
    max_message: usize,
    timeout: Duration,
    link: Mutex<Option<Arc<Connection>>>,
    answers: Arc<Answers>,
}

/// What the collector says, over one connection after the other.
#[derive(Debug)]
pub struct Answers {
    /// Bounded by what each connection may hold.
    arriving: mpsc::UnboundedSender<Message>,
    arrived: Mutex<mpsc::UnboundedReceiver<Message>>,
    /// Who waits for the answer to a `State`.
    asking: std::sync::Mutex<Option<oneshot::Sender<Vec<u8>>>>,
}

impl Mqtt {
    /// Checks the certificates; connects at the first frame. `instance` tells this process's connections from those of
    /// a copy of the node, which would otherwise displace each other for ever.
    pub fn new(
        config: &Config,
        node: NodeId,
        instance: &str,
        client: &ClientIdentity,
        answers: Arc<Answers>,
    ) -> Result<Self, SetupError> {
        let tls = client_tls(&config.ca_certificates, Some(client))?;
        let options = Options {
            address: config.address.clone(),
            tls: Arc::new(tls),
            client_id: format!("{node}-{instance}"),
            // What the collector said meanwhile, it says again to the `State` that a new connection begins with.
            keeps_session: false,
            filter: topic::ack(node),
            max_packet: MAX_FRAME_LEN + PACKET_HEAD,
            max_held: MAX_HELD,
        };
        let (max_message, timeout) = (config.max_message, config.timeout);
        Ok(Self { options, topic: topic::batch(node), max_message, timeout, link: Mutex::default(), answers })
    }

    /// The connection, made if there is none that is whole.
    async fn connection(&self) -> Result<Arc<Connection>, TransportError> {
        let mut link = self.link.lock().await;
        if let Some(connection) = link.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok(Arc::clone(connection));
        }
        *link = None;
        let opened = Connection::open(&self.options, self.answers.arriving.clone()).await;
        let connection = Arc::new(opened.map_err(|error| TransportError::Broker(error.to_string()))?);
        *link = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn publish(&self, frame: Vec<u8>) -> Result<Reply, TransportError> {
        if frame.len() > self.max_message {
            return Ok(Reply::TooLarge { len: frame.len(), most: self.max_message });
        }
        let connection = self.connection().await?;
        let published = timeout(self.timeout, connection.publish(&self.topic, Bytes::from(frame))).await;
        match published {
            Ok(Ok(())) => Ok(Reply::Handed),
            Ok(Err(MqttError::TooLarge { len, most })) => Ok(Reply::TooLarge { len, most }),
            Ok(Err(error)) => Err(TransportError::Broker(error.to_string())),
            // A broker that takes nothing: what waits on this connection must not arrive whenever it takes something.
            Err(_) => {
                self.drop_connection(&connection).await;
                Err(TransportError::Broker(format!(
                    "the broker took nothing for {} s: is it short of memory or disk?",
                    self.timeout.as_secs()
                )))
            }
        }
    }

    async fn drop_connection(&self, connection: &Arc<Connection>) {
        let mut link = self.link.lock().await;
        if link.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            *link = None;
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        let (arriving, arrived) = mpsc::unbounded_channel();
        Self { arriving, arrived: Mutex::new(arrived), asking: std::sync::Mutex::default() }
    }
}

impl Answers {
    /// The next one that nobody waits for.
    pub async fn next(&self) -> Vec<u8> {
        loop {
            let Some(message) = self.arrived.lock().await.recv().await else {
                return std::future::pending().await;
            };
            let frame = message.payload.to_vec();
            message.acknowledge();
            let Some(asking) = self.asking().take() else { return frame };
            // Who asked may have given up.
            if let Err(frame) = asking.send(frame) {
                return frame;
            }
        }
    }

    /// From now on the next one is for whoever holds what is returned.
    fn expect(&self) -> oneshot::Receiver<Vec<u8>> {
        let (asking, answered) = oneshot::channel();
        *self.asking() = Some(asking);
        answered
    }

    fn asking(&self) -> std::sync::MutexGuard<'_, Option<oneshot::Sender<Vec<u8>>>> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for Mqtt {
    async fn send(&self, frame: Vec<u8>) -> Result<Reply, TransportError> {
        self.publish(frame).await
    }

    /// The next word of the collector is the answer: at least it is there.
    async fn ask(&self, frame: Vec<u8>) -> Result<Reply, TransportError> {
        let answered = self.answers.expect();
        match self.publish(frame).await? {
            Reply::Handed => match timeout(ANSWER, answered).await {
                Ok(Ok(frame)) => Ok(Reply::Frame(frame)),
                _ => Err(TransportError::Silent(ANSWER)),
            },
            reply => Ok(reply),
        }
    }

    async fn heard(&self) -> Vec<u8> {
        self.answers.next().await
    }
}
