//! Detections' and groups' part of the suite.

use std::collections::BTreeSet;
use std::sync::Arc;

use auditflow_event::{EventId, Timestamp};
use auditflow_wire::{ClockCause, ClockFact};
use uuid::Uuid;

use super::alerts::alert;
use super::store;
use crate::store::storm::ALERTS_PER_HOUR;
use crate::store::{
    AlertChanges, AlertFilter, BatchFindings, ClockShift, DetectionRow, GroupKey, Match, NewAlert, Pass,
    Store,
};
use crate::testing::{TestNode, at, due};

fn group(name: &str) -> GroupKey {
    GroupKey { correlation: "three-failures".to_owned(), group: name.to_owned() }
}

fn detection(name: &str, seconds: &[i64]) -> DetectionRow {
    let matches = (0..).zip(seconds).map(|(index, second)| Match {
        time: at(*second),
        order: u64::from(index),
        index,
        event_id: EventId::from_uuid(Uuid::from_u128(*second as u128)),
        fields: vec![("user".to_owned(), name.to_owned())],
    });
    DetectionRow { group: group(name), rule: "failed-login".to_owned(), matches: matches.collect() }
}

pub(super) fn findings(pass: Pass, detections: Vec<DetectionRow>) -> BatchFindings {
    BatchFindings { rule_set: "v1".to_owned(), pass, detections, alerts: Vec::new(), dirty: Vec::new() }
}

async fn times(db: &Arc<dyn Store>, name: &str) -> Vec<Timestamp> {
    let points =
        db.detections_of_group("three-failures", name, Timestamp::MIN, Timestamp::MAX).await.unwrap();
    points.iter().map(|point| point.time).collect()
}

pub(crate) async fn a_race_of_analysers_has_one_winner(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batch = node.logins(&[1, 2]);
    store(&db, &[&batch]).await;
    let mut tasks = tokio::task::JoinSet::new();
    for racer in 0..6 {
        let (db, key) = (Arc::clone(&db), batch.key());
        tasks.spawn(async move {
            let mut found = findings(Pass::First, vec![detection(&format!("by-{racer}"), &[1])]);
            found.alerts = vec![alert(1, "single", None)];
            db.record_detections(key, found).await.unwrap()
        });
    }
    let recorded = tasks.join_all().await;
    assert_eq!(recorded.iter().filter(|recorded| recorded.fresh).count(), 1);
    assert_eq!(recorded.iter().map(|recorded| recorded.opened.len()).sum::<usize>(), 1);
    assert!(due(&*db, 10).await.is_empty());
    assert!(db.batch(batch.key()).await.unwrap().unwrap().analysed);
    let mut groups = 0;
    while db.take_dirty(at(0), at(60)).await.unwrap().is_some() {
        groups += 1;
    }
    assert_eq!(groups, 1);
}

pub(crate) async fn a_touched_group_comes_up_again(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let (first, second) = (node.logins(&[1]), node.logins(&[2]));
    store(&db, &[&first, &second]).await;
    db.record_detections(first.key(), findings(Pass::First, vec![detection("alice", &[1])])).await.unwrap();
    let taken = db.take_dirty(at(0), at(60)).await.unwrap().unwrap();
    assert_eq!((&taken.key, taken.from, taken.to), (&group("alice"), at(1), at(1)));
    assert_eq!(db.take_dirty(at(0), at(60)).await.unwrap(), None, "it is locked");
    // Touched while it is locked.
    db.record_detections(second.key(), findings(Pass::First, vec![detection("alice", &[9])])).await.unwrap();
    assert!(db.finish_group(taken, AlertChanges::default()).await.unwrap().held);
    let again = db.take_dirty(at(0), at(60)).await.unwrap().unwrap();
    assert_eq!(again.to, at(9));
    assert!(db.finish_group(again, AlertChanges::default()).await.unwrap().held);
    assert_eq!(db.take_dirty(at(0), at(60)).await.unwrap(), None);
}

pub(crate) async fn a_lock_that_ran_out_can_be_taken_by_another(db: Arc<dyn Store>) {
    db.mark_dirty(group("alice"), at(1), at(2)).await.unwrap();
    let dead = db.take_dirty(at(0), at(60)).await.unwrap().unwrap();
    assert_eq!(db.take_dirty(at(59), at(120)).await.unwrap(), None);
    let alive = db.take_dirty(at(60), at(120)).await.unwrap().unwrap();
    let changes = AlertChanges { standing: vec![alert(1, "rule", Some("alice"))], ..AlertChanges::default() };
    let late = db.finish_group(dead, changes.clone()).await.unwrap();
    assert!(!late.held && late.opened.is_empty());
    assert_eq!(db.finish_group(alive, changes).await.unwrap().opened, [Uuid::from_u128(1)]);
}

pub(crate) async fn detections_are_read_in_event_time_order(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let (first, second) = (node.logins(&[1]), node.logins(&[2]));
    store(&db, &[&first, &second]).await;
    db.record_detections(first.key(), findings(Pass::First, vec![detection("alice", &[30, 10])]))
        .await
        .unwrap();
    let both = vec![detection("alice", &[20, 5]), detection("bob", &[1])];
    db.record_detections(second.key(), findings(Pass::First, both)).await.unwrap();
    assert_eq!(times(&db, "alice").await, [at(5), at(10), at(20), at(30)]);
    let some = db.detections_of_group("three-failures", "alice", at(10), at(20)).await.unwrap();
    assert_eq!(some.iter().map(|point| point.time).collect::<Vec<_>>(), [at(10), at(20)]);
    assert_eq!((some[0].at.batch(), some[1].at.batch()), (first.key(), second.key()));
    assert_eq!(some[0].fields, [("user".to_owned(), "alice".to_owned())]);
}

pub(crate) async fn a_late_clock_step_makes_a_boot_due_for_a_rewrite(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let fact =
        |cause, wall, boottime_micros, synchronised| ClockFact { cause, wall, boottime_micros, synchronised };
    node.clock = vec![fact(ClockCause::Start, at(-1000), 10_000_000, false)];
    let early = node.logins(&[-900]);
    store(&db, &[&early]).await;
    let before = vec![detection("alice", &[-900])];
    db.record_detections(early.key(), findings(Pass::First, before)).await.unwrap();
    assert_eq!(db.clock_shift(node.id, node.boot).await.unwrap(), None);
    assert!(due(&*db, 10).await.is_empty());

    // 500 s later the clock is set, 300 s ahead.
    node.clock = vec![fact(ClockCause::Synchronised, at(-200), 510_000_000, true)];
    let late = node.logins(&[-100]);
    store(&db, &[&late]).await;
    let shift = db.clock_shift(node.id, node.boot).await.unwrap().unwrap();
    assert_eq!(shift, ClockShift { before: at(-500), micros: 300_000_000 });
    assert_eq!((shift.apply(at(-900)), shift.apply(at(-100))), (at(-600), at(-100)));
    assert_eq!(due(&*db, 10).await, [early.key(), late.key()]);
    while let Some(group) = db.take_dirty(at(0), at(60)).await.unwrap() {
        db.finish_group(group, AlertChanges::default()).await.unwrap();
    }
    let shifted = findings(Pass::First, vec![detection("alice", &[-600])]);
    assert!(db.record_detections(early.key(), shifted).await.unwrap().fresh);
    assert_eq!(times(&db, "alice").await, [at(-600)]);
    let dirty = db.take_dirty(at(0), at(60)).await.unwrap().unwrap();
    assert_eq!((dirty.from, dirty.to), (at(-900), at(-600)), "old and new place are looked at");
}

pub(crate) async fn priming_adds_and_rewriting_replaces(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batch = node.logins(&[1]);
    store(&db, &[&batch]).await;
    let key = batch.key();
    db.record_detections(key, findings(Pass::First, vec![detection("alice", &[1])])).await.unwrap();
    let mut primed = findings(Pass::Prime, vec![detection("alice", &[2]), detection("bob", &[2])]);
    primed.alerts = vec![alert(1, "single", None)];
    assert!(db.record_detections(key, primed).await.unwrap().opened.is_empty());
    assert_eq!((times(&db, "alice").await, times(&db, "bob").await), (vec![at(1)], vec![at(2)]));
    db.record_detections(key, findings(Pass::Rewrite, vec![detection("alice", &[3])])).await.unwrap();
    assert_eq!((times(&db, "alice").await, times(&db, "bob").await), (vec![at(3)], vec![]));
    let mut unknown = key;
    unknown.seq = auditflow_wire::BatchSeq::new(77).unwrap();
    assert!(!db.record_detections(unknown, findings(Pass::First, Vec::new())).await.unwrap().fresh);
}

pub(crate) async fn old_detections_expire(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batch = node.logins(&[1]);
    store(&db, &[&batch]).await;
    let both = vec![detection("alice", &[1, 50]), detection("bob", &[2])];
    db.record_detections(batch.key(), findings(Pass::First, both)).await.unwrap();
    assert_eq!(db.expire_detections(at(40)).await.unwrap(), 1);
    assert_eq!((times(&db, "alice").await.len(), times(&db, "bob").await.len()), (2, 0));
}

/// An alert of the rule `noisy`, `second` seconds into an hour.
fn noisy(node: &TestNode, second: u64) -> NewAlert {
    let stamp = Some(at(second as i64));
    NewAlert { node: Some(node.id), stamp, ..alert(u128::from(second) + 1, "noisy", None) }
}

async fn standing(db: &Arc<dyn Store>) -> BTreeSet<(Uuid, String)> {
    let all = AlertFilter::default();
    let rows = db.alerts(all, None, 0, 10_000).await.unwrap();
    rows.into_iter().map(|row| (row.alert.alert_id, row.alert.description)).collect()
}

pub(crate) async fn the_same_alerts_of_a_storm_stand_whatever_the_order(db: Arc<dyn Store>) {
    let mut outcomes = Vec::new();
    for (name, reversed) in [(1, false), (2, true)] {
        let mut node = TestNode::new(name);
        let mut seconds: Vec<u64> = (0..ALERTS_PER_HOUR + 250).collect();
        if reversed {
            seconds.reverse();
        }
        let mut beyond = 0;
        for part in seconds.chunks(100) {
            let batch = node.logins(&[1]);
            store(&db, &[&batch]).await;
            let mut found = findings(Pass::First, Vec::new());
            found.alerts = part.iter().map(|second| noisy(&node, *second)).collect();
            // The nodes' alerts are told apart by their ids, which differ by the same for each.
            found.alerts.iter_mut().for_each(|alert| {
                alert.alert_id = Uuid::from_u128(alert.alert_id.as_u128() + (u128::from(name) << 64));
            });
            let recorded = db.record_detections(batch.key(), found).await.unwrap();
            beyond += recorded.beyond.values().sum::<u64>();
        }
        assert_eq!(beyond, 250);
        let own = AlertFilter { node: Some(node.id), ..AlertFilter::default() };
        let rows = db.alerts(own, None, 0, 10_000).await.unwrap();
        let mut stamps: Vec<_> = rows.iter().filter_map(|row| row.alert.stamp).collect();
        stamps.sort_unstable();
        let told: Vec<_> = rows.iter().filter(|row| row.alert.stamp.is_none()).collect();
        assert_eq!(told.len(), 1);
        outcomes.push((stamps, told[0].alert.description.clone()));
    }
    assert_eq!(outcomes[0], outcomes[1]);
    let expected: Vec<_> = (0..ALERTS_PER_HOUR).map(|second| at(second as i64)).collect();
    assert_eq!(outcomes[0].0, expected);
    assert!(outcomes[0].1.contains("250 more"), "{}", outcomes[0].1);
}

pub(crate) async fn a_rewrite_raises_nothing_that_a_storm_kept_back(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    let batch = node.logins(&[1]);
    store(&db, &[&batch]).await;
    let mut found = findings(Pass::First, Vec::new());
    found.alerts = (0..ALERTS_PER_HOUR + 10).map(|second| noisy(&node, second)).collect();
    db.record_detections(batch.key(), found.clone()).await.unwrap();
    let before = standing(&db).await;
    assert_eq!(before.len() as u64, ALERTS_PER_HOUR + 1);

    found.pass = Pass::Rewrite;
    found.alerts.iter_mut().for_each(|alert| alert.timestamp = at(7_200));
    let recorded = db.record_detections(batch.key(), found).await.unwrap();
    assert!(recorded.opened.is_empty() && recorded.beyond.is_empty());
    assert_eq!(standing(&db).await, before);
}
