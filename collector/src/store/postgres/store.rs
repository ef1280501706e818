//! Storing batches in PostgreSQL: lock, judge in memory, insert what is new by the array, advance; one transaction.
//!
//! Locks are taken in one order by everybody: rows of `node` by id, then rows of `epoch` by node and id. Whatever is
//! keyed by a node (losses, clocks, flags, sums) is written under its locks.

use std::collections::{BTreeSet, HashMap};

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{Digest, EpochId, EpochLedger, Head, Span, State, Verdict, chain, header::Link};
use sqlx::{PgConnection, Row};

use super::error::{damaged, failed};
use super::ledger;
use super::unit::Unit;
use super::{account, nodes, partitions, rows};
use crate::store::judge::{Epochs, Place, heads_named, owed_of};
use crate::store::tally::{Tally, gap};
use crate::store::{
    Arrival, BatchKey, BatchTerms, Change, Coverage, FlagKind, NewBatch, NewFlag, NewPayload, Result,
    StoreOutcome, StoreReport,
};

/// Which open day takes what arrived on a day.
pub(super) type Days = HashMap<i64, i64>;

/// See `LedgerStore::store_batches`. Nothing if one of the days is open no more: they are to be looked for again.
pub(super) async fn store_batches(
    unit: &mut Unit<'_>,
    arrivals: &[Arrival],
    days: &Days,
) -> Result<Option<StoreReport>> {
    if !partitions::stay_open(unit.sql(), days.values()).await? {
        return Ok(None);
    }
    let mut named: Vec<Place> = Vec::new();
    let mut touched = BTreeSet::new();
    for arrival in arrivals {
        let (place, link) = place_of(arrival);
        if !named.contains(&place) {
            named.push(place);
        }
        touched.insert(place);
        touched.extend(heads_named(place.0, link).map(|(before, _)| before));
    }
    let at = arrivals.iter().map(received_at).max().unwrap_or(Timestamp::MIN);
    lock_nodes(unit.sql(), touched.iter().map(|place| place.0)).await?;
    let mut epochs = lock_epochs(unit.sql(), &touched, at).await?;
    let mut digests = stored_digests(unit.sql(), arrivals).await?;
    let mut writing = rows::Writing::default();
    let mut outcomes = Vec::new();
    for arrival in arrivals {
        outcomes.push(match arrival {
            Arrival::Batch(batch) => judge_batch(&mut epochs, &mut digests, batch, &mut writing),
            Arrival::Fold { fold, received_at } => {
                let (folded, bytes) = (fold.unverified(), fold.as_bytes());
                judge_fold(&mut epochs, &mut digests, (folded, bytes, *received_at), &mut writing)
            }
        });
    }
    let mut ids = rows::write(unit, &writing, days).await?.into_iter();
    for outcome in &mut outcomes {
        if outcome.is_new_batch {
            outcome.said.id = ids.next();
        }
    }
    account::write(unit, &writing).await?;
    nodes::seen(unit.sql(), named.iter().map(|place| place.0), at).await?;
    let written = write_back(unit.sql(), epochs, at).await?;
    let epochs = named
        .into_iter()
        .map(|place| (place.0, place.1, written.get(&place).cloned().unwrap_or_default()))
        .collect();
    Ok(Some(StoreReport { outcomes: outcomes.into_iter().map(|outcome| outcome.said).collect(), epochs }))
}

/// See `LedgerStore::apply_state`.
pub(super) async fn apply_state(
    unit: &mut Unit<'_>,
    state: &State,
    now: Timestamp,
) -> Result<Vec<(EpochId, EpochLedger)>> {
    let node = state.node;
    lock_nodes(unit.sql(), [node]).await?;
    let touched = state.held.iter().map(|held| (node, held.epoch)).chain([(node, state.epoch)]).collect();
    let mut epochs = lock_epochs(unit.sql(), &touched, now).await?;
    let mut owed: u64 = 0;
    let mut lost: Vec<(EpochId, Span)> = Vec::new();
    for held in &state.held {
        let ledger = epochs.of((node, held.epoch));
        lost.extend(ledger.settle(held.lowest).into_iter().map(|span| (held.epoch, span)));
        owed = owed.saturating_add(owed_of(ledger, held.lowest, held.head));
    }
    if state.complete {
        settle_ancestors(unit.sql(), &mut epochs, state, now, &mut lost).await?;
    }
    let mut tally = Tally::default();
    for (epoch, span) in lost {
        account::record_lost(unit.sql(), (node, epoch), span, now).await?;
        tally.flags.push(gap(node, epoch, span, now));
    }
    tally.clocks(node, &state.clocks);
    account::write_tally(unit.sql(), &tally).await?;
    nodes::about(unit.sql(), node, &state.about).await?;
    nodes::seen(unit.sql(), [node], now).await?;
    sqlx::query("UPDATE node SET owed = $2 WHERE id = $1")
        .bind(node.as_bytes())
        .bind(nodes::count(owed))
        .execute(unit.sql())
        .await
        .map_err(failed("taking a node's state"))?;
    unit.changes.push(Change::NodeChanged(node));
    let written = write_back(unit.sql(), epochs, now).await?;
    let now_of = |epoch| written.get(&(node, epoch)).cloned().unwrap_or_default();
    Ok(state.held.iter().map(|held| (held.epoch, now_of(held.epoch))).collect())
}

/// See `LedgerStore::mark_read`.
pub(super) async fn mark_read(
    unit: &mut Unit<'_>,
    key: &BatchKey,
    terms: Option<&BatchTerms>,
    coverage: &[(String, Coverage)],
) -> Result<()> {
    lock_nodes(unit.sql(), [key.node]).await?;
    let sql = "UPDATE ledger l SET unread = FALSE, analysed = $4 FROM partition p
        WHERE p.day = l.day AND p.expired_at IS NULL AND l.node = $1 AND l.epoch = $2 AND l.seq = $3 AND l.unread
        RETURNING l.id, l.day";
    let found: Option<(i64, i64)> = sqlx::query_as(sql)
        .bind(key.node.as_bytes())
        .bind(key.epoch.as_bytes())
        .bind(key.seq.as_i64())
        .bind(i16::from(terms.is_none()))
        .fetch_optional(unit.sql())
        .await
        .map_err(failed("indexing a batch"))?;
    let Some((id, day)) = found else { return Ok(()) };
    if let Some(terms) = terms {
        rows::put_terms(unit.sql(), &[(day, id, *key, terms)]).await?;
    }
    nodes::cover(unit.sql(), key.node, coverage).await
}

/// What was made of an arrival.
struct Judged {
    said: StoreOutcome,
    /// It gets a row of the ledger, and so an id.
    is_new_batch: bool,
}

fn judge_batch<'a>(
    epochs: &mut Epochs,
    digests: &mut HashMap<BatchKey, Digest>,
    batch: &'a NewBatch,
    writing: &mut rows::Writing<'a>,
) -> Judged {
    let header = &batch.signed.header;
    let key = BatchKey { node: header.node, epoch: header.epoch, seq: header.number };
    let heads = stored_heads(digests, key.node, &header.link);
    let judgement = epochs.judge_batch(&batch.signed, digests.get(&key).copied(), &heads);
    let verdict = judgement.verdict;
    let is_new_batch = matches!(verdict, Verdict::Store | Verdict::StoreAbove);
    match &verdict {
        Verdict::Store | Verdict::StoreAbove => {
            digests.entry(key).or_insert_with(|| batch.signed.digest());
            writing.tally.batch(batch, &key);
            writing.note(key, &header.link, judgement, batch.received_at);
            writing.batches.push((key, batch));
        }
        Verdict::Duplicate if matches!(batch.payload, NewPayload::Present(_)) => {
            writing.again.push((key, batch));
        }
        Verdict::Fork(fork) => {
            writing.forks.push((key, batch));
            writing.tally.flags.push(fork_flag(&key, fork, batch.received_at));
            writing.tally.changes.push(Change::NodeChanged(key.node));
        }
        Verdict::Duplicate | Verdict::TooManyHoles => {}
    }
    Judged { said: StoreOutcome { epoch: (key.node, key.epoch), id: None, verdict }, is_new_batch }
}

fn judge_fold<'a>(
    epochs: &mut Epochs,
    digests: &mut HashMap<BatchKey, Digest>,
    (fold, signed, at): (&'a auditflow_wire::Folded, &'a [u8], Timestamp),
    writing: &mut rows::Writing<'a>,
) -> Judged {
    let (node, epoch) = (fold.node, fold.epoch);
    let [last, first] = [fold.span.last(), fold.span.first()].map(|seq| BatchKey { node, epoch, seq });
    let heads = stored_heads(digests, node, &fold.link);
    let stored = [digests.get(&last).copied(), digests.get(&first).copied()];
    let judgement = epochs.judge_fold(fold, stored, &heads);
    let verdict = judgement.verdict;
    match &verdict {
        Verdict::Store | Verdict::StoreAbove => {
            digests.entry(last).or_insert(fold.last_digest);
            digests.entry(first).or_insert(fold.first_digest);
            writing.note(first, &fold.link, judgement, at);
            writing.tally.fold(fold, at);
            writing.folds.push((fold, signed, at));
        }
        Verdict::Fork(fork) => {
            writing.tally.flags.push(fork_flag(&first, fork, at));
            writing.tally.changes.push(Change::NodeChanged(node));
        }
        Verdict::Duplicate | Verdict::TooManyHoles => {}
    }
    Judged { said: StoreOutcome { epoch: (node, epoch), id: None, verdict }, is_new_batch: false }
}

fn fork_flag(key: &BatchKey, fork: &chain::Fork, at: Timestamp) -> NewFlag {
    let (node, epoch, seq) = (key.node, key.epoch, Some(fork.number));
    NewFlag { node, epoch, seq, kind: FlagKind::Fork, detail: fork.kind.as_str().to_owned(), at }
}

fn place_of(arrival: &Arrival) -> (Place, &Link) {
    match arrival {
        Arrival::Batch(batch) => {
            let header = &batch.signed.header;
            ((header.node, header.epoch), &header.link)
        }
        Arrival::Fold { fold, .. } => {
            let fold = fold.unverified();
            ((fold.node, fold.epoch), &fold.link)
        }
    }
}

/// When something came.
pub(super) fn received_at(arrival: &Arrival) -> Timestamp {
    match arrival {
        Arrival::Batch(batch) => batch.received_at,
        Arrival::Fold { received_at, .. } => *received_at,
    }
}

/// Those of the heads that a link names which are stored, with the digests they are stored with.
fn stored_heads(digests: &HashMap<BatchKey, Digest>, node: NodeId, link: &Link) -> Vec<Head> {
    let Some(((_, epoch), heads)) = heads_named(node, link) else { return Vec::new() };
    let stored = |head: &Head| {
        let digest = *digests.get(&BatchKey { node, epoch, seq: head.number })?;
        Some(Head { number: head.number, digest })
    };
    heads.iter().filter_map(stored).collect()
}

/// The stored digests of every number that judging the arrivals may ask for.
async fn stored_digests(
    connection: &mut PgConnection,
    arrivals: &[Arrival],
) -> Result<HashMap<BatchKey, Digest>> {
    let mut keys = BTreeSet::new();
    for arrival in arrivals {
        let ((node, epoch), link) = place_of(arrival);
        match arrival {
            Arrival::Batch(batch) => {
                keys.insert(BatchKey { node, epoch, seq: batch.signed.header.number });
            }
            Arrival::Fold { fold, .. } => {
                let span = fold.unverified().span;
                keys.extend([span.first(), span.last()].map(|seq| BatchKey { node, epoch, seq }));
            }
        }
        if let Some(((node, epoch), heads)) = heads_named(node, link) {
            keys.extend(heads.iter().map(|head| BatchKey { node, epoch, seq: head.number }));
        }
    }
    ledger::digests_at(connection, &keys).await
}

/// Keeps other transactions from what is keyed by these nodes, until this one ends.
pub(super) async fn lock_nodes(
    connection: &mut PgConnection,
    nodes: impl IntoIterator<Item = NodeId>,
) -> Result<()> {
    let nodes: BTreeSet<NodeId> = nodes.into_iter().collect();
    let nodes: Vec<&[u8]> = nodes.iter().map(|node| &node.as_bytes()[..]).collect();
    // Not `FOR UPDATE`: what refers to a node need not wait.
    sqlx::query("SELECT 1 FROM node WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE")
        .bind(nodes)
        .execute(connection)
        .await
        .map_err(failed("locking nodes"))?;
    Ok(())
}

/// Locks epochs and reads them. Those that are not there get a row, so that there is something to lock.
async fn lock_epochs(
    connection: &mut PgConnection,
    places: &BTreeSet<Place>,
    at: Timestamp,
) -> Result<Epochs> {
    let attempt = "locking epochs";
    let (nodes, ids): (Vec<&[u8]>, Vec<&[u8]>) =
        places.iter().map(|(node, epoch)| (&node.as_bytes()[..], &epoch.as_bytes()[..])).unzip();
    sqlx::query(
        "INSERT INTO epoch (node, epoch, state, through, owed, lost, first_seen, last_seen)
         SELECT node, epoch, '', 0, 0, 0, $3, $3 FROM UNNEST($1::bytea[], $2::bytea[]) AS named (node, epoch)
         ORDER BY node, epoch ON CONFLICT DO NOTHING",
    )
    .bind(&nodes)
    .bind(&ids)
    .bind(at.as_micros())
    .execute(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    let rows = sqlx::query(
        "SELECT e.node, e.epoch, e.state FROM epoch e
         JOIN UNNEST($1::bytea[], $2::bytea[]) AS named (node, epoch) ON e.node = named.node AND e.epoch = named.epoch
         ORDER BY e.node, e.epoch FOR UPDATE OF e",
    )
    .bind(nodes)
    .bind(ids)
    .fetch_all(connection)
    .await
    .map_err(failed(attempt))?;
    let mut epochs = Epochs::default();
    for row in rows {
        let bad = || damaged::<sqlx::Error>("epoch");
        let place = (
            NodeId::from_bytes(row.try_get(0).map_err(bad())?),
            EpochId::from_bytes(row.try_get(1).map_err(bad())?),
        );
        let state: &[u8] = row.try_get(2).map_err(bad())?;
        epochs.put(place, epoch_ledger(state)?);
    }
    Ok(epochs)
}

/// What an epoch's column holds; nothing, in a row that is there to be locked.
pub(super) fn epoch_ledger(state: &[u8]) -> Result<EpochLedger> {
    if state.is_empty() {
        return Ok(EpochLedger::default());
    }
    EpochLedger::from_bytes(state).map_err(damaged("epoch ledger"))
}

/// Ancestors of the current epoch that a complete state does not list are not held any more.
async fn settle_ancestors(
    connection: &mut PgConnection,
    epochs: &mut Epochs,
    state: &State,
    now: Timestamp,
    lost: &mut Vec<(EpochId, Span)>,
) -> Result<()> {
    let node = state.node;
    let mut epoch = state.epoch;
    let mut walked = 0_u32;
    while let Some(before) = epochs.of((node, epoch)).predecessor() {
        walked += 1;
        // A chain of epochs has no loops unless somebody forged one.
        if walked > 10_000 || ledger::epoch_state(connection, node, before).await?.is_none() {
            return Ok(());
        }
        if !epochs.has((node, before)) {
            // The node is locked, so nobody else holds one of its epochs and waits for another.
            let found = lock_epochs(connection, &BTreeSet::from([(node, before)]), now).await?;
            for (place, ledger) in found.into_all() {
                epochs.put(place, ledger);
            }
        }
        if state.held.iter().all(|held| held.epoch != before) {
            let settled = epochs.of((node, before)).settle_all();
            lost.extend(settled.into_iter().map(|span| (before, span)));
        }
        epoch = before;
    }
    Ok(())
}

/// Writes epochs as they are now, and removes the rows that were only there to be locked.
async fn write_back(
    connection: &mut PgConnection,
    epochs: Epochs,
    at: Timestamp,
) -> Result<HashMap<Place, EpochLedger>> {
    let attempt = "advancing an epoch";
    let count = |spans: &[Span]| nodes::count(spans.iter().map(|span| span.count()).sum());
    let all = epochs.into_all();
    let (mut nodes, mut ids, mut states) = (Vec::new(), Vec::new(), Vec::new());
    let (mut through, mut owed, mut lost, mut before) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ((node, epoch), ledger) in all.iter().filter(|(_, ledger)| **ledger != EpochLedger::default()) {
        nodes.push(*node.as_bytes());
        ids.push(*epoch.as_bytes());
        states.push(ledger.to_bytes());
        through.push(ledger.through().map_or(0, |head| head.number.as_i64()));
        owed.push(count(&ledger.owed()));
        lost.push(count(ledger.lost()));
        before.push(ledger.predecessor().map(|epoch| epoch.as_bytes().to_vec()));
    }
    sqlx::query(
        "UPDATE epoch e SET state = new.state, through = new.through, owed = new.owed, lost = new.lost,
            predecessor = new.predecessor, last_seen = greatest(e.last_seen, $8)
         FROM UNNEST($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[])
            AS new (node, epoch, state, through, owed, lost, predecessor)
         WHERE e.node = new.node AND e.epoch = new.epoch",
    )
    .bind(&nodes)
    .bind(&ids)
    .bind(states)
    .bind(through)
    .bind(owed)
    .bind(lost)
    .bind(before)
    .bind(at.as_micros())
    .execute(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    let (nodes, ids): (Vec<&[u8]>, Vec<&[u8]>) =
        all.keys().map(|(node, epoch)| (&node.as_bytes()[..], &epoch.as_bytes()[..])).unzip();
    sqlx::query(
        "DELETE FROM epoch e USING UNNEST($1::bytea[], $2::bytea[]) AS named (node, epoch)
         WHERE e.node = named.node AND e.epoch = named.epoch AND e.state = ''",
    )
    .bind(nodes)
    .bind(ids)
    .execute(connection)
    .await
    .map_err(failed(attempt))?;
    Ok(all)
}
