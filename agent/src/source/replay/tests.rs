use std::collections::BTreeMap;

use auditflow_audit_record::{Assembler, Limits};
use proptest::prelude::*;

use super::*;

/// A line, and the stream positions that it spans.
type Placed = (Record, u64, u64);

fn place(lines: &[String]) -> Vec<Placed> {
    let mut at = 0;
    lines
        .iter()
        .map(|line| {
            let start = at;
            at += line.len() as u64 + 1;
            (Record::from_line(line.as_bytes()).unwrap(), start, at)
        })
        .collect()
}

/// One life of the reader: reads up to `lines_per_commit.sum()` lines from the checkpoint, and commits after each
/// count. Returns what was committed; the last uncommitted part is lost with the kill.
fn live(
    log: &[Placed],
    from: &Checkpoint,
    lines_per_commit: &[usize],
) -> (Checkpoint, Vec<AuditEvent>, bool) {
    let limits = Limits::default();
    let mut replay = Replay::new(from, limits.timeout);
    let mut assembler = Assembler::new(limits);
    let mut rest = log.iter().filter(|(_, start, _)| *start >= from.position);
    let (mut durable, mut committed) = (from.clone(), Vec::new());
    let mut read_to = from.position;
    for count in lines_per_commit {
        let mut completed = Vec::new();
        for (record, start, end) in rest.by_ref().take(*count) {
            if replay.admit(record, *start, *end, Duration::ZERO) {
                assembler.push(record.clone(), Duration::ZERO);
            }
            read_to = *end;
            while let Some(event) = assembler.pop() {
                replay.completed(&event);
                completed.push(event);
            }
        }
        durable = replay.checkpoint(read_to, Duration::ZERO);
        committed.append(&mut completed);
    }
    let finished = rest.next().is_none();
    if finished {
        assembler.flush();
        committed.extend(std::iter::from_fn(|| assembler.pop()));
    }
    (durable, committed, finished)
}

/// Events of two to five records, in order within each, shuffled among each other within a window, the last one
/// being the PROCTITLE that completes it; now and then a record that comes after it.
fn log() -> impl Strategy<Value = Vec<String>> {
    let event = (2_usize..6, any::<bool>(), 0_usize..12);
    prop::collection::vec(event, 1..30).prop_map(|events| {
        let mut keyed: Vec<(usize, String)> = Vec::new();
        for (serial, (records, late, spread)) in events.iter().enumerate() {
            let head = format!("msg=audit(1700000000.{:03}:{serial}):", serial % 1000);
            for index in 0..*records {
                let kind = if index + 1 == *records {
                    "PROCTITLE"
                } else if index == 0 {
                    "SYSCALL"
                } else {
                    "PATH"
                };
                keyed.push((
                    serial * 4 + index * spread,
                    format!("type={kind} {head} item={index} n={serial}"),
                ));
            }
            if *late {
                keyed.push((
                    serial * 4 + records * spread + 30,
                    format!("type=PATH {head} item=99 n={serial}"),
                ));
            }
        }
        keyed.sort_by_key(|(at, _)| *at);
        keyed.into_iter().map(|(_, line)| line).collect()
    })
}

fn records_of(events: &[AuditEvent]) -> BTreeMap<Vec<u8>, usize> {
    let mut seen = BTreeMap::new();
    for record in events.iter().flat_map(|event| &event.records) {
        *seen.entry(record.body.to_vec()).or_insert(0) += 1;
    }
    seen
}

proptest! {
    #[test]
    fn every_record_is_committed_exactly_once_whatever_the_moments_of_the_kills(
        lines in log(),
        lives in prop::collection::vec(prop::collection::vec(0_usize..9, 0..6), 0..12),
    ) {
        let log = place(&lines);
        let mut checkpoint = Checkpoint { position: 0, committed: Vec::new() };
        let mut committed = Vec::new();
        for life in &lives {
            let (next, mut events, finished) = live(&log, &checkpoint, life);
            prop_assume!(!finished);
            checkpoint = next;
            committed.append(&mut events);
        }
        let (_, mut rest, finished) = live(&log, &checkpoint, &[log.len()]);
        committed.append(&mut rest);
        prop_assert!(finished);
        let seen = records_of(&committed);
        prop_assert!(seen.values().all(|count| *count == 1), "committed twice: {seen:?}");
        let (_, undisturbed, _) = live(&log, &Checkpoint { position: 0, committed: Vec::new() }, &[log.len()]);
        prop_assert_eq!(seen, records_of(&undisturbed));
    }
}

#[test]
fn a_committed_event_within_an_open_one_is_passed_over() {
    let log = place(&[
        "type=SYSCALL msg=audit(1.000:1): a".into(),
        "type=SYSCALL msg=audit(1.000:2): b".into(),
        "type=PROCTITLE msg=audit(1.000:2): c".into(),
        "type=PROCTITLE msg=audit(1.000:1): d".into(),
    ]);
    let start = Checkpoint { position: 0, committed: Vec::new() };
    let (checkpoint, events, _) = live(&log, &start, &[3]);
    assert_eq!((events.len(), checkpoint.position, checkpoint.committed.len()), (1, 0, 1));
    let (_, again, _) = live(&log, &checkpoint, &[4]);
    let serials: Vec<u32> = again.iter().map(|event| event.stamp.serial).collect();
    assert_eq!(serials, [1]);
}

#[test]
fn a_record_that_never_comes_out_holds_the_position_for_a_while_only() {
    let checkpoint = Checkpoint { position: 0, committed: Vec::new() };
    let timeout = Duration::from_secs(2);
    let mut replay = Replay::new(&checkpoint, timeout);
    let record = Record::from_line(b"type=SYSCALL msg=audit(1.000:1): a").unwrap();
    assert!(replay.admit(&record, 0, 10, Duration::ZERO));
    assert_eq!(replay.checkpoint(50, timeout).position, 0);
    assert_eq!(replay.checkpoint(50, timeout * 3).position, 50);
}

#[test]
fn log_time_advances_with_what_is_longer_the_wait_or_the_stamps() {
    let mut clock = LogClock::default();
    clock.saw(1_000_000);
    assert_eq!(clock.waited(Duration::ZERO), Duration::ZERO);
    clock.saw(1_005_000);
    clock.saw(1_004_000);
    assert_eq!(clock.waited(Duration::from_secs(1)), Duration::from_secs(5));
    assert_eq!(clock.waited(Duration::from_secs(2)), Duration::from_secs(7));
}

#[test]
fn a_clock_that_was_set_back_does_not_stop_log_time() {
    let mut clock = LogClock::default();
    clock.saw(10_000_000);
    clock.saw(1_000_000);
    clock.saw(1_002_000);
    assert_eq!(clock.waited(Duration::ZERO), Duration::from_secs(2));
}
