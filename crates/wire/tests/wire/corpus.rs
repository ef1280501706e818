//! Events from the corpora beside the checkout, in two halves: one to train on, one to measure.

#![allow(clippy::expect_used, reason = "part of tests and examples, which fail by panicking")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use auditflow_audit_record::{Assembler, Limits, Record};
use auditflow_event::{Event, NodeId};

/// The node that all events are taken to be of.
pub(crate) const NODE: NodeId = NodeId::from_bytes([0x5A; 16]);

/// Which half.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    First,
    Second,
}

impl Half {
    fn of<T>(self, all: &[T]) -> &[T] {
        let (first, second) = all.split_at(all.len() / 2);
        if self == Self::First { first } else { second }
    }
}

/// The kernel audit events of one half; `None` where the corpus is not there.
pub(crate) fn kernel(half: Half) -> Option<Vec<Event>> {
    let log = std::fs::read(folder().join("kernel-audit.log.zst")).ok()?;
    let log = zstd::stream::decode_all(&log[..]).expect("the corpus is a zstd file");
    let lines: Vec<&[u8]> = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let mut assembler = Assembler::new(Limits::default());
    let mut events = Vec::new();
    for line in half.of(&lines) {
        let record = Record::from_line(line).expect("the corpus holds records");
        let now = Duration::from_millis(record.stamp.millis);
        assembler.push(record, now);
        assembler.advance(now);
        events.extend(std::iter::from_fn(|| assembler.pop()));
    }
    assembler.flush();
    events.extend(std::iter::from_fn(|| assembler.pop()));
    Some(events.into_iter().map(|event| Event::audit(Some(NODE), event)).collect())
}

/// The same events as the kernel sends them, without what auditd appends after byte 0x1D.
pub(crate) fn as_from_the_kernel(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        if let auditflow_event::Origin::Audit(audit) = &mut event.origin {
            for record in &mut audit.records {
                record.body = record.text().into();
            }
        }
    }
    events
}

/// The Kubernetes audit events of one half.
pub(crate) fn kubernetes(half: Half) -> Option<Vec<Event>> {
    let log = std::fs::read_to_string(folder().join("kubernetes-audit.jsonl")).ok()?;
    let lines: Vec<&str> = log.lines().collect();
    let event = |line: &&str| Event::kubernetes(Some(NODE), line).expect("the corpus holds audit events");
    Some(half.of(&lines).iter().map(event).collect())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus")
}
