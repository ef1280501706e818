//! How much of what a line costs anyway (finding its end) reading and assembling it costs on top.
//!
//! `cargo bench -p auditflow-audit-record`. Runs over the recorded log if it is there, else over a few records repeated.

use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use auditflow_audit_record::{Assembler, Limits, Line, Lines, MAX_LINE, Record};
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};

/// What stands in for the recorded log.
const SAMPLE: &str = "\
type=SYSCALL msg=audit(1795413051.831:SERIAL): arch=c000003e syscall=59 success=yes exit=0 a0=7ffc2bed60f0 a1=7ffc2bed6420 a2=5569a8a29820 a3=11b465041dc161f0 items=2 ppid=19470 pid=19505 auid=4294967295 uid=12345 gid=12345 euid=12345 suid=12345 fsuid=12345 egid=12345 sgid=12345 fsgid=12345 tty=(none) ses=4294967295 comm=\"bash\" exe=\"/usr/bin/bash\" key=\"exec\"
type=EXECVE msg=audit(1795413051.831:SERIAL): argc=3 a0=\"bash\" a1=\"/srv/job/work.sh\" a2=\"3000\"
type=CWD msg=audit(1795413051.831:SERIAL): cwd=\"/srv/job\"
type=PATH msg=audit(1795413051.831:SERIAL): item=0 name=\"/bin/bash\" inode=247003 dev=fe:00 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0
type=PATH msg=audit(1795413051.831:SERIAL): item=1 name=\"/lib64/ld-linux-x86-64.so.2\" inode=325843 dev=fe:00 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0
type=PROCTITLE msg=audit(1795413051.831:SERIAL): proctitle=62617368002F7372762F6A6F622F776F726B2E73680033303030
";

static LOG: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus/kernel-audit.log.zst");
    let mut log = Vec::new();
    let read = File::open(&path).and_then(zstd::Decoder::new).and_then(|mut text| text.read_to_end(&mut log));
    if let Err(error) = read {
        eprintln!("SKIPPED: {}: {error}; a sample stands in for it", path.display());
        log = (0..60_000)
            .flat_map(|serial| SAMPLE.replace("SERIAL", &serial.to_string()).into_bytes())
            .collect();
    }
    log
});

static COUNT: LazyLock<usize> = LazyLock::new(split);

fn each_line(mut handle: impl FnMut(&[u8])) -> usize {
    let mut lines = Lines::new(MAX_LINE);
    let mut chunk = LOG.as_slice();
    let mut count = 0;
    while let Some(Line::Whole(line)) = lines.next_line(&mut chunk) {
        handle(line);
        count += 1;
    }
    count
}

fn split() -> usize {
    each_line(|line| {
        black_box(line);
    })
}

fn parse() -> usize {
    each_line(|line| drop(black_box(Record::from_line(line))))
}

fn parse_and_walk_fields() -> usize {
    let mut fields = 0;
    each_line(|line| {
        if let Ok(record) = Record::from_line(line) {
            fields += record
                .fields()
                .inspect(|field| {
                    black_box(*field);
                })
                .count();
        }
    });
    fields
}

fn parse_and_assemble() -> usize {
    let mut assembler = Assembler::new(Limits::default());
    let mut events = 0;
    each_line(|line| {
        if let Ok(record) = Record::from_line(line) {
            let now = Duration::from_millis(record.stamp.millis);
            assembler.push(record, now);
            while let Some(event) = assembler.pop() {
                black_box(event);
                events += 1;
            }
        }
    });
    events
}

#[divan::bench]
fn a_split_lines(bencher: Bencher<'_, '_>) {
    measure(bencher, split);
}

#[divan::bench]
fn b_parse(bencher: Bencher<'_, '_>) {
    measure(bencher, parse);
}

#[divan::bench]
fn c_parse_and_walk_fields(bencher: Bencher<'_, '_>) {
    measure(bencher, parse_and_walk_fields);
}

#[divan::bench]
fn d_parse_and_assemble(bencher: Bencher<'_, '_>) {
    measure(bencher, parse_and_assemble);
}

fn measure(bencher: Bencher<'_, '_>, step: fn() -> usize) {
    bencher.counter(ItemsCount::new(*COUNT)).counter(BytesCount::of_slice(LOG.as_slice())).bench(step);
}

fn main() {
    divan::main();
    print_ratios();
}

/// The machine's speed varies from run to run; what a step costs in units of splitting, taken in turns, varies less.
fn print_ratios() {
    let steps = [split, parse, parse_and_walk_fields, parse_and_assemble];
    let mut best = [Duration::MAX; 4];
    for _ in 0..5 {
        for (best, step) in best.iter_mut().zip(steps) {
            let start = Instant::now();
            black_box(step());
            *best = start.elapsed().min(*best);
        }
    }
    let [split, others @ ..] = best.map(|time| time.as_secs_f64());
    for (name, time) in ["parse", "parse_and_walk_fields", "parse_and_assemble"].iter().zip(others) {
        println!(
            "{name}: {:.1} times the cost of splitting lines, {:.2} million records/s",
            time / split,
            *COUNT as f64 / time / 1e6
        );
    }
}
