//! What an event costs: parsing its records alone, then id, meaning and JSON, over the kernel audit corpus, or over
//! one small event repeated where the corpus is absent. The counter shows events per second.

#[path = "../tests/kit/mod.rs"]
mod kit;

use std::sync::LazyLock;

use auditflow_audit_record::{AuditEvent, Record};
use auditflow_event::{Event, EventId, EventJson, JsonWriter};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};

/// Few enough to stay in the second-level cache: in the programs an event's bytes were parsed a moment before.
const EVENTS: usize = 256;

static RECORDS: LazyLock<Vec<AuditEvent>> = LazyLock::new(|| {
    let events = kit::corpus("kernel-audit.log.zst").map(|log| kit::assemble(&log));
    let small = || vec![kit::audit(&["CWD cwd=\"/\"", "PATH item=0 name=\"/x\" nametype=NORMAL"]); EVENTS];
    let events = events.unwrap_or_else(small);
    let step = events.len() / EVENTS;
    events.into_iter().step_by(step).take(EVENTS).collect()
});

static LINES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let line = |record: &Record| {
        [format!("type={} msg=audit({}): ", record.kind, record.stamp).as_bytes(), &record.body].concat()
    };
    RECORDS.iter().flat_map(|event| &event.records).map(line).collect()
});

static EVENTS_MADE: LazyLock<Vec<Event>> =
    LazyLock::new(|| RECORDS.iter().map(|records| Event::audit(None, records.clone())).collect());

fn main() {
    LazyLock::force(&EVENTS_MADE);
    LazyLock::force(&LINES);
    let bytes: usize = EVENTS_MADE.iter().map(|event| EventJson::of(event).to_text().len()).sum();
    println!("{} events, {} bytes of JSON each on average", EVENTS_MADE.len(), bytes / EVENTS_MADE.len());
    divan::main();
}

#[divan::bench]
fn parse_records(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(RECORDS.len())).bench(|| {
        for line in &*LINES {
            let _ = black_box(Record::from_line(line));
        }
    });
}

#[divan::bench]
fn walk_fields(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(RECORDS.len())).bench(|| {
        for event in &*RECORDS {
            for record in &event.records {
                for field in record.fields() {
                    black_box(field);
                }
            }
        }
    });
}

#[divan::bench]
fn id(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(RECORDS.len())).bench(|| {
        for records in &*RECORDS {
            black_box(EventId::audit(None, records));
        }
    });
}

#[divan::bench]
fn meaning(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(RECORDS.len())).bench(|| {
        for event in &*EVENTS_MADE {
            black_box(event.meaning());
        }
    });
}

#[divan::bench]
fn meaning_and_json(bencher: Bencher<'_, '_>) {
    let mut out = JsonWriter::default();
    bencher.counter(ItemsCount::new(RECORDS.len())).bench_local(|| {
        for event in &*EVENTS_MADE {
            out.clear();
            EventJson::of(event).write_to(&mut out);
            black_box(&out);
        }
    });
}

#[divan::bench]
fn terms(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(RECORDS.len())).bench(|| {
        for event in &*EVENTS_MADE {
            event.meaning().visit_terms(event, &mut |field, value| {
                black_box((field, value));
            });
        }
    });
}
