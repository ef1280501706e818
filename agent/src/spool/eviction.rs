//! Keeping to the byte cap: payloads go lowest priority first, oldest first; their headers stay, and fold into signed
//! ranges when they become many.

use auditflow_event::Priority;
use auditflow_wire::{Digest, EvictReason, Eviction, Folded, SignedFold, SignedHeader};
use rusqlite::{Connection, params};

use super::Spool;
use super::chunk::code_of;
use super::error::{Attempt, SpoolError};
use super::quota::PAGE;
use super::reader::RowId;
use super::sealing::delete_batch;

/// How many headers without payload may stand alone before they are folded.
pub(super) const FOLD_AT: u64 = 128;
/// How many payloads one transaction lets go of.
const AT_ONCE: usize = 64;
/// How many headers one pass of folding reads into memory.
const FOLD_PASS: i64 = 1024;

impl Spool {
    /// Whether there is room for `bytes` of this priority, after evicting what is worth no more than they are.
    pub(super) fn make_room(&mut self, bytes: u64, priority: Priority) -> Result<bool, SpoolError> {
        loop {
            let fill = self.database.quota().fill;
            let used = self.database.used()?;
            if used + bytes <= fill {
                return Ok(true);
            }
            let missing = used + bytes - fill;
            let made = self.evict(missing, priority)? || self.seal_for_eviction(priority)? || self.fold()?;
            if !made {
                return Ok(false);
            }
            if self.bare_headers()? >= self.fold_at {
                self.fold()?;
            }
        }
    }

    /// Frees about as many bytes as are missing; says whether it could free any.
    pub(super) fn evict(&mut self, missing: u64, up_to: Priority) -> Result<bool, SpoolError> {
        let transaction = self.database.begin()?;
        let mut freed = 0;
        let mut evicted = (0, 0);
        for (id, events, size, digest) in cheapest(&transaction, up_to)? {
            if freed >= missing {
                break;
            }
            let eviction = Eviction::sign(digest, EvictReason::SpoolFull, &self.keys.key);
            drop_payload(&transaction, id, &eviction)?;
            freed += (size / PAGE).max(1) * PAGE;
            evicted = (evicted.0 + 1, evicted.1 + events);
        }
        transaction.commit().attempt("evict payloads")?;
        self.counters.evicted_batches += evicted.0;
        self.counters.evicted_events += evicted.1;
        Ok(freed > 0)
    }

    /// Lets go of one payload that no longer matches its header.
    pub(super) fn evict_damaged(&mut self, RowId(id): RowId) -> Result<(), SpoolError> {
        let transaction = self.database.begin()?;
        let found = transaction.query_row(
            "SELECT digest, events FROM batch WHERE id = ? AND payload_size > 0",
            [id],
            |row| Ok((row.get::<_, [u8; 32]>(0)?, row.get::<_, i64>(1)?)),
        );
        let (digest, events) = match found {
            Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(()),
            found => found.attempt("find a damaged batch")?,
        };
        let eviction = Eviction::sign(Digest::from_bytes(digest), EvictReason::Corrupt, &self.keys.key);
        drop_payload(&transaction, id, &eviction)?;
        transaction.commit().attempt("give up a damaged payload")?;
        self.counters.evicted_batches += 1;
        self.counters.evicted_events += events as u64;
        Ok(())
    }

    /// What waits in chunks can only be evicted once it is in a batch.
    fn seal_for_eviction(&mut self, up_to: Priority) -> Result<bool, SpoolError> {
        let cheapest = self.waiting.iter().filter(|waiting| waiting.class.priority <= up_to);
        let Some(class) = cheapest.map(|waiting| waiting.class).min() else { return Ok(false) };
        let now = self.clocks.last();
        self.seal_class(class, &now).map(|sealed| sealed.is_some())
    }

    fn bare_headers(&self) -> Result<u64, SpoolError> {
        self.database
            .connection
            .prepare_cached("SELECT COUNT(*) FROM batch WHERE payload_size = 0 AND stored = 0")
            .and_then(|mut statement| statement.query_row((), |row| row.get::<_, i64>(0)))
            .map(|count| count as u64)
            .attempt("count headers")
    }

    /// Folds runs of headers without payload; says whether that left fewer rows.
    pub(super) fn fold(&mut self) -> Result<bool, SpoolError> {
        let transaction = self.database.begin()?;
        let runs = runs(bare(&transaction)?);
        let left = runs.len() as u64;
        let mut folded = false;
        for run in runs.into_iter().filter(|run| run.rows.len() > 1) {
            for id in &run.rows {
                delete_batch(&transaction, *id)?;
            }
            insert_fold(&transaction, run.epoch, &SignedFold::sign(run.fold, &self.keys.key))?;
            folded = true;
        }
        transaction.commit().attempt("fold headers")?;
        self.fold_at = FOLD_AT.max(left * 2);
        Ok(folded)
    }
}

/// Rows that follow each other and became one.
struct Run {
    epoch: i64,
    rows: Vec<i64>,
    fold: Folded,
}

/// Joins rows with those right after them where the wire format allows it.
fn runs(rows: Vec<Run>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for mut row in rows {
        let joined = runs.last_mut().and_then(|last| {
            let fold = last.fold.clone().join(row.fold.clone()).ok()?;
            Some((last, fold))
        });
        match joined {
            Some((last, fold)) => {
                last.fold = fold;
                last.rows.append(&mut row.rows);
            }
            None => runs.push(row),
        }
    }
    runs
}

/// Headers without payload and folded ranges, in the order of their chains, as many as one pass takes.
fn bare(connection: &Connection) -> Result<Vec<Run>, SpoolError> {
    let mut statement = connection
        .prepare_cached(
            "SELECT id, epoch, signed, eviction FROM batch WHERE payload_size = 0 AND stored = 0
             ORDER BY epoch, seq LIMIT ?",
        )
        .attempt("read headers")?;
    let rows = statement
        .query_map([FOLD_PASS], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, Option<Vec<u8>>>(3)?))
        })
        .attempt("read headers")?;
    let mut found = Vec::new();
    for row in rows {
        let (id, epoch, signed, eviction) = row.attempt("read headers")?;
        if let Some(fold) = as_fold(&signed, eviction.as_deref())? {
            found.push(Run { epoch, rows: vec![id], fold });
        }
    }
    Ok(found)
}

/// A row without payload as a range; `None` for one that later releases made and this one cannot fold.
fn as_fold(signed: &[u8], eviction: Option<&[u8]>) -> Result<Option<Folded>, SpoolError> {
    let malformed = |error| SpoolError::damaged(format!("a header's row was altered: {error}"));
    if eviction.is_some_and(<[u8]>::is_empty) {
        return Ok(Some(SignedFold::parse(signed).map_err(malformed)?.unverified().clone()));
    }
    let header = SignedHeader::parse(signed).map_err(malformed)?;
    // A batch without events has nothing that could be evicted; its header goes for the same reason as the others'.
    let reason = match eviction {
        Some(eviction) => Eviction::parse(eviction).map_err(malformed)?.reason,
        None => EvictReason::SpoolFull,
    };
    Ok(Folded::one(&header, reason).ok())
}

fn insert_fold(connection: &Connection, epoch: i64, signed: &SignedFold) -> Result<(), SpoolError> {
    let fold = signed.unverified();
    connection
        .prepare_cached(
            "INSERT INTO batch (epoch, seq, last_seq, priority, urgent, events, payload_size, stored, digest,
                                signed, eviction)
             VALUES (?,?,?,?,0,?,0,0,?,?,x'')",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                epoch,
                fold.span.first().as_i64(),
                fold.span.last().as_i64(),
                code_of(Priority::High),
                fold.events as i64,
                fold.last_digest.as_bytes(),
                signed.as_bytes(),
            ])
        })
        .map(drop)
        .attempt("write a folded range")
}

/// The payloads that are worth least, with row, events, size and digest.
fn cheapest(connection: &Connection, up_to: Priority) -> Result<Vec<(i64, u64, u64, Digest)>, SpoolError> {
    let mut statement = connection
        .prepare_cached(
            "SELECT id, events, payload_size, digest FROM batch WHERE payload_size > 0 AND priority <= ?
             ORDER BY priority, id LIMIT ?",
        )
        .attempt("find what to evict")?;
    let rows = statement
        .query_map(params![code_of(up_to), AT_ONCE as i64], |row| {
            let (events, size): (i64, i64) = (row.get(1)?, row.get(2)?);
            Ok((row.get(0)?, events as u64, size as u64, Digest::from_bytes(row.get(3)?)))
        })
        .attempt("find what to evict")?;
    rows.collect::<rusqlite::Result<_>>().attempt("find what to evict")
}

fn drop_payload(connection: &Connection, id: i64, eviction: &Eviction) -> Result<(), SpoolError> {
    connection
        .prepare_cached("UPDATE batch SET payload = NULL, payload_size = 0, eviction = ?2 WHERE id = ?1")
        .and_then(|mut statement| statement.execute(params![id, eviction.to_bytes()]))
        .map(drop)
        .attempt("evict a payload")
}
