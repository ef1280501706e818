use std::path::Path;

use auditflow_event::NodeId;
use auditflow_service::health::Health;
use auditflow_service::metrics::Metrics;
use auditflow_wire::{EpochId, LossReason, NodeFacts, NodeKey, Rotation, Signed, SiteKey, SitePins};

use super::*;
use crate::hardware::Hardware;
use crate::identity::{Identity, Site};
use crate::source::outlet::{self, Commands};
use crate::source::{CoverageState, Cursor, Outlet, SourceName};
use crate::spool::{Keys, Options, Summary, inspect};

/// A pipeline on a thread of its own, with everything real but the sources.
struct Bench {
    dir: tempfile::TempDir,
    outlet: Outlet,
    commands: Commands<Command>,
    board: Board,
    health: Health,
    thread: std::thread::JoinHandle<()>,
}

impl Bench {
    fn start(rules: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rules = crate::prefilter::from_text(rules);
        let node = NodeId::from_bytes([1; 16]);
        let keys = Keys { node, key: NodeKey::generate().unwrap(), site: None, about: NodeFacts::default() };
        let clock = Clock::open();
        let (spool, _reader, opening) =
            Spool::open(&dir.path().join("spool"), Options::default(), keys, clock.now()).unwrap();
        let (outlet, commands, inbox) = outlet::channel(1 << 20);
        let (board, health) = (Board::default(), Health::requiring(&["spool"]));
        let parts = Parts {
            inbox,
            spool,
            enricher: Enricher::new(&dir.path().join("root")),
            rules: Current::fixed(rules),
            board: board.clone(),
            station: Station { node, run: opening.epoch },
            // Longer than any test: only urgency and the stop commit.
            commit_interval: Duration::from_hours(1),
            meters: Meters::register(&Metrics::new("1").unwrap()).unwrap(),
            part: health.part("spool"),
            heartbeat: health.heartbeat("pipeline", Duration::from_mins(1)),
            sealed: Arc::new(Notify::new()),
            identity: Kept::new(dir.path(), &Hardware::default()),
            site_keys: health.part("site_keys"),
            status: Arc::default(),
        };
        let pipeline = Pipeline::new(parts, clock);
        let thread = std::thread::spawn(move || pipeline.run(Duration::from_secs(5), || true));
        Self { dir, outlet, commands, board, health, thread }
    }

    fn hand_over(&self, cursor: u8, events: &[&str]) {
        let event = |(number, kind): (usize, &&str)| {
            let text = format!(r#"{{"event_type":"{kind}","timestamp":"2026-01-31T10:00:00Z"}}"#);
            Event::synthetic(None, [cursor; 16], number as u64, &text).unwrap()
        };
        let events = events.iter().enumerate().map(event).collect();
        let output =
            Output { cursor: Some(Cursor(vec![cursor])), ..Output::live(SourceName("synthetic"), events) };
        self.outlet.blocking_send(output).unwrap();
    }

    fn spool(&self) -> std::path::PathBuf {
        self.dir.path().join("spool")
    }

    /// Waits until the spool holds what `enough` wants to see.
    fn wait_for(&self, enough: impl Fn(&Summary) -> bool) -> Summary {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let summary = inspect(&self.spool()).unwrap();
            if enough(&summary) {
                return summary;
            }
            assert!(Instant::now() < deadline, "never came: {summary:?}");
            std::thread::yield_now();
        }
    }

    fn stop(self) -> (tempfile::TempDir, Summary) {
        self.commands.send(Command::Stop).unwrap();
        self.thread.join().unwrap();
        let summary = inspect(&self.dir.path().join("spool")).unwrap();
        (self.dir, summary)
    }
}

fn wait_until(enough: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !enough() {
        assert!(Instant::now() < deadline, "never came");
        std::thread::yield_now();
    }
}

fn events(summary: &Summary) -> u64 {
    summary.epochs.iter().map(|epoch| epoch.events + epoch.waiting).sum()
}

const NOTHING: &str = "";
const DROP_SUDO: &str = "title: Drop sudo
id: 0b7e9a52-7c3c-4d33-9f2f-3d2a0c1f5e77
logsource: { product: auditflow }
detection: { selection: { event_type: sudo_command }, condition: selection }
action: drop
---
title: Logins are urgent
id: 5f0e3c1d-63f7-4f53-8f56-7f6a5a4b3c2d
logsource: { product: auditflow }
detection: { selection: { event_type: user_login }, condition: selection }
action: priority
priority: high
";

#[test]
fn the_stop_commits_and_seals_what_was_handed_over() {
    let bench = Bench::start(NOTHING);
    bench.hand_over(1, &["sudo_command", "service_status_change"]);
    bench.hand_over(2, &["sudo_command"]);
    let (_dir, summary) = bench.stop();
    assert_eq!(events(&summary), 3);
    assert_eq!(summary.epochs.iter().map(|epoch| epoch.waiting).sum::<u64>(), 0);
    assert_eq!(summary.cursors, [("synthetic".to_owned(), 1)]);
}

#[test]
fn an_urgent_event_commits_everything_before_it_at_once() {
    let bench = Bench::start(DROP_SUDO);
    bench.hand_over(1, &["service_status_change"; 3]);
    bench.hand_over(2, &["user_login"]);
    let summary = bench.wait_for(|summary| events(summary) >= 4);
    assert_eq!(events(&summary), 4);
    bench.stop();
}

#[test]
fn what_a_rule_drops_is_declared_and_the_cursor_moves_on() {
    let bench = Bench::start(DROP_SUDO);
    bench.hand_over(1, &["sudo_command", "sudo_command", "service_status_change"]);
    bench.hand_over(7, &["user_login"]);
    let summary = bench.wait_for(|summary| events(summary) >= 2);
    assert_eq!(events(&summary), 2);
    assert_eq!(summary.cursors.len(), 1);
    let filtered: u64 = summary
        .losses
        .iter()
        .filter(|loss| loss.reason == LossReason::Filtered)
        .filter_map(|loss| loss.count)
        .sum();
    // Declared by the urgent batch already, or waiting for the next one.
    assert!(filtered == 2 || summary.losses.is_empty(), "{:?}", summary.losses);
    bench.stop();
}

#[test]
fn a_change_of_coverage_becomes_an_urgent_event() {
    let bench = Bench::start(NOTHING);
    bench
        .board
        .reporter(SourceName("audit_log"), &bench.health)
        .report(CoverageState::Unavailable, "no such file");
    bench.hand_over(1, &[]);
    bench.wait_for(|summary| events(summary) >= 1);
    bench.stop();
}

#[test]
fn a_test_alert_is_answered_with_its_events_id_and_committed_at_once() {
    let bench = Bench::start(NOTHING);
    let (reply, answer) = oneshot::channel();
    bench.commands.send(Command::TestAlert(reply)).unwrap();
    let id = answer.blocking_recv().unwrap();
    assert_ne!(id, EventId::counted(None, "state", [0; 16], 0));
    bench.wait_for(|summary| events(summary) >= 1);
    bench.stop();
}

#[test]
fn the_spool_can_be_opened_again_after_the_stop() {
    let bench = Bench::start(NOTHING);
    bench.hand_over(9, &["sudo_command"]);
    let (dir, summary) = bench.stop();
    let node = summary.epochs[0].node;
    let keys = Keys { node, key: NodeKey::generate().unwrap(), site: None, about: NodeFacts::default() };
    let open = |dir: &Path| Spool::open(&dir.join("spool"), Options::default(), keys, Clock::open().now());
    let (_spool, _reader, opening) = open(dir.path()).unwrap();
    assert_eq!(opening.cursors.get("synthetic"), Some(&vec![9]));
    assert_ne!(opening.epoch, EpochId::from_bytes([0; 16]));
}

#[test]
fn the_sites_rotation_is_followed_onto_the_disk_and_a_forged_one_is_refused_and_shown() {
    let bench = Bench::start(NOTHING);
    let keys: Vec<SiteKey> = (1..=4).map(|seed| SiteKey::from_seed(&[seed; 32])).collect();
    let hardware = Hardware::default();
    let (mut identity, _) = Identity::load_or_make(bench.dir.path(), &hardware).unwrap();
    let pins = SitePins { current: keys[0].public(), next: Some(keys[1].public()) };
    let text = String::new();
    identity.site =
        Some(Site { url: text.clone(), ca_certificate: text.clone(), client_certificate: text, keys: pins });
    identity.save(bench.dir.path(), &hardware).unwrap();
    let say = |signer: &SiteKey, next: &SiteKey| {
        let rotation = Rotation { next: next.public(), at: Timestamp::EPOCH };
        let report = Report::Rotation(Box::new(Signed::sign(rotation, signer)));
        bench.commands.send(Command::Report(report)).unwrap();
    };
    let pinned = || Identity::read(bench.dir.path()).unwrap().unwrap().site.unwrap().keys;
    let shown = |text: &str| {
        bench.health.report().parts["site_keys"].reason.as_deref().is_some_and(|why| why.contains(text))
    };
    bench.commands.send(Command::Trust(Box::new(pins))).unwrap();
    say(&keys[3], &keys[3]);
    wait_until(|| shown("no pinned key"));
    say(&keys[0], &keys[3]);
    wait_until(|| shown("one of them is forged"));
    assert_eq!(pinned(), pins);
    say(&keys[1], &keys[2]);
    wait_until(|| pinned() == SitePins { current: keys[1].public(), next: Some(keys[2].public()) });
    wait_until(|| !shown(""));
    bench.stop();
}
