//! What tests of several modules build with: a node that seals real batches.

use std::cell::RefCell;

use auditflow_event::{Event, NodeId, Timestamp};
use auditflow_wire::{
    BatchSeq, BootId, ClockCause, ClockFact, Clocks, Content, Digest, Draft, Encoder, EpochId, EvictReason,
    Eviction, FrameWriter, Head, Held, Link, Loss, NodeFacts, NodeKey, RuleSetVersion, SignedHeader, State,
    UnknownPredecessor, seal,
};

use crate::ingest::open::Opener;
use crate::site::Site;
use crate::store::{
    Arrival, BatchKey, By, DetectionStore, Enrolment, JoinToken, NewBatch, NewPayload, Store,
};

thread_local! {
    /// Making one costs more than a thousand batches of a few events.
    static ENCODER: RefCell<Encoder> = RefCell::new(Encoder::new().unwrap());
}

/// A moment that tests count from: 2026-11-23T12:00:00Z.
pub(crate) const NOON: i64 = 1_795_435_200_000_000;

/// So many seconds after [`NOON`].
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_micros(NOON + seconds * 1_000_000)
}

/// A site of its own, for as long as the directory is there.
pub(crate) fn site() -> (tempfile::TempDir, Site) {
    let directory = tempfile::tempdir().unwrap();
    let site = Site::open(directory.path()).unwrap();
    (directory, site)
}

/// Lets the store know a node and its key.
pub(crate) async fn enrol(store: &std::sync::Arc<dyn Store>, node: &TestNode) {
    let secret_hash = *blake3::hash(node.id.as_bytes()).as_bytes();
    let token = JoinToken { secret_hash, created_at: at(0), expires_at: at(9), uses_left: 1 };
    store.add_join_token(token, By::COLLECTOR).await.unwrap();
    let enrolment = Enrolment {
        node: node.id,
        token: secret_hash,
        key: node.key.public(),
        hostname: "pi".to_owned(),
        version: "1".to_owned(),
        fingerprint: String::new(),
        former: None,
        origin: None,
        now: at(1),
    };
    store.enrol(enrolment).await.unwrap();
}

/// A node with its key and the state of its chain.
#[derive(Clone)]
pub(crate) struct TestNode {
    pub id: NodeId,
    pub key: NodeKey,
    pub epoch: EpochId,
    pub boot: BootId,
    /// What the next batch says is acknowledged below.
    pub oldest_unacknowledged: Option<u64>,
    /// What the next batch declares lost.
    pub losses: Vec<Loss>,
    /// What it says of itself.
    pub about: NodeFacts,
    /// What the next batch says of the clocks; nothing: that they are set.
    pub clock: Vec<ClockFact>,
    link: Link,
    number: BatchSeq,
    sealed_events: u64,
    counter: u64,
    newest: Option<Head>,
}

/// A sealed batch with its payload.
#[derive(Clone)]
pub(crate) struct TestBatch {
    pub signed: SignedHeader,
    pub payload: Vec<u8>,
}

impl TestNode {
    /// The node with this number; its first epoch begins.
    pub(crate) fn new(seed: u8) -> Self {
        Self {
            id: NodeId::from_bytes([seed; 16]),
            key: NodeKey::from_seed(&[seed; 32]),
            epoch: EpochId::from_bytes([seed; 16]),
            boot: BootId::from_bytes([seed; 16]),
            oldest_unacknowledged: None,
            losses: Vec::new(),
            about: NodeFacts::default(),
            clock: Vec::new(),
            link: Link::Unknown { why: UnknownPredecessor::FirstStart, epoch: None },
            number: BatchSeq::FIRST,
            sealed_events: 0,
            counter: 0,
            newest: None,
        }
    }

    /// The same node, which goes on with another key.
    pub(crate) fn with_key(&self, key: &NodeKey) -> Self {
        Self { key: key.clone(), ..self.clone() }
    }

    /// The agent starts again: a new epoch that names the last batch sealed.
    pub(crate) fn restart(&mut self, epoch: u8) {
        let heads = self.newest.into_iter().collect();
        self.link = Link::Successor { epoch: self.epoch, heads };
        self.epoch = EpochId::from_bytes([epoch; 16]);
        (self.number, self.sealed_events) = (BatchSeq::FIRST, 0);
    }

    /// An event in the ancestor's shape, so many seconds after noon.
    pub(crate) fn event(&mut self, seconds: i64, kind: &str, user: &str, resource: &str) -> Event {
        let text = format!(
            r#"{{"event_type":"{kind}","timestamp":"{}","user_id":"{user}","server_hostname":"web-1","details":{{"resource":"{resource}"}}}}"#,
            at(seconds)
        );
        self.counter += 1;
        Event::synthetic(Some(self.id), *self.epoch.as_bytes(), self.counter, &text).unwrap()
    }

    /// A batch of logins at these seconds.
    pub(crate) fn logins(&mut self, seconds: &[i64]) -> TestBatch {
        let events: Vec<Event> =
            seconds.iter().map(|second| self.event(*second, "user_login", "alice", "sshd")).collect();
        self.seal(&events)
    }

    /// The node's word on what it holds.
    pub(crate) fn state(&self, held: Vec<Held>) -> State {
        let clocks = Clocks { boot: self.boot, facts: Vec::new() };
        let (node, epoch, about) = (self.id, self.epoch, self.about.clone());
        State { node, epoch, complete: true, about, clocks, last_ack: None, site_key: None, held }
    }

    /// The next batch.
    pub(crate) fn seal(&mut self, events: &[Event]) -> TestBatch {
        let encoded = ENCODER.with_borrow_mut(|encoder| encoder.encode(self.id, events).unwrap());
        let oldest = self.oldest_unacknowledged.take().and_then(BatchSeq::new).unwrap_or(BatchSeq::FIRST);
        let now = ClockFact {
            cause: ClockCause::Seal,
            wall: at(0),
            boottime_micros: 1_000_000_000,
            synchronised: true,
        };
        let said = std::mem::take(&mut self.clock);
        let facts = if said.is_empty() { vec![now] } else { said };
        let draft = Draft {
            node: self.id,
            epoch: self.epoch,
            number: self.number,
            oldest_unacknowledged: oldest.min(self.number),
            link: self.link.clone(),
            events_before: self.sealed_events,
            rule_set: RuleSetVersion::NONE,
            about: self.about.clone(),
            clocks: Clocks { boot: self.boot, facts },
            last_ack: None,
            losses: std::mem::take(&mut self.losses),
        };
        let signed = seal(draft, &encoded, &self.key).unwrap();
        self.link = Link::Previous(signed.digest());
        self.newest = Some(signed.head());
        self.number = self.number.next().unwrap();
        self.sealed_events += events.len() as u64;
        TestBatch { signed, payload: encoded.bytes }
    }
}

impl TestBatch {
    /// As ingest hands it to the store, received so many seconds after noon.
    pub(crate) fn received(&self, seconds: i64) -> NewBatch {
        let content = Content::Payload(&self.payload);
        let batch = auditflow_wire::Batch { signed: self.signed.clone(), content };
        Opener::default().open(batch, at(seconds)).batch
    }

    /// The same without its payload.
    pub(crate) fn evicted(&self, key: &NodeKey) -> NewBatch {
        let eviction = Eviction::sign(self.signed.digest(), EvictReason::SpoolFull, key);
        let mut batch = self.received(0);
        (batch.payload, batch.terms) = (NewPayload::Evicted(eviction), None);
        batch
    }

    /// As an arrival at noon.
    pub(crate) fn arrival(&self) -> Arrival {
        Arrival::Batch(Box::new(self.received(0)))
    }

    /// Its key.
    pub(crate) fn key(&self) -> BatchKey {
        let header = &self.signed.header;
        BatchKey { node: header.node, epoch: header.epoch, seq: header.number }
    }

    /// Its digest.
    pub(crate) fn digest(&self) -> Digest {
        self.signed.digest()
    }

    /// A frame with just this batch.
    pub(crate) fn frame(&self) -> Vec<u8> {
        frame(&[self])
    }
}

/// A frame with these batches.
pub(crate) fn frame(batches: &[&TestBatch]) -> Vec<u8> {
    let mut frame = FrameWriter::new();
    for batch in batches {
        assert!(frame.push_batch(&batch.signed, Content::Payload(&batch.payload)));
    }
    frame.finish()
}

/// What is to be judged, left to whoever asks next.
pub(crate) async fn due(store: &(impl DetectionStore + ?Sized), limit: usize) -> Vec<BatchKey> {
    store.take_unanalysed(at(0), at(0), limit).await.unwrap()
}
