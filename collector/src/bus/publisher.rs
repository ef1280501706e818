//! The half of the way to the broker that gives: every message is answered for.

use std::collections::HashSet;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, PublisherConfirm};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::Options;
use super::link::{BusError, State, connect, end};

/// Messages are written to the broker's disk.
const PERSISTENT: u8 = 2;

/// A connection that gives, until it is dropped or something goes wrong with it.
pub struct Publisher {
    channel: Channel,
    state: watch::Sender<State>,
    _watcher: AbortOnDropHandle<()>,
    _connection: Connection,
}

/// A message that has to reach a queue.
#[derive(Debug, Clone)]
pub struct Message {
    /// What those who receive it know it by, if it comes twice.
    pub id: Uuid,
    /// JSON.
    pub body: Vec<u8>,
}

impl Publisher {
    /// Connects.
    pub async fn open(options: &Options) -> Result<Self, BusError> {
        let (state, _) = watch::channel(State::Up);
        let (connection, watcher) = connect(options, "gives", &state).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(Self { channel, state, _watcher: watcher, _connection: connection })
    }

    /// Gives the broker bytes for whoever may listen, and waits until it answers for them.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8]) -> Result<(), BusError> {
        let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        let options = BasicPublishOptions::default();
        let published = self.channel.basic_publish(exchange.into(), key.into(), options, body, properties);
        let confirmed = async { published.await?.await };
        match confirmed.await {
            Ok(Confirmation::Ack(_)) => Ok(()),
            Ok(_) => Err(BusError::Refused(key.to_owned())),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// Gives the broker messages, each of which has to reach a queue, and waits until it has answered for all of them.
    /// What became of each, in their order.
    pub async fn offer(&self, exchange: &str, messages: &[Message]) -> Vec<Result<(), BusError>> {
        let mut given = Vec::with_capacity(messages.len());
        for message in messages {
            given.push(self.give(exchange, message).await);
        }
        let mut answers = Vec::with_capacity(messages.len());
        let mut returned = HashSet::new();
        for confirm in given {
            let answer = match confirm {
                Ok(confirm) => confirm.await.map_err(|error| self.broken(error)),
                Err(error) => Err(error),
            };
            answers.push(match answer {
                // What no queue took comes back with an answer: with its own, or with the one after it.
                Ok(Confirmation::Ack(back)) => {
                    let id = back.and_then(|back| back.delivery.properties.message_id().clone());
                    returned.extend(id.map(|id| id.to_string()));
                    Ok(())
                }
                Ok(_) => Err(BusError::Refused(exchange.to_owned())),
                Err(error) => Err(error),
            });
        }
        for (message, answer) in messages.iter().zip(&mut answers) {
            if returned.contains(&message.id.to_string()) {
                *answer = Err(BusError::Unrouted(exchange.to_owned()));
            }
        }
        answers
    }

    async fn give(&self, exchange: &str, message: &Message) -> Result<PublisherConfirm, BusError> {
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_message_id(message.id.to_string().into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published =
            self.channel.basic_publish(exchange.into(), "".into(), options, &message.body, properties);
        published.await.map_err(|error| self.broken(error))
    }

    /// How it is, and becomes.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Where the other half says how it is.
    pub(super) fn shared_state(&self) -> &watch::Sender<State> {
        &self.state
    }

    /// The channel is closed, and with it all that was under way on it.
    fn broken(&self, error: lapin::Error) -> BusError {
        end(&self.state, &error.to_string());
        error.into()
    }
}
