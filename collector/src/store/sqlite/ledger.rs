//! Reading the ledger in SQLite; `store.rs` writes it.

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{
    BatchSeq, Digest, EpochId, EpochLedger, Eviction, Head, SignedCheckpoint, SignedFold, SignedHeader, Span,
    State,
};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::error::{damaged, failed};
use super::partitions::{self, PartitionId};
use super::readers::Reader;
use super::{SqliteStore, alerts, checkpoints, retention, store};
use crate::store::{
    Arrival, BatchKey, BatchTerms, ChainRow, Coverage, EpochRow, LedgerStore, Limits, NewPayload, Payload,
    Pruning, Replaceable, Result, StoreReport, StoredBatch,
};

#[async_trait]
impl LedgerStore for SqliteStore {
    async fn store_batches(&self, arrivals: Vec<Arrival>) -> Result<StoreReport> {
        let bytes = arrivals.iter().map(weight).sum();
        let part_bytes = self.part_bytes();
        self.writer().write(bytes, move |unit| store::store_batches(unit, &arrivals, part_bytes)).await
    }

    async fn apply_state(&self, state: State, now: Timestamp) -> Result<Vec<(EpochId, EpochLedger)>> {
        self.writer().write(0, move |unit| store::apply_state(unit, &state, now)).await
    }

    async fn ledger_view(&self, node: NodeId, epoch: EpochId) -> Result<EpochLedger> {
        self.readers()
            .read(move |reader| Ok(epoch_state(&reader.main, node, epoch)?.unwrap_or_default()))
            .await
    }

    async fn batch(&self, key: BatchKey) -> Result<Option<StoredBatch>> {
        self.readers()
            .read(move |reader| match id_of(&reader.main, &key)? {
                Some(id) => read_batch(reader, id, None),
                None => Ok(None),
            })
            .await
    }

    async fn batches_between(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<(i64, BatchKey)>> {
        self.readers().read(move |reader| between(reader, from, to, after.unwrap_or(0), limit)).await
    }

    async fn unread(&self, after: Option<i64>, limit: usize) -> Result<Vec<(i64, BatchKey)>> {
        self.readers()
            .read(move |reader| {
                let sql = "SELECT id, node, epoch, seq FROM ledger WHERE unread = 1 AND id > ?1 ORDER BY id LIMIT ?2";
                let parameters = [after.unwrap_or(0), i64::try_from(limit).unwrap_or(i64::MAX)];
                reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut query| query.query_map(parameters, |row| Ok((row.get(0)?, key(row, 1)?)))?.collect())
                    .map_err(failed("looking for unread batches"))
            })
            .await
    }

    async fn mark_read(
        &self,
        key: BatchKey,
        terms: Option<BatchTerms>,
        coverage: Vec<(String, Coverage)>,
    ) -> Result<()> {
        self.writer().write(0, move |unit| store::mark_read(unit, &key, terms.as_ref(), &coverage)).await
    }

    async fn epochs(&self, node: NodeId) -> Result<Vec<EpochRow>> {
        self.readers().read(move |reader| epochs(&reader.main, node)).await
    }

    async fn lost(&self, node: NodeId, epoch: EpochId) -> Result<Vec<Span>> {
        self.readers().read(move |reader| checkpoints::lost(&reader.main, node, epoch)).await
    }

    async fn checkpoint(&self, node: NodeId, epoch: EpochId) -> Result<Option<SignedCheckpoint>> {
        self.readers().read(move |reader| checkpoints::stored(&reader.main, node, epoch)).await
    }

    async fn replaceable(&self, limits: Limits, now: Timestamp) -> Result<Vec<Replaceable>> {
        let directory = self.directory();
        self.readers()
            .read(move |reader| checkpoints::replaceable(&reader.main, &directory, limits, now))
            .await
    }

    async fn replace(&self, checkpoint: SignedCheckpoint, after: Option<BatchSeq>) -> Result<bool> {
        self.writer().write(0, move |unit| checkpoints::replace(unit.main, &checkpoint, after)).await
    }

    async fn first_since(&self, node: NodeId, epoch: EpochId, from: Timestamp) -> Result<Option<BatchSeq>> {
        self.readers()
            .read(move |reader| {
                let sql = "SELECT seq FROM ledger WHERE node = ?1 AND epoch = ?2 AND received_at >= ?3
                    UNION ALL SELECT first FROM fold WHERE node = ?1 AND epoch = ?2 AND received_at >= ?3
                    ORDER BY 1 LIMIT 1";
                let place = params![node.as_bytes(), epoch.as_bytes(), from.as_micros()];
                let found = reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut query| query.query_row(place, |row| seq(row, 0)).optional());
                found.map_err(failed("looking for the first batch of a time"))
            })
            .await
    }

    async fn chain(
        &self,
        node: NodeId,
        epoch: EpochId,
        from: BatchSeq,
        limit: usize,
    ) -> Result<Vec<ChainRow>> {
        self.readers().read(move |reader| chain(reader, node, epoch, from, limit)).await
    }

    async fn retain(&self, limits: Limits, now: Timestamp) -> Result<Vec<Pruning>> {
        retention::retain(self, limits, now).await
    }

    async fn prunings(&self, limit: usize) -> Result<Vec<Pruning>> {
        self.readers().read(move |reader| retention::declared(&reader.main, limit)).await
    }
}

/// A batch's key from three columns.
pub(super) fn key(row: &Row<'_>, first: usize) -> rusqlite::Result<BatchKey> {
    let node = NodeId::from_bytes(row.get(first)?);
    let epoch = EpochId::from_bytes(row.get(first + 1)?);
    Ok(BatchKey { node, epoch, seq: seq(row, first + 2)? })
}

/// A number column that holds a batch's number.
pub(super) fn seq(row: &Row<'_>, column: usize) -> rusqlite::Result<BatchSeq> {
    let number: i64 = row.get(column)?;
    let number = u64::try_from(number).ok().and_then(BatchSeq::new);
    number.ok_or(rusqlite::Error::IntegralValueOutOfRange(column, 0))
}

/// A batch's key as three parameters.
pub(super) fn key_parameters(key: &BatchKey) -> (&[u8; 16], &[u8; 16], i64) {
    (key.node.as_bytes(), key.epoch.as_bytes(), key.seq.as_i64())
}

/// A batch's order of arrival.
pub(super) fn id_of(connection: &Connection, key: &BatchKey) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM ledger WHERE node = ?1 AND epoch = ?2 AND seq = ?3")
        .and_then(|mut query| query.query_row(key_parameters(key), |row| row.get(0)).optional())
        .map_err(failed("finding a batch"))
}

/// What is known of an epoch.
pub(super) fn epoch_state(
    connection: &Connection,
    node: NodeId,
    epoch: EpochId,
) -> Result<Option<EpochLedger>> {
    let sql = "SELECT state FROM epoch WHERE node = ?1 AND epoch = ?2";
    let parameters: [&dyn ToSql; 2] = [node.as_bytes(), epoch.as_bytes()];
    let bytes = alerts::optional::<Vec<u8>>(connection, sql, &parameters)?;
    bytes.map(|bytes| EpochLedger::from_bytes(&bytes).map_err(damaged("epoch ledger"))).transpose()
}

/// A batch with its payload. With a `partition`, only if its payload is in that one.
pub(super) fn read_batch(
    reader: &mut Reader,
    id: i64,
    partition: Option<PartitionId>,
) -> Result<Option<StoredBatch>> {
    let sql = "SELECT l.signed, l.eviction, l.received_at, l.analysed, p.id, p.day, p.part, p.expired_at IS NOT NULL
        FROM ledger l JOIN partition p ON p.id = l.partition WHERE l.id = ?1";
    let found = reader
        .main
        .prepare_cached(sql)
        .and_then(|mut query| query.query_row([id], Stub::read).optional())
        .map_err(damaged("ledger row"))?;
    let Some(stub) = found.filter(|stub| partition.is_none_or(|partition| partition == stub.partition))
    else {
        return Ok(None);
    };
    stub.open(reader, id).map(Some)
}

/// A ledger row without its payload.
struct Stub {
    signed: Vec<u8>,
    eviction: Option<Vec<u8>>,
    received_at: i64,
    analysed: i64,
    partition: PartitionId,
    expired: bool,
}

impl Stub {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            signed: row.get(0)?,
            eviction: row.get(1)?,
            received_at: row.get(2)?,
            analysed: row.get(3)?,
            partition: PartitionId { id: row.get(4)?, day: row.get(5)?, part: row.get(6)? },
            expired: row.get(7)?,
        })
    }

    fn open(self, reader: &mut Reader, id: i64) -> Result<StoredBatch> {
        let payload = match self.eviction {
            Some(bytes) => Payload::Evicted(Eviction::parse(&bytes).map_err(damaged("eviction"))?),
            None if self.expired => Payload::Expired,
            None => match reader.partitions.read(self.partition)? {
                // Retention may take the files between the two reads.
                None => Payload::Expired,
                Some(files) => {
                    let missing = || damaged("payload: it is not in its file")("missing");
                    Payload::Present(partitions::payload(files, id)?.ok_or_else(missing)?)
                }
            },
        };
        Ok(StoredBatch {
            id,
            signed: SignedHeader::parse(&self.signed).map_err(damaged("batch header"))?,
            payload,
            received_at: Timestamp::from_micros(self.received_at),
            analysed: self.analysed == 1,
        })
    }
}

fn weight(arrival: &Arrival) -> usize {
    match arrival {
        Arrival::Batch(batch) => match &batch.payload {
            NewPayload::Present(bytes) => bytes.len() + 1024,
            NewPayload::Evicted(_) => 1024,
        },
        Arrival::Fold { .. } => 1024,
    }
}

fn between(
    reader: &mut Reader,
    from: Timestamp,
    to: Timestamp,
    after: i64,
    limit: usize,
) -> Result<Vec<(i64, BatchKey)>> {
    let attempt = "listing batches";
    let partitions: Vec<PartitionId> = reader
        .main
        .prepare_cached(
            "SELECT id, day, part FROM partition
             WHERE expired_at IS NULL AND batches > 0 AND time_to >= ?1 AND time_from <= ?2 ORDER BY id",
        )
        .and_then(|mut query| {
            let read =
                |row: &Row<'_>| Ok(PartitionId { id: row.get(0)?, day: row.get(1)?, part: row.get(2)? });
            query.query_map([from.as_micros(), to.as_micros()], read)?.collect()
        })
        .map_err(failed(attempt))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut found: Vec<(i64, BatchKey)> = Vec::new();
    for partition in partitions {
        let Some(files) = reader.partitions.read(partition)? else { continue };
        let sql = "SELECT id, node, epoch, seq FROM batch
            WHERE id > ?1 AND time_to >= ?2 AND time_from <= ?3 ORDER BY id LIMIT ?4";
        let rows: Vec<(i64, BatchKey)> = files
            .index
            .prepare_cached(sql)
            .and_then(|mut query| {
                let parameters = [after, from.as_micros(), to.as_micros(), limit];
                query.query_map(parameters, |row| Ok((row.get(0)?, key(row, 1)?)))?.collect()
            })
            .map_err(failed(attempt))?;
        for row in rows {
            // A row of an unfinished write is no batch.
            if id_of(&reader.main, &row.1)? == Some(row.0) {
                found.push(row);
            }
        }
    }
    found.sort_unstable_by_key(|(id, _)| *id);
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

fn epochs(connection: &Connection, node: NodeId) -> Result<Vec<EpochRow>> {
    let attempt = "listing epochs";
    let sql = "SELECT e.epoch, e.state, e.first_seen, e.last_seen, c.last, c.made_at FROM epoch e
        LEFT JOIN checkpoint c ON c.node = e.node AND c.epoch = e.epoch
        WHERE e.node = ?1 ORDER BY e.first_seen, e.epoch";
    let mut query = connection.prepare_cached(sql).map_err(failed(attempt))?;
    let mut rows = query.query([node.as_bytes()]).map_err(failed(attempt))?;
    let mut epochs = Vec::new();
    while let Some(row) = rows.next().map_err(failed(attempt))? {
        let bad = || damaged::<rusqlite::Error>("epoch");
        let state: Vec<u8> = row.get(1).map_err(bad())?;
        let state = EpochLedger::from_bytes(&state).map_err(damaged("epoch ledger"))?;
        epochs.push(EpochRow {
            epoch: EpochId::from_bytes(row.get(0).map_err(bad())?),
            predecessor: state.predecessor(),
            first_seen: Timestamp::from_micros(row.get(2).map_err(bad())?),
            last_seen: Timestamp::from_micros(row.get(3).map_err(bad())?),
            through: state.through(),
            highest: state.highest(),
            checkpoint: match row.get::<_, Option<i64>>(4).map_err(bad())? {
                Some(_) => {
                    Some((seq(row, 4).map_err(bad())?, Timestamp::from_micros(row.get(5).map_err(bad())?)))
                }
                None => None,
            },
        });
    }
    Ok(epochs)
}

fn chain(
    reader: &mut Reader,
    node: NodeId,
    epoch: EpochId,
    from: BatchSeq,
    limit: usize,
) -> Result<Vec<ChainRow>> {
    let attempt = "walking a chain";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let place: [&dyn ToSql; 4] = [node.as_bytes(), epoch.as_bytes(), &from.as_i64(), &limit];
    let ids: Vec<(i64, i64)> = reader
        .main
        .prepare_cached(
            "SELECT seq, id FROM ledger WHERE node = ?1 AND epoch = ?2 AND seq >= ?3 ORDER BY seq LIMIT ?4",
        )
        .and_then(|mut query| query.query_map(place, |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(failed(attempt))?;
    let folds: Vec<(i64, Vec<u8>)> = reader
        .main
        .prepare_cached(
            "SELECT first, signed FROM fold WHERE node = ?1 AND epoch = ?2 AND first >= ?3 ORDER BY first LIMIT ?4",
        )
        .and_then(|mut query| query.query_map(place, |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(failed(attempt))?;
    let mut rows = Vec::new();
    for (number, id) in ids {
        if let Some(batch) = read_batch(reader, id, None)? {
            rows.push((number, ChainRow::Batch(Box::new(batch))));
        }
    }
    for (number, bytes) in folds {
        let fold = SignedFold::parse(&bytes).map_err(damaged("folded range"))?;
        rows.push((number, ChainRow::Fold(Box::new(fold))));
    }
    rows.sort_by_key(|(number, _)| *number);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// The stored digest of a number: of its row, of an end of a fold, or of the end of a checkpoint.
pub(super) fn digest_at(connection: &Connection, key: &BatchKey) -> Result<Option<Digest>> {
    let (node, epoch, seq) = key_parameters(key);
    let sql = "SELECT digest FROM ledger WHERE node = ?1 AND epoch = ?2 AND seq = ?3
        UNION ALL SELECT last_digest FROM fold WHERE node = ?1 AND epoch = ?2 AND last = ?3
        UNION ALL SELECT first_digest FROM fold WHERE node = ?1 AND epoch = ?2 AND first = ?3
        UNION ALL SELECT digest FROM checkpoint WHERE node = ?1 AND epoch = ?2 AND last = ?3 LIMIT 1";
    connection
        .prepare_cached(sql)
        .and_then(|mut query| query.query_row(params![node, epoch, seq], |row| row.get(0)).optional())
        .map(|found: Option<[u8; 32]>| found.map(Digest::from_bytes))
        .map_err(failed("looking a batch up"))
}

/// Those of the heads that are stored, with the digests they are stored with.
pub(super) fn stored_heads(
    connection: &Connection,
    node: NodeId,
    epoch: EpochId,
    heads: &[Head],
) -> Result<Vec<Head>> {
    let mut stored = Vec::new();
    for head in heads {
        let key = BatchKey { node, epoch, seq: head.number };
        stored.extend(digest_at(connection, &key)?.map(|digest| Head { number: head.number, digest }));
    }
    Ok(stored)
}
