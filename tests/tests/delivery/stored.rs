//! What the collector holds of a node, read from its store, and the oracle.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, bail, ensure};
use auditflow_collector::store::postgres::{self, PostgresStore};
use auditflow_collector::store::sqlite::{Options, SqliteStore};
use auditflow_collector::store::{ChainRow, FlagKind, NodeRow, NodeStore, Payload, Store};
use auditflow_event::{Event, EventId, NodeId, Origin};
use auditflow_wire::{BatchSeq, Decoder, EpochId, EvictReason, Loss, LossReason, NodeKeys};

use crate::log::AuditLog;

/// Batches read at a time.
const PAGE: usize = 64;

/// Everything of one node.
pub(crate) struct Stored {
    /// Its events, batch by batch.
    pub(crate) events: Vec<Event>,
    /// Its epochs, with how many numbers of each are missing for good.
    pub(crate) epochs: Vec<(EpochId, u64)>,
    /// Events of which only signed headers are left because the spool was full.
    pub(crate) evicted: u64,
    /// Events of which only signed headers are left because their bytes were damaged.
    pub(crate) damaged: u64,
    /// Losses that its headers declare.
    pub(crate) losses: Vec<Loss>,
    /// What the page shows of it.
    pub(crate) row: NodeRow,
}

/// How often an event may be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copies {
    /// Once.
    One,
    /// More than once, all with one id and the same content: history was rolled back, readers see one.
    Same,
}

impl Stored {
    /// Reads the store in `data`, which may be in use.
    pub(crate) fn read(data: &Path, node: NodeId) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(async { Self::of(&SqliteStore::open(data, Options::for_cap(1 << 30))?, node).await })
    }

    /// Reads the store in the database at `url`, which may be in use.
    pub(crate) fn read_database(url: &str, node: NodeId) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let options = postgres::Options { url: url.to_owned(), connections: 1 };
            let store = PostgresStore::new(&options)?;
            store.open().await?;
            Self::of(&store, node).await
        })
    }

    async fn of(store: &dyn Store, node: NodeId) -> anyhow::Result<Self> {
        let row = store.node(node).await?.context("the node is known")?;
        let mut stored =
            Self { events: Vec::new(), epochs: Vec::new(), evicted: 0, damaged: 0, losses: Vec::new(), row };
        for epoch in store.epochs(node).await? {
            let lost = store.ledger_view(node, epoch.epoch).await?;
            stored.epochs.push((epoch.epoch, lost.lost().iter().map(|span| span.count()).sum()));
            stored.walk(store, epoch.epoch).await?;
        }
        Ok(stored)
    }

    /// The node's keys in the store in `data`, which may be in use.
    pub(crate) fn keys(data: &Path, node: NodeId) -> anyhow::Result<NodeKeys> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(async {
            let store = SqliteStore::open(data, Options::for_cap(1 << 30))?;
            Ok(store.node_keys(node).await?)
        })
    }

    /// How many of the log's events are not stored, leaving out the oldest.
    pub(crate) fn missing_after(&self, oldest: usize, log: &AuditLog) -> usize {
        let stored: HashSet<EventId> = self.events.iter().map(|event| event.id).collect();
        log.expected(self.row.id).skip(oldest).filter(|event| !stored.contains(&event.id)).count()
    }

    /// How many of the log's events are not stored.
    pub(crate) fn missing(&self, log: &AuditLog) -> usize {
        self.missing_after(0, log)
    }

    /// Every event of the logs is stored, nothing else is, and nothing is altered.
    pub(crate) fn ensure_complete(&self, logs: &[&AuditLog], copies: Copies) -> anyhow::Result<()> {
        let missing: usize = logs.iter().map(|log| self.missing(log)).sum();
        ensure!(missing == 0, "{missing} events are not stored");
        self.ensure_genuine(logs, copies)
    }

    /// Every event stored is one of the logs', unaltered.
    pub(crate) fn ensure_genuine(&self, logs: &[&AuditLog], copies: Copies) -> anyhow::Result<()> {
        let expected: HashMap<EventId, Event> =
            logs.iter().flat_map(|log| log.expected(self.row.id)).map(|event| (event.id, event)).collect();
        let mut seen: HashMap<EventId, usize> = HashMap::new();
        for event in &self.events {
            let times = seen.entry(event.id).or_default();
            *times += 1;
            ensure!(copies == Copies::Same || *times == 1, "event {} is stored twice: {event:?}", event.id);
            let Origin::Audit(stored) = &event.origin else { continue };
            let Some(expected) = expected.get(&event.id) else {
                bail!("an event is stored that the log does not have: {event:?}");
            };
            let Origin::Audit(issued) = &expected.origin else { bail!("the log holds audit events alone") };
            ensure!(
                stored.records == issued.records,
                "an event was altered: {stored:?} instead of {issued:?}"
            );
        }
        Ok(())
    }

    /// Nothing is missing, nothing was dropped, nothing is suspect.
    pub(crate) fn ensure_unblemished(&self) -> anyhow::Result<()> {
        self.ensure_flags(&[])?;
        ensure!(self.row.holes == 0 && self.row.lost == 0, "numbers are missing: {:?}", self.row);
        ensure!(
            self.losses.is_empty() && self.evicted == 0 && self.damaged == 0,
            "losses: {:?}",
            self.losses
        );
        Ok(())
    }

    /// Exactly these kinds of flags are up.
    pub(crate) fn ensure_flags(&self, kinds: &[FlagKind]) -> anyhow::Result<()> {
        let flags = &self.row.flags;
        for flag in flags {
            ensure!(kinds.contains(&flag.flag.kind), "a flag is up that should not be: {flag:?}");
        }
        for kind in kinds {
            ensure!(
                flags.iter().any(|flag| flag.flag.kind == *kind),
                "no {kind:?} among the flags: {flags:?}"
            );
        }
        Ok(())
    }

    /// Events that losses of this reason declare; the second number is of declarations that could not say how many.
    pub(crate) fn declared(&self, reason: LossReason) -> (u64, usize) {
        let counts = || self.losses.iter().filter(|loss| loss.reason == reason).map(|loss| loss.count);
        (counts().flatten().sum(), counts().filter(Option::is_none).count())
    }

    async fn walk(&mut self, store: &dyn Store, epoch: EpochId) -> anyhow::Result<()> {
        let mut decoder = Decoder::new()?;
        // Events whose batch is in the ledger as well as in a folded range, by number.
        let mut in_ledger: HashMap<u64, u64> = HashMap::new();
        let mut folds = Vec::new();
        let mut next = Some(BatchSeq::FIRST);
        while let Some(from) = next.take() {
            for row in store.chain(self.row.id, epoch, from, PAGE).await? {
                let number = match row {
                    ChainRow::Batch(batch) => {
                        let header = &batch.signed.header;
                        let facts = header.facts.as_ref().context("a header of this version")?;
                        self.losses.extend(&facts.losses);
                        in_ledger.insert(header.number.get(), facts.events.into());
                        match &batch.payload {
                            Payload::Present(bytes) => {
                                self.events.extend(decoder.decode(header.node, facts, bytes)?);
                            }
                            Payload::Evicted(eviction) if eviction.reason == EvictReason::Corrupt => {
                                self.damaged += u64::from(facts.events);
                            }
                            Payload::Evicted(_) => self.evicted += u64::from(facts.events),
                            Payload::Expired => bail!("nothing expires within a test"),
                        }
                        header.number
                    }
                    ChainRow::Fold(fold) => {
                        folds.push(fold.unverified().clone());
                        fold.unverified().span.last()
                    }
                };
                next = number.next().max(next);
            }
        }
        for fold in folds {
            let span = fold.span;
            let known: u64 =
                (span.first().get()..=span.last().get()).filter_map(|number| in_ledger.get(&number)).sum();
            self.evicted += fold.events - known;
            if !in_ledger.contains_key(&span.first().get()) {
                self.losses.extend(&fold.losses);
            }
        }
        Ok(())
    }
}
