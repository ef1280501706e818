//! The recorded log of a real kernel, whole: every record is read, every event is put together, and what we make of
//! numbers is what `auditd` made of them on the machine where they were recorded (its enrichment).
#![allow(clippy::unwrap_used, clippy::panic)] // a test fails by panicking, also outside the test function itself

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

use auditflow_audit_record::{
    Assembler, AuditEvent, Completion, Limits, MAX_LINE, Reader, Record, RecordType, SockAddr, arch, syscalls,
};

/// Counted with other means (grep, Python).
const RECORDS: usize = 372_803;
const EVENTS: usize = 90_309;

fn records() -> Option<impl Iterator<Item = Record>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/kernel-audit.log.zst");
    let Ok(file) = File::open(&path) else {
        eprintln!("SKIPPED: {} is not there", path.display());
        return None;
    };
    let mut reader = Reader::new(BufReader::new(zstd::Decoder::new(file).unwrap()), MAX_LINE);
    Some(std::iter::from_fn(move || reader.next_record().unwrap().map(Result::unwrap)))
}

/// The time of a log is the time in its records.
fn time_of(record: &Record) -> Duration {
    Duration::from_millis(record.stamp.millis)
}

#[test]
fn every_record_is_read_and_every_event_is_whole() {
    let Some(records) = records() else { return };
    let mut assembler = Assembler::new(Limits::default());
    let mut kinds: HashMap<RecordType, usize> = HashMap::new();
    let mut events = Vec::with_capacity(EVENTS);
    let mut most_pending = 0;
    let mut count = 0;
    for record in records {
        count += 1;
        *kinds.entry(record.kind).or_default() += 1;
        let now = time_of(&record);
        assembler.push(record, now);
        most_pending = most_pending.max(assembler.counters().pending_events);
        while let Some(event) = assembler.pop() {
            check_event(&event);
            events.push(event.stamp);
        }
    }
    assert_eq!(count, RECORDS);
    assert_eq!(events.len(), EVENTS);
    let counters = assembler.counters();
    assert_eq!(
        (counters.duplicates, counters.late_records, counters.timed_out, counters.evicted),
        (0, 0, 0, 0)
    );
    assert_eq!((counters.pending_events, counters.pending_bytes), (0, 0));
    assert!(most_pending > 1, "some events of the log are interleaved");
    events.sort_unstable();
    events.dedup();
    assert_eq!(events.len(), EVENTS, "every event is given out once");
    let expected = [
        (RecordType::SYSCALL, 90_309),
        (RecordType::PROCTITLE, 90_309),
        (RecordType::PATH, 94_586),
        (RecordType::CWD, 83_302),
        (RecordType::EXECVE, 8_284),
        (RecordType::SOCKADDR, 5_757),
        (RecordType::OBJ_PID, 250),
        (RecordType::CONFIG_CHANGE, 6),
    ];
    assert_eq!(kinds, HashMap::from(expected));
}

fn check_event(event: &AuditEvent) {
    assert_eq!(event.completion, Completion::Proctitle, "{}", event.stamp);
    assert!(event.records.iter().all(|record| record.stamp == event.stamp), "{}", event.stamp);
    assert_eq!(event.records.last().unwrap().kind, RecordType::PROCTITLE);
    let items = event.record(RecordType::SYSCALL).unwrap().field("items").unwrap().as_u64();
    assert_eq!(items, Some(event.paths().count() as u64), "{}", event.stamp);
    assert!(event.title().is_some(), "{}", event.stamp);
    if let Some(args) = event.args() {
        assert!(args.is_complete(), "{}", event.stamp);
    }
}

#[test]
fn fields_are_the_words_of_the_text() {
    // In this log no value contains a space, so splitting at spaces finds the same by other means.
    let Some(records) = records() else { return };
    for record in records {
        let text = std::str::from_utf8(record.text()).unwrap();
        let words = text.split(' ').filter_map(|word| word.split_once('='));
        let mut fields = record.fields();
        for (name, value) in words {
            let field = fields.next().unwrap();
            assert_eq!((field.name, field.value.raw()), (name, value.trim_matches('"').as_bytes()), "{text}");
        }
        assert_eq!(fields.next(), None, "{text}");
    }
}

#[test]
fn what_numbers_mean_is_what_auditd_made_of_them() {
    let Some(records) = records() else { return };
    let mut checked: BTreeMap<String, usize> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for record in records {
        for field in record.enriched() {
            check_enrichment(&record, field.name, &field.value.text(), &mut names);
            *checked.entry(field.name.to_owned()).or_default() += 1;
        }
    }
    assert_eq!(checked["SYSCALL"], 90_309);
    assert_eq!(checked["ARCH"], 90_309);
    assert_eq!(checked["SADDR"], 5_757);
    assert_eq!(checked["OUID"], checked["OGID"] + checked["OAUID"], "a process has no owning group");
}

fn check_enrichment(record: &Record, name: &str, expected: &str, names: &mut BTreeMap<(bool, u32), String>) {
    let number = |name: &str| record.field(name).unwrap();
    let arch_number = || u32::try_from(number("arch").as_hex_u64().unwrap()).unwrap();
    match name {
        "ARCH" => assert_eq!(arch::name(arch_number()), Some(expected)),
        "SYSCALL" => {
            let call = u32::try_from(number("syscall").as_u64().unwrap()).unwrap();
            assert_eq!(syscalls::name(arch_number(), call), Some(expected));
        }
        "SADDR" => {
            let address = SockAddr::from_hex(number("saddr").raw()).unwrap();
            assert_eq!(as_auditd_writes(&address), expected);
        }
        _ => match number(&name.to_lowercase()).as_id() {
            None => assert_eq!(expected, "unset"),
            // Names are the machine's, which is not here; but one id has one name throughout the log.
            Some(id) => {
                let known = names.entry((name.ends_with("GID"), id)).or_insert_with(|| expected.to_owned());
                assert_eq!(known, expected);
            }
        },
    }
}

fn as_auditd_writes(address: &SockAddr) -> String {
    let family = address.family().unwrap();
    match address {
        SockAddr::Inet { ip, port } => format!("saddr_fam={family} laddr={ip} lport={port}"),
        SockAddr::Inet6 { ip, port, .. } => format!("saddr_fam={family} laddr={ip} lport={port}"),
        SockAddr::Unix(_) | SockAddr::UnixAbstract(_) => {
            format!("saddr_fam={family} path={}", address.to_string().replacen('@', "", 1))
        }
        SockAddr::Netlink { pid, .. } => format!("saddr_fam={family} nlnk-fam=16 nlnk-pid={pid}"),
        other => panic!("not in this log: {other:?}"),
    }
}

#[test]
fn the_first_event_of_each_kind_reads_as_shown() {
    let Some(records) = records() else { return };
    let mut assembler = Assembler::new(Limits::default());
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    for record in records {
        let now = time_of(&record);
        assembler.push(record, now);
        while let Some(event) = assembler.pop() {
            let kinds: Vec<_> = event.records.iter().map(|record| record.kind.to_string()).collect();
            shown.entry(kinds.join(" ")).or_insert_with(|| show(&event));
        }
    }
    insta::assert_snapshot!(shown.into_values().collect::<Vec<_>>().join("\n"));
}

fn show(event: &AuditEvent) -> String {
    let mut text = format!("{} {:?}\n", event.stamp, event.completion);
    for record in &event.records {
        let fields: Vec<_> =
            record.fields().map(|field| format!("{}={:?}", field.name, field.value.text())).collect();
        writeln!(text, "  {} {}", record.kind, fields.join(" ")).unwrap();
    }
    writeln!(text, "  args {:?}", event.args().map(|args| args.command_line())).unwrap();
    writeln!(text, "  title {:?} cwd {:?} keys {:?}", event.title(), event.cwd(), event.keys()).unwrap();
    writeln!(text, "  socket {:?}", event.socket().map(|address| address.to_string())).unwrap();
    for path in event.paths() {
        writeln!(text, "  path {:?} {:?} {:?} {:?}", path.item, path.nametype, path.name, path.mode).unwrap();
    }
    text
}
