//! Cost of judging an event with SigmaHQ's rules for Linux and Kubernetes, on the kernel corpus.
//!
//! `cargo bench -p auditflow-rules`. Without the corpora beside the workspace it measures nothing, and says so.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use auditflow_audit_record::{Assembler, Limits as AssemblyLimits, Record};
use auditflow_event::Event;
use auditflow_rules::{Limits, RuleSet};
use divan::Bencher;
use divan::counter::ItemsCount;

/// Every so many-th event of the corpus.
const EVERY: usize = 9;

static EVENTS: LazyLock<Option<Vec<Event>>> = LazyLock::new(|| {
    let file = std::fs::File::open(corpus("kernel-audit.log.zst")?).ok()?;
    let log = zstd::decode_all(file).ok()?;
    let mut assembler = Assembler::new(AssemblyLimits::default());
    let mut events = Vec::new();
    for line in log.split(|byte| *byte == b'\n') {
        if let Ok(record) = Record::from_line(line) {
            assembler.push(record, Duration::ZERO);
            events.extend(std::iter::from_fn(|| assembler.pop()).map(|event| Event::audit(None, event)));
        }
    }
    Some(events.into_iter().step_by(EVERY).collect())
});

static RULES: LazyLock<Option<RuleSet>> =
    LazyLock::new(|| RuleSet::load(&[corpus("sigma/rules")?], &Limits::default()).ok());

fn main() {
    if EVENTS.is_none() || RULES.is_none() {
        eprintln!("SKIPPED: the corpora are not beside the workspace");
        return;
    }
    divan::main();
}

#[divan::bench]
fn detect(bencher: Bencher<'_, '_>) {
    let (Some(events), Some(rules)) = (EVENTS.as_ref(), RULES.as_ref()) else { return };
    bencher.counter(ItemsCount::new(events.len())).bench_local(|| {
        let mut found = Vec::new();
        for event in events {
            rules.detect(event, None, &mut found);
        }
        found.len()
    });
}

#[divan::bench]
fn meaning_alone(bencher: Bencher<'_, '_>) {
    let Some(events) = EVENTS.as_ref() else { return };
    bencher
        .counter(ItemsCount::new(events.len()))
        .bench_local(|| events.iter().filter(|event| event.meaning().file.is_some()).count());
}

/// What the rules cost where the event's meaning is known already.
#[divan::bench]
fn detect_with_meaning(bencher: Bencher<'_, '_>) {
    let (Some(events), Some(rules)) = (EVENTS.as_ref(), RULES.as_ref()) else { return };
    let meant: Vec<_> = events.iter().map(|event| (event, event.meaning())).collect();
    bencher.counter(ItemsCount::new(events.len())).bench_local(|| {
        let mut found = Vec::new();
        for (event, meaning) in &meant {
            rules.detect_with(event, meaning, None, &mut found);
        }
        found.len()
    });
}

#[divan::bench]
fn load(bencher: Bencher<'_, '_>) {
    let Some(dir) = corpus("sigma/rules") else { return };
    bencher.bench_local(|| RuleSet::load(std::slice::from_ref(&dir), &Limits::default()));
}

fn corpus(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus").join(name);
    path.exists().then_some(path)
}
