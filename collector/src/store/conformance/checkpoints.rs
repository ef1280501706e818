//! The checkpoints' part of the suite.

use std::sync::Arc;

use auditflow_event::EventId;
use auditflow_wire::chain::{EpochReport, ForkKind, Tally};
use auditflow_wire::{
    BatchSeq, Digest, EvictReason, Folded, KeyRing, Signed, SignedCheckpoint, Span, Verdict, Verifier,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::store;
use crate::proof::checkpoint::{Checkpoints, draw};
use crate::proof::walk::{Stretch, walk};
use crate::site::Site;
use crate::store::{
    Arrival, BatchFindings, ChainRow, DetectionRow, FlagKind, GroupKey, Limits, Match, Pass, Payload,
    Replaceable, Store,
};
use crate::testing::{TestBatch, TestNode, at, enrol, site};

const DAY: i64 = 86_400;

/// A store with a node, and what is done to it.
struct Old {
    db: Arc<dyn Store>,
    node: TestNode,
    batches: Vec<TestBatch>,
    site: Site,
    _directory: TempDir,
}

fn number(number: u64) -> BatchSeq {
    BatchSeq::new(number).unwrap()
}

async fn flags(db: &Arc<dyn Store>, kind: FlagKind) -> usize {
    let flags = db.flags(None, true, 100).await.unwrap();
    flags.iter().filter(|row| row.flag.kind == kind).count()
}

/// Payloads a day, headers two.
fn limits() -> Limits {
    Limits { max_bytes: u64::MAX, max_age_seconds: DAY as u64 }
}

impl Old {
    async fn new(db: Arc<dyn Store>) -> Self {
        let (directory, site) = site();
        let node = TestNode::new(1);
        enrol(&db, &node).await;
        Self { db, node, batches: Vec::new(), site, _directory: directory }
    }

    /// Stores a batch of the day.
    async fn day(&mut self, day: i64, batch: TestBatch) {
        let arrival = Arrival::Batch(Box::new(batch.received(day * DAY)));
        self.db.store_batches(vec![arrival]).await.unwrap();
        self.batches.push(batch);
    }

    /// A batch a day.
    async fn days(&mut self, days: std::ops::Range<i64>) {
        for day in days {
            let batch = self.node.seal(&[]);
            self.day(day, batch).await;
        }
    }

    /// What retention does once.
    async fn pass(&self, day: i64, limits: Limits) -> u64 {
        while !self.db.retain(limits, at(day * DAY)).await.unwrap().is_empty() {}
        let mut checkpoints = Checkpoints::new(Arc::clone(&self.db), self.site.keys.clone());
        let done = checkpoints.pass(limits, at(day * DAY), &CancellationToken::new()).await.unwrap();
        assert!(checkpoints.unsound().is_empty(), "{:?}", checkpoints.unsound());
        done.numbers
    }

    async fn rows(&self) -> Vec<u64> {
        let rows = self.db.chain(self.node.id, self.node.epoch, BatchSeq::FIRST, 1000).await.unwrap();
        rows.iter().map(|row| row.span().first().get()).collect()
    }

    async fn checkpoint(&self) -> SignedCheckpoint {
        self.db.checkpoint(self.node.id, self.node.epoch).await.unwrap().unwrap()
    }

    async fn draw(&self, through: u64) -> SignedCheckpoint {
        let (node, epoch) = (self.node.id, self.node.epoch);
        let due = Replaceable { node, epoch, through: number(through), since: at(0) };
        draw(&self.db, &self.site.keys.get(), &due, at(0)).await.unwrap().unwrap().checkpoint
    }

    async fn prove(&self) -> EpochReport {
        let (node, epoch) = (self.node.id, self.node.epoch);
        let mut verifier = Verifier::new(node, self.db.node_keys(node).await.unwrap());
        let sites: KeyRing<_> = self.site.keys.get().all().collect();
        if let Some(checkpoint) = self.db.checkpoint(node, epoch).await.unwrap() {
            verifier.checkpoint(&checkpoint, &sites).unwrap();
        }
        let stretch = Stretch { node, epoch, from: BatchSeq::FIRST, through: None };
        walk(&self.db, &mut verifier, stretch).await.unwrap();
        let report = verifier.finish();
        assert!(report.is_sound(), "{report:?}");
        report.epochs.into_iter().find(|report| report.epoch == epoch).unwrap()
    }
}

pub(crate) async fn a_checkpoint_replaces_rows_and_a_later_one_carries_it_on(db: Arc<dyn Store>) {
    let mut old = Old::new(db).await;
    old.days(0..10).await;
    let before = old.db.ledger_view(old.node.id, old.node.epoch).await.unwrap();
    assert_eq!(old.pass(9, limits()).await, 7);
    assert_eq!(old.rows().await, [8, 9, 10]);
    let epochs = old.db.epochs(old.node.id).await.unwrap();
    assert_eq!(epochs[0].checkpoint, Some((number(7), at(9 * DAY))));
    // What acknowledgements and states go by is untouched.
    assert_eq!(old.db.ledger_view(old.node.id, old.node.epoch).await.unwrap(), before);
    assert_eq!(old.pass(9, limits()).await, 0);

    old.days(10..12).await;
    assert_eq!(old.pass(11, limits()).await, 2);
    let said = old.checkpoint().await;
    let said = said.unverified();
    assert_eq!((said.last, said.time), (old.batches[8].signed.head(), at(11 * DAY)));
    assert_eq!(said.tally, Tally { expired: 9, ..Tally::default() });
    assert_eq!(said.link.as_ref(), Some(&old.batches[0].signed.header.link));
    let report = old.prove().await;
    assert_eq!((report.checkpointed(), report.tally.expired, report.tally.verified), (9, 1, 2));
}

pub(crate) async fn headers_stay_as_long_again_as_payloads_unless_bytes_press(db: Arc<dyn Store>) {
    let mut old = Old::new(db).await;
    old.days(0..3).await;
    assert_eq!(old.pass(2, limits()).await, 0);
    assert_eq!(old.rows().await, [1, 2, 3]);
    let tight = Limits { max_bytes: 1, ..limits() };
    assert_eq!(old.pass(2, tight).await, 2);
    assert_eq!(old.rows().await, [3]);
    // The newest payloads are there, so their headers are.
    assert_eq!(old.pass(3, tight).await, 0);
}

pub(crate) async fn below_a_checkpoint_a_batch_sent_again_is_a_duplicate_and_nothing_is_freed_by_a_wrong_digest(
    db: Arc<dyn Store>,
) {
    let mut old = Old::new(db).await;
    let mut clone = old.node.clone();
    old.days(0..10).await;
    old.pass(9, limits()).await;
    let outcomes = store(&old.db, &[&old.batches[1], &old.batches[6]]).await;
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Duplicate), "{outcomes:?}");
    assert_eq!(old.rows().await, [8, 9, 10]);

    // The same numbers with other contents, from a copy of the running agent.
    let others: Vec<TestBatch> = (0..9).map(|second| clone.logins(&[second])).collect();
    assert_eq!(store(&old.db, &[&others[1]]).await[0].verdict, Verdict::Duplicate);
    assert!(old.db.batch(others[1].key()).await.unwrap().is_none());
    let view = old.db.ledger_view(old.node.id, old.node.epoch).await.unwrap();
    let ack = view.ack(old.node.id, old.node.epoch, None, at(0));
    let own = |known: usize| {
        let digests: Vec<Digest> = others[..known].iter().map(TestBatch::digest).collect();
        move |number: BatchSeq| digests.get(number.get() as usize - 1).copied()
    };
    assert!(ack.releases(own(2)).unwrap().is_empty(), "the copy lets go of nothing");
    // It shows where the digest is still known: at the checkpoint's end, and at any number above it.
    for shown in [6, 7, 8] {
        let outcome = store(&old.db, &[&others[shown]]).await.remove(0);
        let Verdict::Fork(fork) = outcome.verdict else { panic!("{outcome:?}") };
        assert_eq!(fork.stored, old.batches[shown].digest());
        assert_eq!(fork.kind, ForkKind::OtherDigest);
    }
    assert_eq!(flags(&old.db, FlagKind::Fork).await, 3);
}

pub(crate) async fn epochs_are_told_apart_after_their_rows_are_gone(db: Arc<dyn Store>) {
    let mut old = Old::new(db).await;
    old.days(0..2).await;
    let mut rolled_back = old.node.clone();
    old.days(2..4).await;
    let mut twice = old.node.clone();
    let limits = limits();
    // All of the epoch goes.
    assert_eq!(old.pass(20, limits).await, 4);
    assert!(old.rows().await.is_empty());
    rolled_back.restart(20);
    let Verdict::Fork(fork) = store(&old.db, &[&rolled_back.seal(&[])]).await[0].verdict else { panic!() };
    assert_eq!(fork.kind, ForkKind::RolledBack);
    old.node.restart(10);
    assert_eq!(store(&old.db, &[&old.node.seal(&[])]).await[0].verdict, Verdict::Store);
    twice.restart(30);
    let Verdict::Fork(fork) = store(&old.db, &[&twice.seal(&[])]).await[0].verdict else { panic!() };
    assert_eq!(fork.kind, ForkKind::SecondSuccessor);
    let mut again = TestNode::new(1);
    again.epoch = auditflow_wire::EpochId::from_bytes([99; 16]);
    store(&old.db, &[&again.seal(&[])]).await;
    assert_eq!(flags(&old.db, FlagKind::UnknownPredecessor).await, 1);
}

pub(crate) async fn a_row_on_which_detections_rest_stays_as_long_as_they_do(db: Arc<dyn Store>) {
    let mut old = Old::new(db).await;
    for day in 0..3 {
        let batch = old.node.logins(&[day * DAY]);
        old.day(day, batch).await;
    }
    let group = GroupKey { correlation: "c".to_owned(), group: "[]".to_owned() };
    let found = Match {
        time: at(0),
        order: 1,
        index: 0,
        event_id: EventId::from_uuid(uuid::Uuid::nil()),
        fields: Vec::new(),
    };
    let detection = DetectionRow { group: group.clone(), rule: "r".to_owned(), matches: vec![found] };
    let findings = BatchFindings {
        rule_set: "1".to_owned(),
        pass: Pass::First,
        detections: vec![detection],
        alerts: Vec::new(),
        dirty: Vec::new(),
    };
    let resting = old.batches[1].key();
    old.db.record_detections(resting, findings).await.unwrap();
    assert_eq!(old.pass(20, limits()).await, 3);
    assert_eq!(old.rows().await, [2]);
    assert_eq!(old.db.batch(resting).await.unwrap().unwrap().payload, Payload::Expired);
    let points = old.db.detections_of_group("c", "[]", at(-1), at(1)).await.unwrap();
    assert_eq!((points.len(), points[0].at.seq), (1, resting.seq));
    let report = old.prove().await;
    assert_eq!((report.checkpointed(), report.beside), (3, 1));
    old.db.expire_detections(at(DAY)).await.unwrap();
    assert!(old.rows().await.is_empty());
}

pub(crate) async fn rows_that_something_is_due_on_hold_a_checkpoint_back(db: Arc<dyn Store>) {
    let mut old = Old::new(db).await;
    old.days(0..3).await;
    let checkpoint = old.draw(3).await;
    // Their payloads are kept.
    assert!(!old.db.replace(checkpoint.clone(), None).await.unwrap());
    old.db.retain(limits(), at(20 * DAY)).await.unwrap();
    // One that goes on from another, and one that goes beyond what is stored.
    assert!(!old.db.replace(checkpoint.clone(), Some(number(1))).await.unwrap());
    let mut beyond = checkpoint.unverified().clone();
    beyond.last.number = number(4);
    let beyond = Signed::sign(beyond, &old.site.keys.get().signing);
    assert!(!old.db.replace(beyond, None).await.unwrap());
    assert_eq!(old.rows().await, [1, 2, 3]);
    assert!(old.db.checkpoint(old.node.id, old.node.epoch).await.unwrap().is_none());
    assert!(old.db.replace(checkpoint.clone(), None).await.unwrap());
    assert!(!old.db.replace(checkpoint, None).await.unwrap());
    assert!(old.rows().await.is_empty());
}

pub(crate) async fn owed_numbers_hold_a_checkpoint_back_and_lost_ones_are_counted_in_it(db: Arc<dyn Store>) {
    let mut old = Old::new(db).await;
    old.days(0..2).await;
    let missing = old.node.logins(&[5]);
    old.days(3..5).await;
    assert_eq!(old.pass(20, limits()).await, 2);
    assert_eq!(old.rows().await, [4, 5]);
    // The node holds nothing below any more.
    old.node.oldest_unacknowledged = Some(6);
    old.days(20..21).await;
    assert_eq!(old.pass(20, limits()).await, 3);
    assert_eq!(old.checkpoint().await.unverified().tally, Tally { expired: 4, lost: 1, ..Tally::default() });
    assert!(old.db.lost(old.node.id, old.node.epoch).await.unwrap().is_empty());

    // It comes after all: it is stored, and the checkpoint stands as it was signed.
    let late = Arrival::Batch(Box::new(missing.received(20 * DAY)));
    let outcome = old.db.store_batches(vec![late]).await.unwrap().outcomes.remove(0);
    assert_eq!((outcome.verdict, outcome.id.is_some()), (Verdict::Store, true));
    assert_eq!(store(&old.db, &[&missing]).await[0].verdict, Verdict::Duplicate);
    assert_eq!(old.rows().await, [3, 6]);
    let report = old.prove().await;
    assert_eq!((report.checkpointed(), report.beside, report.tally.verified), (5, 1, 1));
    old.days(30..31).await;
    old.pass(30, limits()).await;
    assert_eq!(old.rows().await, [7]);
    old.prove().await;
}

pub(crate) async fn folds_are_replaced_like_the_batches_that_they_stand_for(db: Arc<dyn Store>) {
    let mut old = Old::new(db).await;
    let batches: Vec<TestBatch> = (0..6).map(|_| old.node.seal(&[])).collect();
    let headers = batches[1..4].iter().map(|batch| (&batch.signed, EvictReason::SpoolFull));
    let fold = Box::new(Signed::sign(Folded::of(headers).unwrap(), &old.node.key));
    let arrival = |batch: &TestBatch| Arrival::Batch(Box::new(batch.received(0)));
    // One of them had come before.
    let arrivals = vec![
        arrival(&batches[0]),
        arrival(&batches[2]),
        Arrival::Fold { fold, received_at: at(0) },
        arrival(&batches[4]),
    ];
    old.db.store_batches(arrivals).await.unwrap();
    old.day(20, batches[5].clone()).await;
    let before = old.prove().await;
    assert_eq!((before.tally.evicted, before.tally.verified, before.beside), (3, 3, 1));
    assert_eq!(old.pass(20, limits()).await, 5);
    let rows = old.db.chain(old.node.id, old.node.epoch, BatchSeq::FIRST, 10).await.unwrap();
    assert!(matches!(&rows[..], [ChainRow::Batch(_)]), "{rows:?}");
    assert_eq!(rows[0].span(), Span::one(number(6)));
    let tally = old.checkpoint().await.unverified().tally;
    assert_eq!(tally, Tally { evicted: 3, expired: 2, ..Tally::default() });
    old.prove().await;
}
