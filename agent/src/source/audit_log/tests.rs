use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use auditflow_event::{NodeId, Origin};
use auditflow_service::health::Health;
use auditflow_service::lifecycle::Lifecycle;
use auditflow_wire::EpochId;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::source::Board;
use crate::source::outlet::{self, Item};

struct Bench {
    directory: tempfile::TempDir,
    config: Config,
    tail: Tail,
    records: Records,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { enabled: true, path: directory.path().join("audit.log") };
        let (tail, records) = open(&config, station(), None);
        Self { directory, config, tail, records }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn append(&self, lines: &[&str]) {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.config.path).unwrap();
        for line in lines {
            writeln!(file, "{line}").unwrap();
        }
    }

    fn restart(&mut self, cursor: Option<&Cursor>) {
        (self.tail, self.records) = open(&self.config, station(), cursor);
    }

    fn read(&mut self) -> Option<Output> {
        let mut outputs = Vec::new();
        loop {
            let records = &mut self.records;
            let progress = self.tail.read(&mut |line| records.line(line)).unwrap();
            progress.notes.into_iter().for_each(|note| self.records.note(note));
            outputs.extend(Interpret::take(&mut self.records, &mut self.tail, Duration::ZERO));
            if progress.bytes == 0 {
                break;
            }
        }
        outputs.into_iter().reduce(|mut all, next| {
            all.events.extend(next.events);
            all.losses.extend(next.losses);
            Output { cursor: next.cursor, ..all }
        })
    }
}

fn station() -> Station {
    Station { node: NodeId::from_bytes([1; 16]), run: EpochId::from_bytes([2; 16]) }
}

fn serials(output: Option<&Output>) -> Vec<u32> {
    let events = output.map_or(&[][..], |output| &output.events);
    let serial = |event: &Event| match &event.origin {
        Origin::Audit(audit) => audit.stamp.serial,
        _ => panic!("not an audit event"),
    };
    events.iter().map(serial).collect()
}

const ONE_BEGINS: &str = "type=SYSCALL msg=audit(1700000000.000:1): arch=c000003e syscall=2";
const ONE_ENDS: &str = "type=PROCTITLE msg=audit(1700000000.000:1): proctitle=\"one\"";
const TWO_BEGINS: &str = "type=SYSCALL msg=audit(1700000000.000:2): arch=c000003e syscall=2";
const TWO_ENDS: &str = "type=PROCTITLE msg=audit(1700000000.000:2): proctitle=\"two\"";

#[test]
fn a_restart_within_interleaved_events_yields_each_of_them_once() {
    let mut bench = Bench::new();
    bench.append(&[ONE_BEGINS, TWO_BEGINS, TWO_ENDS]);
    let first = bench.read().unwrap();
    assert_eq!(serials(Some(&first)), [2]);
    bench.append(&[ONE_ENDS]);
    bench.restart(first.cursor.as_ref());
    let second = bench.read();
    assert_eq!(serials(second.as_ref()), [1]);
}

#[test]
fn an_event_that_spans_a_rotation_is_whole_also_when_killed_in_between() {
    let mut bench = Bench::new();
    bench.append(&[TWO_BEGINS, TWO_ENDS, ONE_BEGINS]);
    let first = bench.read().unwrap();
    fs::rename(bench.path("audit.log"), bench.path("audit.log.1")).unwrap();
    bench.append(&[ONE_ENDS]);
    bench.restart(first.cursor.as_ref());
    let second = bench.read().unwrap();
    assert_eq!(serials(Some(&second)), [1]);
    let Origin::Audit(audit) = &second.events[0].origin else { panic!("not an audit event") };
    assert_eq!(audit.records.len(), 2);
}

#[test]
fn an_event_without_an_end_comes_out_when_the_log_has_moved_on() {
    let mut bench = Bench::new();
    bench.append(&[ONE_BEGINS, "type=SYSCALL msg=audit(1700000009.000:7): arch=c000003e syscall=2"]);
    assert_eq!(serials(bench.read().as_ref()), [1]);
}

#[test]
fn lines_that_are_no_records_are_counted() {
    let mut bench = Bench::new();
    bench.append(&["nonsense", ONE_BEGINS, ONE_ENDS]);
    let output = bench.read().unwrap();
    assert_eq!(output.losses, [loss(LossReason::Undecodable, LossSource::AuditLog, Some(1))]);
}

#[test]
fn a_log_that_is_gone_at_restart_is_declared_as_rotated_away() {
    let mut bench = Bench::new();
    bench.append(&[ONE_BEGINS, ONE_ENDS]);
    let first = bench.read().unwrap();
    fs::remove_file(&bench.config.path).unwrap();
    bench.append(&[TWO_BEGINS, TWO_ENDS]);
    bench.restart(first.cursor.as_ref());
    let second = bench.read().unwrap();
    assert_eq!(second.losses, [loss(LossReason::RotatedAway, LossSource::AuditLog, None)]);
    assert_eq!(serials(Some(&second)), [2]);
}

#[test]
fn a_cursor_of_garbage_means_reading_from_the_beginning() {
    let mut bench = Bench::new();
    bench.append(&[ONE_BEGINS, ONE_ENDS]);
    bench.restart(Some(&Cursor(b"garbage".to_vec())));
    assert_eq!(serials(bench.read().as_ref()), [1]);
}

#[tokio::test]
async fn records_on_standard_input_are_handed_over_until_it_ends_and_the_agent_stops() {
    let (outlet, _commands, inbox) = outlet::channel::<()>(1 << 20);
    let health = Health::requiring(&[]);
    let reporter = Board::default().reporter(NAME, &health);
    let lifecycle = Lifecycle::start(Duration::from_secs(1), health).unwrap();
    let tasks = lifecycle.tasks();
    let input = format!("{ONE_BEGINS}\n{ONE_ENDS}\n{TWO_BEGINS}");
    let around = Surroundings { outlet, reporter, stopping: CancellationToken::new() };
    read_stream(input.as_bytes(), station(), around, tasks.clone()).await.unwrap();
    let mut seen = Vec::new();
    while let Some(Item::Output(output)) = inbox.receive(std::time::Instant::now(), true) {
        seen.extend(serials(Some(&output)));
    }
    assert_eq!(seen, [1, 2]);
    assert!(tasks.stopping().is_cancelled());
}
