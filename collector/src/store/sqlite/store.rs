//! Storing batches in SQLite: judge, insert, advance, count and flag, all in the caller's transaction.

use std::collections::HashMap;

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{EpochId, EpochLedger, Folded, Head, Span, State, Verdict, chain, header::Link};
use rusqlite::{Connection, OptionalExtension, params};

use super::account;
use super::error::failed;
use super::ledger::{self, key_parameters};
use super::nodes;
use super::partitions::{self, PartitionId};
use super::writer::Unit;
use crate::store::judge::{Epochs, Place, heads_named, owed_of};
use crate::store::tally::Tally;
use crate::store::{
    Arrival, BatchKey, BatchTerms, Change, Coverage, FlagKind, NewBatch, NewFlag, NewPayload, Result,
    StoreOutcome, StoreReport,
};

/// What a ledger row takes besides header and signature: its other columns and its places in indexes.
const ROW_BYTES: i64 = 180;

/// See `LedgerStore::store_batches`.
pub(super) fn store_batches(
    unit: &mut Unit<'_>,
    arrivals: &[Arrival],
    part_bytes: u64,
) -> Result<StoreReport> {
    let mut epochs = Epochs::default();
    let mut report = StoreReport::default();
    let mut named: Vec<(NodeId, EpochId)> = Vec::new();
    let mut at = Timestamp::MIN;
    for arrival in arrivals {
        let (outcome, place) = match arrival {
            Arrival::Batch(batch) => {
                at = at.max(batch.received_at);
                let header = &batch.signed.header;
                (store_batch(unit, &mut epochs, batch, part_bytes)?, (header.node, header.epoch))
            }
            Arrival::Fold { fold, received_at } => {
                at = at.max(*received_at);
                let folded = fold.unverified();
                let outcome = store_fold(unit, &mut epochs, folded, fold.as_bytes(), *received_at)?;
                (outcome, (folded.node, folded.epoch))
            }
        };
        report.outcomes.push(outcome);
        if !named.contains(&place) {
            named.push(place);
        }
    }
    for (node, _) in &named {
        nodes::seen(unit.main, *node, at)?;
    }
    let written = write_back(unit.main, epochs, at)?;
    report.epochs = named
        .into_iter()
        .map(|place| (place.0, place.1, written.get(&place).cloned().unwrap_or_default()))
        .collect();
    Ok(report)
}

/// See `LedgerStore::apply_state`.
pub(super) fn apply_state(
    unit: &mut Unit<'_>,
    state: &State,
    now: Timestamp,
) -> Result<Vec<(EpochId, EpochLedger)>> {
    let mut epochs = Epochs::default();
    let node = state.node;
    let mut owed: u64 = 0;
    for held in &state.held {
        let ledger = load(unit.main, &mut epochs, (node, held.epoch))?;
        let lost = ledger.settle(held.lowest);
        owed = owed.saturating_add(owed_of(ledger, held.lowest, held.head));
        account::record_lost(unit.main, node, held.epoch, &lost, now)?;
    }
    if state.complete {
        settle_ancestors(unit.main, &mut epochs, state, now)?;
    }
    let mut tally = Tally::default();
    tally.clocks(node, &state.clocks);
    account::write(unit, tally)?;
    nodes::about(unit.main, node, &state.about)?;
    nodes::seen(unit.main, node, now)?;
    unit.main
        .execute("UPDATE node SET owed = ?2 WHERE id = ?1", params![node.as_bytes(), nodes::column(owed)])
        .map_err(failed("taking a node's state"))?;
    unit.changes.push(Change::NodeChanged(node));
    let written = write_back(unit.main, epochs, now)?;
    Ok(state
        .held
        .iter()
        .map(|held| (held.epoch, written.get(&(node, held.epoch)).cloned().unwrap_or_default()))
        .collect())
}

/// See `LedgerStore::mark_read`.
pub(super) fn mark_read(
    unit: &mut Unit<'_>,
    key: &BatchKey,
    terms: Option<&BatchTerms>,
    coverage: &[(String, Coverage)],
) -> Result<()> {
    let attempt = "indexing a batch";
    let sql = "SELECT l.id, p.id, p.day, p.part FROM ledger l JOIN partition p ON p.id = l.partition
        WHERE l.node = ?1 AND l.epoch = ?2 AND l.seq = ?3 AND l.unread = 1 AND p.expired_at IS NULL";
    let found = unit
        .main
        .prepare_cached(sql)
        .and_then(|mut query| {
            query
                .query_row(key_parameters(key), |row| {
                    let partition = PartitionId { id: row.get(1)?, day: row.get(2)?, part: row.get(3)? };
                    Ok((row.get::<_, i64>(0)?, partition))
                })
                .optional()
        })
        .map_err(failed(attempt))?;
    let Some((id, partition)) = found else { return Ok(()) };
    if let Some(terms) = terms {
        partitions::put_terms(unit.partitions.begin(partition)?, id, key, terms)?;
        widen(unit.main, partition.id, terms)?;
    }
    nodes::cover(unit.main, key.node, coverage)?;
    unit.main
        .execute("UPDATE ledger SET unread = 0, analysed = ?2 WHERE id = ?1", params![id, terms.is_none()])
        .map_err(failed(attempt))?;
    Ok(())
}

fn store_batch(
    unit: &mut Unit<'_>,
    epochs: &mut Epochs,
    batch: &NewBatch,
    part_bytes: u64,
) -> Result<StoreOutcome> {
    let header = &batch.signed.header;
    let key = BatchKey { node: header.node, epoch: header.epoch, seq: header.number };
    let stored = ledger::digest_at(unit.main, &key)?;
    let heads = load_linked(unit.main, epochs, (key.node, key.epoch), &header.link)?;
    let judgement = epochs.judge_batch(&batch.signed, stored, &heads);
    let epoch = (key.node, key.epoch);
    let mut outcome = StoreOutcome { epoch, id: None, verdict: judgement.verdict };
    match judgement.verdict {
        Verdict::Store | Verdict::StoreAbove => {
            let id = insert(unit, batch, &key, part_bytes)?;
            outcome.id = Some(id);
            account::note(unit.main, &key, &header.link, &judgement, batch.received_at)?;
            let mut tally = Tally::default();
            tally.batch(batch, &key);
            account::write(unit, tally)?;
        }
        Verdict::Duplicate => fill_in(unit, batch, &key, part_bytes)?,
        Verdict::Fork(fork) => keep_fork(unit, batch, &key, &fork)?,
        Verdict::TooManyHoles => {}
    }
    Ok(outcome)
}

fn store_fold(
    unit: &mut Unit<'_>,
    epochs: &mut Epochs,
    fold: &Folded,
    signed: &[u8],
    received_at: Timestamp,
) -> Result<StoreOutcome> {
    let (node, epoch) = (fold.node, fold.epoch);
    let at = |seq| ledger::digest_at(unit.main, &BatchKey { node, epoch, seq });
    let stored = [at(fold.span.last())?, at(fold.span.first())?];
    let heads = load_linked(unit.main, epochs, (node, epoch), &fold.link)?;
    let judgement = epochs.judge_fold(fold, stored, &heads);
    let key = BatchKey { node, epoch, seq: fold.span.first() };
    match &judgement.verdict {
        Verdict::Store | Verdict::StoreAbove => {
            unit.main
                .execute(
                    "INSERT INTO fold (node, epoch, first, last, first_digest, last_digest, signed, received_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
                    params![
                        node.as_bytes(),
                        epoch.as_bytes(),
                        fold.span.first().as_i64(),
                        fold.span.last().as_i64(),
                        fold.first_digest.as_bytes(),
                        fold.last_digest.as_bytes(),
                        signed,
                        received_at.as_micros(),
                    ],
                )
                .map_err(failed("storing a folded range"))?;
            account::note(unit.main, &key, &fold.link, &judgement, received_at)?;
            let mut tally = Tally::default();
            tally.fold(fold, received_at);
            account::write(unit, tally)?;
        }
        Verdict::Fork(fork) => flag_fork(unit, &key, fork, received_at)?,
        Verdict::Duplicate | Verdict::TooManyHoles => {}
    }
    Ok(StoreOutcome { epoch: (node, epoch), id: None, verdict: judgement.verdict })
}

/// Writes the ledger's row, and the payload into today's file.
fn insert(unit: &mut Unit<'_>, batch: &NewBatch, key: &BatchKey, part_bytes: u64) -> Result<i64> {
    let attempt = "storing a batch";
    let partition = current_partition(unit.main, batch.received_at, part_bytes)?;
    let facts = batch.signed.header.facts.as_ref();
    let eviction = match &batch.payload {
        NewPayload::Present(_) => None,
        NewPayload::Evicted(eviction) => Some(eviction.to_bytes()),
    };
    let (node, epoch, seq) = key_parameters(key);
    // A batch with nothing to find in it is analysed as it comes.
    let analysed = batch.terms.is_none() && !batch.unread;
    unit.main
        .prepare_cached(
            "INSERT INTO ledger (node, epoch, seq, digest, signed, eviction, events, boot, partition, received_at,
                unread, analysed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                node,
                epoch,
                seq,
                batch.signed.digest().as_bytes(),
                batch.signed.as_bytes(),
                eviction,
                facts.map_or(0, |facts| facts.events),
                facts.map(|facts| *facts.clocks.boot.as_bytes()),
                partition.id,
                batch.received_at.as_micros(),
                batch.unread,
                analysed,
            ])
        })
        .map_err(failed(attempt))?;
    let id = unit.main.last_insert_rowid();
    let bytes = batch.signed.as_bytes().len() as i64 + ROW_BYTES;
    unit.main
        .prepare_cached("UPDATE partition SET header_bytes = header_bytes + ?2 WHERE id = ?1")
        .and_then(|mut statement| statement.execute([partition.id, bytes]))
        .map_err(failed(attempt))?;
    put_payload(unit, batch, key, id, partition)?;
    Ok(id)
}

fn put_payload(
    unit: &mut Unit<'_>,
    batch: &NewBatch,
    key: &BatchKey,
    id: i64,
    partition: PartitionId,
) -> Result<()> {
    let NewPayload::Present(bytes) = &batch.payload else { return Ok(()) };
    let files = unit.partitions.begin(partition)?;
    partitions::put_payload(files, id, bytes)?;
    if let Some(terms) = &batch.terms {
        partitions::put_terms(files, id, key, terms)?;
        widen(unit.main, partition.id, terms)?;
    }
    let events = batch.signed.header.facts.as_ref().map_or(0, |facts| facts.events);
    unit.main
        .prepare_cached(
            "UPDATE partition SET batches = batches + 1, events = events + ?2, bytes = bytes + ?3 WHERE id = ?1",
        )
        .and_then(|mut statement| statement.execute(params![partition.id, events, bytes.len() as i64]))
        .map_err(failed("counting a payload"))?;
    Ok(())
}

/// Lets searches look into a file for times that it holds now.
fn widen(connection: &Connection, partition: i64, terms: &BatchTerms) -> Result<()> {
    connection
        .prepare_cached(
            "UPDATE partition SET time_from = min(time_from, ?2), time_to = max(time_to, ?3) WHERE id = ?1",
        )
        .and_then(|mut statement| {
            statement.execute([partition, terms.from.as_micros(), terms.to.as_micros()])
        })
        .map_err(failed("widening a partition"))?;
    Ok(())
}

/// A batch that had come without its payload comes with it: it is kept after all, and due for analysis.
fn fill_in(unit: &mut Unit<'_>, batch: &NewBatch, key: &BatchKey, part_bytes: u64) -> Result<()> {
    if !matches!(batch.payload, NewPayload::Present(_)) {
        return Ok(());
    }
    let attempt = "keeping a payload that came late";
    let id = unit
        .main
        .prepare_cached(
            "SELECT id FROM ledger WHERE node = ?1 AND epoch = ?2 AND seq = ?3 AND digest = ?4 AND eviction IS NOT NULL",
        )
        .and_then(|mut query| {
            let (node, epoch, seq) = key_parameters(key);
            let digest = batch.signed.digest();
            query.query_row(params![node, epoch, seq, digest.as_bytes()], |row| row.get::<_, i64>(0)).optional()
        })
        .map_err(failed(attempt))?;
    let Some(id) = id else { return Ok(()) };
    let partition = current_partition(unit.main, batch.received_at, part_bytes)?;
    unit.main
        .execute(
            "UPDATE ledger SET eviction = NULL, partition = ?2, unread = ?3, analysed = ?4 WHERE id = ?1",
            params![id, partition.id, batch.unread, batch.terms.is_none() && !batch.unread],
        )
        .map_err(failed(attempt))?;
    put_payload(unit, batch, key, id, partition)?;
    nodes::cover(unit.main, key.node, &batch.coverage)
}

/// The part of today that takes payloads.
fn current_partition(
    connection: &Connection,
    received_at: Timestamp,
    part_bytes: u64,
) -> Result<PartitionId> {
    let attempt = "choosing a partition";
    let day = received_at.as_micros().div_euclid(86_400_000_000);
    let newest = connection
        .prepare_cached("SELECT id, part, bytes + header_bytes, expired_at IS NULL FROM partition WHERE day = ?1 ORDER BY part DESC LIMIT 1")
        .and_then(|mut query| {
            query
                .query_row([day], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, bool>(3)?))
                })
                .optional()
        })
        .map_err(failed(attempt))?;
    let part = match newest {
        Some((id, part, bytes, true)) if (bytes as u64) < part_bytes => {
            return Ok(PartitionId { id, day, part });
        }
        Some((_, part, ..)) => part + 1,
        None => 0,
    };
    connection
        .execute("INSERT INTO partition (day, part) VALUES (?1, ?2)", [day, part])
        .map_err(failed(attempt))?;
    Ok(PartitionId { id: connection.last_insert_rowid(), day, part })
}

fn keep_fork(unit: &mut Unit<'_>, batch: &NewBatch, key: &BatchKey, fork: &chain::Fork) -> Result<()> {
    let (node, epoch, seq) = key_parameters(key);
    let payload = match &batch.payload {
        NewPayload::Present(bytes) => Some(bytes),
        NewPayload::Evicted(_) => None,
    };
    unit.main
        .execute(
            "INSERT INTO forked_batch (node, epoch, seq, digest, signed, payload, received_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            params![
                node,
                epoch,
                seq,
                batch.signed.digest().as_bytes(),
                batch.signed.as_bytes(),
                payload,
                batch.received_at.as_micros()
            ],
        )
        .map_err(failed("keeping a forked batch"))?;
    flag_fork(unit, key, fork, batch.received_at)
}

fn flag_fork(unit: &mut Unit<'_>, key: &BatchKey, fork: &chain::Fork, at: Timestamp) -> Result<()> {
    let (node, epoch, seq) = (key.node, key.epoch, Some(fork.number));
    let detail = fork.kind.as_str().to_owned();
    nodes::raise(unit.main, &NewFlag { node, epoch, seq, kind: FlagKind::Fork, detail, at })?;
    unit.changes.push(Change::NodeChanged(node));
    Ok(())
}

/// Ancestors of the current epoch that a complete state does not list are not held any more.
fn settle_ancestors(
    connection: &Connection,
    epochs: &mut Epochs,
    state: &State,
    now: Timestamp,
) -> Result<()> {
    let mut epoch = state.epoch;
    let mut walked = 0_u32;
    while let Some(before) = load(connection, epochs, (state.node, epoch))?.predecessor() {
        walked += 1;
        // A chain of epochs has no loops unless somebody forged one.
        if walked > 10_000 || ledger::epoch_state(connection, state.node, before)?.is_none() {
            return Ok(());
        }
        if state.held.iter().all(|held| held.epoch != before) {
            let lost = load(connection, epochs, (state.node, before))?.settle_all();
            account::record_lost(connection, state.node, before, &lost, now)?;
        }
        epoch = before;
    }
    Ok(())
}

/// An epoch of the call, read if it has not been yet.
fn load<'a>(connection: &Connection, epochs: &'a mut Epochs, place: Place) -> Result<&'a mut EpochLedger> {
    if !epochs.has(place) {
        epochs.put(place, ledger::epoch_state(connection, place.0, place.1)?.unwrap_or_default());
    }
    Ok(epochs.of(place))
}

/// Reads what judging something of an epoch asks for: it, its predecessor if the link names one, and those of the heads
/// named that are stored.
fn load_linked(connection: &Connection, epochs: &mut Epochs, place: Place, link: &Link) -> Result<Vec<Head>> {
    load(connection, epochs, place)?;
    let Some((before, heads)) = heads_named(place.0, link) else { return Ok(Vec::new()) };
    load(connection, epochs, before)?;
    ledger::stored_heads(connection, before.0, before.1, heads)
}

fn write_back(connection: &Connection, epochs: Epochs, at: Timestamp) -> Result<HashMap<Place, EpochLedger>> {
    let count = |spans: &[Span]| nodes::column(spans.iter().map(|span| span.count()).sum());
    let all = epochs.into_all();
    for ((node, epoch), state) in &all {
        if *state == EpochLedger::default() {
            continue;
        }
        connection
            .prepare_cached(
                "INSERT INTO epoch (node, epoch, state, through, owed, lost, predecessor, first_seen, last_seen)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)
                 ON CONFLICT (node, epoch) DO UPDATE SET state = excluded.state, through = excluded.through,
                    owed = excluded.owed, lost = excluded.lost, predecessor = excluded.predecessor,
                    last_seen = max(last_seen, excluded.last_seen)",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    node.as_bytes(),
                    epoch.as_bytes(),
                    state.to_bytes(),
                    state.through().map_or(0, |head| head.number.as_i64()),
                    count(&state.owed()),
                    count(state.lost()),
                    state.predecessor().map(|before| *before.as_bytes()),
                    at.as_micros(),
                ])
            })
            .map_err(failed("advancing an epoch"))?;
    }
    Ok(all)
}
