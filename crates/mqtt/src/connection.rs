//! One connection to a broker: one subscription, publishes of which each knows its `PUBACK`, messages as they come.
//!
//! A task of its own drives the library's event loop and ends with the connection, or when the [`Connection`] is
//! dropped. It never polls again after an error, which would reconnect and send again what the library had kept.
//! Messages are acknowledged to the broker by whoever has done with them ([`Message::acknowledge`]); what is held of them
//! is bounded in bytes, beyond which the connection ends: the broker keeps what was not acknowledged, and its senders
//! have it anyway.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{
    AckMode, AsyncClient, Broker, Event, EventLoop, ManualAck, MqttOptions, NetworkOptions, Packet,
    PublishOptions, QoS,
};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::Address;

/// Requests that wait for the event loop; more wait with whoever makes them.
const REQUESTS: usize = 32;
/// How long connecting, and being let subscribe, may take each.
const CONNECT_SECONDS: u64 = 10;
/// After so long without a word the broker is asked whether it is there, and asks so itself after half as long again.
const KEEP_ALIVE_SECONDS: u16 = 30;
/// What a packet has besides topic and payload.
const PACKET_HEAD: usize = 9;
/// Messages are counted in units of this, and each as one at least.
const UNIT: usize = 1024;

/// What a connection is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the broker is.
    pub address: Address,
    /// Whom to trust, and what proves who connects.
    pub tls: Arc<ClientConfig>,
    /// Two connections with one id displace each other.
    pub client_id: String,
    /// Whether the broker keeps the subscription, and what arrives for it, while nobody is connected.
    pub keeps_session: bool,
    /// What is subscribed to.
    pub filter: String,
    /// The most bytes that one packet may have, either way.
    pub max_packet: usize,
    /// The most bytes of messages that are held until they are acknowledged.
    pub max_held: usize,
}

/// A connection, until it is dropped or breaks.
#[derive(Debug)]
pub struct Connection {
    client: AsyncClient,
    max_packet: usize,
    end: End,
    _driver: AbortOnDropHandle<()>,
}

/// A message that the broker passed on.
#[derive(Debug)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// What it says.
    pub payload: Bytes,
    client: AsyncClient,
    receipt: Option<ManualAck>,
    _held: OwnedSemaphorePermit,
}

/// What goes wrong with a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MqttError {
    /// It can't be reached, or doesn't let us in.
    #[error("cannot connect to the broker: {0}")]
    Connect(String),
    /// It doesn't let us hear what we want to.
    #[error("the broker does not allow subscribing to {0}: check its access rules")]
    Subscribe(String),
    /// The connection has ended. What was published and not acknowledged may have arrived or not.
    #[error("the connection to the broker broke: {0}")]
    Broken(String),
    /// More bytes than a packet may have; nothing was sent.
    #[error("a message of {len} bytes is larger than the {most} that may be sent")]
    TooLarge {
        /// Bytes of the packet.
        len: usize,
        /// The bound.
        most: usize,
    },
}

/// Says that a connection has ended, and why.
#[derive(Debug, Clone, Default)]
struct End {
    why: Arc<OnceLock<String>>,
    ended: CancellationToken,
}

impl Connection {
    /// Connects and subscribes. Messages go to `messages` from then on, until that is closed or the connection ends.
    pub async fn open(
        options: &Options,
        messages: mpsc::UnboundedSender<Message>,
    ) -> Result<Self, MqttError> {
        let built = AsyncClient::builder(library_options(options)).capacity(REQUESTS).try_build();
        let (client, mut events) = built.map_err(|error| MqttError::Connect(error.to_string()))?;
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(CONNECT_SECONDS);
        events.set_network_options(network);
        // The first thing that happens is that the broker lets us in, or not.
        events.poll().await.map_err(|error| MqttError::Connect(error.to_string()))?;
        let end = End::default();
        let inbox = Inbox {
            client: client.clone(),
            messages,
            held: Arc::new(Semaphore::new(options.max_held.div_ceil(UNIT))),
        };
        let driver = AbortOnDropHandle::new(tokio::spawn(drive(events, inbox, end.clone())));
        let connection = Self { client, max_packet: options.max_packet, end, _driver: driver };
        connection.subscribe(&options.filter).await?;
        Ok(connection)
    }

    /// Publishes, and waits until the broker has it. That says nothing of who else has it.
    pub async fn publish(&self, topic: &str, payload: Bytes) -> Result<(), MqttError> {
        let len = PACKET_HEAD + topic.len() + payload.len();
        if len > self.max_packet {
            return Err(MqttError::TooLarge { len, most: self.max_packet });
        }
        let sent = self.client.publish_tracked(topic, payload, PublishOptions::at_least_once()).await;
        let notice = sent.map_err(|_| self.end.error())?;
        notice.wait_completion_async().await.map_err(|_| self.end.error())
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.end.ended.is_cancelled()
    }

    /// Waits until it has ended and says why.
    pub async fn ended(&self) -> MqttError {
        self.end.ended.cancelled().await;
        self.end.error()
    }

    async fn subscribe(&self, filter: &str) -> Result<(), MqttError> {
        let asked = self.client.subscribe_tracked(filter, QoS::AtLeastOnce).await;
        let notice = asked.map_err(|_| self.end.error())?;
        let answered = timeout(Duration::from_secs(CONNECT_SECONDS), notice.wait_completion_async()).await;
        match answered {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) if self.has_ended() => Err(self.end.error()),
            Ok(Err(_)) => Err(MqttError::Subscribe(filter.to_owned())),
            Err(_) => Err(MqttError::Connect("it does not answer a subscription".to_owned())),
        }
    }
}

impl Message {
    /// Tells the broker that it need not keep the message. One that came on a connection that has ended comes again.
    pub fn acknowledge(self) {
        if let Some(receipt) = self.receipt {
            // Full or closed: the broker hears nothing and passes the message on again, as after a broken connection.
            let _ = self.client.try_manual_ack(receipt);
        }
    }
}

impl End {
    fn with(&self, why: String) {
        let _ = self.why.set(why);
        self.ended.cancel();
    }

    fn error(&self) -> MqttError {
        MqttError::Broken(self.why.get().cloned().unwrap_or_else(|| "it was given up".to_owned()))
    }
}

/// Where messages go.
struct Inbox {
    client: AsyncClient,
    messages: mpsc::UnboundedSender<Message>,
    /// Units that may still be held.
    held: Arc<Semaphore>,
}

impl Inbox {
    fn take(&self, publish: rumqttc::Publish) -> Result<(), &'static str> {
        let units = u32::try_from(publish.payload.len().div_ceil(UNIT).max(1)).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.held).try_acquire_many_owned(units);
        let message = Message {
            topic: String::from_utf8_lossy(&publish.topic).into_owned(),
            receipt: self.client.prepare_ack(&publish),
            payload: publish.payload,
            client: self.client.clone(),
            _held: held.map_err(|_| "it passes on more than can be held")?,
        };
        self.messages.send(message).map_err(|_| "nobody listens any more")
    }
}

/// Drives the connection to its end.
async fn drive(mut events: EventLoop, inbox: Inbox, end: End) {
    let why = loop {
        let taken = match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => inbox.take(publish),
            Ok(_) => Ok(()),
            Err(error) => break error.to_string(),
        };
        if let Err(why) = taken {
            break why.to_owned();
        }
    };
    // Before the event loop goes, and with it every publish that waits.
    end.with(why);
}

fn library_options(options: &Options) -> MqttOptions {
    let (host, port) = options.address.parts();
    let mut library = MqttOptions::new(options.client_id.clone(), Broker::tcp(host, port));
    library.set_keep_alive(KEEP_ALIVE_SECONDS);
    library.set_clean_session(!options.keeps_session);
    library.set_ack_mode(AckMode::Manual);
    library.set_max_packet_size(options.max_packet, options.max_packet);
    let (address, tls) = (options.address.clone(), Arc::clone(&options.tls));
    library.set_socket_connector(move |_, _| {
        let (address, tls) = (address.clone(), Arc::clone(&tls));
        async move { address.connect(tls).await }
    });
    library
}
