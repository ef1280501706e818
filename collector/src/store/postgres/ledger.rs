//! Reading the ledger in PostgreSQL; `store` writes it.
//!
//! A page by id ends below the lowest id that may still come ([`settled`]): ids are drawn from a sequence, and a
//! transaction that drew a lower one may commit later.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{
    BatchSeq, Digest, EpochId, EpochLedger, Eviction, SignedCheckpoint, SignedFold, SignedHeader, Span, State,
};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::error::{damaged, failed};
use super::store::{self, Days, epoch_ledger};
use super::unit::{reading, writing};
use super::{PostgresStore, checkpoints, column, partitions, retention, rows_at_most};
use crate::store::{
    Arrival, BatchKey, BatchTerms, ChainRow, Coverage, EpochRow, LedgerStore, Limits, Payload, Pruning,
    Replaceable, Result, StoreError, StoreReport, StoredBatch,
};

/// A batch with its payload, by one statement: retention declares a day expired before it drops anything.
macro_rules! batch_columns {
    () => {
        "l.id, l.signed, l.eviction, l.received_at, l.analysed, p.expired_at IS NOT NULL AS expired,
        CASE WHEN p.expired_at IS NULL AND l.eviction IS NULL THEN
            (SELECT y.bytes FROM payload y WHERE y.day = l.day AND y.id = l.id) END AS bytes"
    };
}
pub(super) use batch_columns;

/// Marks advisory locks of transactions that draw ids; below it is the id that theirs are above.
pub(super) const DRAWING: i64 = 0x0a1d;
/// How often a day may be closed between looking for it and storing, before the caller is to come again.
const CLOSED_DAYS: u32 = 3;
/// How many bits ids have there.
pub(super) const ID_BITS: u32 = 48;

#[async_trait]
impl LedgerStore for PostgresStore {
    async fn store_batches(&self, arrivals: Vec<Arrival>) -> Result<StoreReport> {
        for _ in 0..CLOSED_DAYS {
            let days = reading!(self, sql => days(sql, &arrivals))?;
            if let Some(report) = writing!(self, unit => store::store_batches(unit, &arrivals, &days))? {
                return Ok(report);
            }
        }
        Err(StoreError::Busy)
    }

    async fn apply_state(&self, state: State, now: Timestamp) -> Result<Vec<(EpochId, EpochLedger)>> {
        writing!(self, unit => store::apply_state(unit, &state, now))
    }

    async fn ledger_view(&self, node: NodeId, epoch: EpochId) -> Result<EpochLedger> {
        reading!(self, sql => async { Ok(epoch_state(sql, node, epoch).await?.unwrap_or_default()) })
    }

    async fn batch(&self, key: BatchKey) -> Result<Option<StoredBatch>> {
        reading!(self, sql => batch(sql, &key))
    }

    async fn batches_between(
        &self,
        from: Timestamp,
        to: Timestamp,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<(i64, BatchKey)>> {
        reading!(self, sql => async {
            let settled = settled(sql).await?;
            sqlx::query(
                "SELECT b.id, b.node, b.epoch, b.seq FROM batch b JOIN partition p ON p.day = b.day
                 WHERE p.expired_at IS NULL AND b.id > $1 AND b.id <= $5 AND b.time_to >= $2 AND b.time_from <= $3
                 ORDER BY b.id LIMIT $4",
            )
            .bind(after.unwrap_or(0))
            .bind(from.as_micros())
            .bind(to.as_micros())
            .bind(rows_at_most(limit))
            .bind(settled)
            .fetch_all(sql)
            .await
            .map_err(failed("listing batches"))?
            .iter()
            .map(|row| Ok((row.try_get(0).map_err(damaged("batch"))?, key(row, 1)?)))
            .collect()
        })
    }

    async fn unread(&self, after: Option<i64>, limit: usize) -> Result<Vec<(i64, BatchKey)>> {
        reading!(self, sql => async {
            let settled = settled(sql).await?;
            sqlx::query(
                "SELECT id, node, epoch, seq FROM ledger WHERE unread AND id > $1 AND id <= $3 ORDER BY id LIMIT $2",
            )
            .bind(after.unwrap_or(0))
            .bind(rows_at_most(limit))
            .bind(settled)
            .fetch_all(sql)
            .await
            .map_err(failed("looking for unread batches"))?
            .iter()
            .map(|row| Ok((row.try_get(0).map_err(damaged("batch"))?, key(row, 1)?)))
            .collect()
        })
    }

    async fn mark_read(
        &self,
        key: BatchKey,
        terms: Option<BatchTerms>,
        coverage: Vec<(String, Coverage)>,
    ) -> Result<()> {
        writing!(self, unit => store::mark_read(unit, &key, terms.as_ref(), &coverage))
    }

    async fn epochs(&self, node: NodeId) -> Result<Vec<EpochRow>> {
        reading!(self, sql => epochs(sql, node))
    }

    async fn lost(&self, node: NodeId, epoch: EpochId) -> Result<Vec<Span>> {
        reading!(self, sql => checkpoints::lost(sql, node, epoch))
    }

    async fn checkpoint(&self, node: NodeId, epoch: EpochId) -> Result<Option<SignedCheckpoint>> {
        reading!(self, sql => checkpoints::stored(sql, node, epoch))
    }

    async fn replaceable(&self, limits: Limits, now: Timestamp) -> Result<Vec<Replaceable>> {
        reading!(self, sql => checkpoints::replaceable(sql, limits, now))
    }

    async fn replace(&self, checkpoint: SignedCheckpoint, after: Option<BatchSeq>) -> Result<bool> {
        writing!(self, unit => checkpoints::replace(unit.sql(), &checkpoint, after))
    }

    async fn first_since(&self, node: NodeId, epoch: EpochId, from: Timestamp) -> Result<Option<BatchSeq>> {
        reading!(self, sql => async {
            let found: Option<i64> = sqlx::query_scalar(
                "SELECT seq FROM ledger WHERE node = $1 AND epoch = $2 AND received_at >= $3
                 UNION ALL SELECT first FROM fold WHERE node = $1 AND epoch = $2 AND received_at >= $3
                 ORDER BY 1 LIMIT 1",
            )
            .bind(node.as_bytes())
            .bind(epoch.as_bytes())
            .bind(from.as_micros())
            .fetch_optional(sql)
            .await
            .map_err(failed("looking for the first batch of a time"))?;
            found.map(number).transpose()
        })
    }

    async fn chain(
        &self,
        node: NodeId,
        epoch: EpochId,
        from: BatchSeq,
        limit: usize,
    ) -> Result<Vec<ChainRow>> {
        reading!(self, sql => chain(sql, (node, epoch), from, limit))
    }

    async fn retain(&self, limits: Limits, now: Timestamp) -> Result<Vec<Pruning>> {
        retention::retain(self, limits, now).await
    }

    async fn prunings(&self, limit: usize) -> Result<Vec<Pruning>> {
        reading!(self, sql => retention::declared(sql, limit))
    }
}

/// The highest id below which none can come any more. Three statements, for their order is what makes it true: who takes
/// a lock after the locks are read draws above what was drawn before, and who has given it up can be seen.
async fn settled(connection: &mut PgConnection) -> Result<i64> {
    let attempt = "looking for the last settled batch";
    let drawn: i64 = sqlx::query_scalar("SELECT last_value FROM ledger_id")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed(attempt))?;
    let above: Option<i64> = sqlx::query_scalar(
        "SELECT min((classid::bigint & 65535) << 32 | objid::bigint) FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid = 1 AND classid::bigint >> 16 = $1
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .bind(DRAWING)
    .fetch_one(connection)
    .await
    .map_err(failed(attempt))?;
    Ok(above.map_or(drawn, |above| above.min(drawn)))
}

/// A batch's key from three columns.
pub(super) fn key(row: &PgRow, first: usize) -> Result<BatchKey> {
    let bad = || damaged::<sqlx::Error>("batch key");
    Ok(BatchKey {
        node: NodeId::from_bytes(row.try_get(first).map_err(bad())?),
        epoch: EpochId::from_bytes(row.try_get(first + 1).map_err(bad())?),
        seq: number(row.try_get(first + 2).map_err(bad())?)?,
    })
}

/// A column that holds a batch's number.
pub(super) fn number(column: i64) -> Result<BatchSeq> {
    let number = u64::try_from(column).ok().and_then(BatchSeq::new);
    number.ok_or_else(|| damaged("batch number")("it is not positive"))
}

/// What is known of an epoch.
pub(super) async fn epoch_state(
    connection: &mut PgConnection,
    node: NodeId,
    epoch: EpochId,
) -> Result<Option<EpochLedger>> {
    let state: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT state FROM epoch WHERE node = $1 AND epoch = $2 AND state <> ''")
            .bind(node.as_bytes())
            .bind(epoch.as_bytes())
            .fetch_optional(connection)
            .await
            .map_err(failed("reading an epoch"))?;
    state.map(|state| epoch_ledger(&state)).transpose()
}

/// One batch, with its payload.
pub(super) async fn batch(connection: &mut PgConnection, key: &BatchKey) -> Result<Option<StoredBatch>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        batch_columns!(),
        " FROM ledger l JOIN partition p ON p.day = l.day WHERE l.node = $1 AND l.epoch = $2 AND l.seq = $3"
    ))
    .bind(key.node.as_bytes())
    .bind(key.epoch.as_bytes())
    .bind(key.seq.as_i64())
    .fetch_optional(connection)
    .await
    .map_err(failed("reading a batch"))?;
    row.as_ref().map(stored).transpose()
}

/// A batch from its columns.
pub(super) fn stored(row: &PgRow) -> Result<StoredBatch> {
    let what = "ledger row";
    let eviction: Option<&[u8]> = column(row, "eviction", what)?;
    let bytes: Option<Vec<u8>> = column(row, "bytes", what)?;
    let payload = match (eviction, column(row, "expired", what)?) {
        (Some(bytes), _) => Payload::Evicted(Eviction::parse(bytes).map_err(damaged("eviction"))?),
        (None, true) => Payload::Expired,
        (None, false) => Payload::Present(bytes.ok_or_else(|| damaged("payload")("it is not there"))?),
    };
    Ok(StoredBatch {
        id: column(row, "id", what)?,
        signed: SignedHeader::parse(column(row, "signed", what)?).map_err(damaged("batch header"))?,
        payload,
        received_at: Timestamp::from_micros(column(row, "received_at", what)?),
        analysed: column::<i16>(row, "analysed", what)? == 1,
    })
}

/// The stored digests of numbers: of their rows, of the ends of folds, or of the ends of checkpoints.
pub(super) async fn digests_at(
    connection: &mut PgConnection,
    keys: &BTreeSet<BatchKey>,
) -> Result<HashMap<BatchKey, Digest>> {
    let nodes: Vec<&[u8]> = keys.iter().map(|key| &key.node.as_bytes()[..]).collect();
    let epochs: Vec<&[u8]> = keys.iter().map(|key| &key.epoch.as_bytes()[..]).collect();
    let numbers: Vec<i64> = keys.iter().map(|key| key.seq.as_i64()).collect();
    sqlx::query(
        "SELECT k.node, k.epoch, k.seq, d.digest
         FROM UNNEST($1::bytea[], $2::bytea[], $3::bigint[]) AS k (node, epoch, seq), LATERAL (
            SELECT digest FROM ledger l WHERE l.node = k.node AND l.epoch = k.epoch AND l.seq = k.seq
            UNION ALL SELECT last_digest FROM fold f WHERE f.node = k.node AND f.epoch = k.epoch AND f.last = k.seq
            UNION ALL SELECT first_digest FROM fold f WHERE f.node = k.node AND f.epoch = k.epoch AND f.first = k.seq
            UNION ALL SELECT digest FROM checkpoint c WHERE c.node = k.node AND c.epoch = k.epoch AND c.last = k.seq
            LIMIT 1) AS d",
    )
    .bind(nodes)
    .bind(epochs)
    .bind(numbers)
    .fetch_all(connection)
    .await
    .map_err(failed("looking batches up"))?
    .iter()
    .map(|row| Ok((key(row, 0)?, Digest::from_bytes(row.try_get(3).map_err(damaged("digest"))?))))
    .collect()
}

/// Which open days take what the arrivals bring.
async fn days(connection: &mut PgConnection, arrivals: &[Arrival]) -> Result<Days> {
    let mut days = Days::new();
    for arrival in arrivals {
        let day = partitions::day_of(store::received_at(arrival));
        if let Entry::Vacant(place) = days.entry(day) {
            place.insert(partitions::open_day(connection, day).await?);
        }
    }
    Ok(days)
}

async fn epochs(connection: &mut PgConnection, node: NodeId) -> Result<Vec<EpochRow>> {
    let rows = sqlx::query(
        "SELECT e.epoch, e.state, e.first_seen, e.last_seen, c.last, c.made_at FROM epoch e
         LEFT JOIN checkpoint c ON c.node = e.node AND c.epoch = e.epoch
         WHERE e.node = $1 ORDER BY e.first_seen, e.epoch",
    )
    .bind(node.as_bytes())
    .fetch_all(connection)
    .await
    .map_err(failed("listing epochs"))?;
    let what = "epoch";
    let read = |row: &PgRow| {
        let state = epoch_ledger(column(row, "state", what)?)?;
        let checkpoint = column::<Option<i64>>(row, "last", what)?;
        let made_at = column::<Option<i64>>(row, "made_at", what)?;
        Ok(EpochRow {
            epoch: EpochId::from_bytes(column(row, "epoch", what)?),
            predecessor: state.predecessor(),
            first_seen: Timestamp::from_micros(column(row, "first_seen", what)?),
            last_seen: Timestamp::from_micros(column(row, "last_seen", what)?),
            through: state.through(),
            highest: state.highest(),
            checkpoint: match checkpoint.zip(made_at) {
                Some((last, made_at)) => Some((number(last)?, Timestamp::from_micros(made_at))),
                None => None,
            },
        })
    };
    rows.iter().map(read).collect()
}

/// Batches and folds by one statement: a checkpoint may be put in their place meanwhile.
async fn chain(
    connection: &mut PgConnection,
    (node, epoch): (NodeId, EpochId),
    from: BatchSeq,
    limit: usize,
) -> Result<Vec<ChainRow>> {
    let rows = sqlx::query(concat!(
        "(SELECT l.seq AS place, NULL::bytea AS fold, ",
        batch_columns!(),
        " FROM ledger l JOIN partition p ON p.day = l.day
          WHERE l.node = $1 AND l.epoch = $2 AND l.seq >= $3 ORDER BY l.seq LIMIT $4)
         UNION ALL
         (SELECT first, signed, 0, '', NULL, 0, 0::smallint, FALSE, NULL FROM fold
          WHERE node = $1 AND epoch = $2 AND first >= $3 ORDER BY first LIMIT $4)
         ORDER BY place, fold NULLS FIRST LIMIT $4"
    ))
    .bind(node.as_bytes())
    .bind(epoch.as_bytes())
    .bind(from.as_i64())
    .bind(rows_at_most(limit))
    .fetch_all(connection)
    .await
    .map_err(failed("walking a chain"))?;
    let read = |row: &PgRow| match column::<Option<&[u8]>>(row, "fold", "folded range")? {
        Some(bytes) => {
            Ok(ChainRow::Fold(Box::new(SignedFold::parse(bytes).map_err(damaged("folded range"))?)))
        }
        None => Ok(ChainRow::Batch(Box::new(stored(row)?))),
    };
    rows.iter().map(read).collect()
}
