//! The corpora: every event has a meaning and JSON; the first event of each kind is looked at closely.

mod kit;

use std::collections::BTreeMap;

use auditflow_event::{Event, EventJson, EventType};
use kit::{assemble, corpus, json, summary};

#[test]
fn the_first_kernel_event_of_each_kind_reads_as_it_did() {
    let Some(log) = corpus("kernel-audit.log.zst") else { return };
    // Every kind is in the first tenth; all of it would take a debug build a while.
    let log = &log[..=log[..10_000_000].iter().rposition(|byte| *byte == b'\n').unwrap()];
    let mut firsts: BTreeMap<String, (usize, String, String)> = BTreeMap::new();
    for records in assemble(log) {
        let event = Event::audit(None, records);
        let meaning = event.meaning();
        let call = meaning.syscall.as_ref().and_then(|call| call.name.as_deref()).unwrap_or("-");
        let kind = format!("{} {call} {}", meaning.event_type.as_str(), meaning.action);
        let first =
            firsts.entry(kind).or_insert_with(|| (0, summary(&meaning), EventJson::of(&event).to_text()));
        first.0 += 1;
    }
    let table: Vec<String> =
        firsts.values().map(|(count, summary, _)| format!("{count} × {summary}")).collect();
    insta::assert_snapshot!("kernel_kinds", table.join("\n"));
    let texts: Vec<&str> = firsts.values().map(|(_, _, json)| json.as_str()).collect();
    insta::assert_snapshot!("kernel_firsts", texts.join("\n"));
}

#[test]
fn every_kubernetes_record_of_the_corpus_is_understood() {
    let Some(lines) = corpus("kubernetes-audit.jsonl") else { return };
    let lines = String::from_utf8(lines).unwrap();
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines.lines() {
        let event = Event::kubernetes(None, line).unwrap();
        let meaning = event.meaning();
        assert_eq!(meaning.event_type, EventType::KubernetesApi);
        let known = meaning.user_id.is_some() || line.contains("Unauthorized");
        assert!(known && meaning.outcome.is_some(), "{line}");
        assert_eq!(
            json(&event)["kubernetes_audit"],
            serde_json::from_str::<serde_json::Value>(line).unwrap()
        );
        let kind = format!("{} {}", meaning.action, meaning.action_result.as_deref().unwrap_or("-"));
        *kinds.entry(kind).or_default() += 1;
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} × {kind}")).collect();
    insta::assert_snapshot!(kinds.join("\n"));
}
