//! The outbox's part of the suite. Its stores announce to both destinations.

use std::sync::Arc;

use uuid::Uuid;

use super::alerts::{alert, change, standing};
use super::analysis::findings;
use crate::store::{AlertChanges, Announcement, BatchFindings, Destination, NewAlert, Pass, Store};
use crate::testing::{TestNode, at};

const BOTH: [Destination; 2] = [Destination::Notifiers, Destination::Ancestor];

fn ids(taken: &[Announcement]) -> Vec<u128> {
    taken.iter().map(|announcement| announcement.alert.alert.alert_id.as_u128()).collect()
}

fn numbers(taken: &[Announcement]) -> Vec<i64> {
    taken.iter().map(|announcement| announcement.number).collect()
}

async fn waiting(db: &Arc<dyn Store>) -> [u64; 2] {
    let [notifiers, ancestor] = BOTH.map(|to| db.announcements_waiting(to));
    [notifiers.await.unwrap(), ancestor.await.unwrap()]
}

pub(crate) async fn an_alert_that_is_opened_is_announced_to_everybody_once(db: Arc<dyn Store>) {
    let first = alert(1, "rule", Some("alice"));
    change(&db, standing(vec![first.clone()])).await;
    let grown = NewAlert { description: "it goes on".to_owned(), ..first };
    change(&db, standing(vec![grown.clone()])).await;
    let withdrawn = AlertChanges { withdrawn: vec![grown.alert_id], ..AlertChanges::default() };
    change(&db, withdrawn).await;
    change(&db, standing(vec![grown])).await;

    let mut node = TestNode::new(1);
    let batch = node.logins(&[1]);
    super::store(&db, &[&batch]).await;
    let alerts = vec![alert(2, "single", None)];
    let single = BatchFindings { alerts, ..findings(Pass::First, Vec::new()) };
    for fresh in [true, false] {
        assert_eq!(db.record_detections(batch.key(), single.clone()).await.unwrap().fresh, fresh);
    }
    assert_eq!(waiting(&db).await, [2, 2]);
    for to in BOTH {
        let taken = db.take_announcements(to, at(0), at(60), 10).await.unwrap();
        assert_eq!(ids(&taken), [1, 2], "{to:?}");
        // As it is when it is taken.
        assert_eq!(taken[0].alert.alert.description, "it goes on");
        db.settle_announcements(numbers(&taken), Vec::new()).await.unwrap();
    }
    assert_eq!(waiting(&db).await, [0, 0]);
}

pub(crate) async fn an_announcement_is_made_by_one_until_its_time_is_up(db: Arc<dyn Store>) {
    for id in 1..=5 {
        change(&db, standing(vec![alert(id, "rule", Some("alice"))])).await;
    }
    let to = Destination::Notifiers;
    let first = db.take_announcements(to, at(0), at(60), 2).await.unwrap();
    let second = db.take_announcements(to, at(1), at(61), 2).await.unwrap();
    assert_eq!((ids(&first), ids(&second)), (vec![1, 2], vec![3, 4]));
    // One was made and one was not; the other process died.
    db.settle_announcements(numbers(&first[..1]), numbers(&first[1..])).await.unwrap();
    assert_eq!(ids(&db.take_announcements(to, at(2), at(62), 10).await.unwrap()), [2, 5]);
    assert_eq!(ids(&db.take_announcements(to, at(61), at(90), 10).await.unwrap()), [3, 4]);
    assert!(db.take_announcements(to, at(61), at(90), 10).await.unwrap().is_empty());
    assert_eq!(waiting(&db).await, [4, 5]);
}

pub(crate) async fn many_take_announcements_at_once_and_each_is_taken_once(db: Arc<dyn Store>) {
    const ALERTS: u128 = 40;
    let alerts = (1..=ALERTS).map(|id| alert(id, "rule", Some("alice"))).collect();
    change(&db, standing(alerts)).await;
    let takers = (0..4).map(|_| {
        let db = Arc::clone(&db);
        tokio::spawn(async move {
            let mut taken: Vec<Uuid> = Vec::new();
            loop {
                let some = db.take_announcements(Destination::Ancestor, at(0), at(60), 3).await.unwrap();
                taken.extend(some.iter().map(|announcement| announcement.alert.alert.alert_id));
                if some.is_empty() {
                    break taken;
                }
            }
        })
    });
    let mut taken: Vec<u128> = Vec::new();
    for taker in takers.collect::<Vec<_>>() {
        taken.extend(taker.await.unwrap().iter().map(Uuid::as_u128));
    }
    // One that passed over what others were taking may have seen nothing left a moment too early.
    let rest = db.take_announcements(Destination::Ancestor, at(0), at(60), ALERTS as usize).await.unwrap();
    taken.extend(ids(&rest));
    taken.sort_unstable();
    assert_eq!(taken, (1..=ALERTS).collect::<Vec<_>>());
}
