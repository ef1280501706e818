//! Offline proof: walks what a store or an export holds of one node and says of each number what can be proved.
//!
//! Fed by `auditflow-collector verify` with verbatim headers, payloads and folds, each epoch in ascending number, and
//! with acknowledgements that were kept elsewhere; needs public keys alone. Every number is verified, evicted (the
//! node's signed word), expired (the caller's word: retention dropped the payload), checkpointed (the site's signed
//! word), lost (the caller's word: it was declared), bad, or not there. Nothing is proved beyond the last
//! countersigned head, save that it is consistent.
//!
//! What makes deletion show: batches that acknowledgements, later headers (“last acknowledgement seen”) and successor
//! epochs name must be there with their digest, so neither the newest batches nor a whole epoch can vanish quietly.

use std::collections::VecDeque;

use auditflow_event::NodeId;

use crate::ack::{Ack, SignedAck};
use crate::batch::{Eviction, SignedHeader};
use crate::fold::SignedFold;
use crate::header::Link;
use crate::ids::{BatchSeq, Digest, EpochId, Head, KeyId, Span};
use crate::keys::{KeyRing, NodePublicKey, Site};
use crate::node_keys::{NodeKeys, NotASigner};
use crate::statement::BadSignature;

use super::checkpoint::SignedCheckpoint;
use super::report::{BadReason, EpochReport, Finding, MAX_LISTED, Report};

/// How many of an epoch's latest digests are kept to check what later headers say of them.
const RECENT: usize = 1024;

/// What is there of a batch's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryContent<'a> {
    /// The payload as it travelled.
    Payload(&'a [u8]),
    /// The node let go of it.
    Evicted(Eviction),
    /// The collector let go of it after its retention.
    Expired,
}

/// Walks one node's batches.
#[derive(Debug)]
pub struct Verifier {
    node: NodeId,
    keys: NodeKeys,
    walks: Vec<Walk>,
}

impl Verifier {
    /// A verifier for `node`, whose keys in use and past, and the rotations between them, are `keys`.
    pub fn new(node: NodeId, keys: NodeKeys) -> Self {
        Self { node, keys, walks: Vec::new() }
    }

    /// Takes an acknowledgement from outside of the store: what it names must be there. Give these first.
    pub fn countersigned(&mut self, ack: &SignedAck, site: &KeyRing<Site>) -> Result<(), BadSignature> {
        let key = site.get(ack.key()).ok_or(BadSignature { key: ack.key() })?;
        self.acknowledged(ack.verify(key)?);
        Ok(())
    }

    /// Takes the caller's own word on what it acknowledged: what it names must be there. Give it before the epoch's
    /// batches.
    pub fn acknowledged(&mut self, ack: &Ack) {
        if ack.node != self.node {
            return;
        }
        let walk = self.walk(ack.epoch);
        if let Some(through) = ack.through {
            walk.name_acknowledged(through);
        }
        for range in &ack.above {
            walk.name(Head { number: range.span.last(), digest: range.digest });
            walk.above.push(range.span);
        }
    }

    /// Takes a checkpoint, which stands for an epoch's first numbers. Give it before the epoch's batches.
    pub fn checkpoint(
        &mut self,
        checkpoint: &SignedCheckpoint,
        site: &KeyRing<Site>,
    ) -> Result<(), BadSignature> {
        let key = site.get(checkpoint.key()).ok_or(BadSignature { key: checkpoint.key() })?;
        let checkpoint = checkpoint.verify(key)?;
        if checkpoint.node == self.node {
            let walk = self.walk(checkpoint.epoch);
            walk.name_acknowledged(checkpoint.last);
            if walk.next() == BatchSeq::FIRST.get() {
                walk.report.checkpoint = Some(checkpoint.clone());
                walk.pass(Span::up_to(checkpoint.last.number), checkpoint.last.digest, checkpoint.cumulative);
            }
            if let Some(link) = &checkpoint.link {
                self.name_predecessor(checkpoint.epoch, link);
            }
        }
        Ok(())
    }

    /// Takes the caller's word that these numbers of an epoch were declared lost and passed over.
    pub fn lost(&mut self, epoch: EpochId, span: Span) {
        let walk = self.walk(epoch);
        if let Some(rest) = Span::between(walk.next().max(span.first().get()), span.last().get()) {
            walk.skip_to(rest.first());
            walk.report.tally.lost += rest.count();
            walk.passed = rest.last().get();
            walk.report.cumulative = None;
        }
    }

    /// Takes the next batch of an epoch.
    pub fn batch(&mut self, batch: &SignedHeader, content: EntryContent<'_>) -> Finding {
        let header = &batch.header;
        let facts = header.facts.as_ref();
        let step = Step {
            span: Span::one(header.number),
            link: &header.link,
            first: batch.digest(),
            last: batch.digest(),
            events: facts.map_or(0, |facts| facts.events.into()),
            cumulative: facts.map(|facts| facts.cumulative),
        };
        let proof = self.prove(batch, content);
        let finding = self.walk(header.epoch).step(&step, proof);
        if !matches!(finding, Finding::Bad(reason) if reason.is_foreign()) {
            if let Some(seen) = facts.and_then(|facts| facts.last_ack) {
                let head = Head { number: seen.number, digest: seen.digest };
                self.walk(seen.epoch).name_acknowledged(head);
            }
            self.name_predecessor(header.epoch, &header.link);
        }
        finding
    }

    /// Takes the next folded range of an epoch.
    pub fn fold(&mut self, fold: &SignedFold) -> Finding {
        let folded = fold.unverified();
        let place = Place { epoch: folded.epoch, number: folded.span.last(), link: &folded.link };
        let proof = match self.signer(fold.key(), &place) {
            _ if folded.node != self.node => Err(BadReason::Foreign),
            Err(reason) => Err(reason),
            Ok(key) => fold.verify(&key).map(|_| Finding::Evicted).map_err(|_| BadReason::Signature),
        };
        let step = Step {
            span: folded.span,
            link: &folded.link,
            first: folded.first_digest,
            last: folded.last_digest,
            events: folded.events,
            cumulative: Some(folded.cumulative),
        };
        let walk = self.walk(folded.epoch);
        let finding = walk.step(&step, proof);
        if finding == Finding::Evicted {
            walk.folded = Some(folded.span);
        }
        if proof.is_ok() {
            self.name_predecessor(folded.epoch, &folded.link);
        }
        finding
    }

    /// What was proved.
    pub fn finish(self) -> Report {
        Report { epochs: self.walks.into_iter().map(Walk::finish).collect() }
    }

    fn prove(&mut self, batch: &SignedHeader, content: EntryContent<'_>) -> Result<Finding, BadReason> {
        let header = &batch.header;
        if header.node != self.node {
            return Err(BadReason::Foreign);
        }
        let place = Place { epoch: header.epoch, number: header.number, link: &header.link };
        let key = self.signer(header.key, &place)?;
        batch.verify(&key).map_err(|_| BadReason::Signature)?;
        match content {
            EntryContent::Payload(payload) if batch.is_payload(payload) => Ok(Finding::Verified),
            EntryContent::Payload(_) => Err(BadReason::Payload),
            EntryContent::Evicted(eviction) => {
                let key = self.signer(eviction.key, &place).map_err(|_| BadReason::Eviction)?;
                eviction.verify(batch, &key).map_err(|_| BadReason::Eviction)?;
                Ok(Finding::Evicted)
            }
            EntryContent::Expired => Ok(Finding::Expired),
        }
    }

    /// The key, unless it had given way to another before this: by its own word, or because this epoch came later.
    fn signer(&mut self, id: KeyId, place: &Place<'_>) -> Result<NodePublicKey, BadReason> {
        let key = *self.keys.past_signer(id, place.epoch, place.number)?;
        match self.keys.retired_in(id) {
            Some(last) if self.is_after(place, id, last) => Err(BadReason::RetiredKey),
            _ => Ok(key),
        }
    }

    /// Whether an epoch follows, over any number of others, the one in which a key gave way. Asked once per epoch and key,
    /// for the walk to its beginning may be long.
    fn is_after(&mut self, place: &Place<'_>, key: KeyId, last: EpochId) -> bool {
        if let Some((_, after)) = self.walk(place.epoch).after.iter().find(|(known, _)| *known == key) {
            return *after;
        }
        let mut before = place.link.predecessor().or(self.walk(place.epoch).report.predecessor);
        let mut after = false;
        for _ in 0..=self.walks.len() {
            let Some(epoch) = before else { break };
            let walk = self.walks.iter().rfind(|walk| walk.report.epoch == epoch);
            after = epoch == last || walk.is_some_and(|walk| walk.after.contains(&(key, true)));
            if after {
                break;
            }
            before = walk.and_then(|walk| walk.report.predecessor);
        }
        self.walk(place.epoch).after.push((key, after));
        after
    }

    fn name_predecessor(&mut self, own: EpochId, link: &Link) {
        if matches!(link, Link::Previous(_)) {
            return;
        }
        let report = &mut self.walk(own).report;
        report.predecessor = link.predecessor();
        report.link = Some(link.clone());
        if let Link::Successor { epoch, heads } = link {
            let walk = self.walk(*epoch);
            for head in heads {
                walk.name(*head);
            }
            if let Some(end) = heads.iter().map(|head| head.number).max() {
                walk.end_at(end);
            }
        }
    }

    /// The walk of an epoch, looked for from the end: the current one is among the last.
    fn walk(&mut self, epoch: EpochId) -> &mut Walk {
        let at = self.walks.iter().rposition(|walk| walk.report.epoch == epoch).unwrap_or(self.walks.len());
        if at == self.walks.len() {
            self.walks.push(Walk::new(epoch));
        }
        #[expect(clippy::indexing_slicing, reason = "found or just pushed")]
        &mut self.walks[at]
    }
}

/// Where a signature stands.
struct Place<'a> {
    epoch: EpochId,
    number: BatchSeq,
    link: &'a Link,
}

/// A batch or a fold, as far as the chain is concerned.
struct Step<'a> {
    span: Span,
    link: &'a Link,
    first: Digest,
    last: Digest,
    events: u64,
    cumulative: Option<u64>,
}

/// One epoch's walk.
#[derive(Debug)]
struct Walk {
    report: EpochReport,
    /// The highest number that was there or lost.
    passed: u64,
    /// The latest folded range.
    folded: Option<Span>,
    /// The latest batches that were there.
    recent: VecDeque<Head>,
    /// What others named and the walk has not reached.
    named: Vec<Head>,
    /// The highest number that others named.
    highest_named: u64,
    /// What was acknowledged above a hole.
    above: Vec<Span>,
    /// Where the next epoch says that this one ended.
    end: Option<BatchSeq>,
    /// Of retired keys that signed something of it: whether they had been retired before it began.
    after: Vec<(KeyId, bool)>,
}

impl Walk {
    fn new(epoch: EpochId) -> Self {
        Self {
            report: EpochReport::new(epoch),
            passed: 0,
            folded: None,
            recent: VecDeque::new(),
            named: Vec::new(),
            highest_named: 0,
            above: Vec::new(),
            end: None,
            after: Vec::new(),
        }
    }

    fn next(&self) -> u64 {
        self.passed + 1
    }

    fn step(&mut self, step: &Step<'_>, proof: Result<Finding, BadReason>) -> Finding {
        let folded = self.folded.is_some_and(|folded| {
            step.span != folded && folded.contains(step.span.first()) && folded.contains(step.span.last())
        });
        if folded || step.span.last().get() <= self.report.checkpointed() {
            return self.beside(step, proof);
        }
        if step.span.first().get() <= self.passed {
            self.report.add_bad(step.span.first(), 1, BadReason::Order);
            return Finding::Bad(BadReason::Order);
        }
        self.skip_to(step.span.first());
        let finding =
            proof.and_then(|finding| self.check(step).map(|()| finding)).unwrap_or_else(Finding::Bad);
        let count = step.span.count();
        let tally = &mut self.report.tally;
        match finding {
            Finding::Verified => {
                tally.verified += count;
                self.report.events = self.report.events.saturating_add(step.events);
            }
            Finding::Evicted => tally.evicted += count,
            Finding::Expired => tally.expired += count,
            Finding::Bad(reason) => self.report.add_bad(step.span.first(), count, reason),
        }
        self.pass(step.span, step.last, step.cumulative);
        finding
    }

    /// What is there although a checkpoint or a fold stands for it. Ends of those have a digest to be compared with.
    fn beside(&mut self, step: &Step<'_>, proof: Result<Finding, BadReason>) -> Finding {
        let last = Head { number: step.span.last(), digest: step.last };
        let ends = self.report.checkpoint.iter().map(|checkpoint| checkpoint.last);
        let mut ends = ends.chain(self.recent.iter().copied());
        let named = ends.any(|head| head.number == last.number && head != last);
        match proof {
            Ok(finding) if !named => {
                self.report.beside += step.span.count();
                finding
            }
            proof => {
                let reason = proof.err().unwrap_or(BadReason::Named);
                self.report.add_bad(step.span.first(), step.span.count(), reason);
                Finding::Bad(reason)
            }
        }
    }

    fn check(&self, step: &Step<'_>) -> Result<(), BadReason> {
        let below = self.recent.back().filter(|head| head.number.next() == Some(step.span.first()));
        if below.is_some_and(|below| step.link.previous() != Some(below.digest)) {
            return Err(BadReason::Link);
        }
        let counted = self.report.cumulative.zip(step.cumulative);
        if counted.is_some_and(|(before, after)| before.checked_add(step.events) != Some(after)) {
            return Err(BadReason::Count);
        }
        let ends = [(step.span.first(), step.first), (step.span.last(), step.last)];
        let differs =
            |named: &Head| ends.iter().any(|(n, digest)| *n == named.number && *digest != named.digest);
        if self.named.iter().any(differs) {
            return Err(BadReason::Named);
        }
        if self.end.is_some_and(|end| step.span.last() > end) { Err(BadReason::AfterEnd) } else { Ok(()) }
    }

    /// Numbers below `first` that were not given are not there.
    fn skip_to(&mut self, first: BatchSeq) {
        if let Some(gap) = Span::between(self.next(), first.get() - 1) {
            self.report.add_gap(gap);
            self.report.cumulative = None;
        }
    }

    fn pass(&mut self, span: Span, last: Digest, cumulative: Option<u64>) {
        let head = Head { number: span.last(), digest: last };
        self.passed = span.last().get();
        self.report.cumulative = cumulative;
        self.report.head = Some(head);
        self.named.retain(|named| named.number > span.last());
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(head);
    }

    fn name_acknowledged(&mut self, head: Head) {
        self.report.countersigned = self.report.countersigned.max(Some(head.number));
        self.name(head);
    }

    /// `head` must be there, with its digest.
    fn name(&mut self, head: Head) {
        self.highest_named = self.highest_named.max(head.number.get());
        if head.number.get() > self.passed {
            if self.named.len() < MAX_LISTED && !self.named.contains(&head) {
                self.named.push(head);
            }
        } else if self
            .recent
            .iter()
            .rev()
            .any(|known| known.number == head.number && known.digest != head.digest)
        {
            self.report.add_bad(head.number, 1, BadReason::Named);
        }
    }

    fn end_at(&mut self, end: BatchSeq) {
        self.end = Some(end);
        if let Some(beyond) = self.report.head.map(|head| head.number).filter(|last| *last > end) {
            self.report.add_bad(beyond, 1, BadReason::AfterEnd);
        }
    }

    fn finish(mut self) -> EpochReport {
        if let Some(tail) = Span::between(self.next(), self.highest_named) {
            self.report.add_gap(tail);
        }
        let countersigned = self.report.countersigned;
        let overlap = |a: Span, b: Span| a.first() <= b.last() && b.first() <= a.last();
        for gap in &mut self.report.gaps {
            gap.acknowledged = Some(gap.span.first()) <= countersigned
                || self.above.iter().any(|above| overlap(*above, gap.span));
        }
        self.report
    }
}

impl From<NotASigner> for BadReason {
    fn from(why: NotASigner) -> Self {
        match why {
            NotASigner::Unknown(_) => Self::UnknownKey,
            NotASigner::Retired(_) => Self::RetiredKey,
        }
    }
}
