//! One life of the way to the broker: a connection that takes, another that gives, so that a broker which takes nothing
//! more (its memory or disk alarm) still hands out what it has, and thereby gets well.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer,
    DefaultConnectionBuilder, Event,
};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Options, SetupError};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Messages are written to the broker's disk.
const PERSISTENT: u8 = 2;

/// The way to the broker, until it is dropped or something goes wrong with it.
pub struct Link {
    taking: Channel,
    giving: Channel,
    state: watch::Sender<State>,
    _watchers: [AbortOnDropHandle<()>; 2],
    /// Channels outlive nothing: their connections are held as long.
    _connections: [Connection; 2],
}

/// How a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It carries.
    Up,
    /// The broker takes nothing, and says why.
    Blocked(String),
    /// It has ended, and why.
    Ended(String),
}

/// What goes wrong with a broker.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The configuration.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// It did not answer in time.
    #[error("the broker does not answer")]
    Silent,
    /// It did not take a message: its queue is full.
    #[error("the broker took no message for {0}")]
    Refused(String),
    /// A queue is gone.
    #[error("queue {0} was deleted: import the definitions again")]
    Deleted(String),
    /// The link has ended.
    #[error("the link to the broker broke: {0}")]
    Ended(String),
    /// Anything else that the library says, with the broker's own words.
    #[error("the broker: {0}")]
    Broker(#[from] lapin::Error),
}

impl Link {
    /// Connects. `prefetch` is how many messages of a queue are handed out at once before any is acknowledged.
    pub async fn open(options: &Options, prefetch: u16) -> Result<Self, BusError> {
        let (state, _) = watch::channel(State::Up);
        let (takes, watches_taking) = connect(options, "takes", &state).await?;
        let (gives, watches_giving) = connect(options, "gives", &state).await?;
        let taking = takes.create_channel().await?;
        taking.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let giving = gives.create_channel().await?;
        giving.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self {
            taking,
            giving,
            state,
            _watchers: [watches_taking, watches_giving],
            _connections: [takes, gives],
        })
    }

    /// What comes from a queue from now on.
    pub async fn consume(&self, queue: &str) -> Result<Consumer, BusError> {
        let consuming = self.taking.basic_consume(
            queue.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        Ok(consuming.await?)
    }

    /// Channel for the messages that are fetched one by one.
    pub(super) fn taking(&self) -> &Channel {
        &self.taking
    }

    /// Gives the broker a message, and waits until it answers for it.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8]) -> Result<(), BusError> {
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions::default();
        let published = self.giving.basic_publish(exchange.into(), key.into(), options, body, properties);
        let confirmed = async { published.await?.await };
        match confirmed.await {
            Ok(Confirmation::Ack(_)) => Ok(()),
            Ok(_) => Err(BusError::Refused(key.to_owned())),
            Err(error) => {
                // The channel is closed, and with it all that was under way on it.
                self.end(&error.to_string());
                Err(error.into())
            }
        }
    }

    /// How it is, and becomes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn end(&self, why: &str) {
        end(&self.state, why);
    }
}

/// Connects, and keeps an eye on the connection.
async fn connect(
    options: &Options,
    purpose: &str,
    state: &watch::Sender<State>,
) -> Result<(Connection, AbortOnDropHandle<()>), BusError> {
    let name = format!("auditflow-collector {} {purpose}", std::process::id());
    let builder = DefaultConnectionBuilder::new()?
        .with_uri(options.uri()?)
        .with_properties(ConnectionProperties::default().with_connection_name(name.into()))
        .with_tls_config(options.tls());
    let connection = timeout(CONNECT, builder.connect()).await.map_err(|_| BusError::Silent)??;
    let mut events = connection.events_listener();
    let state = state.clone();
    let watcher = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(why) => change(&state, State::Blocked(why)),
                Event::ConnectionUnblocked => change(&state, State::Up),
                Event::Error(error) => end(&state, &error.to_string()),
                _ => {}
            }
        }
        end(&state, "the connection was closed");
    });
    Ok((connection, AbortOnDropHandle::new(watcher)))
}

fn end(state: &watch::Sender<State>, why: &str) {
    change(state, State::Ended(why.to_owned()));
}

/// What has ended stays so, for the first reason.
fn change(state: &watch::Sender<State>, next: State) {
    state.send_if_modified(|state| {
        let changes = !matches!(state, State::Ended(_)) && *state != next;
        if changes {
            *state = next;
        }
        changes
    });
}
