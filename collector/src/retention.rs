//! Retention: keeps the store within its limits.
//!
//! Takes no input: wakes, reads what is there, acts, and can be killed anywhere. First checkpoints take the place of old
//! rows, then the oldest payloads go. It also is what notices that the store works, or works again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use auditflow_event::Timestamp;
use auditflow_service::health::Part;
use tokio_util::sync::CancellationToken;

use crate::metrics::StorageMetrics;
use crate::proof::checkpoint::Checkpoints;
use crate::store::{Limits, Result, Store};

/// How often it looks.
const EVERY: Duration = Duration::from_mins(5);

/// What it works with.
pub struct Retention {
    /// What is kept within limits.
    pub store: Arc<dyn Store>,
    /// Replaces rows.
    pub checkpoints: Checkpoints,
    /// The limits.
    pub limits: Limits,
    /// Where it says how the store is.
    pub health: Part,
    /// Where it says how the ledger is.
    pub ledger: Part,
    /// What it counts.
    pub metrics: StorageMetrics,
}

impl Retention {
    /// Again and again, until stopped.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        loop {
            let now = Timestamp::from_micros(chrono::Utc::now().timestamp_micros());
            match self.pass(now, &stop).await {
                Ok(()) => self.health.up(),
                Err(error) => {
                    self.health.down(&error.to_string(), &["new batches are not taken", "nothing is pruned"]);
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Once.
    pub(crate) async fn pass(&mut self, now: Timestamp, stop: &CancellationToken) -> Result<()> {
        loop {
            let replaced = self.checkpoints.pass(self.limits, now, stop).await;
            self.tell_unsound();
            // Payloads have to go in time also where checkpoints fail.
            let pruned = self.store.retain(self.limits, now).await?;
            for pruning in &pruned {
                self.metrics.pruned.with_label_values(&[&pruning.reason]).inc_by(pruning.batches);
                tracing::info!(
                    day = pruning.day,
                    part = pruning.part,
                    reason = pruning.reason,
                    "payloads pruned"
                );
            }
            let replaced = replaced?;
            self.metrics.checkpointed.inc_by(replaced.numbers);
            if replaced.checkpoints > 0 {
                tracing::info!(batches = replaced.numbers, "checkpoints stand for old batches");
            }
            // With payloads gone, headers may go too: perhaps enough for the next payloads to stay.
            if pruned.is_empty() || stop.is_cancelled() {
                return Ok(());
            }
        }
    }

    fn tell_unsound(&self) {
        let unsound = self.checkpoints.unsound();
        self.metrics.unsound.set(unsound.len() as i64);
        match unsound.first_key_value() {
            None => self.ledger.up(),
            Some(((node, epoch), why)) => {
                let reason = format!(
                    "{} epochs can't be proved, the first is {epoch} of node {node}: {why}; \
                     look into it with `auditflow-collector verify --node {node}`",
                    unsound.len()
                );
                self.ledger
                    .degraded(&reason, &["old rows of these epochs are kept, whatever space they take"]);
            }
        }
    }
}
