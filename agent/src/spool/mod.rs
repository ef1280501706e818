//! The spool: what the node saw, on disk, until the collector says that it is stored.
//!
//! Fed by the pipeline thread, which owns the [`Spool`] (commit, seal, acknowledge); feeds the shipper through a
//! [`Reader`] on a connection of its own. Calls block for as long as the disk needs.
//!
//! It guarantees that a commit is whole or did not happen, cursors included; that what was committed is in exactly
//! one batch that is held, or acknowledged, or declared lost; that numbers within an epoch have no gaps and each
//! batch names the one before; that only a validly signed acknowledgement with a batch's own digest frees it; and
//! that all of it stays within the byte cap, its log included. It does not guarantee that a damaged file can be read:
//! that is set aside, a new epoch begins, and the gap is declared.
//!
//! Events are appended as chunks, one row per commit and priority (an SD card is worn by commits), and sealed into
//! signed batches by size or age (a collector is worn by batches). Chunks that a crash left unsealed are sealed by
//! the next start into the chain of the epoch that committed them, with the clocks noted at their commit, before
//! the new epoch names that chain's head: the times of a batch belong to its epoch's boot.

mod append;
mod chunk;
mod clock;
mod cursors;
mod database;
mod epoch;
mod error;
mod eviction;
mod export;
mod files;
mod integrity;
mod losses;
mod mirror;
mod opening;
mod quota;
mod reader;
mod release;
mod reseal;
mod sealing;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use auditflow_event::{Event, NodeId};
use auditflow_service::file::DirectoryLock;
use auditflow_wire::{
    AckSeen, BadSignature, BatchSeq, Decoder, Encoder, EpochId, Link, Loss, NodeFacts, NodeKey,
    RotationError, RuleSetVersion, SignedRotation, SitePins,
};

use crate::identity::LastSealed;
use clock::ClockWatch;
use database::Database;
use epoch::Epoch;

pub use clock::{Clock, Now};
pub use error::SpoolError;
pub use export::{Exported, export};
pub use integrity::{EpochSummary, Summary, inspect, is_in, verify};
pub use mirror::Cursors;
pub use quota::MIN_MAX_BYTES;
pub use reader::{Loaded, Reader, RowId, Waiting};
pub use release::{Acknowledged, Void};

/// How much the spool holds and when it seals.
#[derive(Debug, Clone)]
pub struct Options {
    /// All that it may take on disk, SQLite's own files included, but not what was set aside as damaged (the newest
    /// two files, for whoever wants to look into them). At least [`MIN_MAX_BYTES`].
    pub max_bytes: u64,
    /// How long events wait for others to be sealed with.
    pub seal_interval: Duration,
    /// After how long without any batch an empty one is sealed, so that silence is signed too.
    pub idle_interval: Duration,
    /// At how many events a batch is full.
    pub batch_events: u32,
    /// At how many bytes of events, before compression, a batch is full.
    pub batch_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_bytes: 512 << 20,
            seal_interval: Duration::from_secs(5),
            idle_interval: Duration::from_mins(5),
            batch_events: 4096,
            batch_bytes: 768 << 10,
        }
    }
}

/// Who signs what the spool seals, and whose acknowledgements it heeds.
#[derive(Debug, Clone)]
pub struct Keys {
    /// This node.
    pub node: NodeId,
    /// Its key.
    pub key: NodeKey,
    /// The site's pinned keys; none before the node has joined.
    pub site: Option<SitePins>,
    /// What the node says of itself in all that it signs.
    pub about: NodeFacts,
}

/// What is committed at once, or not at all.
#[derive(Debug)]
pub struct Commit {
    /// Events in the order in which they are to be kept.
    pub events: Vec<Event>,
    /// What is known to have been lost since the last commit.
    pub losses: Vec<Loss>,
    /// Where each source goes on after these events, by its name.
    pub cursors: Vec<(String, Vec<u8>)>,
    /// Whether the events of the highest priority among these are to be sealed at once and sent first.
    pub urgent: bool,
    /// The pre-filter's rule set that let them through.
    pub rule_set: RuleSetVersion,
}

impl Default for Commit {
    fn default() -> Self {
        let rule_set = RuleSetVersion::NONE;
        Self { events: Vec::new(), losses: Vec::new(), cursors: Vec::new(), urgent: false, rule_set }
    }
}

/// A batch that was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// Its epoch.
    pub epoch: EpochId,
    /// Its number.
    pub number: BatchSeq,
    /// How many events it holds.
    pub events: u32,
    /// Its size as it travels, in bytes.
    pub bytes: u64,
    /// Whether it is sent before others.
    pub urgent: bool,
}

/// What was found when the spool was opened, or opened anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The epoch that began.
    pub epoch: EpochId,
    /// What its first batch names as its predecessor.
    pub link: Link,
    /// Why the spool found was set aside, and under which name.
    pub set_aside: Option<(String, PathBuf)>,
    /// Where each source goes on.
    pub cursors: Cursors,
    /// Where those come from.
    pub cursors_from: CursorsFrom,
}

/// Where the cursors of an [`Opening`] come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CursorsFrom {
    /// The spool, as of its last commit.
    Spool,
    /// The mirror beside it, possibly a little behind: some events are read twice and collapsed by their ids.
    Mirror,
    /// Nowhere, as at the first start; what can be replayed is replayed from its start.
    Nowhere,
}

/// What the spool did since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Events committed.
    pub events: u64,
    /// Transactions that committed events, losses or cursors.
    pub commits: u64,
    /// Batches sealed, resealed ones included.
    pub batches: u64,
    /// Batches let go of because they are stored.
    pub released: u64,
    /// Batches whose payload was evicted.
    pub evicted_batches: u64,
    /// Events evicted, in batches or before they were in one.
    pub evicted_events: u64,
    /// How often a damaged spool was set aside.
    pub set_aside: u64,
    /// Calls that the disk or the cap refused.
    pub refusals: u64,
}

/// The writing side. See the module's documentation.
pub struct Spool {
    dir: PathBuf,
    options: Options,
    keys: Keys,
    /// The same keys for the readers.
    published: Arc<RwLock<Keys>>,
    database: Database,
    epoch: Epoch,
    clocks: ClockWatch,
    /// What waits to be sealed in the current epoch, urgent and high classes first.
    waiting: Vec<chunk::Waiting>,
    /// Since when undeclared losses wait: intended ones, and others.
    losses_since: (Option<Duration>, Option<Duration>),
    last_sealed: Duration,
    last_ack: Option<AckSeen>,
    rule_set: RuleSetVersion,
    cursors: Cursors,
    /// When the mirror was written, and whether it is behind.
    mirrored: (Duration, bool),
    /// At how many evicted headers they are folded.
    fold_at: u64,
    encoder: Encoder,
    decoder: Decoder,
    /// Counts databases, so that readers notice a new one.
    generation: Arc<AtomicU64>,
    /// A damaged database whose replacement has not succeeded yet.
    broken: Option<opening::Broken>,
    reopened: Option<Opening>,
    counters: Counters,
    _lock: DirectoryLock,
}

impl Spool {
    /// Appends events, losses and cursors in one transaction that is on disk when this returns. After an error
    /// everything is as before; if it [is passing](SpoolError::is_passing), the same commit may be tried again.
    pub fn commit(&mut self, commit: &Commit, now: Now) -> Result<(), SpoolError> {
        self.surviving(now, |spool| spool.append(commit, now))
    }

    /// Seals one batch if one is due by size, by age or because it is urgent; to be repeated until there is none.
    pub fn seal(&mut self, now: Now) -> Result<Option<Sealed>, SpoolError> {
        self.surviving(now, |spool| spool.seal_due(now))
    }

    /// Seals everything that was committed, and brings the mirror of the cursors up to date: for an orderly stop.
    pub fn drain(&mut self, now: Now) -> Result<(), SpoolError> {
        self.surviving(now, |spool| spool.seal_all(now))?;
        self.mirror_cursors(now, true)
    }

    /// When [`Spool::seal`] will have something to do, by the boot clock.
    pub fn next_deadline(&self) -> Duration {
        self.seal_deadline()
    }

    /// Lets go of what the collector has signed to be stored, and seals anew in a new epoch if it says `fork`.
    pub fn acknowledge(
        &mut self,
        ack: &auditflow_wire::SignedAck,
        now: Now,
    ) -> Result<Acknowledged, SpoolError> {
        self.surviving(now, |spool| spool.release(ack, now))
    }

    /// A payload that a reader found altered: its batch keeps its place, the node signs that the payload is gone.
    pub fn give_up_payload(&mut self, id: RowId, now: Now) -> Result<(), SpoolError> {
        self.surviving(now, |spool| spool.evict_damaged(id))
    }

    /// What a reader found damaged beyond one payload: sets the whole spool aside and begins a new one.
    pub fn give_up(&mut self, what: &str, now: Now) -> Result<(), SpoolError> {
        self.begin_anew(what, now)
    }

    /// Heeds acknowledgements by these keys of the site from now on: the node has joined while the spool was open.
    pub fn trust(&mut self, keys: SitePins) {
        self.keys.site = Some(keys);
        self.publish_keys();
    }

    /// Follows one statement of the site's chain of keys. Returns the pins if they are others now.
    pub fn follow(&mut self, rotation: &SignedRotation) -> Result<Option<SitePins>, RotationError> {
        let pins = self.keys.site.as_mut().ok_or(BadSignature { key: rotation.key() })?;
        let changed = pins.follow(rotation)?.then_some(*pins);
        self.publish_keys();
        Ok(changed)
    }

    /// Signs with this key of the node from now on.
    pub fn sign_with(&mut self, key: NodeKey) {
        self.keys.key = key;
        self.publish_keys();
    }

    /// Which batches were sealed and are held: what the key in use speaks for when it gives way to another.
    pub fn last_sealed(&self) -> Result<LastSealed, SpoolError> {
        let epochs = Epoch::all(&self.database.connection)?;
        let heads = epochs.iter().filter_map(|epoch| Some((epoch.id, epoch.head?))).collect();
        Ok(LastSealed { epoch: self.epoch.id, heads })
    }

    /// Lets the readers know the keys.
    fn publish_keys(&self) {
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = self.keys.clone();
    }

    /// What a reopening during the run found, if there was one since this was last asked.
    pub fn take_reopening(&mut self) -> Option<Opening> {
        self.reopened.take()
    }

    /// The current epoch.
    pub fn epoch(&self) -> EpochId {
        self.epoch.id
    }

    /// What it did so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// All that SQLite takes on disk now, in bytes.
    pub fn footprint(&self) -> Result<u64, SpoolError> {
        self.database.footprint()
    }

    /// Does something; where the spool turns out to be damaged, sets it aside and does it with a new one.
    fn surviving<T>(
        &mut self,
        now: Now,
        mut act: impl FnMut(&mut Self) -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        let broken = self.broken.as_ref().map(|broken| broken.what.clone());
        let outcome = match broken.map_or(Ok(()), |what| self.begin_anew(&what, now)).and_then(|()| act(self))
        {
            Err(SpoolError::Damaged { what }) => self.begin_anew(&what, now).and_then(|()| act(self)),
            outcome => outcome,
        };
        if outcome.is_err() {
            self.counters.refusals += 1;
        }
        outcome
    }
}

#[cfg(test)]
pub(crate) mod tests;
