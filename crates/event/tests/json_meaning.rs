//! Events that come as JSON (Kubernetes, the ancestor's shape), and what the agent says of itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod kit;

use auditflow_event::{
    AgentState, Condition, Event, EventJson, EventType, NodeId, OriginError, Outcome, Priority, Severity,
    Timestamp,
};
use kit::{json, summary};

const NODE: Option<NodeId> = Some(NodeId::from_bytes([7; 16]));

fn synthetic(text: &str) -> Event {
    Event::synthetic(NODE, [1; 16], 5, text).unwrap()
}

#[test]
fn the_ancestors_seven_kinds_keep_their_meaning() {
    let head = r#""event_id":"0b1c","timestamp":"2026-11-23T05:50:50.319250Z","source_service":"audit-event-generator","server_hostname":"prod-web-01","user_id":"app_user""#;
    let cases = [
        r#""event_type":"user_login","severity":"WARNING","action_result":"FAILURE","details":{"reason":"Incorrect password","ip_address":"192.168.1.100","protocol":"ssh"}"#,
        r#""event_type":"user_login","severity":"INFO","action_result":"SUCCESS","details":{"ip_address":"192.168.1.100","protocol":"console"}"#,
        r#""event_type":"sudo_command","severity":"INFO","action_result":"SUCCESS","details":{"command":"/bin/rm -rf /","tty":"/dev/pts/0","cwd":"/home/app_user"}"#,
        r#""event_type":"file_modified","severity":"CRITICAL","action_result":"MODIFIED","details":{"resource":"/etc/passwd","old_checksum":"a","new_checksum":"b","size_change_bytes":-3}"#,
        r#""event_type":"service_status_change","severity":"INFO","action_result":"STARTED","details":{"resource":"nginx.service","previous_state":"FAILED","message":"m"}"#,
        r#""event_type":"service_status_change","severity":"WARNING","action_result":"STOPPED","details":{"resource":"nginx.service","previous_state":"RUNNING","message":"m"}"#,
        r#""event_type":"user_account_management","severity":"INFO","action_result":"CREATED","details":{"resource":"new_user_1","group":"sudo"}"#,
    ];
    let lines: Vec<String> =
        cases.iter().map(|case| summary(&synthetic(&format!("{{{head},{case}}}")).meaning())).collect();
    insta::assert_snapshot!(lines.join("\n"));
    let event = synthetic(&format!("{{{head},{}}}", cases[3]));
    insta::assert_snapshot!(EventJson::of(&event).to_text());
}

#[test]
fn fields_at_the_top_or_in_details_under_any_of_their_names_mean_the_same() {
    for text in [
        r#"{"event_type":"file_modified","timestamp":"2026-11-23T05:50:50Z","details":{"resource":"/etc/passwd","ip_address":"10.0.0.7"}}"#,
        r#"{"event_type":"file_modified","timestamp":"2026-11-23T05:50:50+00:00","resource":"/etc/passwd","details":{"client_ip":"10.0.0.7"}}"#,
        r#"{"event_type":"file_modification","timestamp":"2026-11-23T05:50:50+00:00Z","file_path":"/etc/passwd","client_ip":"10.0.0.7"}"#,
        r#"{"event_type":"file_modified","timestamp":"2026-11-23T06:50:50+01:00","details":{"file_path":"/etc/passwd","source_ip":"10.0.0.7","resource":null}}"#,
    ] {
        let event = synthetic(text);
        let meaning = event.meaning();
        assert_eq!(event.time, "2026-11-23T05:50:50Z".parse().unwrap(), "{text}");
        assert_eq!(meaning.event_type, EventType::FileModified, "{text}");
        assert_eq!(meaning.file.as_ref().unwrap().path.as_deref(), Some("/etc/passwd"), "{text}");
        assert_eq!(meaning.source.as_ref().unwrap().ip.as_deref(), Some("10.0.0.7"), "{text}");
    }
}

#[test]
fn mistyped_and_unknown_fields_cost_only_themselves() {
    let event = synthetic(
        r#"{"event_type":"door_opened","timestamp":"2026-11-23T05:50:50Z","user_id":42,"severity":["x"],"details":"text","extra":{"deep":[1]}}"#,
    );
    let meaning = event.meaning();
    assert_eq!((meaning.event_type, meaning.severity), (EventType::Other, Severity::Info));
    assert_eq!(meaning.action, "door_opened");
    assert_eq!(meaning.user_id.as_deref(), Some("42"));
    assert_eq!(json(&event)["details"], "text");
}

#[test]
fn an_event_without_type_or_time_is_refused() {
    let made = |text| Event::synthetic(NODE, [1; 16], 5, text);
    assert!(matches!(
        made(r#"{"timestamp":"2026-11-23T05:50:50Z"}"#),
        Err(OriginError::MissingField("event_type"))
    ));
    assert!(matches!(made(r#"{"event_type":"user_login"}"#), Err(OriginError::MissingField("timestamp"))));
    assert!(matches!(
        made(r#"{"event_type":"user_login","timestamp":"yesterday"}"#),
        Err(OriginError::BadTime { field: "timestamp", .. })
    ));
}

#[test]
fn a_kubernetes_request_says_who_asked_for_what_and_was_told() {
    let line = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"18e6","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/shop/pods/web/exec","verb":"create","user":{"username":"alice","groups":["devs"]},"impersonatedUser":{"username":"system:admin"},"sourceIPs":["10.0.0.7","127.0.0.1"],"objectRef":{"resource":"pods","namespace":"shop","name":"web","apiVersion":"v1","subresource":"exec"},"responseStatus":{"metadata":{},"status":"Failure","reason":"Forbidden","code":403},"requestReceivedTimestamp":"2026-11-23T05:54:06.317669Z","stageTimestamp":"2026-11-23T05:54:06.324412Z"}"#;
    let event = Event::kubernetes(NODE, line).unwrap();
    assert_eq!(event.time.to_string(), "2026-11-23T05:54:06.324412Z");
    let meaning = event.meaning();
    assert_eq!(meaning.outcome, Some(Outcome::Failure));
    assert_eq!(meaning.user.effective.name.as_deref(), Some("system:admin"));
    insta::assert_snapshot!(summary(&meaning), @"kubernetes_api [api] [creation] create WARNING result=FAILURE user=alice resource=shop/pods/web/exec from=10.0.0.7");
    let json = json(&event);
    assert_eq!(json["kubernetes_audit"], serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert_eq!(json["kubernetes"], serde_json::json!({"pod": {"name": "web"}, "namespace": "shop"}));
}

#[test]
fn a_kubernetes_record_without_identity_or_time_is_refused() {
    let made = |text| Event::kubernetes(NODE, text);
    assert!(matches!(made(r#"{"stage":"Panic"}"#), Err(OriginError::MissingField("auditID"))));
    assert!(matches!(made(r#"{"auditID":"a"}"#), Err(OriginError::MissingField("stage"))));
    assert!(matches!(
        made(r#"{"auditID":"a","stage":"Panic"}"#),
        Err(OriginError::MissingField("stageTimestamp"))
    ));
    assert!(matches!(made(r#"{"auditID":7,"stage":"Panic"}"#), Err(OriginError::NotJson(_))));
}

#[test]
fn stages_of_one_request_are_events_of_their_own() {
    let line = |stage: &str| {
        format!(
            r#"{{"auditID":"18e6","stage":"{stage}","verb":"get","stageTimestamp":"2026-11-23T05:54:06Z"}}"#
        )
    };
    let id = |stage: &str| Event::kubernetes(NODE, &line(stage)).unwrap().id;
    assert_eq!(id("Panic"), id("Panic"));
    assert_ne!(id("RequestReceived"), id("ResponseComplete"));
}

#[test]
fn what_the_agent_says_of_itself_is_urgent_and_readable() {
    let state = AgentState {
        source: "kernel_audit".into(),
        state: Condition::Degraded,
        at: Timestamp::from_millis(1_795_413_050_319),
        since: Timestamp::from_millis(1_795_413_000_000),
        reason: Some("multicast: losses cannot be counted by the kernel".into()),
        counts: vec![("serial_gap".into(), 12)],
    };
    let event = Event::state(NODE, [1; 16], 1, state.clone());
    assert_eq!(event.priority, Priority::High);
    insta::assert_snapshot!(EventJson::of(&event).to_text());
    let test = Event::state(NODE, [1; 16], 2, AgentState { state: Condition::TestAlert, ..state });
    assert_eq!((test.meaning().event_type, &*test.meaning().action), (EventType::AgentState, "test_alert"));
    assert_ne!(event.id, test.id);
}
