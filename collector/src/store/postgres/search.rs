//! Event search in PostgreSQL.
//!
//! Batches that may hold something are taken newest first, over all days at once, and opened until the page is full or
//! the budget is spent; `store::paging` decides what may be given out.

use std::sync::Arc;

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::Decoder;
use sqlx::PgConnection;

use super::error::failed;
use super::ledger::{self, batch_columns};
use super::unit::reading;
use super::{PostgresStore, column};
use crate::store::paging::{Candidate, OpenBatch, Paging, Step};
use crate::store::{
    BatchKey, EventPage, EventQuery, EventRef, EventSearch, FoundEvent, Payload, Result, StoreError,
    StoredBatch, TermFilter,
};

/// Rows that one look into the index brings.
const CHUNK: i64 = 512;
/// Candidates that are enough for now.
const READY: usize = 64;

#[async_trait]
impl EventSearch for PostgresStore {
    async fn search_events(&self, query: EventQuery) -> Result<EventPage> {
        reading!(self, sql => search(sql, &query))
    }

    async fn event(&self, at: BatchKey, index: u32) -> Result<Option<FoundEvent>> {
        reading!(self, sql => async {
            let Some(batch) = ledger::batch(sql, &at).await? else { return Ok(None) };
            let Some(batch) = open(&mut decoder()?, &batch) else { return Ok(None) };
            let host = batch.host;
            Ok(batch.events.into_iter().nth(index as usize).map(|event| {
                let BatchKey { node, epoch, seq } = at;
                FoundEvent { at: EventRef { node, epoch, seq, index, event_id: event.id }, event, host }
            }))
        })
    }
}

async fn search(connection: &mut PgConnection, query: &EventQuery) -> Result<EventPage> {
    let mut paging = Paging::new(query);
    let mut decoder = decoder()?;
    loop {
        match paging.step() {
            Step::Done(page) => return Ok(page),
            Step::Fill => fill(connection, &mut paging).await?,
            Step::Open(candidate) => {
                let found = batch_of(connection, candidate.id).await?;
                paging.opened(candidate, found.and_then(|batch| open(&mut decoder, &batch)));
            }
        }
    }
}

/// Looks for the next batches that may hold something.
async fn fill(connection: &mut PgConnection, paging: &mut Paging) -> Result<()> {
    let wanted = paging.wanted();
    let (reach, id) = paging.last();
    let rows = sqlx::query(
        "SELECT b.id, b.time_to, b.types, b.filter FROM batch b
         WHERE (b.time_to, b.id) < ($1, $2) AND b.time_to >= $3 AND b.time_from <= $4
            AND ($5::bytea IS NULL OR b.node = $5)
            AND b.day IN (SELECT day FROM partition WHERE expired_at IS NULL)
         ORDER BY b.time_to DESC, b.id DESC LIMIT $6",
    )
    .bind(reach)
    .bind(id)
    .bind(wanted.from.as_micros())
    .bind(paging.start().as_micros())
    .bind(wanted.node.as_ref().map(|node: &NodeId| node.as_bytes().as_slice()))
    .bind(CHUNK)
    .fetch_all(connection)
    .await
    .map_err(failed("searching"))?;
    let what = "search row";
    let at_end = (rows.len() as i64) < CHUNK;
    for row in &rows {
        let (id, reach): (i64, i64) = (column(row, "id", what)?, column(row, "time_to", what)?);
        let types: i64 = column(row, "types", what)?;
        let filter: &[u8] = column(row, "filter", what)?;
        let wanted = paging.wanted();
        let may =
            types & wanted.types != 0 && wanted.hashes.iter().all(|hash| TermFilter::may_hold(filter, *hash));
        paging.seen(Candidate { id, reach: Timestamp::from_micros(reach) }, may);
        if paging.ready() >= READY {
            // The rest is asked for again when these have been opened.
            return Ok(());
        }
    }
    if at_end {
        paging.at_end();
    }
    Ok(())
}

async fn batch_of(connection: &mut PgConnection, id: i64) -> Result<Option<StoredBatch>> {
    let row = sqlx::query(concat!(
        "SELECT ",
        batch_columns!(),
        " FROM ledger l JOIN partition p ON p.day = l.day WHERE l.id = $1"
    ))
    .bind(id)
    .fetch_optional(connection)
    .await
    .map_err(failed("reading a batch"))?;
    row.as_ref().map(ledger::stored).transpose()
}

/// A batch's events, if its payload is there and can be read.
fn open(decoder: &mut Decoder, batch: &StoredBatch) -> Option<OpenBatch> {
    let Payload::Present(bytes) = &batch.payload else { return None };
    let facts = batch.signed.header.facts.as_ref()?;
    let key = batch.key();
    match decoder.decode(key.node, facts, bytes) {
        Ok(events) => {
            let host = Arc::new(batch.signed.header.host());
            Some(OpenBatch { key, host, events, bytes: bytes.len() as u64 })
        }
        Err(error) => {
            // Verbatim bytes that don't decode were flagged when they came.
            tracing::debug!(%error, batch.seq = %key.seq, node.id = %key.node, "a stored batch can't be read");
            None
        }
    }
}

fn decoder() -> Result<Decoder> {
    Decoder::new().map_err(|error| StoreError::Failed { attempt: "making a decoder", source: error.into() })
}
