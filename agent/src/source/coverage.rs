//! What each source covers at the moment, in words: never silence.
//!
//! Fed by the sources through [`Reporter`]s; read by `/healthz` and `/status`, and by the pipeline, which makes an
//! `agent_state` event of every change, so that the collector knows it too.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::SourceName;

/// How well a source does what it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CoverageState {
    /// Not yet known.
    Starting,
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
    /// Its name, as in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
            Self::NotApplicable => "not_applicable",
            Self::Stopped => "stopped",
        }
    }

    /// Whether an operator should look.
    pub fn is_trouble(self) -> bool {
        matches!(self, Self::Degraded | Self::Unavailable)
    }
}

/// A source's state, and its reason in words that end with what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Coverage {
    /// The state.
    pub state: CoverageState,
    /// Why, and what to do; for a healthy source, what it reads.
    pub detail: String,
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
    /// The end through which one source reports.
    pub fn reporter(&self, source: SourceName) -> Reporter {
        let reporter = Reporter { board: self.clone(), source };
        self.lock()
            .current
            .insert(source, Coverage { state: CoverageState::Starting, detail: String::new() });
        reporter
    }

    /// Every source's coverage, by name.
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
#[derive(Debug, Clone)]
pub struct Reporter {
    board: Board,
    source: SourceName,
}

impl Reporter {
    /// Reports the state and its reason; the same twice is one report.
    pub fn report(&self, state: CoverageState, detail: impl Into<String>) {
        let coverage = Coverage { state, detail: detail.into() };
        let mut inner = self.board.lock();
        if inner.current.get(&self.source) == Some(&coverage) {
            return;
        }
        if state.is_trouble() {
            tracing::warn!(source.name = %self.source, source.state = state.as_str(), "{}", coverage.detail);
        } else {
            tracing::info!(source.name = %self.source, source.state = state.as_str(), "{}", coverage.detail);
        }
        inner.current.insert(self.source, coverage.clone());
        inner.changed.insert(self.source, coverage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_once_and_repetition_is_none() {
        let board = Board::default();
        let reporter = board.reporter(SourceName("audit_log"));
        reporter.report(CoverageState::Active, "reads /var/log/audit/audit.log");
        reporter.report(CoverageState::Active, "reads /var/log/audit/audit.log");
        assert_eq!(board.take_changes().len(), 1);
        reporter.report(CoverageState::Active, "reads /var/log/audit/audit.log");
        assert_eq!(board.take_changes(), Vec::new());
    }
}
