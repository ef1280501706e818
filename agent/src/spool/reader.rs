//! The shipper's view of the spool: what is to be sent, on a read-only connection of its own.
//!
//! Every call reads in a transaction as short as itself, so that the log can be shortened between them. What it hands
//! out was compared with its digests and signatures first.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use auditflow_wire::state::MAX_HELD;
use auditflow_wire::{
    AckSeen, Content, Eviction, FrameWriter, Held, NodePublicKey, SignedFold, SignedHeader, SignedState,
    State,
};
use rusqlite::{Connection, OptionalExtension, params};

use super::clock::{Now, sealed_at};
use super::epoch::Epoch;
use super::error::{Attempt, SpoolError};
use super::{Keys, database, sealing};

/// Which row of the spool: in the order of sealing over all epochs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub i64);

/// A batch that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its row.
    pub id: RowId,
    /// Its size as it travels, in bytes.
    pub bytes: u64,
    /// Whether it goes before others.
    pub urgent: bool,
}

/// What became of loading a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// A frame with the batch, its evicted header or its folded range.
    Frame(Vec<u8>),
    /// It is no longer in the spool, or stored.
    Gone,
    /// Its payload was altered on the disk: see [`Spool::give_up_payload`](super::Spool::give_up_payload).
    PayloadDamaged,
}

/// The reading side. See the module's documentation.
pub struct Reader {
    dir: PathBuf,
    keys: Arc<RwLock<Keys>>,
    generation: Arc<AtomicU64>,
    seen: u64,
    connection: Option<Connection>,
}

impl Reader {
    pub(super) fn new(dir: &Path, keys: Arc<RwLock<Keys>>, generation: Arc<AtomicU64>) -> Self {
        let seen = generation.load(Ordering::Acquire);
        Self { dir: dir.to_owned(), keys, generation, seen, connection: None }
    }

    /// Whether the spool was begun anew since this was last asked: its rows then count from the start again.
    pub fn was_replaced(&mut self) -> bool {
        let current = self.generation.load(Ordering::Acquire);
        let replaced = current != self.seen;
        if replaced {
            self.seen = current;
            self.connection = None;
        }
        replaced
    }

    /// The first batch, urgent or not, above a row.
    pub fn next_above(&mut self, urgent: bool, above: RowId) -> Result<Option<Waiting>, SpoolError> {
        self.connection()?
            .prepare_cached(
                "SELECT id, payload_size + length(signed) FROM batch
                 WHERE urgent = ? AND id > ? AND stored = 0 ORDER BY id LIMIT 1",
            )
            .and_then(|mut statement| {
                let row = statement.query_row(params![urgent, above.0], |row| {
                    let bytes: i64 = row.get(1)?;
                    Ok(Waiting { id: RowId(row.get(0)?), bytes: bytes as u64, urgent })
                });
                row.optional()
            })
            .attempt("find the next batch")
    }

    /// Which of these are no longer to be sent.
    pub fn gone(&mut self, ids: &[RowId]) -> Result<Vec<RowId>, SpoolError> {
        let connection = self.connection()?;
        let mut statement = connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM batch WHERE id = ? AND stored = 0)")
            .attempt("look for batches")?;
        let mut gone = Vec::new();
        for id in ids {
            let held: bool = statement.query_row([id.0], |row| row.get(0)).attempt("look for batches")?;
            if !held {
                gone.push(*id);
            }
        }
        Ok(gone)
    }

    /// A frame with one batch, checked against its digests.
    pub fn load(&mut self, id: RowId) -> Result<Loaded, SpoolError> {
        let key = self.keys().key.public();
        let row = self
            .connection()?
            .prepare_cached("SELECT digest, signed, eviction, payload FROM batch WHERE id = ? AND stored = 0")
            .and_then(|mut statement| {
                let row = statement.query_row([id.0], |row| {
                    Ok(Row {
                        digest: row.get(0)?,
                        signed: row.get(1)?,
                        eviction: row.get(2)?,
                        payload: row.get(3)?,
                    })
                });
                row.optional()
            })
            .attempt("read a batch")?;
        row.map_or(Ok(Loaded::Gone), |row| row.frame(&key))
    }

    /// A frame with the node's word on what is held.
    pub fn state(&mut self, now: &Now) -> Result<Vec<u8>, SpoolError> {
        let Keys { node, key, site, about } = self.keys();
        let site_key = site.map(|pins| pins.newest());
        let connection = self.connection()?;
        let epochs = Epoch::all(connection)?;
        let current = epochs.last().ok_or_else(|| SpoolError::damaged("no epoch is open"))?;
        let skipped = epochs.len().saturating_sub(MAX_HELD);
        let mut held = Vec::new();
        for epoch in epochs.iter().skip(skipped) {
            let lowest = sealing::lowest_held(connection, epoch)?;
            held.push(Held { epoch: epoch.id, lowest, head: epoch.head });
        }
        let last_ack = epochs.iter().rev().find_map(|epoch| {
            let acked = epoch.acked?;
            Some(AckSeen { epoch: epoch.id, number: acked.number, digest: acked.digest })
        });
        let (epoch, complete, clocks) = (current.id, skipped == 0, sealed_at(now));
        let state = State { node, epoch, complete, about, clocks, last_ack, site_key, held };
        let state = SignedState::sign(state, &key);
        let mut frame = FrameWriter::new();
        if frame.push_state(&state) { Ok(frame.finish()) } else { Err(too_large()) }
    }

    fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn connection(&mut self) -> Result<&Connection, SpoolError> {
        self.was_replaced_silently();
        match &mut self.connection {
            Some(connection) => Ok(connection),
            empty => Ok(empty.insert(database::open_for_reading(&self.dir)?)),
        }
    }

    /// Never reads from a file that was set aside; the caller still hears of it from [`Reader::was_replaced`].
    fn was_replaced_silently(&mut self) {
        if self.generation.load(Ordering::Acquire) != self.seen {
            self.connection = None;
        }
    }
}

/// A batch's row as it is shipped and exported.
pub(super) struct Row {
    pub(super) digest: [u8; 32],
    pub(super) signed: Vec<u8>,
    pub(super) eviction: Option<Vec<u8>>,
    pub(super) payload: Option<Vec<u8>>,
}

impl Row {
    /// A frame with the row alone. What an earlier key signed cannot be checked here; the collector knows that key.
    fn frame(&self, key: &NodePublicKey) -> Result<Loaded, SpoolError> {
        let mut frame = FrameWriter::new();
        match self.push(&mut frame, Some(key))? {
            Pushed::Yes => Ok(Loaded::Frame(frame.finish())),
            Pushed::NoRoom => Err(too_large()),
            Pushed::PayloadDamaged => Ok(Loaded::PayloadDamaged),
        }
    }

    /// Adds the row to a frame, its digests checked, and its signatures if they should be `key`'s.
    pub(super) fn push(
        &self,
        frame: &mut FrameWriter,
        key: Option<&NodePublicKey>,
    ) -> Result<Pushed, SpoolError> {
        let malformed = |error| SpoolError::damaged(format!("a batch's row was altered: {error}"));
        let forged = |error| SpoolError::damaged(format!("a batch's row was altered: {error}"));
        if self.eviction.as_ref().is_some_and(Vec::is_empty) {
            let fold = SignedFold::parse(&self.signed).map_err(malformed)?;
            if let Some(key) = key.filter(|key| key.id() == fold.key()) {
                fold.verify(key).map_err(forged)?;
            }
            return Ok(if frame.push_fold(&fold) { Pushed::Yes } else { Pushed::NoRoom });
        }
        let header = SignedHeader::parse(&self.signed).map_err(malformed)?;
        if header.digest().as_bytes() != &self.digest {
            return Err(SpoolError::damaged("a batch's header does not have its digest"));
        }
        if let Some(key) = key.filter(|key| key.id() == header.header.key) {
            header.verify(key).map_err(forged)?;
        }
        let content = match (&self.eviction, &self.payload) {
            (Some(eviction), _) => {
                let eviction = Eviction::parse(eviction).map_err(malformed)?;
                if let Some(key) = key.filter(|key| key.id() == eviction.key) {
                    eviction.verify(&header, key).map_err(forged)?;
                }
                Content::Evicted(eviction)
            }
            (None, payload) => Content::Payload(payload.as_deref().unwrap_or_default()),
        };
        match content {
            Content::Payload(payload) if !header.is_payload(payload) => Ok(Pushed::PayloadDamaged),
            content => Ok(if frame.push_batch(&header, content) { Pushed::Yes } else { Pushed::NoRoom }),
        }
    }
}

/// Whether a row went into a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    Yes,
    NoRoom,
    PayloadDamaged,
}

fn too_large() -> SpoolError {
    SpoolError::damaged("what is to be sent does not fit into a frame")
}
