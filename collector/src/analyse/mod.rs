//! Analysis: from stored batches to alerts.
//!
//! Fed by ingest's hints and, because a hint may be lost, by a sweep over what the store says is unanalysed; feeds the
//! store. A batch's detections and its single-event alerts are written in one transaction that also marks the groups it
//! touched; other workers take marked groups and compute their episodes anew. Every step can be done twice, by several
//! at once, or be cut off anywhere: the store decides who was first, and what is computed depends on the rows only.

mod batches;
mod groups;
mod hints;
mod metrics;
mod open;
mod prime;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use auditflow_event::Timestamp;
use auditflow_rules::Current;
use auditflow_service::health::Part;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::correlate::definition::Definition;
use crate::correlate::found::Bounds;
use crate::correlate::windows::Windows;
use crate::detect::Rules;
use crate::store::{Result, Store, StoreError};

pub use hints::{HeldHint, Hints, hints};
pub use metrics::AnalysisMetrics;
pub use open::OpenBatch;

/// How long a batch is left to the process that said it would judge it: what it has left when it dies waits so long.
const CLAIM: Duration = Duration::from_secs(10);
/// Rule sets that were replaced and may still be needed for groups that they had marked.
const RETIRED: usize = 4;

/// What analysis is made of.
pub struct Parts {
    /// Where everything is.
    pub store: Arc<dyn Store>,
    /// Where correlations read detections.
    pub windows: Arc<dyn Windows>,
    /// The rules in force.
    pub rules: Current<Rules>,
    /// How long payloads are kept: detections are kept one window longer.
    pub retention: Duration,
    /// What is counted.
    pub metrics: AnalysisMetrics,
    /// Where analysis says how it is.
    pub health: Part,
}

/// The analyser.
pub struct Analyser {
    store: Arc<dyn Store>,
    windows: Arc<dyn Windows>,
    rules: Current<Rules>,
    retention: Duration,
    metrics: AnalysisMetrics,
    health: Part,
    opener: open::Opener,
    /// How much is kept of an episode.
    bounds: Bounds,
    /// The set that batches are judged by, the newest; older ones after it.
    in_use: Mutex<VecDeque<Arc<Rules>>>,
    /// There may be a dirty group.
    marked: Notify,
}

impl Analyser {
    /// An analyser that does nothing yet.
    pub fn new(parts: Parts) -> Arc<Self> {
        Self::with_bounds(parts, Bounds::default())
    }

    fn with_bounds(parts: Parts, bounds: Bounds) -> Arc<Self> {
        let Parts { store, windows, rules, retention, metrics, health } = parts;
        let opener = open::Opener::new(Arc::clone(&store));
        Arc::new(Self {
            store,
            windows,
            rules,
            retention,
            metrics,
            health,
            opener,
            bounds,
            in_use: Mutex::default(),
            marked: Notify::new(),
        })
    }

    /// Analyses until stopped. What is under way is finished.
    ///
    /// # Errors
    /// None: what fails is shown in health and tried again.
    pub async fn run(
        self: Arc<Self>,
        hints: mpsc::Receiver<HeldHint>,
        stop: CancellationToken,
    ) -> Result<(), Infallible> {
        self.health.up();
        let groups = (0..groups::WORKERS).map(|_| Arc::clone(&self).recompute_until(stop.clone()));
        tokio::join!(
            Arc::clone(&self).judge_until(hints, stop.clone()),
            futures_util::future::join_all(groups)
        );
        Ok(())
    }

    /// The set that batches are judged by.
    fn rules_in_use(&self) -> Arc<Rules> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.front().map_or_else(|| self.rules.get(), Arc::clone)
    }

    /// The set that has this correlation: the one in use, else one that it replaced.
    fn rules_of(&self, key: &str) -> Option<(Arc<Rules>, Arc<Definition>)> {
        let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let with =
            |rules: &Arc<Rules>| Some((Arc::clone(rules), Arc::clone(rules.definitions().by_key(key)?)));
        in_use.iter().find_map(with)
    }

    /// Whether any set has come into use: before that, nothing can be said of a group.
    fn has_rules(&self) -> bool {
        !self.in_use.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn put_in_use(&self, rules: Arc<Rules>) {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.push_front(rules);
        in_use.truncate(RETIRED + 1);
    }

    /// Before this, detections have expired.
    fn horizon(&self, rules: &Rules, now: Timestamp) -> Timestamp {
        let kept = i64::try_from(self.retention.as_micros()).unwrap_or(i64::MAX);
        let window = rules.definitions().longest_timespan().saturating_mul(1000);
        Timestamp::from_micros(now.as_micros().saturating_sub(kept).saturating_sub(window))
    }

    fn report(&self, error: &StoreError, what: &str) {
        self.metrics.failed.inc();
        // A store that is busy is not broken.
        if !matches!(error, StoreError::Busy | StoreError::Away) {
            self.health.degraded(&format!("{what}: {error}"), &["alerts are late"]);
        }
    }
}

/// Until when a batch is left to the process that takes it on at `now`.
pub fn claim(now: Timestamp) -> Timestamp {
    let claim = i64::try_from(CLAIM.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_add(claim))
}

fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}

#[cfg(test)]
mod tests;
