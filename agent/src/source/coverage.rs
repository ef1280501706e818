//! What each source covers at the moment, in words: never silence.
//!
//! Fed by the sources through [`Reporter`]s; passed on to the service's health (`/healthz`, `/status`), and read by the
//! pipeline, which makes an `agent_state` event of every change, so that the collector knows it too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use auditflow_event::{Condition, Timestamp};
use auditflow_service::health::{Health, Part};

use super::SourceName;
use crate::clock;

/// How well a source does what it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoverageState {
    /// It delivers all that it is asked to.
    Active,
    /// It delivers, and something is missing: the detail says what.
    Degraded,
    /// It delivers nothing: the detail says why and what to do.
    Unavailable,
    /// There is nothing here for it to deliver (the Kubernetes audit log on an agent node).
    NotApplicable,
    /// It has ended, because the agent is stopping or its input came to an end.
    Stopped,
}

impl CoverageState {
    /// The name under which it goes into an `agent_state` event.
    pub fn condition(self) -> Condition {
        match self {
            Self::Active => Condition::Running,
            Self::Degraded => Condition::Degraded,
            Self::Unavailable => Condition::Unavailable,
            Self::NotApplicable => Condition::NotApplicable,
            Self::Stopped => Condition::NotRunning,
        }
    }
}

/// A source's state, and its reason in words that end with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The state.
    pub state: CoverageState,
    /// Why, and what to do; for a healthy source, what it reads.
    pub detail: String,
    /// When it was reported.
    pub at: Timestamp,
    /// Since when the state has held.
    pub since: Timestamp,
}

/// The coverage of every source of this agent; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Board(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    current: BTreeMap<SourceName, Coverage>,
    changed: BTreeMap<SourceName, Coverage>,
}

impl Board {
    /// The end through which one source reports; `/healthz` shows it as a part of that name.
    pub fn reporter(&self, source: SourceName, health: &Health) -> Reporter {
        Reporter { board: self.clone(), source, part: health.part(source.0) }
    }

    /// The coverage of every source that has reported, by name.
    pub fn snapshot(&self) -> Vec<(SourceName, Coverage)> {
        self.lock().current.iter().map(|(source, coverage)| (*source, coverage.clone())).collect()
    }

    /// What changed since this was last asked; of several changes of one source only the last, which is why it is
    /// bounded.
    pub fn take_changes(&self) -> Vec<(SourceName, Coverage)> {
        std::mem::take(&mut self.lock().changed).into_iter().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One source's end of the [`Board`].
#[derive(Clone)]
pub struct Reporter {
    board: Board,
    source: SourceName,
    part: Part,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reporter").field(&self.source).finish()
    }
}

impl Reporter {
    /// Reports the state and its reason; the same twice is one report.
    pub fn report(&self, state: CoverageState, detail: impl Into<String>) {
        let detail = detail.into();
        let at = clock::wall();
        {
            let mut inner = self.board.lock();
            let previous = inner.current.get(&self.source);
            if previous.is_some_and(|previous| previous.state == state && previous.detail == detail) {
                return;
            }
            let since =
                previous.filter(|previous| previous.state == state).map_or(at, |previous| previous.since);
            let coverage = Coverage { state, detail: detail.clone(), at, since };
            inner.current.insert(self.source, coverage.clone());
            inner.changed.insert(self.source, coverage);
        }
        let lost = format!("events of {}", self.source);
        match state {
            CoverageState::Active => self.part.up(),
            CoverageState::Degraded => self.part.degraded(&detail, &[&lost]),
            CoverageState::Unavailable => self.part.down(&detail, &[&lost]),
            CoverageState::NotApplicable | CoverageState::Stopped => self.part.off(&detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_once_and_repetition_is_none() {
        let board = Board::default();
        let reporter = board.reporter(SourceName("audit_log"), &Health::requiring(&[]));
        reporter.report(CoverageState::Active, "reads audit.log");
        reporter.report(CoverageState::Active, "reads audit.log");
        assert_eq!(board.take_changes().len(), 1);
        reporter.report(CoverageState::Active, "reads audit.log");
        assert_eq!(board.take_changes(), Vec::new());
    }

    #[test]
    fn another_reason_does_not_move_since_when_the_state_holds() {
        let board = Board::default();
        let health = Health::requiring(&[]);
        let reporter = board.reporter(SourceName("audit_log"), &health);
        reporter.report(CoverageState::Degraded, "lost 1");
        let since = board.take_changes()[0].1.since;
        reporter.report(CoverageState::Degraded, "lost 2");
        let changes = board.take_changes();
        assert_eq!((changes[0].1.detail.as_str(), changes[0].1.since), ("lost 2", since));
        assert_eq!(health.report().parts["audit_log"].reason.as_deref(), Some("lost 2"));
    }
}
