//! What a spool holds and whether it is whole: the checks at every opening, and `spool inspect` and `spool verify`,
//! which read a spool in use without disturbing it.

use std::path::Path;

use auditflow_event::NodeId;
use auditflow_wire::{
    BatchSeq, BootId, Digest, EpochId, Eviction, Head, Link, Loss, NodeKeys, SignedFold, SignedHeader,
};
use rusqlite::{Connection, OptionalExtension};

use super::chunk::Waiting;
use super::epoch::{Epoch, head};
use super::error::{Attempt, SpoolError};
use super::{cursors, database, files, losses, sealing};

/// What a spool holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The schema version.
    pub schema: u32,
    /// What it takes on the disk, in bytes.
    pub footprint: u64,
    /// Its epochs, oldest first; the last one is current.
    pub epochs: Vec<EpochSummary>,
    /// The cursors' sources, with the sizes of the cursors in bytes.
    pub cursors: Vec<(String, usize)>,
    /// Losses that no batch has declared yet.
    pub losses: Vec<Loss>,
}

/// What a spool holds of one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochSummary {
    /// Which.
    pub epoch: EpochId,
    /// Whose.
    pub node: NodeId,
    /// In which boot.
    pub boot: BootId,
    /// The last sealed batch.
    pub head: Option<Head>,
    /// Stored through, as far as the collector has said.
    pub acknowledged: Option<Head>,
    /// The lowest number that is not acknowledged.
    pub lowest_held: BatchSeq,
    /// Batches held with their payload.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Rows of which only the header or a folded range is left.
    pub evicted: u64,
    /// Events that wait to be sealed.
    pub waiting: u64,
}

/// Whether there is a spool's database in `dir`.
pub fn is_in(dir: &Path) -> bool {
    files::database(dir).is_file()
}

/// Reads a summary of the spool in `dir`.
pub fn inspect(dir: &Path) -> Result<Summary, SpoolError> {
    let connection = database::open_for_reading(dir)?;
    let mut epochs = Vec::new();
    for epoch in Epoch::all(&connection)? {
        epochs.push(summary_of(&connection, &epoch)?);
    }
    let footprint = [files::database(dir), files::log(dir), files::log_index(dir)];
    Ok(Summary {
        schema: database::user_version(&connection)?,
        footprint: footprint.iter().map(|path| files::length(path)).sum(),
        epochs,
        cursors: cursors::load(&connection)?
            .into_iter()
            .map(|(source, cursor)| (source, cursor.len()))
            .collect(),
        losses: losses::load(&connection)?,
    })
}

/// Reads the spool in `dir` whole: structure, rows, chains, payloads, and signatures if the node's keys are given.
/// Returns what is wrong, one line each; empty if nothing is.
pub fn verify(dir: &Path, keys: Option<&NodeKeys>) -> Result<Vec<String>, SpoolError> {
    let connection = database::open_for_reading(dir)?;
    let mut faults = Vec::new();
    for outcome in [database::check(&connection), check_rows(&connection)] {
        match outcome {
            Err(SpoolError::Damaged { what }) => faults.push(what),
            outcome => outcome?,
        }
    }
    // Each row is read by itself, so that the writer of a spool in use can shorten its log in between.
    let mut statement = connection
        .prepare(
            "SELECT epoch.epoch, seq, last_seq, digest, signed, eviction, payload, batch.epoch FROM batch
             JOIN epoch ON epoch.ordinal = batch.epoch
             WHERE stored = 0 AND (batch.epoch, seq) > (?, ?) ORDER BY batch.epoch, seq LIMIT 1",
        )
        .attempt("read the batches")?;
    let mut previous: Option<(EpochId, Head)> = None;
    let mut after = (0_i64, 0_i64);
    loop {
        let row = statement
            .query_row(after, |row| Ok((CheckedRow::read(row)?, row.get(7)?)))
            .optional()
            .attempt("read a batch")?;
        let Some((row, ordinal)) = row else { break };
        if let Err(fault) = row.check(previous, keys) {
            faults.push(format!("epoch {} batch {}: {fault}", row.epoch, row.first));
        }
        after = (ordinal, row.first);
        previous = head(row.last, row.digest).map(|head| (row.epoch, head));
    }
    Ok(faults)
}

/// What every opening checks: the seals of the rows that no signature covers, and that no number is missing.
pub(super) fn check_rows(connection: &Connection) -> Result<(), SpoolError> {
    cursors::load(connection)?;
    losses::load(connection)?;
    let epochs = Epoch::all(connection)?;
    for epoch in &epochs {
        check_numbers(connection, epoch)?;
    }
    let orphans: i64 = connection
        .query_row(
            "SELECT (SELECT COUNT(*) FROM batch WHERE epoch NOT IN (SELECT ordinal FROM epoch)
                       OR (stored = 0) <> (length(signed) > 0))
                  + (SELECT COUNT(*) FROM chunk WHERE epoch NOT IN (SELECT ordinal FROM epoch)
                       OR priority NOT IN (0, 1, 2) OR urgent NOT IN (0, 1))",
            (),
            |row| row.get(0),
        )
        .attempt("check the rows")?;
    if orphans == 0 { Ok(()) } else { Err(SpoolError::damaged(format!("{orphans} rows contradict others"))) }
}

/// From the lowest number that is there to the head, none is missing.
fn check_numbers(connection: &Connection, epoch: &Epoch) -> Result<(), SpoolError> {
    let mut statement = connection
        .prepare_cached("SELECT seq, last_seq FROM batch WHERE epoch = ? ORDER BY seq")
        .attempt("check the numbers")?;
    let rows = statement
        .query_map([epoch.ordinal], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
        .attempt("check the numbers")?;
    let mut expected = None;
    for row in rows {
        let (first, last) = row.attempt("check the numbers")?;
        if expected.is_some_and(|expected| expected != first) || last < first {
            return Err(SpoolError::damaged(format!("epoch {} lacks a batch before {first}", epoch.id)));
        }
        expected = Some(last + 1);
    }
    if expected.is_some_and(|expected| expected != epoch.next.as_i64()) {
        return Err(SpoolError::damaged(format!("epoch {} lacks its newest batches", epoch.id)));
    }
    Ok(())
}

fn summary_of(connection: &Connection, epoch: &Epoch) -> Result<EpochSummary, SpoolError> {
    let (batches, events, payload_bytes, evicted): (i64, i64, i64, i64) = connection
        .query_row(
            "SELECT COUNT(*) FILTER (WHERE eviction IS NULL), COALESCE(SUM(events) FILTER (WHERE eviction IS NULL), 0),
                    COALESCE(SUM(payload_size), 0), COUNT(*) FILTER (WHERE eviction IS NOT NULL)
             FROM batch WHERE epoch = ? AND stored = 0",
            [epoch.ordinal],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )
        .attempt("sum up an epoch")?;
    Ok(EpochSummary {
        epoch: epoch.id,
        node: epoch.node,
        boot: epoch.boot,
        head: epoch.head,
        acknowledged: epoch.acked,
        lowest_held: sealing::lowest_held(connection, epoch)?,
        batches: batches as u64,
        events: events as u64,
        payload_bytes: payload_bytes as u64,
        evicted: evicted as u64,
        waiting: Waiting::all(connection, epoch.ordinal)?.iter().map(|waiting| waiting.events).sum(),
    })
}

/// A batch's row with all that speaks for it.
struct CheckedRow {
    epoch: EpochId,
    first: i64,
    last: i64,
    digest: [u8; 32],
    signed: Vec<u8>,
    eviction: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

impl CheckedRow {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            epoch: EpochId::from_bytes(row.get(0)?),
            first: row.get(1)?,
            last: row.get(2)?,
            digest: row.get(3)?,
            signed: row.get(4)?,
            eviction: row.get(5)?,
            payload: row.get(6)?,
        })
    }

    fn check(&self, previous: Option<(EpochId, Head)>, keys: Option<&NodeKeys>) -> Result<(), String> {
        let readable = |error| format!("cannot be read: {error}");
        let signer = |keys: &NodeKeys, id| {
            keys.get(id).copied().ok_or_else(|| format!("signed with key {id}, which is not this node's"))
        };
        if self.eviction.as_ref().is_some_and(Vec::is_empty) {
            let signed = SignedFold::parse(&self.signed).map_err(readable)?;
            if let Some(keys) = keys {
                signed.verify(&signer(keys, signed.key())?).map_err(|error| error.to_string())?;
            }
            let fold = signed.unverified();
            let span = (fold.span.first().as_i64(), fold.span.last().as_i64());
            return self.check_place(fold.epoch, span, fold.last_digest, &fold.link, previous);
        }
        let signed = SignedHeader::parse(&self.signed).map_err(readable)?;
        let number = signed.header.number.as_i64();
        if let Some(keys) = keys {
            signed.verify(&signer(keys, signed.header.key)?).map_err(|error| error.to_string())?;
        }
        match &self.eviction {
            Some(eviction) => {
                let eviction = Eviction::parse(eviction).map_err(readable)?;
                if let Some(keys) = keys {
                    let key = signer(keys, eviction.key)?;
                    eviction.verify(&signed, &key).map_err(|error| error.to_string())?;
                }
            }
            None if !signed.is_payload(self.payload.as_deref().unwrap_or_default()) => {
                return Err("its payload was altered".to_owned());
            }
            None => {}
        }
        self.check_place(
            signed.header.epoch,
            (number, number),
            signed.digest(),
            &signed.header.link,
            previous,
        )
    }

    fn check_place(
        &self,
        epoch: EpochId,
        span: (i64, i64),
        digest: Digest,
        link: &Link,
        previous: Option<(EpochId, Head)>,
    ) -> Result<(), String> {
        if (epoch, span, digest.as_bytes()) != (self.epoch, (self.first, self.last), &self.digest) {
            return Err("its row says otherwise than its signed header".to_owned());
        }
        let before =
            previous.filter(|(epoch, head)| *epoch == self.epoch && head.number.as_i64() + 1 == self.first);
        match (before, link.previous()) {
            (Some((_, head)), Some(link)) if head.digest != link => {
                Err("it does not follow the batch before it".to_owned())
            }
            _ => Ok(()),
        }
    }
}
