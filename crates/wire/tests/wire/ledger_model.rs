//! The ledger against a model that keeps every number in a map: random schedules of delivery, loss, reordering,
//! duplication, a clone's branch, settled floors, folds, and a collector restored from an older backup.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use auditflow_wire::chain::EpochLedger;
use auditflow_wire::{
    Content, Digest, EntryContent, EpochId, EvictReason, Eviction, Evidence, Folded, Link, NodeKeys, Signed,
    SignedHeader, Span, UnknownPredecessor, Verdict, Verifier,
};
use proptest::prelude::*;

use crate::samples::{lagging_chain_from, number, site_key, time};
use crate::sealing::{self, NODE};

const EPOCH: EpochId = EpochId::from_bytes([1; 16]);
const LEN: u64 = 24;

/// What a collector knows, number by number.
#[derive(Clone, Default)]
struct Model {
    rows: BTreeMap<u64, (Digest, Option<Digest>)>,
    lost: BTreeSet<u64>,
    branches: BTreeSet<Digest>,
}

#[derive(Debug, PartialEq)]
enum Expected {
    Store,
    StoreAbove,
    Duplicate,
    Fork,
}

struct Answer {
    expected: Expected,
    broken: Vec<u64>,
    recovered: Vec<u64>,
    lost: Vec<u64>,
}

impl Answer {
    fn only(expected: Expected) -> Self {
        Self { expected, broken: Vec::new(), recovered: Vec::new(), lost: Vec::new() }
    }
}

impl Model {
    fn deliver(&mut self, batch: &SignedHeader) -> Answer {
        let (n, digest, previous) = (batch.header.number.get(), batch.digest(), batch.header.link.previous());
        let forked = match self.rows.get(&n) {
            Some((stored, _)) if *stored == digest => return Answer::only(Expected::Duplicate),
            Some(_) => true,
            None => previous.is_some_and(|previous| self.branches.contains(&previous)),
        };
        if forked {
            previous.map(|previous| self.branches.remove(&previous));
            self.branches.insert(digest);
            return Answer::only(Expected::Fork);
        }
        self.rows.insert(n, (digest, previous));
        let below = n.checked_sub(1).and_then(|below| self.rows.get(&below));
        let mut broken: Vec<u64> =
            below.filter(|row| Some(row.0) != previous).map(|_| n).into_iter().collect();
        broken.extend(self.rows.get(&(n + 1)).filter(|row| row.1 != Some(digest)).map(|_| n + 1));
        let recovered = self.lost.remove(&n).then_some(n).into_iter().collect();
        let lost = self.settle(batch.header.oldest_unacknowledged.get());
        let expected = if self.through() >= n { Expected::Store } else { Expected::StoreAbove };
        Answer { expected, broken, recovered, lost }
    }

    fn settle(&mut self, lowest: u64) -> Vec<u64> {
        let lost: Vec<u64> =
            (1..lowest).filter(|n| !self.rows.contains_key(n) && !self.lost.contains(n)).collect();
        self.lost.extend(&lost);
        lost
    }

    /// The highest stored number with nothing owed and no broken link below it, 0 if there is none.
    fn through(&self) -> u64 {
        let follows = |n: u64| match (self.rows.get(&n), self.rows.get(&(n - 1))) {
            (Some((_, previous)), Some((below, _))) => previous.as_ref() == Some(below),
            (Some(_), None) => true,
            (None, _) => self.lost.contains(&n),
        };
        let settled = (1..).take_while(|n| follows(*n));
        settled.filter(|n| self.rows.contains_key(n)).last().unwrap_or(0)
    }

    fn owed(&self) -> Vec<u64> {
        let end = self.rows.keys().next_back().copied().unwrap_or(0);
        (1..end).filter(|n| !self.rows.contains_key(n) && !self.lost.contains(n)).collect()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Deliver(usize),
    DeliverClone(usize),
    Settle(u64),
    Backup,
    Restore,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => (0..LEN as usize).prop_map(Op::Deliver),
        3 => (0..LEN as usize).prop_map(Op::DeliverClone),
        1 => (1..=LEN).prop_map(Op::Settle),
        1 => Just(Op::Backup),
        1 => Just(Op::Restore),
    ];
    proptest::collection::vec(op, 1..120)
}

fn first_start() -> Link {
    Link::Unknown { why: UnknownPredecessor::FirstStart, epoch: None }
}

fn numbers(spans: &[Span]) -> Vec<u64> {
    spans.iter().flat_map(|span| span.first().get()..=span.last().get()).collect()
}

/// Our batches and a clone's, which parts from us after the eighth.
struct Chains {
    ours: Vec<SignedHeader>,
    clones: Vec<SignedHeader>,
}

impl Chains {
    fn new(lag: u64) -> Self {
        let ours = lagging_chain_from(EPOCH, &first_start(), 0..LEN, 0, lag);
        let theirs = lagging_chain_from(EPOCH, &Link::Previous(ours[7].digest()), 8..LEN, 1, lag);
        let clones = ours[..8].iter().cloned().chain(theirs).collect();
        Self { ours, clones }
    }
}

/// Of a node that was never acknowledged anything.
static CHAINS: LazyLock<Chains> = LazyLock::new(|| Chains::new(u64::MAX));
/// Of a node that says that all but its last six batches were acknowledged.
static LAGGING: LazyLock<Chains> = LazyLock::new(|| Chains::new(6));

fn deliver(ledger: &mut EpochLedger, model: &mut Model, batch: &SignedHeader) -> Result<(), TestCaseError> {
    let stored = model.rows.get(&batch.header.number.get()).map(|row| row.0);
    let judged = ledger.admit(batch, Evidence { stored, ..Evidence::default() });
    let Answer { expected, broken, recovered, lost } = model.deliver(batch);
    let verdict = match judged.verdict {
        Verdict::Store => Expected::Store,
        Verdict::StoreAbove => Expected::StoreAbove,
        Verdict::Duplicate => Expected::Duplicate,
        Verdict::Fork(_) => Expected::Fork,
        Verdict::TooManyHoles => {
            return Err(TestCaseError::fail("there are fewer batches than holes allowed"));
        }
    };
    prop_assert_eq!(verdict, expected, "batch {}", batch.header.number);
    prop_assert_eq!(judged.broken.iter().map(|n| n.get()).collect::<Vec<_>>(), broken);
    prop_assert_eq!(numbers(&judged.recovered), recovered);
    prop_assert_eq!(numbers(&judged.lost), lost);
    Ok(())
}

fn agree(ledger: &EpochLedger, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(&EpochLedger::from_bytes(&ledger.to_bytes()).unwrap(), ledger);
    let through = ledger.through();
    prop_assert_eq!(through.map_or(0, |head| head.number.get()), model.through());
    prop_assert!(through.is_none_or(|head| model.rows[&head.number.get()].0 == head.digest));
    prop_assert_eq!(numbers(ledger.lost()), model.lost.iter().copied().collect::<Vec<_>>());
    prop_assert_eq!(numbers(&ledger.owed()), model.owed());
    let above: Vec<Span> = ledger.above().iter().map(|range| range.span).collect();
    let stored_above: Vec<u64> = model.rows.range(model.through() + 1..).map(|(n, _)| *n).collect();
    prop_assert_eq!(numbers(&above), stored_above);
    for range in ledger.above() {
        prop_assert_eq!(range.digest, model.rows[&range.span.last().get()].0);
        for n in numbers(&[range.span]).into_iter().skip(1) {
            prop_assert_eq!(model.rows[&n].1, Some(model.rows[&(n - 1)].0), "a range spans a broken link");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn ledger_answers_as_the_model_does_whatever_the_schedule(ops in ops(), lagging: bool) {
        let Chains { ours, clones } = if lagging { &*LAGGING } else { &*CHAINS };
        let (mut ledger, mut model) = (EpochLedger::default(), Model::default());
        let mut backup = (ledger.clone(), model.clone());
        for op in ops {
            match op {
                Op::Deliver(at) => deliver(&mut ledger, &mut model, &ours[at])?,
                Op::DeliverClone(at) => deliver(&mut ledger, &mut model, &clones[at])?,
                Op::Settle(lowest) => {
                    let lost = ledger.settle(number(lowest));
                    prop_assert_eq!(numbers(&lost), model.settle(lowest));
                }
                Op::Backup => backup = (ledger.clone(), model.clone()),
                Op::Restore => (ledger, model) = backup.clone(),
            }
            agree(&ledger, &model)?;
        }
    }

}

proptest! {
    // These sign, which is what takes their time.
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn honest_node_ends_up_stored_whole_whatever_the_schedule(
        order in Just((0..LEN as usize).collect::<Vec<_>>()).prop_shuffle(),
        cuts in proptest::collection::btree_set(1..LEN as usize, 0..6),
        folded in proptest::collection::vec(any::<bool>(), 8),
        again in proptest::collection::vec(0..LEN as usize, 0..12),
    ) {
        // Ranges between the cuts travel folded or batch by batch, each thing at its place in a random order.
        let ours = &CHAINS.ours;
        let mut bounds: Vec<usize> = [0].into_iter().chain(cuts).collect();
        bounds.push(LEN as usize);
        let range_of = |at: usize| bounds.windows(2).position(|range| range[0] <= at && at < range[1]).unwrap();
        let mut ledger = EpochLedger::default();
        let mut rows: BTreeMap<u64, Digest> = BTreeMap::new();
        let mut folds = BTreeMap::new();
        for at in order.iter().chain(&again) {
            let index = range_of(*at);
            let judged = if folded[index] {
                let range = &ours[bounds[index]..bounds[index + 1]];
                let fold = Folded::of(range.iter().map(|batch| (batch, EvictReason::SpoolFull))).unwrap();
                let judged = ledger.admit_fold(&fold, Evidence::default());
                folds.insert(bounds[index], Signed::sign(fold, &sealing::key()));
                judged
            } else {
                let stored = rows.get(&(*at as u64)).copied();
                rows.insert(*at as u64, ours[*at].digest());
                ledger.admit(&ours[*at], Evidence { stored, ..Evidence::default() })
            };
            prop_assert!(!matches!(judged.verdict, Verdict::Fork(_) | Verdict::TooManyHoles));
            prop_assert!(judged.broken.is_empty() && judged.lost.is_empty());
        }
        prop_assert_eq!(ledger.through(), ours.last().map(SignedHeader::head));
        prop_assert!(ledger.owed().is_empty());

        // And what was stored proves itself.
        let keys: NodeKeys = [sealing::key().public()].into_iter().collect();
        let mut verifier = Verifier::new(NODE, keys);
        let ack = Signed::sign(ledger.ack(NODE, EPOCH, None, time(0)), &site_key());
        verifier.countersigned(&ack, &[site_key().public()].into_iter().collect()).unwrap();
        let mut at = 0;
        while at < LEN as usize {
            let index = range_of(at);
            if folded[index] {
                verifier.fold(&folds[&at]);
                at = bounds[index + 1];
            } else {
                verifier.batch(&ours[at], EntryContent::Payload(&[]));
                at += 1;
            }
        }
        let report = verifier.finish();
        prop_assert!(report.is_sound(), "{report:?}");
        let tally = report.epochs[0].tally;
        prop_assert_eq!(tally.verified + tally.evicted, LEN);
        prop_assert_eq!(tally.verified, rows.len() as u64);
        prop_assert_eq!(report.epochs[0].countersigned, Some(number(LEN)));
    }

    #[test]
    fn agent_frees_only_what_is_stored_whatever_the_schedule(
        delivered in proptest::collection::vec(0..LEN as usize, 0..60),
        held_from in 1..=LEN,
    ) {
        let ours = &CHAINS.ours;
        let (mut ledger, mut model) = (EpochLedger::default(), Model::default());
        for at in delivered {
            deliver(&mut ledger, &mut model, &ours[at])?;
        }
        let ack = ledger.ack(NODE, EPOCH, None, time(0));
        let held = |n: auditflow_wire::BatchSeq| {
            ours.get(n.get() as usize - 1).filter(|_| n.get() >= held_from).map(SignedHeader::digest)
        };
        for n in numbers(&ack.releases(held).unwrap()) {
            prop_assert!(model.rows.contains_key(&n), "batch {n} would be let go of though it is not stored");
        }
    }
}

#[test]
fn evicted_batch_counts_as_stored() {
    let ours = &CHAINS.ours;
    let eviction = Eviction::sign(ours[0].digest(), EvictReason::SpoolFull, &sealing::key());
    let batch = auditflow_wire::Batch { signed: ours[0].clone(), content: Content::Evicted(eviction) };
    batch.verify(&NodeKeys::from_iter([sealing::key().public()])).unwrap();
    let mut ledger = EpochLedger::default();
    assert_eq!(ledger.admit(&batch.signed, Evidence::default()).verdict, Verdict::Store);
}
