//! A node inside the collector: events that come one by one from elsewhere are sealed in batches as an agent seals them,
//! and take the way of every other batch. So the ledger's proofs hold for them from here on.
//!
//! Its key is in the data directory, so that each process is a node of its own. Its chain is what the ledger has: a batch
//! whose fate nobody knows is sent again as it was, and a process that starts goes on after what is stored.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use auditflow_event::{Event, NodeId, Timestamp};
use auditflow_service::backoff::Backoff;
use auditflow_service::file;
use auditflow_wire::payload::{Encoded, PayloadError};
use auditflow_wire::{
    BatchSeq, BootId, ClockCause, ClockFact, Clocks, Content, Draft, Encoder, EpochId, FrameWriter, Link,
    NodeFacts, NodeKey, RandomError, RuleSetVersion, SealError, UnknownPredecessor, seal,
};
use tokio_util::sync::CancellationToken;

use super::{Ingest, IngestError, Speaker};
use crate::store::{By, EnrolOutcome, Enrolment, JoinToken, Store, StoreError};

/// The file with its key, in the data directory.
const KEY_FILE: &str = "ancestor.key";
/// More than a key takes.
const MAX_KEY_FILE: u64 = 1 << 10;
/// How long the token is good that it enrols with.
const MINUTE_MICROS: i64 = 60_000_000;
/// Delays between attempts to store a batch.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// Seals and stores what it is given.
pub struct Intake {
    store: Arc<dyn Store>,
    ingest: Arc<Ingest>,
    node: NodeId,
    key: NodeKey,
    about: NodeFacts,
    encoder: Option<Encoder>,
    chain: Option<Chain>,
}

/// Where its epoch stands: all before the next batch is stored.
struct Chain {
    epoch: EpochId,
    number: BatchSeq,
    link: Link,
    events: u64,
}

/// Who it is.
pub struct Identity {
    node: NodeId,
    key: NodeKey,
}

impl Identity {
    /// The one whose key is in `data_dir`, or a new one.
    pub fn open(data_dir: &Path) -> Result<Self, IntakeError> {
        let key = key(&data_dir.join(KEY_FILE))?;
        let mut node = [0; 16];
        node.copy_from_slice(&blake3::hash(key.public().as_bytes()).as_bytes()[..16]);
        Ok(Self { node: NodeId::from_bytes(node), key })
    }
}

/// Why events are not stored.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// Its key.
    #[error("cannot use {}: make sure that it is the collector's own, or remove it to begin as a new node", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The operating system gave no random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// They can't be encoded.
    #[error("events can't be encoded: {0}")]
    Payload(#[from] PayloadError),
    /// They can't be sealed.
    #[error("events can't be sealed: {0}")]
    Seal(#[from] SealError),
    /// Somebody revoked the node.
    #[error(
        "node {0}, which stands for them, may not send: approve it, or remove ancestor.key from the data directory"
    )]
    ShutOut(NodeId),
    /// The ledger has another batch in this place.
    #[error(
        "the ledger contradicts what was sealed as node {0}: does another process have a copy of ancestor.key?"
    )]
    Contradicted(NodeId),
    /// The collector is stopping.
    #[error("the collector is stopping")]
    Stopping,
}

impl Intake {
    /// A node that becomes known to the store with its first batch.
    pub fn new(identity: Identity, store: Arc<dyn Store>, ingest: Arc<Ingest>) -> Self {
        let about = NodeFacts::new("audit_events", env!("CARGO_PKG_VERSION"), "", "", []);
        let Identity { node, key } = identity;
        Self { store, ingest, node, key, about, encoder: None, chain: None }
    }

    /// The node that its events are of.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Seals events and waits until they are stored, however often the store has to be asked.
    pub async fn take(&mut self, events: Vec<Event>, stop: &CancellationToken) -> Result<(), IntakeError> {
        let count = events.len() as u64;
        let encoded = self.encode(events).await?;
        let mut retry = Backoff::new(RETRY.0, RETRY.1, u64::from(std::process::id()));
        loop {
            let error = match self.offer(&encoded, count).await {
                Err(IntakeError::Store(error)) => error,
                done => return done,
            };
            tracing::debug!(%error, "events from elsewhere wait for the store");
            tokio::select! {
                () = stop.cancelled() => return Err(IntakeError::Stopping),
                () = tokio::time::sleep(retry.failed()) => {}
            }
        }
    }

    async fn encode(&mut self, events: Vec<Event>) -> Result<Encoded, IntakeError> {
        let node = self.node;
        let mut encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => Encoder::new()?,
        };
        let work = tokio::task::spawn_blocking(move || (encoder.encode(node, &events), encoder));
        let (encoded, encoder) = work.await.map_err(|_| IntakeError::Stopping)?;
        self.encoder = Some(encoder);
        Ok(encoded?)
    }

    /// Stores one batch in the next place of the chain, which moves on only then: asked again, the same bytes come.
    async fn offer(&mut self, encoded: &Encoded, count: u64) -> Result<(), IntakeError> {
        let mut chain = match self.chain.take() {
            Some(chain) => chain,
            None => self.begin().await?,
        };
        let signed = seal(self.draft(&chain), encoded, &self.key)?;
        let mut frame = FrameWriter::new();
        if !frame.push_batch(&signed, Content::Payload(&encoded.bytes)) {
            return Err(SealError::Payload(encoded.bytes.len()).into());
        }
        let speaker = Speaker { node: self.node, key: None };
        let taken = self.ingest.take(speaker, frame.finish().into(), now()).await;
        let answers = match taken {
            Ok(answers) => answers,
            Err(error) => {
                self.chain = Some(chain);
                return Err(match error {
                    IngestError::Store(error) => error.into(),
                    IngestError::Stopping => IntakeError::Stopping,
                    IngestError::Malformed(_) => IntakeError::Contradicted(self.node),
                });
            }
        };
        if !answers.is_let_in {
            self.chain = Some(chain);
            return Err(IntakeError::ShutOut(self.node));
        }
        if !answers.status().is_success() {
            return Err(IntakeError::Contradicted(self.node));
        }
        chain.link = Link::Previous(signed.digest());
        chain.events += count;
        // After 2^63 batches the next one begins an epoch.
        self.chain = chain.number.next().map(|number| Chain { number, ..chain });
        Ok(())
    }

    fn draft(&self, chain: &Chain) -> Draft {
        let clock =
            ClockFact { cause: ClockCause::Seal, wall: now(), boottime_micros: 0, synchronised: true };
        Draft {
            node: self.node,
            epoch: chain.epoch,
            number: chain.number,
            oldest_unacknowledged: chain.number,
            link: chain.link.clone(),
            events_before: chain.events,
            rule_set: RuleSetVersion::NONE,
            about: self.about.clone(),
            clocks: Clocks { boot: BootId::UNKNOWN, facts: vec![clock] },
            last_ack: None,
            losses: Vec::new(),
        }
    }

    /// A new epoch, after what the ledger has of the last one.
    async fn begin(&self) -> Result<Chain, IntakeError> {
        if self.store.node_access(self.node).await?.is_none() {
            self.enrol().await?;
        }
        let last = self.store.epochs(self.node).await?.into_iter().next_back();
        let link = match last.map(|epoch| (epoch.epoch, epoch.through)) {
            Some((epoch, Some(head))) => Link::Successor { epoch, heads: vec![head] },
            Some((epoch, None)) => {
                Link::Unknown { why: UnknownPredecessor::SpoolCorrupt, epoch: Some(epoch) }
            }
            None => Link::Unknown { why: UnknownPredecessor::FirstStart, epoch: None },
        };
        Ok(Chain { epoch: EpochId::generate()?, number: BatchSeq::FIRST, link, events: 0 })
    }

    async fn enrol(&self) -> Result<(), IntakeError> {
        let now = now();
        let token = blake3::derive_key(
            "auditflow 2026-11-24 enrolling the intake",
            self.key.to_seed_hex().as_bytes(),
        );
        let expires_at = Timestamp::from_micros(now.as_micros().saturating_add(MINUTE_MICROS));
        let join = JoinToken { secret_hash: token, created_at: now, expires_at, uses_left: 1 };
        self.store.add_join_token(join, By::COLLECTOR).await?;
        let enrolment = Enrolment {
            node: self.node,
            token,
            key: self.key.public(),
            hostname: self.about.host_name.to_string(),
            version: self.about.agent_version.to_string(),
            fingerprint: String::new(),
            former: None,
            origin: None,
            now,
        };
        match self.store.enrol(enrolment).await? {
            EnrolOutcome::Active | EnrolOutcome::Known(..) => {
                tracing::info!(node.id = %self.node, "this node stands for the ancestor's events");
                Ok(())
            }
            EnrolOutcome::Pending | EnrolOutcome::TokenRefused | EnrolOutcome::KeyRetired => {
                Err(IntakeError::ShutOut(self.node))
            }
        }
    }
}

/// The key in this file, made if there is none.
fn key(path: &Path) -> Result<NodeKey, IntakeError> {
    let failed = |source| IntakeError::Key { path: path.to_owned(), source };
    match file::read_bounded(path, MAX_KEY_FILE) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|error| failed(error.into()))?;
            NodeKey::from_seed_hex(text.trim()).map_err(|error| failed(error.into()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = NodeKey::generate()?;
            let text = key.to_seed_hex() + "\n";
            file::write_atomic(path, text.as_bytes(), 0o600).map_err(|error| failed(error.into()))?;
            Ok(key)
        }
        Err(error) => Err(failed(error.into())),
    }
}

fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}
