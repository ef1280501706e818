//! What the tests and the bench share: events from lines of text, and the corpora.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "only tests and the bench are built from this")]

use std::path::PathBuf;
use std::time::Duration;

use auditflow_audit_record::{Assembler, AuditEvent, Completion, Limits, Record};
use auditflow_event::{Event, Meaning};

/// One event of these lines, each `TYPE BODY`; all get the same stamp.
pub fn audit(lines: &[&str]) -> AuditEvent {
    let records: Vec<Record> = lines
        .iter()
        .map(|line| {
            let (kind, body) = line.split_once(' ').unwrap();
            let line = format!("type={kind} msg=audit(1795413050.319:3198): {body}");
            Record::from_line(line.as_bytes()).unwrap()
        })
        .collect();
    of_records(records)
}

pub fn of_records(records: Vec<Record>) -> AuditEvent {
    let stamp = records[0].stamp;
    AuditEvent { stamp, node: records[0].node.clone(), records, completion: Completion::Single }
}

pub fn event(lines: &[&str]) -> Event {
    Event::audit(None, audit(lines))
}

/// The event's JSON, which must be JSON.
pub fn json(event: &Event) -> serde_json::Value {
    let text = auditflow_event::EventJson::of(event).to_text();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Type, category, kind, action, severity, outcome and what else a reviewer looks at, in one line.
pub fn summary(meaning: &Meaning<'_>) -> String {
    let mut line = format!(
        "{} [{}] [{}] {} {}",
        meaning.event_type.as_str(),
        meaning.category.join(","),
        meaning.kind.join(","),
        meaning.action,
        meaning.severity.as_str(),
    );
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            line.extend([" ", name, "=", value]);
        }
    };
    add("result", meaning.action_result.as_deref());
    add("user", meaning.user_id.as_deref());
    add("target", meaning.user.target.name.as_deref());
    add("resource", meaning.resource.as_deref());
    add("from", meaning.source.as_ref().and_then(|end| end.ip.as_deref().or(end.path.as_deref())));
    add("to", meaning.destination.as_ref().and_then(|end| end.ip.as_deref().or(end.path.as_deref())));
    add("command", meaning.command.as_deref());
    line
}

/// A file of the corpora that the project is measured with; says so if it is not there.
pub fn corpus(name: &str) -> Option<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus").join(name);
    let bytes = std::fs::read(&path);
    if bytes.is_err() {
        eprintln!("SKIPPED: no corpus at {}", path.display());
    }
    let bytes = bytes.ok()?;
    Some(if path.extension().is_some_and(|extension| extension == "zst") {
        zstd::decode_all(&bytes[..]).unwrap()
    } else {
        bytes
    })
}

/// The events of audit log text.
pub fn assemble(log: &[u8]) -> Vec<AuditEvent> {
    let mut assembler = Assembler::new(Limits::default());
    let mut events = Vec::new();
    for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        assembler.push(Record::from_line(line).unwrap(), Duration::ZERO);
        events.extend(std::iter::from_fn(|| assembler.pop()));
    }
    assembler.flush();
    events.extend(std::iter::from_fn(|| assembler.pop()));
    events
}
