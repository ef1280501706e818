//! What the collector knows of one epoch, and its answer to each batch that arrives.
//!
//! Fed by ingest with verified headers and folds and with the digest of the stored row, if there is one; feeds the
//! store with what to do and the acknowledgement with what is stored. An [`EpochLedger`] is small, is kept as bytes
//! in the epoch's stored-through row, and is loaded, changed and written back inside the storing transaction, the
//! row locked. The rows themselves (digest by number) stay in the store's own table.
//!
//! Guarantees: the answer depends on what arrived, not on the order (but for who of two forks came first); a number
//! is stored once; nothing is acknowledged that was not to be stored; memory is bounded by [`MAX_RUNS`] holes.
//!
//! As bytes: version `u8` 1 · flags `u8` (1 condemned, 2 predecessor, 4 successor) · floor `u64` · [predecessor 16] ·
//! [successor 16, head 40] · branches `u8`, each 32 · runs varint, each first and last `u64`, `u8` and the digest
//! before, head 32 · lost varint, each first and last `u64`.

use auditflow_event::{NodeId, Timestamp};

use crate::ack::{Ack, Answer, MAX_RANGES, Range, Refusal};
use crate::batch::SignedHeader;
use crate::fold::Folded;
use crate::header::Link;
use crate::ids::{BatchSeq, Digest, EpochId, Head, Span};
use crate::layout::{ParseError, Reader, Writer};

/// The most runs of stored numbers, hence the most holes, that one epoch may have. An agent resends its oldest
/// unacknowledged batch, so holes close; what would open one more is refused until they do.
pub const MAX_RUNS: usize = 1024;
/// The most forked branches remembered.
const MAX_BRANCHES: usize = 16;
const WHAT: &str = "epoch ledger";

/// What is known of one epoch of one node. The default is an epoch never heard of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochLedger {
    predecessor: Option<EpochId>,
    successor: Option<(EpochId, Head)>,
    /// The epoch began as a fork: nothing more of it is stored.
    condemned: bool,
    /// Every lower number was let go of by the node. 0 and 1 both mean none.
    floor: u64,
    /// Digests of the newest batches of branches that were answered `fork`.
    branches: Vec<Digest>,
    /// What is stored, ascending; between two runs there is a number that is not, or a broken link.
    runs: Vec<Run>,
    /// What never came and will not, ascending, apart from the runs.
    lost: Vec<Span>,
}

/// Consecutive stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    span: Span,
    /// The digest that the first number names as previous; `None` for number 1.
    before: Option<Digest>,
    /// The last number's digest.
    head: Digest,
}

/// What to do with an incoming batch or fold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The one answer.
    pub verdict: Verdict,
    /// Numbers whose previous digest is not that of the batch below: flag them, raise an incident.
    pub broken: Vec<BatchSeq>,
    /// Numbers that are now known lost: record them, raise an incident.
    pub lost: Vec<Span>,
    /// Numbers that had been recorded lost and have come after all: amend the record.
    pub recovered: Vec<Span>,
}

/// The answer to one incoming batch or fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Store it, acknowledge it.
    Store,
    /// Store it, acknowledge it as a range: numbers below it are owed.
    StoreAbove,
    /// It is stored already: acknowledge it again. Where the stored row lacks its payload and this one has it, keep
    /// the payload.
    Duplicate,
    /// Keep it apart from the ledger, raise an incident, answer `fork`.
    Fork(Fork),
    /// Don't store it, answer [`Refusal::TooManyHoles`].
    TooManyHoles,
}

/// A rolled-back or cloned node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// How it showed.
    pub kind: ForkKind,
    /// The number at which the histories part.
    pub number: BatchSeq,
    /// The digest held here for it; all zero where the conflict is between epochs.
    pub stored: Digest,
}

/// How a fork showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForkKind {
    /// A number that is stored with another digest.
    OtherDigest,
    /// It continues a branch that was answered `fork` before.
    Branch,
    /// Another epoch has already named this epoch's end, below this number or with another digest.
    AfterEnd,
    /// A second epoch names the same predecessor.
    SecondSuccessor,
    /// It names an older head of its predecessor than the one stored, or one with another digest: the spool was
    /// rolled back.
    RolledBack,
}

impl ForkKind {
    /// The name in incidents and on the page.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OtherDigest => "other_digest",
            Self::Branch => "branch",
            Self::AfterEnd => "after_end",
            Self::SecondSuccessor => "second_successor",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// What the store looks up before a batch is judged.
#[derive(Debug, Default)]
pub struct Evidence<'a> {
    /// The digest of the row with the batch's own number, if there is one; for a fold, of its last number.
    pub stored: Option<Digest>,
    /// For a fold, the digest of the row with its first number.
    pub stored_first: Option<Digest>,
    /// For a first batch that names a predecessor's heads: that epoch.
    pub predecessor: Option<Predecessor<'a>>,
}

/// The epoch that a first batch says it follows.
#[derive(Debug)]
pub struct Predecessor<'a> {
    /// Its ledger, also if nothing is known of it yet; written back with the batch's own.
    pub ledger: &'a mut EpochLedger,
    /// The stored digests of those of the named heads that are stored.
    pub heads: &'a [Head],
}

/// What a batch and a fold have in common.
struct Incoming<'a> {
    epoch: EpochId,
    span: Span,
    link: &'a Link,
    first: Digest,
    last: Digest,
    floor: u64,
}

impl EpochLedger {
    /// Judges a batch whose header is verified and takes it into the ledger if it is to be stored.
    pub fn admit(&mut self, batch: &SignedHeader, evidence: Evidence<'_>) -> Judgement {
        let header = &batch.header;
        self.admit_span(
            &Incoming {
                epoch: header.epoch,
                span: Span::one(header.number),
                link: &header.link,
                first: batch.digest(),
                last: batch.digest(),
                floor: header.oldest_unacknowledged.get(),
            },
            evidence,
        )
    }

    /// Judges a folded range whose signature is verified. Rows that are stored already stay as they are.
    pub fn admit_fold(&mut self, fold: &Folded, evidence: Evidence<'_>) -> Judgement {
        self.admit_span(
            &Incoming {
                epoch: fold.epoch,
                span: fold.span,
                link: &fold.link,
                first: fold.first_digest,
                last: fold.last_digest,
                floor: 0,
            },
            evidence,
        )
    }

    /// Takes the node's word ([`crate::State`]) that it holds nothing of this epoch below `lowest`. Returns what is
    /// thereby lost.
    pub fn settle(&mut self, lowest: BatchSeq) -> Vec<Span> {
        self.floor = self.floor.max(lowest.get());
        self.declare_lost()
    }

    /// Takes the node's word that it holds nothing of this epoch any more. Returns what is thereby lost, up to the
    /// head that its successor named.
    pub fn settle_all(&mut self) -> Vec<Span> {
        let end = self.successor.map(|(_, head)| head.number);
        match end.max(self.highest()).and_then(BatchSeq::next) {
            Some(beyond) => self.settle(beyond),
            None => Vec::new(),
        }
    }

    /// The highest number through which all is stored or known lost, and which is itself stored.
    pub fn through(&self) -> Option<Head> {
        let run = self.runs.get(self.settled_runs().checked_sub(1)?)?;
        Some(run.end())
    }

    /// What is stored above [`EpochLedger::through`], as many ranges as an acknowledgement lists.
    pub fn above(&self) -> Vec<Range> {
        let above = self.runs.iter().skip(self.settled_runs()).take(MAX_RANGES);
        above.map(|run| Range { span: run.span, digest: run.head }).collect()
    }

    /// The highest stored number.
    pub fn highest(&self) -> Option<BatchSeq> {
        self.runs.last().map(|run| run.span.last())
    }

    /// Numbers that are owed: neither stored nor lost, below the highest stored or the head that the successor named.
    pub fn owed(&self) -> Vec<Span> {
        let end = self.successor.map(|(_, head)| head.number).max(self.highest());
        end.map_or_else(Vec::new, |end| self.missing(end.get()))
    }

    /// Numbers that were lost and passed over.
    pub fn lost(&self) -> &[Span] {
        &self.lost
    }

    /// The epoch that this one's first batch named as its predecessor.
    pub fn predecessor(&self) -> Option<EpochId> {
        self.predecessor
    }

    /// The epoch that named this one as its predecessor, and the head that it named.
    pub fn successor(&self) -> Option<(EpochId, Head)> {
        self.successor
    }

    /// The acknowledgement of what the ledger says, to be signed after the transaction has committed.
    pub fn ack(&self, node: NodeId, epoch: EpochId, verdict: Option<&Verdict>, time: Timestamp) -> Ack {
        let answer = match verdict {
            Some(Verdict::Fork(fork)) => Answer::Fork { number: fork.number, stored: fork.stored },
            Some(Verdict::TooManyHoles) => Answer::Refused(Refusal::TooManyHoles),
            _ => Answer::Stored,
        };
        Ack { node, epoch, time, answer, through: self.through(), above: self.above() }
    }

    fn admit_span(&mut self, incoming: &Incoming<'_>, evidence: Evidence<'_>) -> Judgement {
        let mut judgement = Judgement {
            verdict: Verdict::Store,
            broken: Vec::new(),
            lost: Vec::new(),
            recovered: Vec::new(),
        };
        if let Some(fork) = self.fork(incoming, &evidence) {
            self.remember_branch(incoming);
            judgement.verdict = Verdict::Fork(fork);
            return judgement;
        }
        let stored = evidence.stored.is_some() && incoming.span.count() == 1;
        if stored || self.runs.iter().any(|run| run.covers(incoming.span)) {
            judgement.verdict = Verdict::Duplicate;
            return judgement;
        }
        if let Some(predecessor) = evidence.predecessor
            && let Some(fork) = predecessor.ledger.succeed(incoming, predecessor.heads)
        {
            self.condemned = true;
            judgement.verdict = Verdict::Fork(fork);
            return judgement;
        }
        if self.is_full(incoming) {
            judgement.verdict = Verdict::TooManyHoles;
            return judgement;
        }
        judgement.broken = self.insert(incoming);
        judgement.recovered = self.recover(incoming.span);
        if let Some(predecessor) = incoming.link.predecessor() {
            self.predecessor = Some(predecessor);
        }
        self.floor = self.floor.max(incoming.floor);
        judgement.lost = self.declare_lost();
        if self.through().is_none_or(|through| through.number < incoming.span.last()) {
            judgement.verdict = Verdict::StoreAbove;
        }
        judgement
    }

    /// Whether the incoming contradicts what is stored of this epoch.
    fn fork(&self, incoming: &Incoming<'_>, evidence: &Evidence<'_>) -> Option<Fork> {
        let fork = |kind, number, stored| Some(Fork { kind, number, stored });
        let (first, last) = (incoming.span.first(), incoming.span.last());
        let known = |number| self.runs.iter().find(|run| run.span.last() == number).map(|run| run.head);
        for (number, digest, row) in
            [(last, incoming.last, evidence.stored), (first, incoming.first, evidence.stored_first)]
        {
            if let Some(stored) = row.or_else(|| known(number)).filter(|stored| *stored != digest) {
                return fork(ForkKind::OtherDigest, number, stored);
            }
        }
        if evidence.stored.is_some() {
            return None;
        }
        if self.condemned {
            return fork(ForkKind::Branch, first, Digest::from_bytes([0; 32]));
        }
        if let Some((_, end)) = self.successor {
            let other = last == end.number && incoming.last != end.digest;
            if last > end.number || other {
                return fork(ForkKind::AfterEnd, end.number, end.digest);
            }
        }
        let previous = incoming.link.previous()?;
        let below = first.previous()?;
        if self.branches.contains(&previous) {
            return fork(ForkKind::Branch, below, known(below).unwrap_or(Digest::from_bytes([0; 32])));
        }
        None
    }

    /// A first batch names this epoch as the one before its own.
    fn succeed(&mut self, incoming: &Incoming<'_>, stored: &[Head]) -> Option<Fork> {
        let Link::Successor { heads, .. } = incoming.link else { return None };
        let newest = *heads.iter().max_by_key(|head| head.number)?;
        let fork = |kind| Some(Fork { kind, number: BatchSeq::FIRST, stored: Digest::from_bytes([0; 32]) });
        match self.successor {
            Some((by, _)) if by == incoming.epoch => return None,
            Some(_) => return fork(ForkKind::SecondSuccessor),
            None => {}
        }
        let differs = |known: &Head| heads.iter().any(|head| head.number == known.number && head != known);
        let ends = self.runs.iter().map(Run::end);
        if self.highest() > Some(newest.number)
            || ends.chain(stored.iter().copied()).any(|known| differs(&known))
        {
            return fork(ForkKind::RolledBack);
        }
        self.successor = Some((incoming.epoch, newest));
        None
    }

    fn remember_branch(&mut self, incoming: &Incoming<'_>) {
        if let Some(previous) = incoming.link.previous() {
            self.branches.retain(|branch| *branch != previous);
        }
        if !self.branches.contains(&incoming.last) {
            if self.branches.len() == MAX_BRANCHES {
                self.branches.remove(0);
            }
            self.branches.push(incoming.last);
        }
    }

    /// Whether one run more would be one too many. Holes that are known losses are closed first.
    fn is_full(&mut self, incoming: &Incoming<'_>) -> bool {
        if self.runs.len() < MAX_RUNS || self.runs.iter().any(|run| run.joins(incoming)) {
            return false;
        }
        let settled = self.settled_runs();
        if settled > 1 {
            self.forget_settled_losses(settled);
        }
        self.runs.len() >= MAX_RUNS
    }

    /// Merges the runs below stored-through into one; the losses between them stay in the store's records.
    fn forget_settled_losses(&mut self, settled: usize) {
        let Some(last) = self.runs.get(settled - 1).copied() else { return };
        let merged = Run { span: Span::up_to(last.span.last()), before: None, head: last.head };
        self.runs.splice(..settled, [merged]);
        self.lost.retain(|lost| lost.first() > merged.span.last());
    }

    /// Merges the span into the runs; returns the numbers at which links are broken. There two runs stay apart: the
    /// digest at the end of one says nothing of the other, so none of an acknowledgement's ranges may span both.
    fn insert(&mut self, incoming: &Incoming<'_>) -> Vec<BatchSeq> {
        let mut merged = Run { span: incoming.span, before: incoming.link.previous(), head: incoming.last };
        let mut broken = Vec::new();
        let first = incoming.span.first().get();
        let mut at = self.runs.partition_point(|run| run.span.last().get() + 1 < first);
        while let Some(run) = self.runs.get(at).filter(|run| run.touches(incoming.span)).copied() {
            if run.joins(incoming) {
                self.runs.remove(at);
                merged = merged.union(run);
            } else if run.span < incoming.span {
                broken.push(incoming.span.first());
                at += 1;
            } else {
                broken.push(run.span.first());
                break;
            }
        }
        self.runs.insert(at, merged);
        broken
    }

    fn recover(&mut self, span: Span) -> Vec<Span> {
        let mut recovered = Vec::new();
        let mut left = Vec::with_capacity(self.lost.len());
        for lost in self.lost.drain(..) {
            let both = (lost.first().max(span.first()), lost.last().min(span.last()));
            let Some(common) = Span::new(both.0, both.1) else {
                left.push(lost);
                continue;
            };
            recovered.push(common);
            left.extend(Span::between(lost.first().get(), common.first().get() - 1));
            left.extend(Span::between(common.last().get() + 1, lost.last().get()));
        }
        self.lost = left;
        recovered
    }

    fn declare_lost(&mut self) -> Vec<Span> {
        let lost = self.missing(self.floor.saturating_sub(1));
        for span in &lost {
            let at = self.lost.partition_point(|known| known < span);
            self.lost.insert(at, *span);
            self.join_lost(at);
        }
        lost
    }

    /// Joins the lost span at `at` with its neighbours where nothing lies between.
    fn join_lost(&mut self, at: usize) {
        for low in [at, at.saturating_sub(1)] {
            if let (Some(a), Some(b)) = (self.lost.get(low).copied(), self.lost.get(low + 1).copied())
                && a.last().next() == Some(b.first())
                && let Some(joined) = Span::new(a.first(), b.last())
            {
                self.lost.splice(low..low + 2, [joined]);
            }
        }
    }

    /// Numbers from 1 through `last` that are neither stored nor lost.
    fn missing(&self, last: u64) -> Vec<Span> {
        let mut known: Vec<Span> =
            self.runs.iter().map(|run| run.span).chain(self.lost.iter().copied()).collect();
        known.sort_unstable();
        let mut missing = Vec::new();
        let mut next = 1;
        for span in known {
            missing.extend(Span::between(next, last.min(span.first().get() - 1)));
            next = span.last().get() + 1;
        }
        missing.extend(Span::between(next, last));
        missing
    }

    /// How many of the first runs have only known losses below and between them, and no broken link.
    fn settled_runs(&self) -> usize {
        let mut next = 1;
        let mut lost = self.lost.iter().peekable();
        for (index, run) in self.runs.iter().enumerate() {
            if index > 0 && run.span.first().get() == next {
                return index;
            }
            while let Some(span) = lost.next_if(|span| span.first().get() <= next) {
                next = next.max(span.last().get() + 1);
            }
            if run.span.first().get() > next {
                return index;
            }
            next = run.span.last().get() + 1;
        }
        self.runs.len()
    }
}

impl Run {
    fn end(&self) -> Head {
        Head { number: self.span.last(), digest: self.head }
    }

    fn covers(&self, span: Span) -> bool {
        self.span.contains(span.first()) && self.span.contains(span.last())
    }

    /// Whether the two overlap or nothing lies between them.
    fn touches(&self, span: Span) -> bool {
        let reaches = |a: Span, b: Span| a.last().get() + 1 >= b.first().get();
        reaches(self.span, span) && reaches(span, self.span)
    }

    /// Whether what comes in becomes part of this run: they overlap, or the links say that one follows the other.
    fn joins(&self, incoming: &Incoming<'_>) -> bool {
        let span = incoming.span;
        if self.span.last().next() == Some(span.first()) {
            incoming.link.previous() == Some(self.head)
        } else if span.last().next() == Some(self.span.first()) {
            self.before == Some(incoming.last)
        } else {
            self.touches(span)
        }
    }

    fn union(self, other: Self) -> Self {
        let first = if other.span.first() < self.span.first() { other } else { self };
        let last = if other.span.last() > self.span.last() { other } else { self };
        let span = Span::new(first.span.first(), last.span.last()).unwrap_or(self.span);
        Self { span, before: first.before, head: last.head }
    }
}

impl EpochLedger {
    const VERSION: u8 = 1;
    const CONDEMNED: u8 = 1;
    const PREDECESSOR: u8 = 2;
    const SUCCESSOR: u8 = 4;

    /// As the store keeps it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(128);
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.u8(Self::VERSION);
        out.u8(flag(self.condemned, Self::CONDEMNED)
            | flag(self.predecessor.is_some(), Self::PREDECESSOR)
            | flag(self.successor.is_some(), Self::SUCCESSOR));
        out.u64(self.floor);
        if let Some(predecessor) = self.predecessor {
            out.raw(predecessor.as_bytes());
        }
        if let Some((epoch, head)) = &self.successor {
            out.raw(epoch.as_bytes());
            out.head(head);
        }
        out.u8(self.branches.len() as u8);
        self.branches.iter().for_each(|branch| out.raw(branch.as_bytes()));
        out.varint(self.runs.len() as u64);
        for run in &self.runs {
            out.span(run.span);
            out.u8(run.before.is_some().into());
            if let Some(before) = run.before {
                out.raw(before.as_bytes());
            }
            out.raw(run.head.as_bytes());
        }
        out.varint(self.lost.len() as u64);
        self.lost.iter().for_each(|span| out.span(*span));
        out.into_bytes()
    }

    /// What [`EpochLedger::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(WHAT, bytes);
        let version = reader.u8()?;
        if version != Self::VERSION {
            return Err(ParseError::UnknownVersion { what: WHAT, version: version.into() });
        }
        let flags = reader.u8()?;
        let floor = reader.u64()?;
        let predecessor = if flags & Self::PREDECESSOR == 0 { None } else { Some(reader.epoch()?) };
        let successor =
            if flags & Self::SUCCESSOR == 0 { None } else { Some((reader.epoch()?, reader.head()?)) };
        let branches = (0..reader.u8()?).map(|_| reader.digest()).collect::<Result<_, _>>()?;
        let count = reader.bounded("runs", MAX_RUNS as u64)?;
        let mut run = || {
            let span = reader.span()?;
            let before = if reader.u8()? == 0 { None } else { Some(reader.digest()?) };
            Ok(Run { span, before, head: reader.digest()? })
        };
        let runs = (0..count).map(|_| run()).collect::<Result<Vec<_>, ParseError>>()?;
        let count = reader.bounded("losses", MAX_RUNS as u64 + 1)?;
        let lost = (0..count).map(|_| reader.span()).collect::<Result<Vec<_>, _>>()?;
        reader.finish()?;
        let apart = |spans: &mut dyn Iterator<Item = Span>| spans.is_sorted_by(|a, b| a.last() < b.first());
        if !apart(&mut runs.iter().map(|run| run.span)) || !apart(&mut lost.iter().copied()) {
            return Err(reader.invalid("order"));
        }
        let condemned = flags & Self::CONDEMNED != 0;
        Ok(Self { predecessor, successor, condemned, floor, branches, runs, lost })
    }
}
