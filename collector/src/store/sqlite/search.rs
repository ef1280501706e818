//! Event search over partitions.
//!
//! Batches that may hold something are taken newest first, over all files at once, and opened until the page is full
//! or the budget is spent. A batch spans a stretch of time, so an event may only be given out once every batch that
//! reaches beyond it has been opened; the frontier is the newest time that an unopened batch reaches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use auditflow_event::{Event, HostFacts, NodeId, Timestamp};
use rusqlite::params;

use super::error::{damaged, failed};
use super::partitions::PartitionId;
use super::readers::Reader;
use super::{SqliteStore, ledger};
use crate::store::terms::Wanted;
use crate::store::{
    BatchKey, Budget, Cursor, EventPage, EventQuery, EventRef, EventSearch, FoundEvent, Payload, Result,
    TermFilter,
};

/// Batches that one look into a file may find before it is asked again.
const CHUNK: usize = 64;
/// Batches that one page may rule out unread before it ends: about a second.
const MOST_PRUNED: u64 = 200_000;

#[async_trait]
impl EventSearch for SqliteStore {
    async fn search_events(&self, query: EventQuery) -> Result<EventPage> {
        self.readers().read(move |reader| Search::new(reader, &query)?.run(reader)).await
    }

    async fn event(&self, at: BatchKey, index: u32) -> Result<Option<FoundEvent>> {
        self.readers()
            .read(move |reader| {
                let Some(id) = ledger::id_of(&reader.main, &at)? else { return Ok(None) };
                let Some(batch) = open_batch(reader, id, None)? else { return Ok(None) };
                let host = batch.host;
                Ok(batch.events.into_iter().nth(index as usize).map(|event| {
                    let BatchKey { node, epoch, seq } = at;
                    FoundEvent { at: EventRef { node, epoch, seq, index, event_id: event.id }, event, host }
                }))
            })
            .await
    }
}

/// A search in progress.
struct Search {
    wanted: Wanted,
    limit: usize,
    budget: Budget,
    /// Where the page starts (exclusive): moves on with every event that is given out.
    start: Cursor,
    streams: Vec<Stream>,
    /// Found and not yet sure to be next, at most as many as the page still takes.
    pending: BTreeMap<Cursor, FoundEvent>,
    page: EventPage,
    bytes: u64,
}

/// The batches of one partition that may hold something, newest first.
struct Stream {
    partition: PartitionId,
    /// No batch that is still to come reaches beyond this time.
    reach: Timestamp,
    /// The last batch looked at.
    last: (i64, i64),
    ready: VecDeque<Candidate>,
    done: bool,
}

struct Candidate {
    id: i64,
    reach: Timestamp,
}

struct OpenBatch {
    key: BatchKey,
    host: Arc<HostFacts>,
    events: Vec<Event>,
    bytes: u64,
}

impl Search {
    fn new(reader: &Reader, query: &EventQuery) -> Result<Self> {
        let wanted = Wanted::of(query);
        let start = query.before.unwrap_or(Cursor::at(Timestamp::MAX)).min(Cursor::at(wanted.to));
        let attempt = "looking for payload files";
        let streams = reader
            .main
            .prepare_cached(
                "SELECT id, day, part, time_to FROM partition
                 WHERE expired_at IS NULL AND batches > 0 AND time_to >= ?1 AND time_from <= ?2",
            )
            .and_then(|mut statement| {
                let stream = |row: &rusqlite::Row<'_>| {
                    Ok(Stream {
                        partition: PartitionId { id: row.get(0)?, day: row.get(1)?, part: row.get(2)? },
                        reach: Timestamp::from_micros(row.get(3)?),
                        last: (i64::MAX, i64::MAX),
                        ready: VecDeque::new(),
                        done: false,
                    })
                };
                statement.query_map([wanted.from.as_micros(), start.time.as_micros()], stream)?.collect()
            })
            .map_err(failed(attempt))?;
        Ok(Self {
            wanted,
            limit: query.limit,
            budget: query.budget,
            start,
            streams,
            pending: BTreeMap::new(),
            page: EventPage::default(),
            bytes: 0,
        })
    }

    fn run(mut self, reader: &mut Reader) -> Result<EventPage> {
        loop {
            let frontier = self.frontier(reader)?;
            self.give_out(frontier);
            if self.page.events.len() >= self.limit {
                self.page.next = Some(self.start);
                return Ok(self.page);
            }
            let Some(frontier) = frontier else { return Ok(self.page) };
            // Going on from here means opening again what reaches across: only if that gets further than we began.
            if self.is_spent() && frontier < self.start.time {
                self.page.partial = true;
                self.page.next = Some(Cursor::at(frontier));
                return Ok(self.page);
            }
            self.open_next(reader)?;
        }
    }

    /// The newest time that a batch not yet opened reaches; every stream that reaches there has looked into its file.
    fn frontier(&mut self, reader: &mut Reader) -> Result<Option<Timestamp>> {
        loop {
            let furthest =
                self.streams.iter_mut().filter(|stream| !stream.done).max_by_key(|stream| stream.reach);
            let Some(stream) = furthest else { return Ok(None) };
            if let Some(next) = stream.ready.front() {
                return Ok(Some(next.reach));
            }
            let pruned = stream.fill(reader, &self.wanted, self.start.time)?;
            self.page.batches_pruned += pruned;
            if self.is_spent() {
                let reach =
                    self.streams.iter().filter(|stream| !stream.done).map(|stream| stream.reach).max();
                if reach.is_some_and(|reach| reach < self.start.time) {
                    return Ok(reach);
                }
            }
        }
    }

    /// Moves what is surely next to the page: what lies beyond the frontier.
    fn give_out(&mut self, frontier: Option<Timestamp>) {
        while self.page.events.len() < self.limit {
            let Some(entry) = self.pending.last_entry() else { return };
            if frontier.is_some_and(|frontier| entry.key().time <= frontier) {
                return;
            }
            let (place, found) = entry.remove_entry();
            self.start = place;
            self.page.events.push(found);
        }
    }

    fn is_spent(&self) -> bool {
        self.page.batches_decoded >= self.budget.batches
            || self.bytes >= self.budget.bytes
            || self.page.batches_pruned >= MOST_PRUNED
    }

    fn open_next(&mut self, reader: &mut Reader) -> Result<()> {
        let furthest =
            self.streams.iter_mut().filter(|stream| !stream.done).max_by_key(|stream| stream.reach);
        let Some(stream) = furthest else { return Ok(()) };
        let partition = stream.partition;
        let Some(candidate) = stream.take() else { return Ok(()) };
        let Some(batch) = open_batch(reader, candidate.id, Some(partition))? else { return Ok(()) };
        self.page.batches_decoded += 1;
        self.bytes += batch.bytes;
        for (index, event) in (0_u32..).zip(batch.events) {
            let place = Cursor { time: event.time, batch: candidate.id, index };
            if place >= self.start || !self.wanted.matches(&event, &batch.host) {
                continue;
            }
            let BatchKey { node, epoch, seq } = batch.key;
            let at = EventRef { node, epoch, seq, index, event_id: event.id };
            self.pending.insert(place, FoundEvent { at, event, host: Arc::clone(&batch.host) });
            // What the page has no room for anyway need not be held.
            if self.page.events.len() + self.pending.len() > self.limit {
                self.pending.pop_first();
            }
        }
        Ok(())
    }
}

impl Stream {
    /// Looks for the next batches that may hold something. Returns how many were ruled out.
    fn fill(&mut self, reader: &mut Reader, wanted: &Wanted, start: Timestamp) -> Result<u64> {
        let attempt = "searching a payload file";
        if self.last.0 == i64::MAX && !wanted.hashes.is_empty() {
            reader.partitions.read_ahead(self.partition);
        }
        let Some(files) = reader.partitions.read(self.partition)? else {
            self.done = true;
            return Ok(0);
        };
        let mut statement = files
            .index
            .prepare_cached(
                "SELECT id, time_to, types, filter FROM batch
                 WHERE (time_to, id) < (?1, ?2) AND time_to >= ?3 AND time_from <= ?4 AND (?5 IS NULL OR node = ?5)
                 ORDER BY time_to DESC, id DESC",
            )
            .map_err(failed(attempt))?;
        let mut rows = statement
            .query(params![
                self.last.0,
                self.last.1,
                wanted.from.as_micros(),
                start.as_micros(),
                wanted.node.as_ref().map(NodeId::as_bytes)
            ])
            .map_err(failed(attempt))?;
        let mut pruned = 0;
        while self.ready.len() < CHUNK && pruned < MOST_PRUNED {
            let Some(row) = rows.next().map_err(failed(attempt))? else {
                self.done = self.ready.is_empty();
                break;
            };
            let bad = || damaged::<rusqlite::Error>("search row");
            let (id, reach) = (row.get::<_, i64>(0).map_err(bad())?, row.get::<_, i64>(1).map_err(bad())?);
            self.last = (reach, id);
            let types: i64 = row.get(2).map_err(bad())?;
            let filter = row.get_ref(3).and_then(|value| Ok(value.as_blob()?)).map_err(bad())?;
            let may = types & wanted.types != 0
                && wanted.hashes.iter().all(|hash| TermFilter::may_hold(filter, *hash));
            if may {
                self.ready.push_back(Candidate { id, reach: Timestamp::from_micros(reach) });
            } else {
                pruned += 1;
            }
        }
        self.reach = self.ready.front().map_or(Timestamp::from_micros(self.last.0), |next| next.reach);
        Ok(pruned)
    }

    fn take(&mut self) -> Option<Candidate> {
        let taken = self.ready.pop_front()?;
        // What comes next reaches no further than what was taken.
        self.reach = self.ready.front().map_or(taken.reach, |next| next.reach);
        Some(taken)
    }
}

/// Opens a batch by its ledger row: its events, if its payload is there and can be read. With a `partition`, only if
/// the ledger says that the payload is in that one: a row of an unfinished write is no batch.
fn open_batch(reader: &mut Reader, id: i64, partition: Option<PartitionId>) -> Result<Option<OpenBatch>> {
    let Some(batch) = ledger::read_batch(reader, id, partition)? else { return Ok(None) };
    let Payload::Present(bytes) = &batch.payload else { return Ok(None) };
    let Some(facts) = &batch.signed.header.facts else { return Ok(None) };
    let key = batch.key();
    match reader.decoder()?.decode(key.node, facts, bytes) {
        Ok(events) => {
            let host = Arc::new(batch.signed.header.host());
            Ok(Some(OpenBatch { key, host, events, bytes: bytes.len() as u64 }))
        }
        Err(error) => {
            // Verbatim bytes that don't decode were flagged when they came.
            tracing::debug!(%error, batch.seq = %key.seq, node.id = %key.node, "a stored batch can't be read");
            Ok(None)
        }
    }
}
