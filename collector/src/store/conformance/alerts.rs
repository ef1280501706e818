//! The alerts' part of the suite.

use std::sync::Arc;

use serde_json::{Map, json};
use uuid::Uuid;

use crate::store::{
    AlertChanges, AlertCursor, AlertFilter, AlertRule, AlertStatus, By, Change, GroupKey, Machine, NewAlert,
    StatusChange, Store, TrailFilter,
};
use crate::testing::at;

/// An alert of a rule, in a group or by itself.
pub(crate) fn alert(id: u128, rule: &str, group: Option<&str>) -> NewAlert {
    NewAlert {
        alert_id: Uuid::from_u128(id),
        correlation_id: "c".to_owned(),
        fingerprint: format!("{rule}/{group:?}"),
        rule: AlertRule {
            id: rule.to_owned(),
            name: format!("Rule {rule}"),
            description: String::new(),
            level: "high".to_owned(),
            version: "v1".to_owned(),
        },
        group: group.map(str::to_owned),
        stamp: group.is_none().then(|| at(id as i64)),
        timestamp: at(id as i64),
        severity: "CRITICAL".to_owned(),
        alert_type: "security".to_owned(),
        triggered_by: Map::new(),
        impacted_resource: Map::new(),
        action_observed: "login".to_owned(),
        source_service_name: "sshd".to_owned(),
        server_hostname: "web-1".to_owned(),
        node: None,
        description: "something happened".to_owned(),
        evidence: Vec::new(),
        events: vec![json!({ "event_type": "user_login" })],
        metadata: Map::new(),
    }
}

/// Recomputes the group `alice` with these changes.
pub(super) async fn change(db: &Arc<dyn Store>, changes: AlertChanges) -> crate::store::Finished {
    let key = GroupKey { correlation: "rule".to_owned(), group: "alice".to_owned() };
    db.mark_dirty(key, at(0), at(1)).await.unwrap();
    let taken = db.take_dirty(at(0), at(60)).await.unwrap().unwrap();
    db.finish_group(taken, changes).await.unwrap()
}

pub(super) fn standing(alerts: Vec<NewAlert>) -> AlertChanges {
    AlertChanges { standing: alerts, ..AlertChanges::default() }
}

pub(crate) async fn standing_alerts_are_written_once_and_amended(db: Arc<dyn Store>) {
    let mut changes = db.changes();
    let first = alert(1, "rule", Some("alice"));
    let id = first.alert_id;
    assert_eq!(change(&db, standing(vec![first.clone()])).await.opened, [id]);
    assert_eq!(changes.recv().await.unwrap(), Change::AlertOpened(id));
    let again = change(&db, standing(vec![first.clone()])).await;
    assert!(again.opened.is_empty() && again.changed.is_empty());
    let acknowledged = StatusChange { status: Some(AlertStatus::Acknowledged), ..StatusChange::default() };
    assert!(db.set_alert_status(id, acknowledged, By::user("eve"), at(5)).await.unwrap());

    let grown = NewAlert { description: "it goes on".to_owned(), ..first };
    assert_eq!(change(&db, standing(vec![grown.clone()])).await.changed, [id]);
    let row = db.alert(id).await.unwrap().unwrap();
    assert_eq!((row.alert, row.machine, row.status), (grown, Machine::Amended, AlertStatus::Acknowledged));
    let withdrawn = AlertChanges { withdrawn: vec![id], ..AlertChanges::default() };
    assert_eq!(change(&db, withdrawn.clone()).await.changed, [id]);
    assert!(change(&db, withdrawn).await.changed.is_empty());
    assert_eq!(db.alert(id).await.unwrap().unwrap().machine, Machine::Withdrawn);
    assert!(db.alerts(AlertFilter::default(), None, 0, 10).await.unwrap().is_empty());
    assert_eq!(db.alerts_of_group("rule", "alice").await.unwrap().len(), 1);
}

pub(crate) async fn alerts_are_inserted_together_once_and_counted_as_they_are_listed(db: Arc<dyn Store>) {
    // More than go into one statement.
    let many: Vec<NewAlert> = (1..=600)
        .map(|id| NewAlert {
            severity: if id % 3 == 0 { "INFO" } else { "CRITICAL" }.to_owned(),
            node: (id % 2 == 0).then(|| auditflow_event::NodeId::from_bytes([7; 16])),
            triggered_by: Map::from_iter([("actor_id".to_owned(), json!(format!("user-{}", id % 5)))]),
            ..alert(id, "rule", (id % 4 == 0).then_some("alice"))
        })
        .collect();
    let first = db.insert_alerts(many[..100].to_vec()).await.unwrap();
    assert_eq!(first.len(), 100);
    let said = StatusChange { status: Some(AlertStatus::Acknowledged), ..StatusChange::default() };
    assert!(db.set_alert_status(first[0], said, By::user("eve"), at(5)).await.unwrap());
    // Those that are there stay as they are, and one that comes twice is one.
    let changed: Vec<NewAlert> =
        many.iter().map(|alert| NewAlert { description: "again".to_owned(), ..alert.clone() }).collect();
    let mut opened = db.insert_alerts([&changed[..], &changed[550..]].concat()).await.unwrap();
    opened.sort();
    assert_eq!(opened, many[100..].iter().map(|alert| alert.alert_id).collect::<Vec<_>>());
    assert_eq!(db.alert(first[0]).await.unwrap().unwrap().alert, many[0]);
    assert_eq!(db.alert(many[599].alert_id).await.unwrap().unwrap().alert, changed[599]);
    assert!(db.insert_alerts(Vec::new()).await.unwrap().is_empty());
    for (filter, counted) in [
        (AlertFilter::default(), 600),
        (AlertFilter { severity: Some("INFO".to_owned()), ..AlertFilter::default() }, 200),
        (AlertFilter { user: Some("user-1".to_owned()), ..AlertFilter::default() }, 120),
        (AlertFilter { text: Some("AGAIN".to_owned()), ..AlertFilter::default() }, 500),
        (AlertFilter { status: Some(AlertStatus::Open), ..AlertFilter::default() }, 599),
        (AlertFilter { from: Some(at(591)), ..AlertFilter::default() }, 10),
    ] {
        assert_eq!(db.count_alerts(filter.clone()).await.unwrap(), counted, "{filter:?}");
        assert_eq!(db.alerts(filter, None, 0, 1_000).await.unwrap().len() as u64, counted);
    }
    assert_eq!(db.announcements_waiting(crate::store::Destination::Notifiers).await.unwrap(), 600);
}

pub(crate) async fn a_successor_inherits_what_people_said(db: Arc<dyn Store>) {
    let (old, new) = (alert(1, "rule", Some("alice")), alert(2, "rule", Some("alice")));
    let (old_id, new_id) = (old.alert_id, new.alert_id);
    change(&db, standing(vec![old])).await;
    let said = StatusChange {
        status: Some(AlertStatus::FalsePositive),
        assignee: Some("bob".to_owned()),
        note: Some("a scan".to_owned()),
    };
    db.set_alert_status(old_id, said, By::user("bob"), at(5)).await.unwrap();
    let changes =
        AlertChanges { standing: vec![new], superseded: vec![(old_id, new_id)], ..AlertChanges::default() };
    let finished = change(&db, changes).await;
    assert_eq!((finished.opened, finished.changed), (vec![new_id], vec![old_id]));
    assert_eq!(db.alert(old_id).await.unwrap().unwrap().machine, Machine::Superseded { by: new_id });
    let row = db.alert(new_id).await.unwrap().unwrap();
    assert_eq!((row.status, row.assignee.as_deref()), (AlertStatus::FalsePositive, Some("bob")));
    assert_eq!(row.note.as_deref(), Some("a scan"));
}

pub(crate) async fn people_set_status_and_the_trail_tells(db: Arc<dyn Store>) {
    let id = Uuid::from_u128(1);
    change(&db, standing(vec![alert(1, "rule", Some("alice"))])).await;
    let assign = StatusChange { assignee: Some("bob".to_owned()), ..StatusChange::default() };
    assert!(db.set_alert_status(id, assign, By::user("eve"), at(5)).await.unwrap());
    let take = StatusChange { assignee: Some(String::new()), note: Some("n".to_owned()), status: None };
    assert!(db.set_alert_status(id, take, By::user("eve"), at(6)).await.unwrap());
    let row = db.alert(id).await.unwrap().unwrap();
    assert_eq!((row.assignee, row.note.as_deref(), row.status), (None, Some("n"), AlertStatus::Open));
    let nobody = Uuid::from_u128(404);
    assert!(!db.set_alert_status(nobody, StatusChange::default(), By::user("eve"), at(7)).await.unwrap());
    assert!(!db.delete_alert(nobody, By::user("eve"), at(7)).await.unwrap());
    assert!(db.delete_alert(id, By::user("eve"), at(8)).await.unwrap());
    assert!(db.delete_alert(id, By::user("eve"), at(9)).await.unwrap());
    assert_eq!(db.alert(id).await.unwrap().unwrap().deleted_at, Some(at(8)));
    assert!(db.alerts(AlertFilter::default(), None, 0, 10).await.unwrap().is_empty());
    let trail = db.trail(TrailFilter::default(), None, 10).await.unwrap();
    let said: Vec<&str> = trail.iter().map(|entry| &*entry.action).collect();
    assert_eq!(said, ["alert.delete", "alert.change", "alert.change"]);
    assert_eq!((trail[0].at, &*trail[0].actor, &*trail[0].object), (at(8), "user:eve", &*id.to_string()));
    assert_eq!(trail[1].detail, r#"{"assignee":"","note":"n"}"#);
}

pub(crate) async fn alerts_are_paged_newest_first(db: Arc<dyn Store>) {
    for id in 1..=7 {
        let rule = if id % 2 == 0 { "even" } else { "odd" };
        change(&db, standing(vec![alert(id, rule, Some("alice"))])).await;
    }
    let ids = |rows: &[crate::store::AlertRow]| {
        rows.iter().map(|row| row.alert.alert_id.as_u128()).collect::<Vec<_>>()
    };
    let all = db.alerts(AlertFilter::default(), None, 0, 10).await.unwrap();
    assert_eq!(ids(&all), [7, 6, 5, 4, 3, 2, 1]);
    let cursor = AlertCursor { received_at: all[2].received_at, alert_id: all[2].alert.alert_id };
    assert_eq!(ids(&db.alerts(AlertFilter::default(), Some(cursor), 0, 2).await.unwrap()), [4, 3]);
    assert_eq!(ids(&db.alerts(AlertFilter::default(), None, 5, 10).await.unwrap()), [2, 1]);
    let even = AlertFilter { rule_id: Some("even".to_owned()), to: Some(at(4)), ..AlertFilter::default() };
    assert_eq!(ids(&db.alerts(even, None, 0, 10).await.unwrap()), [4, 2]);
    let counts = db.alert_counts(at(-1_000_000_000)).await.unwrap();
    assert_eq!(counts.open, [("CRITICAL".to_owned(), 7)]);
    let rules: Vec<(&str, u64)> = counts.rules.iter().map(|(id, _, count)| (&**id, *count)).collect();
    assert_eq!(rules, [("odd", 4), ("even", 3)]);
    assert_eq!(counts.rules[0].1, "Rule odd");
}
