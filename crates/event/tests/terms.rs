//! What events can be found by.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod kit;

use auditflow_event::{AgentState, Condition, Event, Timestamp};
use kit::event;

fn terms(event: &Event) -> Vec<String> {
    let mut terms = Vec::new();
    event.meaning().visit_terms(event, &mut |field, value| terms.push(format!("{field}:{value}")));
    terms
}

#[test]
fn an_execution_is_found_by_who_ran_what_with_which_words() {
    let event = event(&[
        "SYSCALL arch=c000003e syscall=59 success=yes exit=0 items=1 ppid=10 pid=11 auid=1000 uid=0 tty=pts0 ses=2 \
         comm=\"curl\" exe=\"/usr/bin/curl\" key=\"exec\"\u{1d}AUID=\"alice\" UID=\"root\"",
        "EXECVE argc=2 a0=\"curl\" a1=\"http://10.0.0.7/x\"",
        "PATH item=0 name=\"/usr/bin/curl\" ouid=0 nametype=NORMAL",
    ]);
    insta::assert_snapshot!(terms(&event).join("\n"));
}

#[test]
fn an_event_in_the_ancestors_shape_is_found_by_every_plain_detail() {
    let text = r#"{"event_type":"file_modified","timestamp":"2026-11-23T05:50:50Z","user_id":"bob",
        "details":{"resource":"/etc/passwd","size_change_bytes":-3,"deep":{"no":1},"new_checksum":"ab12"}}"#;
    let event = Event::synthetic(None, [1; 16], 5, text).unwrap();
    let terms = terms(&event);
    for term in [
        "details.resource:/etc/passwd",
        "details.size_change_bytes:-3",
        "details.new_checksum:ab12",
        "user.name:bob",
    ] {
        assert!(terms.iter().any(|found| found == term), "{term} in {terms:?}");
    }
    assert!(!terms.iter().any(|term| term.starts_with("details.deep")), "{terms:?}");
}

#[test]
fn what_the_agent_says_is_found_by_source_and_state() {
    let state = AgentState {
        source: "kernel_audit".into(),
        state: Condition::NotRunning,
        at: Timestamp::EPOCH,
        since: Timestamp::EPOCH,
        reason: None,
        counts: Vec::new(),
    };
    let terms = terms(&Event::state(None, [1; 16], 5, state));
    assert!(terms.contains(&"details.source:kernel_audit".to_owned()), "{terms:?}");
    assert!(terms.contains(&"details.state:not_running".to_owned()), "{terms:?}");
}
