//! One life of the way to the broker: a connection that takes, another that gives, so that a broker which takes nothing
//! more (its memory or disk alarm) still hands out what it has, and thereby gets well.

use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, DefaultConnectionBuilder, Event};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{Options, Publisher, SetupError};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// The way to the broker, until it is dropped or something goes wrong with it.
pub struct Link {
    taking: Channel,
    giving: Publisher,
    _watcher: AbortOnDropHandle<()>,
    _connection: Connection,
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
    /// It has no queue for a message.
    #[error("no queue is bound to exchange {0}: import the definitions again")]
    Unrouted(String),
    /// It takes nothing.
    #[error("the broker takes nothing: {0}")]
    Blocked(String),
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
        let giving = Publisher::open(options).await?;
        let (connection, watcher) = connect(options, "takes", giving.shared_state()).await?;
        let taking = connection.create_channel().await?;
        taking.basic_qos(prefetch, BasicQosOptions::default()).await?;
        Ok(Self { taking, giving, _watcher: watcher, _connection: connection })
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
        self.giving.publish(exchange, key, body).await
    }

    /// How it is, and becomes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.giving.state()
    }
}

/// Waits until a link has ended, and says why.
pub async fn ended(state: &mut watch::Receiver<State>) -> BusError {
    let ended = state.wait_for(|state| matches!(state, State::Ended(_))).await;
    BusError::Ended(match ended.as_deref() {
        Ok(State::Ended(why)) => why.clone(),
        _ => "nobody watches it any more".to_owned(),
    })
}

/// Connects, and keeps an eye on the connection.
pub(super) async fn connect(
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

pub(super) fn end(state: &watch::Sender<State>, why: &str) {
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
