//! The ledger: one row per (node, epoch, number) until a countersigned checkpoint stands for it, and the payloads while
//! retention keeps them.

use async_trait::async_trait;
use auditflow_event::{EventType, NodeId, Timestamp};
use auditflow_wire::{
    BatchSeq, Digest, EpochId, EpochLedger, Eviction, Head, SignedCheckpoint, SignedFold, SignedHeader, Span,
    State, Verdict,
};
use serde::{Deserialize, Serialize};

use super::nodes::Coverage;
use super::{Result, TermFilter};

/// Storing what arrives, and reading it back.
#[async_trait]
pub trait LedgerStore {
    /// One transaction for all of them, in their order: decides for each whether it is new, a duplicate or
    /// contradicts what is there, judges its links, advances stored-through, adds up declared losses, raises the
    /// flags that follow. The caller has verified every signature and payload hash.
    async fn store_batches(&self, arrivals: Vec<Arrival>) -> Result<StoreReport>;

    /// Takes a node's verified word on what it still holds: numbers below it that never came are recorded lost,
    /// flagged and passed over. Returns every epoch that the state speaks of, as it is now.
    async fn apply_state(&self, state: State, now: Timestamp) -> Result<Vec<(EpochId, EpochLedger)>>;

    /// How far an epoch is stored: what an acknowledgement says.
    async fn ledger_view(&self, node: NodeId, epoch: EpochId) -> Result<EpochLedger>;

    /// One batch, verbatim.
    async fn batch(&self, key: BatchKey) -> Result<Option<StoredBatch>>;

    /// Batches whose event times overlap `from..=to` and whose payload is there, in order of arrival, after `after`.
    async fn batches_between(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<(i64, BatchKey)>>;

    /// Batches that were stored unread, oldest arrival first, after `after`: to be tried again after an upgrade.
    async fn unread(&self, after: Option<i64>, limit: usize) -> Result<Vec<(i64, BatchKey)>>;

    /// A batch that had been stored unread can be read now: it becomes searchable and due for analysis.
    async fn mark_read(
        &self,
        key: BatchKey,
        terms: Option<BatchTerms>,
        coverage: Vec<(String, Coverage)>,
    ) -> Result<()>;

    /// A node's epochs, oldest first.
    async fn epochs(&self, node: NodeId) -> Result<Vec<EpochRow>>;

    /// Numbers of an epoch that never came and will not, ascending, as far as no checkpoint stands for them.
    async fn lost(&self, node: NodeId, epoch: EpochId) -> Result<Vec<Span>>;

    /// What stands for an epoch's first numbers. Its signature is for the reader to check.
    async fn checkpoint(&self, node: NodeId, epoch: EpochId) -> Result<Option<SignedCheckpoint>>;

    /// Epochs whose next rows a checkpoint may stand for now, those that came first at the front: no payload is left of
    /// them, nothing is due on them, all below them is stored or lost; and their day was [`Limits::header_age_seconds`]
    /// ago, or the store is beyond `max_bytes` and the ledger beyond its share of that.
    async fn replaceable(&self, limits: Limits, now: Timestamp) -> Result<Vec<Replaceable>>;

    /// Puts a checkpoint in place of the rows that it stands for, and of the checkpoint through `after` if there was
    /// one, in one transaction. Rows that detections rest on stay until those expire. `false`, and nothing has
    /// happened: another checkpoint is there by now, or a row may not go. The caller has proved the rows.
    async fn replace(&self, checkpoint: SignedCheckpoint, after: Option<BatchSeq>) -> Result<bool>;

    /// The lowest number of an epoch that came at `from` or later, if its row is there.
    async fn first_since(&self, node: NodeId, epoch: EpochId, from: Timestamp) -> Result<Option<BatchSeq>>;

    /// An epoch's rows by number, from `from` on: what `verify` walks. Rows below the epoch's checkpoint are those that
    /// stay beside it.
    async fn chain(
        &self,
        node: NodeId,
        epoch: EpochId,
        from: BatchSeq,
        limit: usize,
    ) -> Result<Vec<ChainRow>>;

    /// Drops payload partitions beyond the limits, declares each drop, and removes what lives as long: those beyond their
    /// age, and if that is not enough the oldest one for its size. Their headers may be replaced next; so call again until
    /// nothing goes. What the ledger takes counts against `max_bytes`; space that it has no use for is given back first.
    async fn retain(&self, limits: Limits, now: Timestamp) -> Result<Vec<Pruning>>;

    /// Every declared pruning, newest first.
    async fn prunings(&self, limit: usize) -> Result<Vec<Pruning>>;
}

/// Which batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BatchKey {
    /// Whose.
    pub node: NodeId,
    /// Of which epoch.
    pub epoch: EpochId,
    /// Which number.
    pub seq: BatchSeq,
}

/// Something that arrived, verified.
#[derive(Clone, Debug)]
pub enum Arrival {
    /// A batch with its payload, or the node's word that it was evicted.
    Batch(Box<NewBatch>),
    /// A run of evicted headers, folded into one signed range.
    Fold {
        /// The node's statement.
        fold: Box<SignedFold>,
        /// When it came.
        received_at: Timestamp,
    },
}

/// A batch to store.
#[derive(Clone, Debug)]
pub struct NewBatch {
    /// Header and signature, verbatim.
    pub signed: SignedHeader,
    /// The payload.
    pub payload: NewPayload,
    /// What finds it; none if it has no events, or none that this release can read.
    pub terms: Option<BatchTerms>,
    /// Of a version or codec that this release can't read: kept, acknowledged, judged after an upgrade.
    pub unread: bool,
    /// What sources said of themselves in it (`agent_state` events), oldest first.
    pub coverage: Vec<(String, Coverage)>,
    /// When it came, by the collector's clock.
    pub received_at: Timestamp,
    /// Until when it is left to the process that stores it, which is about to judge it.
    pub claimed_until: Option<Timestamp>,
}

/// A payload on its way into the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewPayload {
    /// As it travelled.
    Present(Vec<u8>),
    /// The node had let go of it.
    Evicted(Eviction),
}

/// A batch read back.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    /// Its order of arrival in the whole store.
    pub id: i64,
    /// Header and signature, verbatim.
    pub signed: SignedHeader,
    /// The payload.
    pub payload: Payload,
    /// When it was first received.
    pub received_at: Timestamp,
    /// Whether its findings have been recorded.
    pub analysed: bool,
}

impl StoredBatch {
    /// Its key.
    pub fn key(&self) -> BatchKey {
        let header = &self.signed.header;
        BatchKey { node: header.node, epoch: header.epoch, seq: header.number }
    }
}

/// What is left of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The bytes as they travelled.
    Present(Vec<u8>),
    /// The node had let go of it before it could be sent.
    Evicted(Eviction),
    /// Retention dropped it, and declared so.
    Expired,
}

/// What finds a batch's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchTerms {
    /// The earliest event time.
    pub from: Timestamp,
    /// The latest event time.
    pub to: Timestamp,
    /// One bit per event type that occurs: [`BatchTerms::bit`].
    pub types: i64,
    /// Over the hashes of all terms.
    pub filter: TermFilter,
}

impl BatchTerms {
    /// An event type's bit. Its place among `EventType::ALL` is part of the stored format: new types go to the end.
    pub fn bit(kind: EventType) -> i64 {
        EventType::ALL.iter().position(|known| *known == kind).map_or(0, |place| 1 << place)
    }
}

/// What one call of `store_batches` did.
#[derive(Clone, Debug, Default)]
pub struct StoreReport {
    /// One per arrival, in their order.
    pub outcomes: Vec<StoreOutcome>,
    /// The epochs of the arrivals as they are now: what acknowledgements are made from.
    pub epochs: Vec<(NodeId, EpochId, EpochLedger)>,
}

/// What became of an arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOutcome {
    /// Whose batch, of which epoch.
    pub epoch: (NodeId, EpochId),
    /// Its order of arrival, if it is in the ledger since now.
    pub id: Option<i64>,
    /// The one answer. `Store` and `StoreAbove` are in the ledger, `Fork` is kept apart as evidence.
    pub verdict: Verdict,
}

/// An epoch of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRow {
    /// Which.
    pub epoch: EpochId,
    /// The epoch that it names as the one before.
    pub predecessor: Option<EpochId>,
    /// When its first batch arrived.
    pub first_seen: Timestamp,
    /// When its last one did.
    pub last_seen: Timestamp,
    /// Stored without a gap through here.
    pub through: Option<Head>,
    /// The highest number stored.
    pub highest: Option<BatchSeq>,
    /// The last number that a checkpoint stands for, and when that was signed.
    pub checkpoint: Option<(BatchSeq, Timestamp)>,
}

/// The next rows of an epoch that a checkpoint may stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaceable {
    /// Whose.
    pub node: NodeId,
    /// Of which epoch.
    pub epoch: EpochId,
    /// The last number of them. The first is the one after the epoch's checkpoint.
    pub through: BatchSeq,
    /// When the first of them came.
    pub since: Timestamp,
}

/// One row of the ledger as `verify` needs it.
#[derive(Clone, Debug)]
pub enum ChainRow {
    /// A batch.
    Batch(Box<StoredBatch>),
    /// A folded run.
    Fold(Box<SignedFold>),
}

impl ChainRow {
    /// The numbers that it stands for.
    pub fn span(&self) -> Span {
        match self {
            Self::Batch(batch) => Span::one(batch.signed.header.number),
            Self::Fold(fold) => fold.unverified().span,
        }
    }
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// At most this many bytes of payloads and ledger.
    pub max_bytes: u64,
    /// Payloads of days that ended longer ago than this many seconds go.
    pub max_age_seconds: u64,
}

impl Limits {
    /// Headers stay as long again as payloads do, so that `verify` proves each number by itself: they cost a tenth.
    pub fn header_age_seconds(&self) -> u64 {
        self.max_age_seconds.saturating_mul(2)
    }

    /// What the ledger may take before headers go early, where payloads and ledger are beyond `max_bytes` together.
    pub fn ledger_bytes(&self) -> u64 {
        self.max_bytes / 8
    }
}

/// A declared pruning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruning {
    /// The day of first receipt, as the payload file is called.
    pub day: String,
    /// Which part of it.
    pub part: i64,
    /// `age` or `bytes`.
    pub reason: String,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// How many batches lost their payload here.
    pub batches: u64,
    /// How many events they held.
    pub events: u64,
    /// How many bytes they had.
    pub bytes: u64,
    /// BLAKE3 over the digests of those batches, in order of arrival.
    pub digest: Digest,
}
