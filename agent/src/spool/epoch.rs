//! The epochs' rows: where each chain stands.

use auditflow_event::NodeId;
use auditflow_wire::{BatchSeq, BootId, Digest, EpochId, Head, SignedHeader};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{Attempt, SpoolError};

/// Where one epoch's chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) ordinal: i64,
    pub(super) id: EpochId,
    pub(super) node: NodeId,
    pub(super) boot: BootId,
    /// The number that the next sealed batch gets.
    pub(super) next: BatchSeq,
    /// The last sealed batch.
    pub(super) head: Option<Head>,
    /// Events sealed so far.
    pub(super) events: u64,
    /// Stored through, as the collector last said.
    pub(super) acked: Option<Head>,
}

const COLUMNS: &str = "ordinal, epoch, node, boot, next_seq, head, events, acked_seq, acked_digest, seal";

impl Epoch {
    pub(super) fn new(ordinal: i64, id: EpochId, node: NodeId, boot: BootId) -> Self {
        Self { ordinal, id, node, boot, next: BatchSeq::FIRST, head: None, events: 0, acked: None }
    }

    /// The epoch begun last.
    pub(super) fn latest(connection: &Connection) -> Result<Option<Self>, SpoolError> {
        Self::all(connection).map(|mut epochs| epochs.pop())
    }

    /// All epochs in the order in which they were begun.
    pub(super) fn all(connection: &Connection) -> Result<Vec<Self>, SpoolError> {
        let mut statement = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM epoch ORDER BY ordinal"))
            .attempt("read the epochs")?;
        let rows = statement.query_map((), Self::from_row).attempt("read the epochs")?;
        rows.map(|row| row.attempt("read the epochs").and_then(Self::checked)).collect()
    }

    pub(super) fn find(connection: &Connection, id: EpochId) -> Result<Option<Self>, SpoolError> {
        connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM epoch WHERE epoch = ?1"))
            .and_then(|mut statement| statement.query_row([id.as_bytes()], Self::from_row).optional())
            .attempt("find an epoch")?
            .map(Self::checked)
            .transpose()
    }

    /// Writes the row, new or as it has become.
    pub(super) fn save(&self, connection: &Connection) -> Result<(), SpoolError> {
        let head = self.head.map_or([0; Digest::LEN], |head| *head.digest.as_bytes());
        let acked = self.acked;
        connection
            .prepare_cached(&format!("INSERT OR REPLACE INTO epoch ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)"))
            .and_then(|mut statement| {
                statement.execute(params![
                    self.ordinal,
                    self.id.as_bytes(),
                    self.node.as_bytes(),
                    self.boot.as_bytes(),
                    self.next.as_i64(),
                    head,
                    self.events as i64,
                    acked.map(|head| head.number.as_i64()),
                    acked.map(|head| *head.digest.as_bytes()),
                    self.seal(),
                ])
            })
            .map(drop)
            .attempt("write an epoch")
    }

    /// Moves on by a sealed batch.
    pub(super) fn advance(&mut self, signed: &SignedHeader) -> Result<(), SpoolError> {
        let next = self.next.next().ok_or_else(|| SpoolError::damaged("an epoch has no numbers left"))?;
        self.next = next;
        self.head = Some(signed.head());
        self.events = signed.header.facts.as_ref().map_or(self.events, |facts| facts.cumulative);
        Ok(())
    }

    /// Forgets epochs of which nothing is held any more, all but the latest.
    pub(super) fn forget_finished(connection: &Connection) -> Result<(), SpoolError> {
        connection
            .prepare_cached(
                "DELETE FROM epoch WHERE ordinal < (SELECT MAX(ordinal) FROM epoch)
                 AND NOT EXISTS (SELECT 1 FROM batch WHERE batch.epoch = ordinal)
                 AND NOT EXISTS (SELECT 1 FROM chunk WHERE chunk.epoch = ordinal)",
            )
            .and_then(|mut statement| statement.execute(()))
            .map(drop)
            .attempt("forget finished epochs")
    }

    fn from_row(row: &Row<'_>) -> rusqlite::Result<(Option<Self>, [u8; 8])> {
        let next = BatchSeq::new(row.get::<_, i64>(4)? as u64);
        let acked_seq: Option<i64> = row.get(7)?;
        let acked_digest: Option<[u8; 32]> = row.get(8)?;
        let acked = acked_seq.zip(acked_digest).and_then(|(number, digest)| head(number, digest));
        let (ordinal, id, node, boot) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let (digest, events): ([u8; 32], i64) = (row.get(5)?, row.get(6)?);
        let epoch = next.map(|next| Self {
            ordinal,
            id: EpochId::from_bytes(id),
            node: NodeId::from_bytes(node),
            boot: BootId::from_bytes(boot),
            next,
            head: next.previous().map(|number| Head { number, digest: Digest::from_bytes(digest) }),
            events: events as u64,
            acked,
        });
        Ok((epoch, row.get(9)?))
    }

    fn checked((epoch, seal): (Option<Self>, [u8; 8])) -> Result<Self, SpoolError> {
        epoch
            .filter(|epoch| epoch.seal() == seal)
            .ok_or_else(|| SpoolError::damaged("an epoch's row was altered"))
    }

    fn seal(&self) -> [u8; 8] {
        let acked = self.acked.map(|head| (head.number.get(), head.digest));
        let head = self.head.map(|head| head.digest);
        seal(&[
            b"epoch",
            &self.ordinal.to_le_bytes(),
            self.id.as_bytes(),
            self.node.as_bytes(),
            self.boot.as_bytes(),
            &self.next.get().to_le_bytes(),
            head.as_ref().map_or(&[][..], |digest| digest.as_bytes()),
            &self.events.to_le_bytes(),
            &acked.map_or([0; 8], |(number, _)| number.to_le_bytes()),
            acked.as_ref().map_or(&[][..], |(_, digest)| digest.as_bytes()),
        ])
    }
}

/// A number and a digest as they are in columns.
pub(super) fn head(number: i64, digest: [u8; 32]) -> Option<Head> {
    BatchSeq::new(number as u64).map(|number| Head { number, digest: Digest::from_bytes(digest) })
}

/// What a row that no signature covers is checked by: it finds accidents, not attackers.
pub(super) fn seal(parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut seal = [0; 8];
    hasher.finalize_xof().fill(&mut seal);
    seal
}
