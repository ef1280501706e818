//! The shipper's start, which may be long after the agent's: when the node joins. And its end, which is after the
//! pipeline's.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use auditflow_mqtt::Address;
use auditflow_service::health::Part;
use auditflow_service::lifecycle::Tasks;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{CollectorConfig, Transport};
use crate::identity::{Identity, Kept, Site};
use crate::pipeline::Command;
use crate::ship::mqtt::{self, MqttSetupError};
use crate::ship::{Keyed, Limits, Link, Report, Shipper, Status, https};
use crate::source::outlet::Commands;
use crate::spool::Reader;
use crate::status::LinkStatus;

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Reports that wait for the pipeline.
const MAX_REPORTS: usize = 32;
/// How long the shipper goes on after the pipeline has sealed the last batches.
const LAST_WORDS: Duration = Duration::from_millis(500);

const NOT_JOINED: &str = "the node has not joined a site: run auditflow-agent join URL TOKEN";

/// See the module's documentation.
pub(super) struct Shipping {
    config: CollectorConfig,
    identity: Kept,
    part: Part,
    sealed: Arc<Notify>,
    commands: Commands<Command>,
    pipeline_ended: CancellationToken,
    way: Arc<OnceLock<Keyed>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Until there is a site to ship to.
    reader: Option<Reader>,
    running: Option<(String, watch::Receiver<Status>)>,
}

impl Shipping {
    pub(super) fn new(
        config: &CollectorConfig,
        identity: Kept,
        part: Part,
        sealed: Arc<Notify>,
        commands: Commands<Command>,
    ) -> Self {
        let (config, pipeline_ended) = (config.clone(), CancellationToken::new());
        let (way, state) = (Arc::default(), Mutex::default());
        Self { config, identity, part, sealed, commands, pipeline_ended, way, state }
    }

    /// The way to the collector, once there is one.
    pub(super) fn way(&self) -> Arc<OnceLock<Keyed>> {
        Arc::clone(&self.way)
    }

    /// To be cancelled when the pipeline has ended.
    pub(super) fn pipeline_ended(&self) -> CancellationToken {
        self.pipeline_ended.clone()
    }

    /// The spool is open: ships from now on, or once the node has joined.
    pub(super) fn start(&self, reader: Reader, identity: &Identity, tasks: &Tasks) {
        self.lock().reader = Some(reader);
        match &identity.site {
            Some(site) => drop(self.join(site, identity, tasks)),
            None => self.part.off(NOT_JOINED),
        }
    }

    /// Ships to this site from now on; `false` if it ships already.
    pub(super) fn join(&self, site: &Site, identity: &Identity, tasks: &Tasks) -> bool {
        let mut state = self.lock();
        let Some(reader) = state.reader.take() else { return false };
        let url = self.config.url.clone().unwrap_or_else(|| site.url.clone());
        let transport = match self.transport(&url, site) {
            Ok(transport) => transport,
            Err(error) => {
                self.part.down(&format!("{error:#}"), &["delivery"]);
                state.reader = Some(reader);
                return true;
            }
        };
        // It is made once: the reader was there.
        let _ = self.way.set(transport.clone());
        // The pipeline may be gone already; then nothing is shipped either.
        let _ = self.commands.send(Command::Trust(Box::new(site.keys)));
        let (reports, received) = mpsc::channel(MAX_REPORTS);
        let seed = identity.node.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let shipper = Shipper::new(reader, transport, self.limits(), seed, reports, Arc::clone(&self.sealed));
        let destination = self.destination(&url);
        state.running = Some((destination.clone(), shipper.status()));
        let link = watch_link(shipper.status(), self.part.clone(), destination, tasks.stopping());
        tasks.spawn_job("link", link);
        tasks.spawn_job("reports", forward(received, self.commands.clone()));
        tasks.spawn("ship", shipper.run(self.end(tasks)));
        true
    }

    pub(super) fn status(&self) -> (Option<String>, LinkStatus) {
        let state = self.lock();
        let Some((url, status)) = &state.running else {
            return (None, LinkStatus { state: "off".to_owned(), ..LinkStatus::default() });
        };
        let status = status.borrow().clone();
        let (name, reason) = match status.link {
            Link::Unknown => ("unknown", None),
            Link::Up => ("up", None),
            Link::Down(reason) => ("down", Some(reason)),
        };
        let Status { frames, bytes, failures, too_large, .. } = status;
        (Some(url.clone()), LinkStatus { state: name.to_owned(), reason, frames, bytes, failures, too_large })
    }

    fn transport(&self, url: &str, site: &Site) -> anyhow::Result<Keyed> {
        let ca_certificates = certificates(self.config.ca_file.as_deref(), site)?;
        let config = https::Config {
            url: url.to_owned(),
            ca_certificates,
            client: None,
            allow_plain_http: self.config.allow_plain_http,
            timeout: REQUEST_TIMEOUT,
        };
        Ok(Keyed::new(config, self.broker(site)?, self.identity.clone())?)
    }

    /// The broker, if batches are to go over one.
    fn broker(&self, site: &Site) -> anyhow::Result<Option<mqtt::Config>> {
        if self.config.transport != Transport::Mqtt {
            return Ok(None);
        }
        let config = &self.config.mqtt;
        let url = config.url.as_deref().ok_or(MqttSetupError::NoBroker)?;
        Ok(Some(mqtt::Config {
            address: Address::parse(url).map_err(MqttSetupError::from)?,
            ca_certificates: certificates(config.ca_file.as_deref(), site)?,
            max_message: config.max_message.as_usize(),
            timeout: REQUEST_TIMEOUT,
        }))
    }

    /// Where batches go, as people are told.
    fn destination(&self, collector: &str) -> String {
        match (self.config.transport, &self.config.mqtt.url) {
            (Transport::Mqtt, Some(broker)) => broker.clone(),
            _ => collector.to_owned(),
        }
    }

    fn limits(&self) -> Limits {
        let budget = self.config.bytes_per_day.map(|bytes| (bytes.as_u64(), self.config.burst.as_u64()));
        Limits { budget, ..Limits::default() }
    }

    /// Ends the shipper a moment after the pipeline, so that what was sealed last can still go out.
    fn end(&self, tasks: &Tasks) -> CancellationToken {
        let (end, ended) = (CancellationToken::new(), self.pipeline_ended.clone());
        let token = end.clone();
        let dropping = tasks.dropping();
        tasks.spawn_job("last words", async move {
            ended.cancelled().await;
            tokio::select! {
                () = tokio::time::sleep(LAST_WORDS) => {}
                () = dropping.cancelled() => {}
            }
            token.cancel();
            Ok::<(), String>(())
        });
        end
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The certificates to trust, PEM: the site's, unless others are named.
fn certificates(file: Option<&Path>, site: &Site) -> anyhow::Result<String> {
    match file {
        Some(file) => Ok(String::from_utf8(auditflow_service::file::read_bounded(file, 1 << 20)?)?),
        None => Ok(site.ca_certificate.clone()),
    }
}

/// Shows the way to the collector in the health.
async fn watch_link(
    mut status: watch::Receiver<Status>,
    part: Part,
    url: String,
    stopping: CancellationToken,
) -> Result<(), String> {
    loop {
        let link = status.borrow_and_update().link.clone();
        match link {
            Link::Unknown => {}
            Link::Up => part.up(),
            Link::Down(reason) => part.down(&format!("{url}: {reason}"), &["delivery; events are kept here"]),
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return Ok(()) },
            () = stopping.cancelled() => return Ok(()),
        }
    }
}

/// Passes the shipper's reports on to the pipeline, until the shipper is gone.
async fn forward(mut reports: mpsc::Receiver<Report>, commands: Commands<Command>) -> Result<(), String> {
    while let Some(report) = reports.recv().await {
        if commands.send(Command::Report(report)).is_err() {
            break;
        }
    }
    Ok(())
}
