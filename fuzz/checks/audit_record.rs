//! What must hold for records and their assembly, whatever the bytes. Run by the fuzz targets, and by the crate's tests
//! over the checked-in corpus.

use std::time::Duration;

use auditflow_audit_record::{Assembler, AuditEvent, Completion, Limits, Record};

/// One line of an audit log.
pub(crate) fn record_line(data: &[u8]) {
    if let Ok(record) = Record::from_line(data) {
        check_record(&record);
    }
}

/// Two bytes of kind, then the payload of one netlink message.
pub(crate) fn record_netlink(data: &[u8]) {
    let Some((kind, payload)) = data.split_first_chunk::<2>() else { return };
    if let Ok(record) = Record::from_netlink(u16::from_le_bytes(*kind), payload) {
        check_record(&record);
    }
}

/// A log of several events, given to an assembler that may hold little: every record comes out once, nothing is held
/// beyond the bounds. A line's length is the time that passes before it.
pub(crate) fn assemble(data: &[u8]) {
    let limits = Limits {
        max_pending_bytes: 8_000,
        max_pending_events: 4,
        max_event_bytes: 4_000,
        remembered_events: 8,
        ..Limits::default()
    };
    let mut assembler = Assembler::new(limits);
    let mut now = Duration::ZERO;
    let mut given = 0;
    let mut ends = 0;
    for line in data.split(|&byte| byte == b'\n') {
        let Ok(record) = Record::from_line(line) else { continue };
        now += Duration::from_millis(line.len() as u64);
        ends += u64::from(record.kind.known_name() == Some("EOE"));
        assembler.push(record, now);
        given += drain(&mut assembler);
        let counters = assembler.counters();
        assert!(counters.pending_bytes <= limits.max_pending_bytes);
        assert!(counters.pending_events <= limits.max_pending_events);
    }
    assembler.flush();
    given += drain(&mut assembler);
    let counters = assembler.counters();
    assert_eq!(counters.records, given + counters.duplicates + ends);
    assert_eq!((counters.pending_events, counters.pending_bytes), (0, 0));
    assert_eq!(assembler.next_deadline(), None);
}

fn drain(assembler: &mut Assembler) -> u64 {
    let mut records = 0;
    while let Some(event) = assembler.pop() {
        check_event(&event);
        records += event.records.len() as u64;
    }
    records
}

fn check_record(record: &Record) {
    let (mut fields, mut at_once) = (record.fields(), Vec::new());
    record.fields().for_each(|field| at_once.push(field));
    let one_by_one: Vec<_> = std::iter::from_fn(|| fields.next()).collect();
    assert_eq!(at_once, one_by_one, "fields are the same however they are walked");
    for field in record.fields().chain(record.enriched()) {
        assert!(!field.name.is_empty());
        let value = field.value;
        assert_eq!(value.known().is_none(), value.is_null());
        assert!(value.bytes().len() <= value.raw().len());
        let _ = (value.text(), value.keys(), value.as_i64(), value.as_hex_u64(), value.as_octal_u32());
        assert!(value.as_id().is_none_or(|id| u64::from(id) == value.as_u64().unwrap_or(u64::MAX)));
    }
    assert!(record.message().is_none_or(|message| message.len() <= record.body.len()));
    let written = match &record.node {
        Some(node) => [b"node=", node.as_bytes(), b" "].concat(),
        None => Vec::new(),
    };
    let head = format!("type={} msg=audit({}): ", record.kind, record.stamp);
    let line = [&written, head.as_bytes(), &record.body, b"\n"].concat();
    assert_eq!(Record::from_line(&line).as_ref(), Ok(record), "a record reads back as it was");
    let event = AuditEvent {
        stamp: record.stamp,
        node: record.node.clone(),
        records: vec![record.clone()],
        completion: Completion::Single,
    };
    check_event(&event);
}

fn check_event(event: &AuditEvent) {
    assert!(!event.records.is_empty());
    assert!(event.records.iter().all(|record| record.stamp == event.stamp && record.node == event.node));
    if let Some(args) = event.args() {
        assert_eq!(args.iter().count(), args.len());
        assert!(args.len() <= event.records.iter().map(|record| record.body.len()).sum());
        let _ = (args.command_line(), args.is_complete());
    }
    assert!(event.title().is_none_or(|title| !title.is_empty()));
    let _ =
        (event.socket().map(|address| address.to_string()), event.cwd(), event.keys(), event.paths().count());
}
