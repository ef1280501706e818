//! The ledger's part of the suite.

use std::sync::Arc;

use auditflow_wire::chain::ForkKind;
use auditflow_wire::{BatchSeq, EvictReason, Folded, Held, Signed, Span, Verdict};

use super::store;
use crate::store::{
    Arrival, ChainRow, EventQuery, FlagKind, Limits, NewBatch, Payload, Store, nodes::FlagRow,
};
use crate::testing::{TestBatch, TestNode, at, due};

fn number(number: u64) -> BatchSeq {
    BatchSeq::new(number).unwrap()
}

async fn flags(store: &Arc<dyn Store>, kind: FlagKind) -> Vec<FlagRow> {
    let flags = store.flags(None, true, 100).await.unwrap();
    flags.into_iter().filter(|row| row.flag.kind == kind).collect()
}

async fn through(store: &Arc<dyn Store>, node: &TestNode) -> u64 {
    let view = store.ledger_view(node.id, node.epoch).await.unwrap();
    view.through().map_or(0, |head| head.number.get())
}

pub(crate) async fn batches_in_order_advance_stored_through(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..5).map(|n| node.logins(&[n])).collect();
    for (count, batch) in (1..).zip(&batches) {
        let outcomes = store(&db, &[batch]).await;
        assert_eq!(outcomes[0].verdict, Verdict::Store);
        assert_eq!(through(&db, &node).await, count);
    }
    let back = db.batch(batches[2].key()).await.unwrap().unwrap();
    assert_eq!(back.signed, batches[2].signed);
    assert_eq!(back.payload, Payload::Present(batches[2].payload.clone()));
    assert_eq!(back.received_at, at(0));
    assert!(!back.analysed);
}

pub(crate) async fn a_batch_is_stored_once_however_often_and_concurrently_it_comes(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..20).map(|n| node.logins(&[n, n])).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..8 {
        let (db, mut batches) = (Arc::clone(&db), batches.clone());
        tasks.spawn(async move {
            batches.rotate_left(sender * 2);
            let mut stored = 0;
            for batch in &batches {
                let outcomes = store(&db, &[batch, batch]).await;
                stored += outcomes.iter().filter(|outcome| outcome.id.is_some()).count();
            }
            stored
        });
    }
    let stored: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!(stored, 20);
    assert_eq!(through(&db, &node).await, 20);
    assert_eq!(due(&*db, 100).await.len(), 20);
    let rates = db.rates(at(-60), at(60)).await.unwrap();
    assert_eq!(rates.iter().map(|point| point.events).sum::<u64>(), 40);
}

pub(crate) async fn overtaking_batches_are_ranges_until_the_hole_is_filled(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..6).map(|n| node.logins(&[n])).collect();
    let outcomes = store(&db, &[&batches[0], &batches[3], &batches[4]]).await;
    assert_eq!(outcomes[1].verdict, Verdict::StoreAbove);
    let view = db.ledger_view(node.id, node.epoch).await.unwrap();
    assert_eq!(view.through().unwrap().number, number(1));
    assert_eq!(view.above()[0].span, Span::new(number(4), number(5)).unwrap());
    store(&db, &[&batches[2], &batches[1]]).await;
    assert_eq!(through(&db, &node).await, 5);
    assert!(flags(&db, FlagKind::BrokenLink).await.is_empty());
}

pub(crate) async fn other_bytes_under_a_taken_number_are_kept_apart_and_flagged(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let first = node.logins(&[1]);
    let mut clone = node.clone();
    let (second, other) = (node.logins(&[2]), clone.logins(&[3]));
    store(&db, &[&first, &second]).await;
    let outcomes = store(&db, &[&other]).await;
    let Verdict::Fork(fork) = outcomes[0].verdict else { panic!("{:?}", outcomes[0]) };
    assert_eq!((fork.kind, fork.number, fork.stored), (ForkKind::OtherDigest, number(2), second.digest()));
    assert_eq!(db.batch(second.key()).await.unwrap().unwrap().signed.digest(), second.digest());
    assert_eq!(flags(&db, FlagKind::Fork).await.len(), 1);
    // The branch stays a fork, and sending it again stays one flag.
    let next = clone.logins(&[4]);
    assert!(matches!(store(&db, &[&next]).await[0].verdict, Verdict::Fork(_)));
    store(&db, &[&other]).await;
    assert_eq!(through(&db, &node).await, 2);
}

pub(crate) async fn a_broken_link_is_stored_and_flagged(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let mut other = node.clone();
    let (first, _) = (node.logins(&[1]), node.logins(&[2]));
    other.logins(&[9]);
    let unlinked = other.logins(&[3]);
    let outcomes = store(&db, &[&first, &unlinked]).await;
    assert!(outcomes.iter().all(|outcome| outcome.id.is_some()), "{outcomes:?}");
    assert_eq!(through(&db, &node).await, 1);
    assert_eq!(db.ledger_view(node.id, node.epoch).await.unwrap().highest(), Some(number(2)));
    let flags = flags(&db, FlagKind::BrokenLink).await;
    assert_eq!(flags[0].flag.seq, Some(number(2)));
}

pub(crate) async fn a_hole_below_what_the_node_holds_is_lost_until_it_comes_after_all(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let (first, missing) = (node.logins(&[1]), node.logins(&[2]));
    node.oldest_unacknowledged = Some(3);
    let third = node.logins(&[3]);
    store(&db, &[&first, &third]).await;
    assert_eq!(through(&db, &node).await, 3);
    assert_eq!(flags(&db, FlagKind::Gap).await[0].flag.seq, Some(number(2)));
    assert_eq!(db.ledger_view(node.id, node.epoch).await.unwrap().lost(), [Span::one(number(2))]);
    assert!(store(&db, &[&missing]).await[0].id.is_some());
    assert!(flags(&db, FlagKind::Gap).await.is_empty());
    assert!(db.ledger_view(node.id, node.epoch).await.unwrap().lost().is_empty());
}

pub(crate) async fn a_state_settles_what_the_node_holds_no_more(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..5).map(|n| node.logins(&[n])).collect();
    store(&db, &[&batches[0]]).await;
    let held = Held { epoch: node.epoch, lowest: number(4), head: Some(batches[4].signed.head()) };
    let state = node.state(vec![held]);
    let epochs = db.apply_state(state.clone(), at(1)).await.unwrap();
    assert_eq!(epochs.len(), 1);
    assert_eq!(epochs[0].1.lost(), [Span::new(number(2), number(3)).unwrap()]);
    assert_eq!(flags(&db, FlagKind::Gap).await.len(), 1);
    // Said again, or replayed later, it changes nothing.
    db.apply_state(state, at(2)).await.unwrap();
    assert_eq!(flags(&db, FlagKind::Gap).await[0].count, 1);
    store(&db, &[&batches[3], &batches[4]]).await;
    assert_eq!(through(&db, &node).await, 5);
}

pub(crate) async fn a_second_successor_of_one_epoch_is_a_fork(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let last = node.logins(&[1]);
    let mut clone = node.clone();
    node.restart(10);
    clone.restart(20);
    let (first, second) = (node.logins(&[2]), clone.logins(&[3]));
    let outcomes = store(&db, &[&last, &first, &second]).await;
    assert_eq!(outcomes[1].verdict, Verdict::Store);
    let Verdict::Fork(fork) = outcomes[2].verdict else { panic!("{:?}", outcomes[2]) };
    assert_eq!(fork.kind, ForkKind::SecondSuccessor);
    assert_eq!(flags(&db, FlagKind::Fork).await.len(), 1);
    // An older epoch is accepted all the same; the condemned one stays condemned.
    assert!(matches!(store(&db, &[&clone.logins(&[4])]).await[0].verdict, Verdict::Fork(_)));
    assert_eq!(store(&db, &[&node.logins(&[5])]).await[0].verdict, Verdict::Store);
}

pub(crate) async fn a_new_epoch_without_memory_of_the_old_one_is_flagged(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    store(&db, &[&node.logins(&[1])]).await;
    assert!(flags(&db, FlagKind::UnknownPredecessor).await.is_empty());
    let mut again = TestNode::new(1);
    again.epoch = auditflow_wire::EpochId::from_bytes([99; 16]);
    assert!(store(&db, &[&again.logins(&[2])]).await[0].id.is_some());
    let flags = flags(&db, FlagKind::UnknownPredecessor).await;
    assert_eq!((flags[0].flag.epoch, &*flags[0].flag.detail), (again.epoch, "first_start"));
}

pub(crate) async fn a_first_epoch_that_arrives_after_its_successors_is_not_flagged(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let first = node.logins(&[1]);
    node.restart(10);
    let (second, urgent) = (node.logins(&[2]), node.logins(&[3]));
    store(&db, &[&urgent]).await;
    store(&db, &[&first]).await;
    store(&db, &[&second]).await;
    assert!(flags(&db, FlagKind::UnknownPredecessor).await.is_empty());
}

pub(crate) async fn an_unread_batch_is_kept_and_comes_up_once_it_can_be_read(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batch = node.logins(&[1, 2]);
    let readable = batch.received(0);
    let (terms, unread) = (readable.terms.clone(), NewBatch { terms: None, unread: true, ..readable });
    let outcomes = db.store_batches(vec![Arrival::Batch(Box::new(unread))]).await.unwrap().outcomes;
    assert_eq!(outcomes[0].verdict, Verdict::Store);
    assert!(due(&*db, 10).await.is_empty());
    assert_eq!(flags(&db, FlagKind::UnknownVersion).await.len(), 1);
    let waiting = db.unread(None, 10).await.unwrap();
    assert_eq!(waiting.iter().map(|(_, key)| *key).collect::<Vec<_>>(), [batch.key()]);
    let query = EventQuery { limit: 10, ..EventQuery::default() };
    assert!(db.search_events(query.clone()).await.unwrap().events.is_empty());

    db.mark_read(batch.key(), terms, Vec::new()).await.unwrap();
    assert!(db.unread(None, 10).await.unwrap().is_empty());
    assert_eq!(due(&*db, 10).await, [batch.key()]);
    assert_eq!(db.search_events(query).await.unwrap().events.len(), 2);
}

pub(crate) async fn an_evicted_batch_counts_as_stored_and_its_payload_is_kept_if_it_comes_after_all(
    db: Arc<dyn Store>,
) {
    let mut node = TestNode::new(1);
    let batch = node.logins(&[1]);
    let evicted = Arrival::Batch(Box::new(batch.evicted(&node.key)));
    assert_eq!(db.store_batches(vec![evicted.clone()]).await.unwrap().outcomes[0].verdict, Verdict::Store);
    assert!(matches!(db.batch(batch.key()).await.unwrap().unwrap().payload, Payload::Evicted(_)));
    assert_eq!(through(&db, &node).await, 1);
    assert!(due(&*db, 10).await.is_empty());

    assert_eq!(store(&db, &[&batch]).await[0].verdict, Verdict::Duplicate);
    let back = db.batch(batch.key()).await.unwrap().unwrap();
    assert_eq!(back.payload, Payload::Present(batch.payload.clone()));
    assert_eq!(due(&*db, 10).await, [batch.key()]);
    // The word that it was evicted does not take it away again.
    db.store_batches(vec![evicted]).await.unwrap();
    assert!(matches!(db.batch(batch.key()).await.unwrap().unwrap().payload, Payload::Present(_)));
}

pub(crate) async fn a_fold_stands_for_all_its_numbers(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..5).map(|n| node.logins(&[n])).collect();
    let headers = batches[1..4].iter().map(|batch| (&batch.signed, EvictReason::SpoolFull));
    let fold = Signed::sign(Folded::of(headers).unwrap(), &node.key);
    let folded = Arrival::Fold { fold: Box::new(fold), received_at: at(0) };
    let arrivals = vec![batches[0].arrival(), folded.clone(), batches[4].arrival(), folded];
    let outcomes = db.store_batches(arrivals).await.unwrap().outcomes;
    let verdicts: Vec<Verdict> = outcomes.iter().map(|outcome| outcome.verdict).collect();
    assert_eq!(verdicts, [Verdict::Store, Verdict::Store, Verdict::Store, Verdict::Duplicate]);
    assert_eq!(through(&db, &node).await, 5);
    // A batch that the fold stands for is known; another under its number is not it.
    assert_eq!(store(&db, &[&batches[2]]).await[0].verdict, Verdict::Duplicate);
}

pub(crate) async fn a_chain_is_read_back_in_order_of_numbers(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..7).map(|n| node.logins(&[n])).collect();
    let fold = Folded::of(batches[2..5].iter().map(|batch| (&batch.signed, EvictReason::DiskFull))).unwrap();
    let fold = Arrival::Fold { fold: Box::new(Signed::sign(fold, &node.key)), received_at: at(0) };
    let arrivals =
        vec![batches[6].arrival(), batches[1].arrival(), fold, batches[0].arrival(), batches[5].arrival()];
    db.store_batches(arrivals).await.unwrap();
    let mut numbers = Vec::new();
    let mut next = BatchSeq::FIRST;
    loop {
        let page = db.chain(node.id, node.epoch, next, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        next = match last {
            ChainRow::Batch(batch) => batch.signed.header.number.next().unwrap(),
            ChainRow::Fold(fold) => fold.unverified().span.last().next().unwrap(),
        };
        numbers.extend(page.iter().map(|row| match row {
            ChainRow::Batch(batch) => batch.signed.header.number.get(),
            ChainRow::Fold(fold) => fold.unverified().span.first().get() * 100,
        }));
    }
    assert_eq!(numbers, [1, 2, 300, 6, 7]);
    let epochs = db.epochs(node.id).await.unwrap();
    assert_eq!((epochs.len(), epochs[0].through.unwrap().number), (1, number(7)));
}

const DAY: i64 = 86_400;

/// One batch on each of some days, oldest first.
async fn one_a_day(db: &Arc<dyn Store>, days: i64) -> (TestNode, Vec<TestBatch>) {
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..days).map(|day| node.logins(&[day * DAY])).collect();
    for (day, batch) in (0..).zip(&batches) {
        db.store_batches(vec![Arrival::Batch(Box::new(batch.received(day * DAY)))]).await.unwrap();
    }
    (node, batches)
}

pub(crate) async fn age_prunes_whole_days_and_declares_it(db: Arc<dyn Store>) {
    let (node, batches) = one_a_day(&db, 4).await;
    let limits = Limits { max_bytes: u64::MAX, max_age_seconds: 2 * DAY as u64 };
    assert!(db.retain(limits, at(2 * DAY)).await.unwrap().is_empty());
    let pruned = db.retain(limits, at(3 * DAY)).await.unwrap();
    assert_eq!(pruned.len(), 1);
    assert_eq!((&*pruned[0].day, &*pruned[0].reason, pruned[0].batches), ("2026-11-23", "age", 1));
    assert_eq!(pruned[0].digest, auditflow_wire::Digest::of(batches[0].digest().as_bytes()));
    assert_eq!(db.batch(batches[0].key()).await.unwrap().unwrap().payload, Payload::Expired);
    assert!(matches!(db.batch(batches[1].key()).await.unwrap().unwrap().payload, Payload::Present(_)));
    // The ledger still knows it.
    assert_eq!(store(&db, &[&batches[0]]).await[0].verdict, Verdict::Duplicate);
    assert_eq!(through(&db, &node).await, 4);
    assert!(db.retain(limits, at(3 * DAY)).await.unwrap().is_empty());
    assert_eq!(db.prunings(10).await.unwrap(), pruned);
    // What was pruned unanalysed is not asked for any more.
    assert_eq!(due(&*db, 10).await.len(), 3);
}

pub(crate) async fn bytes_prune_the_oldest_parts_first_and_never_the_newest(db: Arc<dyn Store>) {
    let (_, batches) = one_a_day(&db, 3).await;
    let limits = Limits { max_bytes: 1, max_age_seconds: u64::MAX };
    for day in ["2026-11-23", "2026-11-24"] {
        let pruned = db.retain(limits, at(3 * DAY)).await.unwrap();
        let days: Vec<&str> = pruned.iter().map(|pruning| &*pruning.day).collect();
        assert_eq!(days, [day]);
    }
    assert!(db.retain(limits, at(3 * DAY)).await.unwrap().is_empty());
    assert!(matches!(db.batch(batches[2].key()).await.unwrap().unwrap().payload, Payload::Present(_)));
}
