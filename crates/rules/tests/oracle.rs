//! The typed views match exactly what rsigma matches on JSON made by independent code.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends by panicking")]

mod kit;

use std::collections::BTreeMap;
use std::time::Duration;

use auditflow_audit_record::{Assembler, Limits as AssemblyLimits, Record};
use auditflow_event::{Ancestor, Context, Event, Origin};
use auditflow_rules::{Limits, RuleSet};
use kit::decode;
use kit::generate::{self, Made};
use kit::oracle::Oracle;

fn rules() -> Option<(RuleSet, Oracle)> {
    let dir = kit::sigma_rules()?;
    let set = RuleSet::load(std::slice::from_ref(&dir), &Limits::default())
        .unwrap_or_else(|error| panic!("{error}"));
    Some((set, Oracle::load(&dir)))
}

/// The events of a log, by stamp.
fn events(log: &[u8]) -> Vec<(String, Event)> {
    let mut assembler = Assembler::new(AssemblyLimits::default());
    let mut events = Vec::new();
    let mut take = |assembler: &mut Assembler| {
        while let Some(event) = assembler.pop() {
            events.push((event.stamp.to_string(), Event::audit(None, event)));
        }
    };
    for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        assembler.push(Record::from_line(line).unwrap(), Duration::ZERO);
        take(&mut assembler);
    }
    assembler.flush();
    take(&mut assembler);
    events
}

fn fired(set: &RuleSet, event: &Event) -> Vec<String> {
    let mut found = Vec::new();
    set.detect(event, None, &mut found);
    let mut fired: Vec<String> = found.iter().map(|detection| detection.id().to_string()).collect();
    fired.sort();
    fired
}

fn counts(set: &RuleSet, fired: impl Iterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for id in fired {
        *counts.entry(set.rule(&id.as_str().into()).unwrap().title.to_string()).or_default() += 1;
    }
    counts.iter().map(|(title, count)| format!("{count:6} {title}\n")).collect::<Vec<_>>().concat()
}

#[test]
fn kernel_corpus_fires_the_same_rules_as_the_oracle() {
    let (Some((set, oracle)), Some(log)) = (rules(), kit::kernel_log()) else { return };
    let text = String::from_utf8_lossy(&log);
    // The assembler gives events out as they complete, which is not the order of their first records.
    let expected: BTreeMap<String, decode::Lines> = decode::group(&text).into_iter().collect();
    let events = events(&log);
    assert_eq!(events.len(), expected.len());
    let mut all = Vec::new();
    for (stamp, event) in &events {
        let ours = fired(&set, event);
        let records = &expected[stamp];
        assert_eq!(ours, oracle.fired(&decode::views(records)), "{records:#?}");
        all.extend(ours);
    }
    insta::assert_snapshot!("kernel_corpus", counts(&set, all.into_iter()));
}

#[test]
fn kubernetes_corpus_fires_the_same_rules_as_the_oracle() {
    let (Some((set, oracle)), Some(log)) = (rules(), kit::kubernetes_log()) else { return };
    let mut all = Vec::new();
    for line in log.lines() {
        let ours = fired(&set, &Event::kubernetes(None, line).unwrap());
        assert_eq!(ours, oracle.fired(&[("kubernetes/audit", decode::kubernetes(line))]), "{line}");
        all.extend(ours);
    }
    insta::assert_snapshot!("kubernetes_corpus", counts(&set, all.into_iter()));
}

/// Alternatives tried per rule: enough to come by every branch of SigmaHQ's rules for Linux.
const CHOICES: usize = 24;

#[test]
fn every_rule_whose_fields_are_served_fires_on_an_event_made_from_its_selections() {
    let Some((set, oracle)) = rules() else { return };
    let mut all = Vec::new();
    for (source, rule) in &oracle.rules {
        for choice in 0..CHOICES {
            let (event, views) = match generate::event(source, rule, choice) {
                Some(Made::Audit(text)) => audit(&text),
                Some(Made::Kubernetes(line)) => {
                    let views = vec![("kubernetes/audit", decode::kubernetes(&line))];
                    (Event::kubernetes(None, &line).unwrap(), views)
                }
                None => continue,
            };
            let ours = fired(&set, &event);
            assert_eq!(ours, oracle.fired(&views), "{views:#?}");
            all.extend(ours);
        }
    }
    let never: Vec<&str> = set
        .rules()
        .iter()
        .filter(|rule| !all.contains(&rule.id.to_string()))
        .map(|rule| &*rule.title)
        .collect();
    insta::assert_snapshot!("made_events_never_fired", never.join("\n"));
    insta::assert_snapshot!("made_events", counts(&set, all.into_iter()));
}

/// One made event, and the JSON of the same text.
fn audit(text: &str) -> (Event, Vec<(&'static str, serde_json::Value)>) {
    let (_, mut event) = events(text.as_bytes()).pop().unwrap();
    let (_, records) = decode::group(text).pop().unwrap();
    let views = decode::views(&records);
    let parent = views.iter().find(|(source, _)| *source == "linux/process_creation").map(|(_, view)| view);
    let text = |name: &str| parent.and_then(|view| view[name].as_str()).map(Into::into);
    let ancestor = Ancestor {
        pid: 1,
        executable: text("ParentImage"),
        title: text("ParentCommandLine"),
        ..Ancestor::default()
    };
    assert!(matches!(event.origin, Origin::Audit(_)));
    event.context = Some(Box::new(Context { ancestors: vec![ancestor], ..Context::default() }));
    (event, views)
}
