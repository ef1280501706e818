//! The rows of a call that stores: ledger, payloads, what finds them, folds, forks; each kind by one statement.

use auditflow_event::Timestamp;
use auditflow_wire::{Folded, Judgement, header::Link};
use sqlx::PgConnection;

use super::error::failed;
use super::partitions::day_of;
use super::store::Days;
use super::unit::Unit;
use super::{ledger, nodes};
use crate::store::tally::Tally;
use crate::store::{BatchKey, BatchTerms, NewBatch, NewPayload, Result};

/// What judging the arrivals of a call came to.
#[derive(Default)]
pub(super) struct Writing<'a> {
    /// New batches.
    pub batches: Vec<(BatchKey, &'a NewBatch)>,
    /// Batches that are known and came with their payload: wanted where it had been evicted.
    pub again: Vec<(BatchKey, &'a NewBatch)>,
    /// Batches that contradict the ledger.
    pub forks: Vec<(BatchKey, &'a NewBatch)>,
    /// New folds: what they say, verbatim, and when they came.
    pub folds: Vec<(&'a Folded, &'a [u8], Timestamp)>,
    /// What judging found besides verdicts.
    pub notes: Vec<Note<'a>>,
    /// What they change besides.
    pub tally: Tally,
}

/// What a judgement found besides its verdict.
pub(super) struct Note<'a> {
    pub key: BatchKey,
    pub link: &'a Link,
    pub judgement: Judgement,
    pub at: Timestamp,
}

impl<'a> Writing<'a> {
    /// Keeps a judgement.
    pub(super) fn note(&mut self, key: BatchKey, link: &'a Link, judgement: Judgement, at: Timestamp) {
        self.notes.push(Note { key, link, judgement, at });
    }
}

/// Writes the rows. Returns the ids of the new batches, in their order.
pub(super) async fn write(unit: &mut Unit<'_>, writing: &Writing<'_>, days: &Days) -> Result<Vec<i64>> {
    let day = |batch: &NewBatch| {
        let day = day_of(batch.received_at);
        days.get(&day).copied().unwrap_or(day)
    };
    let ids = draw(unit.sql(), writing.batches.len()).await?;
    insert(unit.sql(), &ids, &writing.batches, day).await?;
    let mut kept: Vec<(i64, i64, BatchKey, &NewBatch)> =
        ids.iter().zip(&writing.batches).map(|(id, (key, batch))| (day(batch), *id, *key, *batch)).collect();
    for (key, batch) in &writing.again {
        if let Some(id) = fill_in(unit.sql(), key, batch, day(batch)).await? {
            kept.push((day(batch), id, *key, batch));
            nodes::cover(unit.sql(), key.node, &batch.coverage).await?;
        }
    }
    put_payloads(unit.sql(), &kept).await?;
    let terms: Vec<_> = kept
        .iter()
        .filter(|(.., batch)| matches!(batch.payload, NewPayload::Present(_)))
        .filter_map(|(day, id, key, batch)| Some((*day, *id, *key, batch.terms.as_ref()?)))
        .collect();
    put_terms(unit.sql(), &terms).await?;
    put_folds(unit.sql(), &writing.folds).await?;
    put_forks(unit.sql(), &writing.forks).await?;
    Ok(ids)
}

/// Writes what finds batches: day, id, key, terms.
pub(super) async fn put_terms(
    connection: &mut PgConnection,
    batches: &[(i64, i64, BatchKey, &BatchTerms)],
) -> Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    let column =
        |get: fn(&(i64, i64, BatchKey, &BatchTerms)) -> i64| batches.iter().map(get).collect::<Vec<_>>();
    let bytes = |get: for<'b> fn(&'b (i64, i64, BatchKey, &BatchTerms)) -> &'b [u8]| {
        batches.iter().map(get).collect::<Vec<_>>()
    };
    sqlx::query(
        "INSERT INTO batch (day, id, node, epoch, seq, time_from, time_to, types, filter)
         SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::bytea[])
         ON CONFLICT DO NOTHING",
    )
    .bind(column(|row| row.0))
    .bind(column(|row| row.1))
    .bind(bytes(|row| row.2.node.as_bytes()))
    .bind(bytes(|row| row.2.epoch.as_bytes()))
    .bind(column(|row| row.2.seq.as_i64()))
    .bind(column(|row| row.3.from.as_micros()))
    .bind(column(|row| row.3.to.as_micros()))
    .bind(column(|row| row.3.types))
    .bind(bytes(|row| row.3.filter.as_bytes()))
    .execute(connection)
    .await
    .map_err(failed("indexing a batch"))?;
    Ok(())
}

/// Takes the next ids of arrival. Before that it says, by a lock that ends with the transaction, above which id they will
/// be: [`ledger::settled`] reads those locks.
pub(super) async fn draw(connection: &mut PgConnection, count: usize) -> Result<Vec<i64>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let attempt = "drawing ids of arrival";
    sqlx::query(
        "SELECT pg_advisory_xact_lock_shared($1 | CASE WHEN is_called THEN last_value ELSE 0 END) FROM ledger_id",
    )
    .bind(ledger::DRAWING << ledger::ID_BITS)
    .execute(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    sqlx::query_scalar("SELECT nextval('ledger_id') FROM generate_series(1, $1)")
        .bind(super::rows_at_most(count))
        .fetch_all(connection)
        .await
        .map_err(failed(attempt))
}

async fn insert(
    connection: &mut PgConnection,
    ids: &[i64],
    batches: &[(BatchKey, &NewBatch)],
    day: impl Fn(&NewBatch) -> i64,
) -> Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    let (mut nodes, mut epochs, mut seqs, mut digests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut signed, mut evictions, mut events, mut sizes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut boots, mut days, mut received) = (Vec::new(), Vec::new(), Vec::new());
    let (mut unread, mut analysed, mut claimed) = (Vec::new(), Vec::new(), Vec::new());
    for (key, batch) in batches {
        let facts = batch.signed.header.facts.as_ref();
        nodes.push(*key.node.as_bytes());
        epochs.push(*key.epoch.as_bytes());
        seqs.push(key.seq.as_i64());
        digests.push(*batch.signed.digest().as_bytes());
        signed.push(batch.signed.as_bytes());
        evictions.push(match &batch.payload {
            NewPayload::Present(_) => None,
            NewPayload::Evicted(eviction) => Some(eviction.to_bytes().to_vec()),
        });
        events.push(facts.map_or(0, |facts| i64::from(facts.events)));
        sizes.push(payload_of(batch).map_or(0, |payload| payload.len() as i64));
        boots.push(facts.map(|facts| facts.clocks.boot.as_bytes().to_vec()));
        days.push(day(batch));
        received.push(batch.received_at.as_micros());
        unread.push(batch.unread);
        analysed.push(analysed_at_once(batch));
        claimed.push(batch.claimed_until.map_or(0, Timestamp::as_micros));
    }
    sqlx::query(
        "INSERT INTO ledger (id, node, epoch, seq, digest, signed, eviction, events, payload_bytes, boot, day,
            received_at, unread, analysed, claimed_until)
         SELECT * FROM UNNEST($1::bigint[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[], $6::bytea[], $7::bytea[],
            $8::bigint[], $9::bigint[], $10::bytea[], $11::bigint[], $12::bigint[], $13::boolean[], $14::smallint[],
            $15::bigint[])",
    )
    .bind(ids)
    .bind(nodes)
    .bind(epochs)
    .bind(seqs)
    .bind(digests)
    .bind(signed)
    .bind(evictions)
    .bind(events)
    .bind(sizes)
    .bind(boots)
    .bind(days)
    .bind(received)
    .bind(unread)
    .bind(analysed)
    .bind(claimed)
    .execute(connection)
    .await
    .map_err(failed("storing batches"))?;
    Ok(())
}

/// A batch with nothing to find in it is analysed as it comes.
fn analysed_at_once(batch: &NewBatch) -> i16 {
    i16::from(batch.terms.is_none() && !batch.unread)
}

fn payload_of(batch: &NewBatch) -> Option<&[u8]> {
    match &batch.payload {
        NewPayload::Present(bytes) => Some(bytes),
        NewPayload::Evicted(_) => None,
    }
}

/// A batch that had come without its payload comes with it: it is kept after all, and due for analysis.
async fn fill_in(
    connection: &mut PgConnection,
    key: &BatchKey,
    batch: &NewBatch,
    day: i64,
) -> Result<Option<i64>> {
    sqlx::query_scalar(
        "UPDATE ledger SET eviction = NULL, day = $5, unread = $6, analysed = $7, payload_bytes = $8
         WHERE node = $1 AND epoch = $2 AND seq = $3 AND digest = $4 AND eviction IS NOT NULL RETURNING id",
    )
    .bind(key.node.as_bytes())
    .bind(key.epoch.as_bytes())
    .bind(key.seq.as_i64())
    .bind(batch.signed.digest().as_bytes())
    .bind(day)
    .bind(batch.unread)
    .bind(analysed_at_once(batch))
    .bind(payload_of(batch).map_or(0, |payload| payload.len() as i64))
    .fetch_optional(connection)
    .await
    .map_err(failed("keeping a payload that came late"))
}

async fn put_payloads(
    connection: &mut PgConnection,
    batches: &[(i64, i64, BatchKey, &NewBatch)],
) -> Result<()> {
    let (mut days, mut ids, mut payloads) = (Vec::new(), Vec::new(), Vec::new());
    for (day, id, _, batch) in batches {
        if let Some(payload) = payload_of(batch) {
            days.push(*day);
            ids.push(*id);
            payloads.push(payload);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO payload (day, id, bytes) SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bytea[])",
    )
    .bind(days)
    .bind(ids)
    .bind(payloads)
    .execute(connection)
    .await
    .map_err(failed("storing payloads"))?;
    Ok(())
}

async fn put_folds(connection: &mut PgConnection, folds: &[(&Folded, &[u8], Timestamp)]) -> Result<()> {
    for (fold, signed, at) in folds {
        sqlx::query(
            "INSERT INTO fold (node, epoch, first, last, first_digest, last_digest, signed, received_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        )
        .bind(fold.node.as_bytes())
        .bind(fold.epoch.as_bytes())
        .bind(fold.span.first().as_i64())
        .bind(fold.span.last().as_i64())
        .bind(fold.first_digest.as_bytes())
        .bind(fold.last_digest.as_bytes())
        .bind(*signed)
        .bind(at.as_micros())
        .execute(&mut *connection)
        .await
        .map_err(failed("storing a folded range"))?;
    }
    Ok(())
}

async fn put_forks(connection: &mut PgConnection, forks: &[(BatchKey, &NewBatch)]) -> Result<()> {
    for (key, batch) in forks {
        sqlx::query(
            "INSERT INTO forked_batch (node, epoch, seq, digest, signed, payload, received_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        )
        .bind(key.node.as_bytes())
        .bind(key.epoch.as_bytes())
        .bind(key.seq.as_i64())
        .bind(batch.signed.digest().as_bytes())
        .bind(batch.signed.as_bytes())
        .bind(payload_of(batch))
        .bind(batch.received_at.as_micros())
        .execute(&mut *connection)
        .await
        .map_err(failed("keeping a forked batch"))?;
    }
    Ok(())
}
