//! What stored batches change besides their rows, summed up before any of it is written: losses declared, arrivals,
//! what sources said of themselves, clocks, flags.

use std::collections::BTreeMap;

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BootId, EpochId, Folded, Judgement, Loss, Span, TimeRange, facts::Clocks};

use super::{BatchKey, Change, Coverage, FlagKind, NewBatch, NewFlag, NewPayload};

/// Sources of one node that are kept: it names a handful, and a forged flood of names must not grow the row.
const SOURCES: usize = 64;
const MINUTE: i64 = 60_000_000;

/// The sums.
#[derive(Debug, Default)]
pub struct Tally {
    /// Declared losses, by node, source and reason.
    pub losses: BTreeMap<(NodeId, String, String), Lost>,
    /// What arrived, by node.
    pub arrived: BTreeMap<NodeId, Arrived>,
    /// Events by minute of arrival and node.
    pub minutes: BTreeMap<(i64, NodeId), u64>,
    /// What sources said of themselves, in order.
    pub coverage: BTreeMap<NodeId, Vec<(String, Coverage)>>,
    /// Clock facts by boot.
    pub clocks: BTreeMap<(NodeId, BootId), ClockFacts>,
    /// Flags to raise, in order.
    pub flags: Vec<NewFlag>,
    /// What to tell.
    pub changes: Vec<Change>,
}

/// Losses of one source and reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Events; saturating at what a column holds.
    pub count: i64,
    /// Declarations that could not say how many.
    pub unknown: i64,
    /// When the last one arrived.
    pub last_at: i64,
}

/// What arrived of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// How many batches.
    pub batches: i64,
    /// The newest event time among them, and when it arrived.
    pub newest: Option<(Timestamp, Timestamp)>,
}

/// The earliest facts of each kind, as (time since boot, offset of the wall clock), microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockFacts {
    /// Without synchronisation.
    pub unsynced: Option<(i64, i64)>,
    /// With it.
    pub synced: Option<(i64, i64)>,
}

impl Tally {
    /// Adds up what a new batch declares and carries.
    pub fn batch(&mut self, batch: &NewBatch, key: &BatchKey) {
        let at = batch.received_at;
        let (node, epoch) = (key.node, key.epoch);
        let Some(facts) = &batch.signed.header.facts else {
            let version = batch.signed.header.version;
            let detail =
                format!("schema version {version} is newer than this release: it is judged after an upgrade");
            self.flags.push(NewFlag { node, epoch, seq: None, kind: FlagKind::UnknownVersion, detail, at });
            self.changes.push(Change::BatchStored { node, events: 0, here: true });
            return;
        };
        self.losses(node, &facts.losses, at);
        self.clocks(node, &facts.clocks);
        self.cover(node, &batch.coverage);
        if matches!(batch.payload, NewPayload::Evicted(_)) {
            self.lose(node, "agent", "evicted", Some(facts.events.into()), at);
        } else if batch.terms.is_none() && facts.events > 0 {
            let kind = if batch.unread { FlagKind::UnknownVersion } else { FlagKind::Unreadable };
            let detail = "its payload can't be read; it is kept verbatim".to_owned();
            self.flags.push(NewFlag { node, epoch, seq: Some(key.seq), kind, detail, at });
        }
        self.arrive(node, facts.events, facts.times.map(TimeRange::end), at);
        self.changes.push(Change::BatchStored { node, events: facts.events, here: true });
    }

    /// Adds up what a new fold declares.
    pub fn fold(&mut self, fold: &Folded, at: Timestamp) {
        self.losses(fold.node, &fold.losses, at);
        self.lose(fold.node, "agent", "evicted", Some(fold.events), at);
        self.clocks(fold.node, &fold.clocks);
        self.changes.push(Change::NodeChanged(fold.node));
    }

    /// Takes in what sources of a node said of themselves.
    pub fn cover(&mut self, node: NodeId, said: &[(String, Coverage)]) {
        if !said.is_empty() {
            self.coverage.entry(node).or_default().extend_from_slice(said);
        }
    }

    /// Takes a boot's clock facts in.
    pub fn clocks(&mut self, node: NodeId, clocks: &Clocks) {
        if clocks.boot == BootId::UNKNOWN || clocks.facts.is_empty() {
            return;
        }
        let known = self.clocks.entry((node, clocks.boot)).or_default();
        for fact in &clocks.facts {
            let since_boot = i64::try_from(fact.boottime_micros).unwrap_or(i64::MAX);
            let offset = fact.wall.as_micros().saturating_sub(since_boot);
            let kind = if fact.synchronised { &mut known.synced } else { &mut known.unsynced };
            if kind.is_none_or(|(at, _)| at > since_boot) {
                *kind = Some((since_boot, offset));
            }
        }
    }

    fn losses(&mut self, node: NodeId, losses: &[Loss], at: Timestamp) {
        for loss in losses {
            self.lose(node, loss.source.as_str(), loss.reason.as_str(), loss.count, at);
        }
    }

    fn lose(&mut self, node: NodeId, source: &str, reason: &str, count: Option<u64>, at: Timestamp) {
        let sum = self.losses.entry((node, source.to_owned(), reason.to_owned())).or_default();
        let known = i64::try_from(count.unwrap_or(0)).unwrap_or(i64::MAX);
        sum.count = sum.count.saturating_add(known);
        sum.unknown += i64::from(count.is_none());
        sum.last_at = at.as_micros();
    }

    fn arrive(&mut self, node: NodeId, events: u32, newest: Option<Timestamp>, at: Timestamp) {
        let sum = self.arrived.entry(node).or_default();
        sum.batches += 1;
        if let Some(newest) = newest
            && sum.newest.is_none_or(|(before, _)| newest > before)
        {
            sum.newest = Some((newest, at));
        }
        *self.minutes.entry((at.as_micros().div_euclid(MINUTE), node)).or_default() += u64::from(events);
    }
}

/// Keeps what sources said last, in `known`.
pub fn merge_coverage(known: &mut BTreeMap<String, Coverage>, said: &[(String, Coverage)]) {
    for (source, coverage) in said {
        let room = known.len() < SOURCES || known.contains_key(source);
        if room && known.get(source).is_none_or(|before| before.at <= coverage.at) {
            known.insert(source.clone(), coverage.clone());
        }
    }
}

/// The flags of links that a judgement found broken.
pub fn broken_links(key: &BatchKey, judgement: &Judgement, at: Timestamp) -> impl Iterator<Item = NewFlag> {
    let BatchKey { node, epoch, .. } = *key;
    judgement.broken.iter().map(move |number| {
        let detail = "does not continue the batch stored below it".to_owned();
        NewFlag { node, epoch, seq: Some(*number), kind: FlagKind::BrokenLink, detail, at }
    })
}

/// The flag of numbers that are missing for good.
pub fn gap(node: NodeId, epoch: EpochId, span: Span, at: Timestamp) -> NewFlag {
    let detail = format!("batches {span} never came and the node holds them no more");
    NewFlag { node, epoch, seq: Some(span.first()), kind: FlagKind::Gap, detail, at }
}
