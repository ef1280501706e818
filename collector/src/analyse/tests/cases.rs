//! Single cases, each for one sentence of the design.

use super::*;

async fn play(store: &Arc<dyn Store>, node: &mut TestNode, kind: &str, seconds: &[i64]) {
    let events: Vec<Event> = seconds
        .iter()
        .map(|second| event(node, *second as u64, second * 1_000, [kind, "alice", "web-1", "/a"]))
        .collect();
    store.store_batches(vec![node.seal(&events).arrival()]).await.unwrap();
}

fn extents(rows: &[AlertRow]) -> Vec<(i64, i64, i64)> {
    let seconds = |row: &AlertRow, name: &str| {
        let time: Timestamp = row.alert.metadata["episode"][name].as_str().unwrap().parse().unwrap();
        (time.as_micros() - at(0).as_micros()) / 1_000_000
    };
    rows.iter()
        .map(|row| {
            (
                seconds(row, "begin"),
                seconds(row, "last_match"),
                row.alert.metadata["episode"]["events"].as_i64().unwrap(),
            )
        })
        .collect()
}

#[tokio::test]
async fn bursts_are_one_alert_each_and_noise_joins_nothing() {
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    let mut node = TestNode::new(1);
    // Three within ten seconds, a hundred seconds of noise nine seconds apart, then three again.
    let noise: Vec<i64> = (2..12).map(|step| step * 9 + 10).collect();
    let all: Vec<i64> = [1, 2, 3].into_iter().chain(noise).chain([200, 201, 202, 203]).collect();
    play(&store, &mut node, "user_login", &all).await;
    drain(&worker, at(300)).await;
    assert_eq!(extents(&standing(&store, "logins", "alice").await), [(1, 3, 3), (200, 203, 4)]);
}

#[tokio::test]
async fn spread_out_events_never_make_three_in_a_minute() {
    let text = RULES.replace("timespan: 10s, condition: { gte: 3 }", "timespan: 60s, condition: { gte: 3 }");
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(&text)));
    let mut node = TestNode::new(1);
    play(&store, &mut node, "user_login", &[0, 50, 100, 150]).await;
    drain(&worker, at(300)).await;
    assert_eq!(extents(&standing(&store, "logins", "alice").await), []);
}

#[tokio::test]
async fn long_attack_is_one_alert_that_grows_and_keeps_what_people_said() {
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    let mut node = TestNode::new(1);
    for minute in 0..20 {
        let seconds: Vec<i64> = (0..60).map(|second| minute * 60 + second).collect();
        play(&store, &mut node, "user_login", &seconds).await;
        drain(&worker, at(minute * 60 + 61)).await;
        if minute == 0 {
            let alert = standing(&store, "logins", "alice").await.remove(0).alert.alert_id;
            let change = crate::store::StatusChange { note: Some("looking".into()), ..Default::default() };
            store.set_alert_status(alert, change, crate::store::By::user("bob"), at(70)).await.unwrap();
        }
    }
    let rows = store.alerts_of_group("logins", r#"["alice"]"#).await.unwrap();
    assert_eq!(extents(&rows), [(0, 1_199, 1_200)]);
    assert_eq!(rows[0].machine, Machine::Amended);
    assert_eq!(rows[0].note.as_deref(), Some("looking"));
    assert_eq!(rows[0].alert.evidence.len(), 100);
    assert_eq!(rows[0].alert.events.len(), 8);

    let (_other_guard, other) = super::store();
    let mut node = TestNode::new(1);
    play(&other, &mut node, "user_login", &(0..1_200).collect::<Vec<i64>>()).await;
    drain(&analyser(&other, Current::fixed(rules(RULES))), at(1_300)).await;
    let whole = other.alerts_of_group("logins", r#"["alice"]"#).await.unwrap();
    assert_eq!(essence(&rows[0]), essence(&whole[0]));
}

#[tokio::test]
async fn long_episode_is_continued_and_not_read_again() {
    let (_guard, store) = store();
    let mut node = TestNode::new(1);
    play(&store, &mut node, "user_login", &(0..2_000).collect::<Vec<i64>>()).await;
    drain(&analyser(&store, Current::fixed(rules(RULES))), at(2_001)).await;
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    play(&store, &mut node, "user_login", &[2_000]).await;
    drain(&worker, at(2_002)).await;
    assert_eq!(extents(&standing(&store, "logins", "alice").await), [(0, 2_000, 2_001)]);
    let looked_at = worker.metrics.groups.with_label_values::<&str>(&[]);
    assert!(looked_at.get_sample_sum() < 1_500.0, "{} detections", looked_at.get_sample_sum());
    // What comes late by more than the settled part's lag is read whole, and counted.
    play(&store, &mut node, "user_login", &[-5]).await;
    drain(&worker, at(2_003)).await;
    assert_eq!(extents(&standing(&store, "logins", "alice").await), [(-5, 2_000, 2_002)]);
}

#[tokio::test]
async fn late_events_supersede_and_successors_inherit() {
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    let mut node = TestNode::new(1);
    play(&store, &mut node, "user_login", &[5, 6, 7]).await;
    drain(&worker, at(10)).await;
    let first = standing(&store, "logins", "alice").await.remove(0).alert.alert_id;
    let change = crate::store::StatusChange { assignee: Some("bob".into()), ..Default::default() };
    store.set_alert_status(first, change, crate::store::By::user("bob"), at(11)).await.unwrap();
    play(&store, &mut node, "user_login", &[1, 2]).await;
    drain(&worker, at(100_000)).await;
    let now = standing(&store, "logins", "alice").await;
    assert_eq!(extents(&now), [(1, 7, 5)]);
    assert_eq!(now[0].assignee.as_deref(), Some("bob"));
    let old = store.alert(first).await.unwrap().unwrap();
    assert_eq!(old.machine, Machine::Superseded { by: now[0].alert.alert_id });
}

#[tokio::test]
async fn single_event_alert_says_who_what_where_and_why() {
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    let mut node = TestNode::new(1);
    let events = [event(&node, 1, 0, ["file_modified", "alice", "web-1", "/etc/shadow"])];
    store.store_batches(vec![node.seal(&events).arrival()]).await.unwrap();
    drain(&worker, at(1)).await;
    let filter = crate::store::AlertFilter { rule_id: Some("shadow".to_owned()), ..Default::default() };
    let alerts = store.alerts(filter, None, 0, 10).await.unwrap();
    assert_eq!(alerts.len(), 1);
    let alert = &alerts[0].alert;
    assert_eq!(alert.alert_id, crate::alert::id("shadow", "", events[0].id));
    assert_eq!((alert.severity.as_str(), alert.server_hostname.as_str()), ("CRITICAL", "web-1"));
    assert_eq!(alert.triggered_by["actor_id"], "alice");
    assert_eq!(alert.triggered_by["client_ip"], "203.0.113.9");
    assert_eq!(alert.impacted_resource["resource_type"], "FILE");
    assert_eq!(alert.impacted_resource["resource_id"], "/etc/shadow");
    assert_eq!(alert.metadata["matched"][0]["field"], "event_type");
    assert_eq!(alert.events[0]["event_id"], events[0].id.to_string());
}

#[tokio::test]
async fn changed_correlation_is_primed_and_earlier_alerts_stay() {
    let (_guard, store) = store();
    let mut node = TestNode::new(1);
    // Priming looks at the last window by the collector's clock.
    let base = (chrono::Utc::now().timestamp_micros() - at(0).as_micros()) / 1_000_000;
    play(&store, &mut node, "user_login", &[base - 3_600, base - 3_599, base - 3_598]).await;
    play(&store, &mut node, "user_login", &[base - 3, base - 2]).await;
    drain(&analyser(&store, Current::fixed(rules(RULES))), at(base)).await;
    let before = standing(&store, "logins", "alice").await;
    assert_eq!(before.len(), 1);
    let text = RULES.replace("timespan: 10s, condition: { gte: 3 }", "timespan: 60s, condition: { gte: 2 }");
    drain(&analyser(&store, Current::fixed(rules(&text))), at(base)).await;
    let after = standing(&store, "logins", "alice").await;
    assert_eq!(after[0], before[0]);
    assert_eq!(extents(&after[1..]), [(base - 3, base - 2, 2)]);
}

#[tokio::test]
async fn late_clock_step_moves_a_boots_detections() {
    use auditflow_wire::{ClockCause, ClockFact};
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    let mut node = TestNode::new(1);
    let early = |second: i64| ClockFact {
        cause: ClockCause::Start,
        wall: at(second - 1_000_000),
        boottime_micros: second as u64 * 1_000_000,
        synchronised: false,
    };
    // The node boots a million seconds in the past, and is told the time only with its second batch. What comes
    // between is of another node and belongs to the same group.
    node.clock = vec![early(10)];
    play(&store, &mut node, "user_login", &[11 - 1_000_000, 12 - 1_000_000]).await;
    drain(&worker, at(20)).await;
    let mut other = TestNode::new(2);
    play(&store, &mut other, "user_login", &[13]).await;
    drain(&worker, at(20)).await;
    assert_eq!(extents(&standing(&store, "logins", "alice").await), []);
    node.clock = vec![ClockFact {
        cause: ClockCause::Synchronised,
        wall: at(30),
        boottime_micros: 30_000_000,
        synchronised: true,
    }];
    play(&store, &mut node, "file_modified", &[31]).await;
    drain(&worker, at(40)).await;
    assert_eq!(extents(&standing(&store, "logins", "alice").await), [(11, 13, 3)]);
}

#[tokio::test]
async fn event_older_than_detections_live_is_judged_and_not_correlated() {
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    let mut node = TestNode::new(1);
    let old = -100 * 86_400;
    play(&store, &mut node, "user_login", &[old, old + 1, old + 2]).await;
    let shadow = [event(&node, 9, old * 1_000, ["file_modified", "alice", "web-1", "/etc/shadow"])];
    store.store_batches(vec![node.seal(&shadow).arrival()]).await.unwrap();
    drain(&worker, at(0)).await;
    assert_eq!(extents(&standing(&store, "logins", "alice").await), []);
    let alerts = store.alerts(crate::store::AlertFilter::default(), None, 0, 10).await.unwrap();
    assert_eq!(alerts.len(), 1);
    assert_eq!(alerts[0].alert.metadata["too_late"], true);
    assert_eq!(worker.metrics.too_late.get(), 4);
}

#[tokio::test]
async fn past_alerts_are_judged_again_with_an_exception() {
    use crate::alert::again::{self, Again};
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    let mut node = TestNode::new(1);
    let mut events = Vec::new();
    for (user, number) in ["alice", "bob"].into_iter().zip([0, 10]) {
        events.push(event(&node, number, 0, ["file_modified", user, "web-1", "/etc/shadow"]));
        for login in 1..4 {
            let millis = i64::try_from(login).unwrap() * 1_000;
            events.push(event(&node, number + login, millis, ["user_login", user, "web-1", "/a"]));
        }
    }
    store.store_batches(vec![node.seal(&events).arrival()]).await.unwrap();
    drain(&worker, at(10)).await;
    for (rule, excluded) in [("shadow", "shadow"), ("logins", "login")] {
        let before = rules(RULES);
        let excluded = before.set().rule(&excluded.into()).unwrap();
        let exception = auditflow_rules::exclusion(excluded, &["user_id=alice".to_owned()], "").unwrap();
        let with = rules(&format!("{RULES}---\n{exception}"));
        assert!(again::raised_by(&with, &excluded.id).contains(&rule.into()));
        let filter = crate::store::AlertFilter { rule_id: Some(rule.to_owned()), ..Default::default() };
        let alerts = store.alerts(filter, None, 0, 10).await.unwrap();
        assert_eq!(alerts.len(), 2);
        for row in alerts {
            let expected =
                if row.alert.triggered_by["actor_id"] == "alice" { Again::NotRaised } else { Again::Raised };
            assert_eq!(again::judge(&*store, &before, &row.alert).await.unwrap(), Again::Raised);
            assert_eq!(again::judge(&*store, &with, &row.alert).await.unwrap(), expected, "{rule}");
        }
    }
}

#[tokio::test]
async fn what_ingest_matched_is_judged_like_the_events_themselves() {
    use crate::detect::{BatchFacts, Matcher, judge};

    let (set, other) = (Arc::new(rules(RULES)), Arc::new(rules(RULES)));
    let mut node = TestNode::new(1);
    let kinds = ["user_login", "sudo_command", "file_modified", "service_status_change"];
    let events: Vec<Event> = (0..40_i64)
        .map(|number| {
            let resource = ["/a", "/etc/shadow"][usize::from(number % 3 == 0)];
            let kind = kinds[number as usize % kinds.len()];
            event(&node, number as u64, number * 1_000, [kind, "alice", "web-1", resource])
        })
        .collect();
    let signed = node.seal(&events).signed;
    let key = crate::ingest::open::key(&signed);
    let host = Arc::new(signed.header.host());
    // Some come too late, whether they match or not.
    let facts = BatchFacts { key, boot: node.boot, host: Arc::clone(&host), shift: None, horizon: at(10) };
    let mut matcher = Matcher::new(Arc::clone(&set), &host);
    for (event, index) in events.iter().zip(0..) {
        matcher.take(event, index, &event.meaning());
    }
    let matched = matcher.finish().unwrap();
    let judged = judge(&set, &facts, &events, None);
    assert!(judged.alerts.len() > 1 && judged.detections.len() > 1 && judged.too_late == 10, "{judged:?}");
    assert_eq!(format!("{:?}", matched.judge(&facts, &events)), format!("{judged:?}"));
    assert!(matched.is_by(&set) && !matched.is_by(&other));
}
