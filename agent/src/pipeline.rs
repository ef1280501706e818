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
mod orders;
mod writing;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use auditflow_event::{AgentState, Event, EventId, Priority, Severity, Timestamp};
use auditflow_rules::{Current, Disposition, Prefilter};
use auditflow_service::backoff::Backoff;
use auditflow_service::health::{Heartbeat, Part};
use auditflow_wire::{KeyId, SitePins};
use tokio::sync::{Notify, oneshot};

use crate::enrich::{Enricher, Moment};
use crate::identity::{Kept, RotateError};
use crate::metrics::Meters;
use crate::ship::Report;
use crate::source::outlet::Item;
use crate::source::{Board, Inbox, Output, Station};
use crate::spool::{Clock, Counters, Spool};
use gather::Gathering;
use writing::Pace;

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
    Trust(Box<SitePins>),
    /// Sign with a new key from now on, and say which.
    RotateKey(oneshot::Sender<Result<KeyId, RotateError>>),
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
    /// Where new keys are kept, the site's and the node's.
    pub identity: Kept,
    /// Whether the site's changes of keys could be followed.
    pub site_keys: Part,
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
    /// What judges now; [`Parts::rules`] may be newer.
    rules: Arc<Prefilter>,
    clock: Clock,
    begin: Instant,
    gathering: Gathering,
    retry: Backoff,
    /// Nothing is written before this, because it failed.
    retry_at: Option<Instant>,
    seal_at: Instant,
    pace: Pace,
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
            rules: parts.rules.get(),
            parts,
            clock,
            begin,
            gathering,
            retry,
            retry_at: None,
            seal_at: begin,
            pace: Pace::starting_at(begin),
            beat_at: begin,
            states: 0,
        }
    }

    /// Runs until told to stop, then takes in what sources still hand over until `sources_ended` or `grace` is over,
    /// and leaves everything committed and sealed.
    pub fn run(mut self, grace: Duration, sources_ended: impl Fn() -> bool) {
        self.parts.part.up();
        self.parts.site_keys.up();
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
        let rules = self.judging();
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

    /// The rules to judge by. A commit is judged by one set: what the old one judged is committed before the new one
    /// judges anything, and while that fails the old one goes on.
    fn judging(&mut self) -> Arc<Prefilter> {
        let newest = self.parts.rules.get();
        let version = gather::wire_version(newest.version().as_str());
        if !self.gathering.take_rule_set(version) {
            self.commit();
        }
        if self.gathering.take_rule_set(version) {
            self.rules = newest;
        }
        Arc::clone(&self.rules)
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
        let due = if self.gathering.is_urgent() { due.min(self.pace.due()) } else { due };
        self.retry_at.map_or(due, |retry_at| due.max(retry_at)).min(self.beat_at)
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
