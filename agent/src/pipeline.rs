//! The way of an event through the agent, on one thread: what sources hand over is enriched, pre-filtered, gathered,
//! committed to the spool and sealed; the shipper is woken.
//!
//! ```text
//! sources ─→ inbox ─→ enrich ─→ prefilter ─→ gather ─→ commit ─→ seal ─→ (wake the shipper)
//!            bounded                         until urgent, due or full
//! ```
//!
//! Guarantees: events are committed in the order in which a source handed them over, together with the cursor that
//! came with them or not at all; an urgent event's commit takes everything before it along; what a rule drops is
//! counted and declared; while the spool can't be written, no more is taken in than fits into memory, and the sources
//! wait or count what they lose. Commands (acknowledgements above all, which make room) are obeyed all the while.

mod gather;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use auditflow_event::{AgentState, Condition, Event, EventId, Priority, Severity, Timestamp};
use auditflow_rules::{Current, Disposition, Prefilter};
use auditflow_service::backoff::Backoff;
use auditflow_service::health::{Heartbeat, Part};
use auditflow_wire::keys::Site;
use auditflow_wire::{Rotation, Signed, SitePublicKey};
use tokio::sync::{Notify, oneshot};

use crate::enrich::{Enricher, Moment};
use crate::identity::Pins;
use crate::metrics::Meters;
use crate::ship::Report;
use crate::source::outlet::Item;
use crate::source::{Board, Inbox, Output, Station};
use crate::spool::{Acknowledged, Clock, Counters, Now, Spool, SpoolError};
use gather::Gathering;

/// How often the pipeline shows that it lives, and looks for what wasn't announced.
const BEAT: Duration = Duration::from_secs(1);
/// Delays between attempts at a spool that can't be written.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// What the rest of the agent asks of the pipeline, which owns the spool.
#[derive(Debug)]
pub enum Command {
    /// The shipper has something for the spool's owner.
    Report(Report),
    /// The node has joined a site that signs with these keys.
    Trust(Vec<SitePublicKey>),
    /// Make a harmless event that a rule alerts on, and say its id.
    TestAlert(oneshot::Sender<EventId>),
    /// The agent is stopping.
    Stop,
}

/// What the pipeline works with.
pub struct Parts {
    /// Where sources hand over and commands arrive.
    pub inbox: Inbox<Command>,
    /// The spool.
    pub spool: Spool,
    /// The node's knowledge.
    pub enricher: Enricher,
    /// The pre-filter in force.
    pub rules: Current<Prefilter>,
    /// The sources' coverage, whose changes become events.
    pub board: Board,
    /// Whose events these are.
    pub station: Station,
    /// How long an event that isn't urgent may wait for being written.
    pub commit_interval: Duration,
    /// What is counted.
    pub meters: Meters,
    /// How the spool is.
    pub part: Part,
    /// The pipeline's sign of life.
    pub heartbeat: Heartbeat,
    /// Wakes the shipper.
    pub sealed: Arc<Notify>,
    /// Where a new key of the site is pinned.
    pub pins: Pins,
    /// What is shown of it.
    pub status: Arc<Mutex<Status>>,
}

/// What `/status` shows of the pipeline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Status {
    /// What the spool did.
    pub spool: Counters,
    /// What it takes on the disk, in bytes.
    pub spool_bytes: u64,
    /// When something was committed last.
    pub committed_at: Option<Timestamp>,
}

/// The pipeline; see the module's documentation.
pub struct Pipeline {
    parts: Parts,
    clock: Clock,
    begin: Instant,
    gathering: Gathering,
    retry: Backoff,
    /// Nothing is written before this, because it failed.
    retry_at: Option<Instant>,
    seal_at: Instant,
    beat_at: Instant,
    states: u64,
}

impl Pipeline {
    /// A pipeline around its parts.
    pub fn new(parts: Parts, clock: Clock) -> Self {
        let begin = Instant::now();
        let seed = u64::from_le_bytes(parts.station.run.as_bytes()[..8].try_into().unwrap_or_default());
        let retry = Backoff::new(RETRY.0, RETRY.1, seed);
        let gathering = Gathering::default();
        Self {
            parts,
            clock,
            begin,
            gathering,
            retry,
            retry_at: None,
            seal_at: begin,
            beat_at: begin,
            states: 0,
        }
    }

    /// Runs until told to stop, then takes in what sources still hand over until `sources_ended` or `grace` is over,
    /// and leaves everything committed and sealed.
    pub fn run(mut self, grace: Duration, sources_ended: impl Fn() -> bool) {
        self.parts.part.up();
        while self.step(self.wake_at()) {}
        let deadline = Instant::now() + grace;
        loop {
            let ended = sources_ended();
            let had_nothing = self.step_once_more(Instant::now() + Duration::from_millis(20));
            if (ended && had_nothing) || Instant::now() >= deadline {
                break;
            }
        }
        self.finish();
    }

    /// Takes one thing in and does what is due; `false` once told to stop.
    fn step(&mut self, deadline: Instant) -> bool {
        let item = self.parts.inbox.receive(deadline, self.gathering.has_room());
        let go_on = !matches!(item, Some(Item::Command(Command::Stop)));
        self.handle(item);
        self.beat();
        self.write_what_is_due();
        go_on
    }

    fn step_once_more(&mut self, deadline: Instant) -> bool {
        let item = self.parts.inbox.receive(deadline, self.gathering.has_room());
        let had_nothing = item.is_none();
        self.handle(item);
        self.write_what_is_due();
        had_nothing
    }

    fn handle(&mut self, item: Option<Item<Command>>) {
        match item {
            Some(Item::Output(output)) => self.take_in(output),
            Some(Item::Command(command)) => self.obey(command),
            None => {}
        }
    }

    fn take_in(&mut self, output: Output) {
        let rules = self.parts.rules.get();
        self.judge_by(&rules);
        let now = Moment { wall: crate::clock::wall(), monotonic: self.begin.elapsed() };
        let source = gather::loss_source(output.source);
        self.parts.meters.received(output.source, output.events.len(), &output.losses);
        for mut event in output.events {
            self.parts.enricher.enrich(&mut event, now);
            let verdict = rules.judge(&event, now.monotonic);
            match verdict.disposition {
                Disposition::Drop(reason) => {
                    self.parts.meters.dropped(reason);
                    self.gathering.lose(gather::filtered(reason, source, event.time));
                }
                Disposition::Keep => {
                    event.tags.extend(verdict.tags);
                    event.priority = verdict.priority.unwrap_or_else(|| priority_of(&event));
                    self.gathering.add(event);
                }
            }
        }
        output.losses.into_iter().for_each(|loss| self.gathering.lose(loss));
        if let Some(cursor) = output.cursor {
            self.gathering.move_cursor(output.source, cursor);
        }
    }

    /// A commit is judged by one rule set: what the old one judged is committed before the new one judges anything.
    fn judge_by(&mut self, rules: &Prefilter) {
        let version = gather::wire_version(rules.version().as_str());
        if self.gathering.rule_set() != version {
            if !self.gathering.is_empty() {
                self.commit();
            }
            self.gathering.set_rule_set(version);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Report(report) => self.heed(report),
            Command::Trust(keys) => keys.into_iter().for_each(|key| self.parts.spool.trust(key)),
            Command::TestAlert(reply) => {
                let at = crate::clock::wall();
                let reason = Some("auditflow-agent test-alert: harmless, made to be alerted on".into());
                let (source, state) = ("agent".into(), Condition::TestAlert);
                let id =
                    self.add_state(AgentState { source, state, at, since: at, reason, counts: Vec::new() });
                // Whoever asked may have given up waiting.
                let _ = reply.send(id);
            }
            Command::Stop => {}
        }
    }

    fn heed(&mut self, report: Report) {
        let now = self.clock.now();
        let outcome = match report {
            Report::Ack(ack) => {
                self.parts.spool.acknowledge(&ack, now).map(|outcome| self.acknowledged(outcome))
            }
            Report::Rotation(rotation) => {
                self.follow(&rotation);
                Ok(())
            }
            Report::PayloadDamaged(id) => self.parts.spool.give_up_payload(id, now),
            Report::Damaged(what) => self.parts.spool.give_up(&what, now),
        };
        self.report(outcome);
        self.parts.sealed.notify_one();
    }

    fn acknowledged(&mut self, outcome: Acknowledged) {
        // There may be room now, or something to seal anew.
        self.seal_at = Instant::now();
        match outcome {
            Acknowledged::Released { batches } => {
                tracing::debug!(batches, "the collector has stored batches");
            }
            Acknowledged::Forked { epoch, resealed } => tracing::warn!(
                epoch = %epoch,
                resealed,
                "the collector knows another history of this node: what it lacks was sealed anew"
            ),
            Acknowledged::Refused(refusal) => tracing::warn!("the collector refuses batches: {refusal:?}"),
            Acknowledged::Void(void) => tracing::warn!("an acknowledgement was not heeded: {void}"),
        }
    }

    fn follow(&mut self, rotation: &Signed<Rotation<Site>>) {
        match self.parts.spool.follow(rotation) {
            Ok(key) => {
                if let Err(error) = self.parts.pins.pin(key) {
                    tracing::error!("the site's new key holds until the next start only: {error}");
                }
            }
            Err(error) => tracing::warn!("a new key of the site was not taken: {error}"),
        }
    }

    fn add_state(&mut self, state: AgentState) -> EventId {
        let Station { node, run } = self.parts.station;
        let event = Event::state(Some(node), *run.as_bytes(), self.states, state);
        self.states += 1;
        let id = event.id;
        self.gathering.add(event);
        id
    }

    fn beat(&mut self) {
        for (source, coverage) in self.parts.board.take_changes() {
            self.add_state(AgentState {
                source: source.0.into(),
                state: coverage.state.condition(),
                at: coverage.at,
                since: coverage.since,
                reason: (!coverage.detail.is_empty()).then(|| coverage.detail.into()),
                counts: Vec::new(),
            });
        }
        if Instant::now() < self.beat_at {
            return;
        }
        self.beat_at = Instant::now() + BEAT;
        self.parts.heartbeat.beat();
        let mut status = self.parts.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.spool = self.parts.spool.counters();
        status.spool_bytes = self.parts.spool.footprint().unwrap_or(status.spool_bytes);
        self.parts.meters.spool(&status);
    }

    fn wake_at(&self) -> Instant {
        let commit_at = self.gathering.since().map(|since| since + self.parts.commit_interval);
        let due = commit_at.map_or(self.seal_at, |commit_at| commit_at.min(self.seal_at));
        self.retry_at.map_or(due, |retry_at| due.max(retry_at)).min(self.beat_at)
    }

    fn write_what_is_due(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|retry_at| now < retry_at) {
            return;
        }
        let interval = self.parts.commit_interval;
        let waited = self.gathering.since().is_some_and(|since| now >= since + interval);
        if self.gathering.is_urgent() || self.gathering.is_full() || waited {
            self.commit();
        } else if now >= self.seal_at {
            self.seal();
        }
    }

    fn commit(&mut self) {
        let now = self.clock.now();
        let commit = self.gathering.commit();
        match self.parts.spool.commit(commit, now) {
            Ok(()) => {
                self.gathering.clear();
                self.parts.status.lock().unwrap_or_else(PoisonError::into_inner).committed_at =
                    Some(now.wall);
                self.recovered();
                self.seal();
            }
            Err(error) if error.is_passing() => self.failed(&error),
            Err(error) => {
                // These very events can't be written: better to declare them than to stand still for ever.
                tracing::error!("events cannot be written and are given up: {error}");
                self.gathering.give_up_events();
                self.failed(&error);
            }
        }
    }

    fn seal(&mut self) {
        let now = self.clock.now();
        let outcome = self.seal_all_due(now);
        let wait = self.parts.spool.next_deadline().saturating_sub(now.boottime);
        self.seal_at = Instant::now() + wait.clamp(Duration::from_millis(1), Duration::from_mins(1));
        self.report(outcome);
    }

    fn seal_all_due(&mut self, now: Now) -> Result<(), SpoolError> {
        while let Some(sealed) = self.parts.spool.seal(now)? {
            tracing::debug!(batch.seq = sealed.number.get(), batch.events = sealed.events, "sealed");
            self.parts.sealed.notify_one();
        }
        Ok(())
    }

    fn report(&mut self, outcome: Result<(), SpoolError>) {
        match outcome {
            Ok(()) => self.recovered(),
            Err(error) => self.failed(&error),
        }
    }

    fn recovered(&mut self) {
        self.retry.succeeded();
        self.retry_at = None;
        self.parts.part.up();
    }

    fn failed(&mut self, error: &SpoolError) {
        self.retry_at = Some(Instant::now() + self.retry.failed());
        self.parts.part.degraded(&error.to_string(), &["new events"]);
    }

    fn finish(mut self) {
        if !self.gathering.is_empty() {
            self.commit();
        }
        if !self.gathering.is_empty() {
            tracing::error!(
                "stopping with events that could not be written: sources that can will replay them"
            );
        }
        if let Err(error) = self.parts.spool.drain(self.clock.now()) {
            tracing::error!("what was committed is not all sealed, the next start does it: {error}");
        }
        self.parts.sealed.notify_one();
        self.parts.heartbeat.end();
    }
}

/// What no rule gave a priority: what means something critical is urgent.
fn priority_of(event: &Event) -> Priority {
    if event.priority == Priority::Normal && event.meaning().severity == Severity::Critical {
        Priority::High
    } else {
        event.priority
    }
}

#[cfg(test)]
mod tests;
