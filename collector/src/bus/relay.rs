//! Alerts, from the outbox to RabbitMQ: every alert that was opened, at least once, soon.
//!
//! An announcement leaves the outbox after the broker has answered for it, having written it to the disk of a queue. What
//! the broker refuses, routes nowhere or does not answer for stays, and is offered again. Any number of processes may
//! relay: each takes announcements for a while.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use auditflow_event::Timestamp;
use auditflow_service::backoff::Backoff;
use auditflow_service::health::Part;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::link::{self, State};
use super::metrics::RelayMetrics;
use super::publisher::Message;
use super::{BusError, Options, Publisher, names};
use crate::alert::compat::CompatAlert;
use crate::store::{Announcement, Change, Destination, Result as StoreResult, Store};

/// Announcements made at once.
const TOGETHER: usize = 64;
/// How long the broker may take to answer for them.
const ANSWER: Duration = Duration::from_secs(10);
/// How long they are left to this process: longer than it waits for an answer, so nobody else makes them meanwhile.
const CLAIM: Duration = Duration::from_secs(30);
/// How often the outbox is looked into when nothing is heard of.
const LOOK: Duration = Duration::from_secs(5);
/// Delays between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Announces alerts to one destination.
pub struct Relay {
    /// Whose outbox.
    pub store: Arc<dyn Store>,
    /// Who is to hear of them.
    pub destination: Destination,
    /// Where it listens.
    pub options: Options,
    /// Where it is said how the broker is.
    pub health: Part,
    /// What is counted.
    pub metrics: RelayMetrics,
}

impl Relay {
    /// Announces what is in the outbox until `stop`, however often it has to connect again.
    ///
    /// # Errors
    /// None: what fails is shown in health and tried again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let lost = match self.destination {
            Destination::Notifiers => "notifiers hear of no new alert",
            Destination::Ancestor => "the ancestor's services hear of no new alert",
        };
        self.health.down("not connected yet", &[lost]);
        let mut retry = Backoff::new(RETRY.0, RETRY.1, std::process::id().into());
        loop {
            let Err(error) = self.serve(&stop, &mut retry).await else { return Ok(()) };
            tracing::warn!(%error, broker = %self.options, to = self.destination.name(), "alerts wait; trying again");
            self.health.down(&format!("{}: {error}", self.options), &[lost]);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(retry.failed()) => {}
            }
        }
    }

    /// One connection, to its end or to the stop. Announcements that were begun are finished in either case.
    async fn serve(&self, stop: &CancellationToken, retry: &mut Backoff) -> Result<(), BusError> {
        let opened = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            opened = Publisher::open(&self.options) => opened,
        };
        let publisher = opened?;
        let mut state = publisher.state();
        let mut changes = self.store.changes();
        loop {
            while !stop.is_cancelled() && self.announce(&publisher).await? == TOGETHER {}
            // Connecting alone proves little: a broker whose queue is full lets everybody in.
            retry.succeeded();
            self.health.up();
            self.count().await;
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                error = link::ended(&mut state) => return Err(error),
                () = something_opened(&mut changes) => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    /// Announces the oldest, and says how many were tried. The first that fails is the error, when all are settled.
    async fn announce(&self, publisher: &Publisher) -> Result<usize, BusError> {
        let taken = self.take().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the outbox can't be read; looking again later");
            Vec::new()
        });
        let tried = taken.len();
        if tried == 0 {
            return Ok(0);
        }
        let numbers: Vec<i64> = taken.iter().map(|announcement| announcement.number).collect();
        let messages: Vec<Message> = taken.into_iter().map(message).collect();
        let answered = timeout(ANSWER, publisher.offer(names::ALERTS, &messages)).await;
        let answers = answered.map_err(|_| match &*publisher.state().borrow() {
            State::Blocked(why) => BusError::Blocked(why.clone()),
            _ => BusError::Silent,
        });
        let (mut made, mut unmade) = (Vec::new(), Vec::new());
        for (index, number) in numbers.into_iter().enumerate() {
            let is_made = answers.as_ref().is_ok_and(|answers| answers[index].is_ok());
            if is_made { &mut made } else { &mut unmade }.push(number);
        }
        self.metrics.announced.with_label_values(&[self.destination.name()]).inc_by(made.len() as u64);
        if let Err(error) = self.store.settle_announcements(made, unmade).await {
            tracing::debug!(%error, "what was announced will be announced again");
        }
        answers?.into_iter().collect::<Result<Vec<()>, BusError>>()?;
        Ok(tried)
    }

    async fn take(&self) -> StoreResult<Vec<Announcement>> {
        let now = chrono::Utc::now();
        let [now, until] = [now, now + CLAIM].map(|time| Timestamp::from_micros(time.timestamp_micros()));
        self.store.take_announcements(self.destination, now, until, TOGETHER).await
    }

    async fn count(&self) {
        if let Ok(waiting) = self.store.announcements_waiting(self.destination).await {
            let gauge = self.metrics.waiting.with_label_values(&[self.destination.name()]);
            gauge.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        }
    }
}

/// What everybody hears of an alert: its names are the ancestor's.
fn message(announcement: Announcement) -> Message {
    let id = announcement.alert.alert.alert_id;
    // Maps and strings: there is nothing in it that JSON has not.
    let body = serde_json::to_vec(&CompatAlert::of(announcement.alert)).unwrap_or_default();
    Message { id, body }
}

/// Waits until an alert was opened, here or elsewhere.
async fn something_opened(changes: &mut broadcast::Receiver<Change>) {
    loop {
        match changes.recv().await {
            Ok(Change::AlertOpened(_) | Change::Missed) | Err(RecvError::Lagged(_)) => return,
            Ok(_) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
