//! Ingest: what nodes send becomes what the store holds, and is answered with the site's signature.
//!
//! Fed by `https` with the bodies of authenticated nodes; feeds the store, and analysis with hints. The way of a body:
//! frame → parts → the node's own? signed by its key? → payload opened, terms taken, rules matched → stored in one
//! transaction, which judges the chain → acknowledged. Nothing is acknowledged before it is durable, nothing that is not the node's own
//! is stored, and each case has its one answer (`answer` lists them).

pub mod answer;
pub mod enrol;
pub mod https;
pub mod late;
pub(crate) mod open;
mod raised;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use auditflow_event::{NodeId, Timestamp};
use auditflow_rules::Current;
use auditflow_wire::frame::{Part, Parts};
use auditflow_wire::{
    BootId, EpochId, KeyRing, ParseError, Refusal, SignedFold, SignedState, State, keys::Node,
};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::analyse::Hint;
use crate::detect::Rules;
use crate::metrics::IngestMetrics;
use crate::site::Site;
use crate::store::{Arrival, FlagKind, NewFlag, NodeStatus, Store, StoreError};
use answer::Answers;
use open::Opened;

/// Takes frames of authenticated nodes.
pub struct Ingest {
    store: Arc<dyn Store>,
    site: Site,
    rules: Current<Rules>,
    hints: mpsc::Sender<Hint>,
    metrics: IngestMetrics,
}

/// Why a frame has no answer from the ledger.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Not a frame at all.
    #[error(transparent)]
    Malformed(#[from] ParseError),
    /// The store could not take it. Nothing of it is stored, or nobody knows; the node sends it again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The work was dropped: the collector is stopping.
    #[error("the collector is stopping")]
    Stopping,
}

/// What a frame holds after everything in it was checked.
#[derive(Default)]
struct Checked {
    opened: Vec<Opened>,
    folds: Vec<SignedFold>,
    states: Vec<State>,
    refused: Vec<(EpochId, Refusal)>,
    /// Parts that can't be read at all.
    malformed: usize,
}

impl Ingest {
    /// An ingest that writes to `store` and signs for `site`; hints say what matches the rules in force.
    pub fn new(
        store: Arc<dyn Store>,
        site: Site,
        rules: Current<Rules>,
        hints: mpsc::Sender<Hint>,
        metrics: IngestMetrics,
    ) -> Self {
        Self { store, site, rules, hints, metrics }
    }

    /// Takes one frame from the node that the connection was authenticated as.
    pub async fn take(&self, node: NodeId, body: Bytes, now: Timestamp) -> Result<Answers, IngestError> {
        self.metrics.frames.inc();
        self.metrics.bytes.inc_by(body.len() as u64);
        let access = self.store.node_access(node).await?;
        let (keys, closed) = match access {
            None => (Vec::new(), Some(Refusal::UnknownNode)),
            Some((NodeStatus::Pending, keys)) => (keys, Some(Refusal::Pending)),
            Some((NodeStatus::Revoked, keys)) => (keys, Some(Refusal::Revoked)),
            Some((NodeStatus::Active, keys)) => (keys, None),
        };
        let gate = Gate { node, keys: keys.into_iter().collect(), closed, now };
        let rules = self.rules.get();
        let work = tokio::task::spawn_blocking(move || gate.check(&body, rules));
        let checked = work.await.map_err(|_| IngestError::Stopping)??;
        self.store_checked(node, checked, now).await
    }

    async fn store_checked(
        &self,
        node: NodeId,
        checked: Checked,
        now: Timestamp,
    ) -> Result<Answers, IngestError> {
        let mut answers = Answers::new(node, now);
        answers.malformed = checked.malformed;
        for (epoch, refusal) in checked.refused {
            self.metrics.refused.with_label_values(&[refusal.as_str()]).inc();
            if matches!(refusal, Refusal::BadSignature | Refusal::UnknownKey) {
                let detail = refusal.as_str().to_owned();
                let kind = FlagKind::BadSignature;
                self.store.raise_flag(NewFlag { node, epoch, seq: None, kind, detail, at: now }).await?;
            }
            answers.refuse(epoch, refusal);
        }
        let (batches, events): (Vec<_>, Vec<_>) =
            checked.opened.into_iter().map(|opened| (opened.batch, (opened.events, opened.matched))).unzip();
        let hints: Vec<Hint> = batches
            .iter()
            .zip(events)
            .map(|(batch, (events, matched))| Hint {
                key: open::key(&batch.signed),
                boot: batch.signed.header.facts.as_ref().map_or(BootId::UNKNOWN, |facts| facts.clocks.boot),
                host: Arc::new(batch.signed.header.host()),
                received_at: now,
                events: Arc::new(events),
                matched,
            })
            .collect();
        let arrivals: Vec<Arrival> = batches
            .into_iter()
            .map(|batch| Arrival::Batch(Box::new(batch)))
            .chain(
                checked
                    .folds
                    .into_iter()
                    .map(|fold| Arrival::Fold { fold: Box::new(fold), received_at: now }),
            )
            .collect();
        if !arrivals.is_empty() {
            let report = self.store.store_batches(arrivals).await?;
            for outcome in &report.outcomes {
                self.metrics.batches.with_label_values(&[answer::verdict_name(&outcome.verdict)]).inc();
            }
            for (outcome, hint) in report.outcomes.iter().zip(hints) {
                if outcome.id.is_some() && !hint.events.is_empty() {
                    self.metrics.events.inc_by(hint.events.len() as u64);
                    // Full or closed: the sweep finds the batch.
                    let _ = self.hints.try_send(hint);
                }
            }
            answers.acknowledge(&report);
        }
        for state in checked.states {
            if let Some(newest) = state.site_key {
                answers.tell(self.site.keys.get().rotations_after(newest));
            }
            answers.acknowledge_state(&self.store.apply_state(state, now).await?);
        }
        Ok(answers)
    }

    /// The answer's bytes, signed.
    pub fn sign(&self, answers: &Answers) -> Vec<u8> {
        answers.sign(&self.site.keys.get().signing)
    }
}

/// What every part of a frame has to pass. Pure: no store, no network.
struct Gate {
    node: NodeId,
    keys: KeyRing<Node>,
    /// Why nothing of this node is taken.
    closed: Option<Refusal>,
    now: Timestamp,
}

impl Gate {
    fn check(&self, body: &[u8], rules: Arc<Rules>) -> Result<Checked, ParseError> {
        let mut checked = Checked::default();
        let mut opener = open::Opener::matching(rules);
        for part in Parts::new(body)? {
            let Ok(part) = part else {
                checked.malformed += 1;
                continue;
            };
            match part {
                Part::Batch(batch) => {
                    let header = &batch.signed.header;
                    let verdict = self.admit(header.node, header.key, |key| batch.verify(key).is_ok());
                    match verdict {
                        Ok(()) => checked.opened.push(opener.open(batch, self.now)),
                        Err(refusal) => checked.refused.push((header.epoch, refusal)),
                    }
                }
                Part::Folded(fold) => {
                    let said = fold.unverified();
                    match self.admit(said.node, fold.key(), |key| fold.verify(key).is_ok()) {
                        Ok(()) => checked.folds.push(fold),
                        Err(refusal) => checked.refused.push((said.epoch, refusal)),
                    }
                }
                Part::State(state) => self.check_state(&state, &mut checked),
                // Ours to say, not a node's.
                Part::Ack(_) | Part::Rotation(_) | Part::Expired(_) | Part::Lost(_) | Part::Checkpoint(_) => {
                    checked.malformed += 1;
                }
            }
        }
        Ok(checked)
    }

    fn check_state(&self, state: &SignedState, checked: &mut Checked) {
        let said = state.unverified();
        match self.admit(said.node, state.key(), |key| state.verify(key).is_ok()) {
            Ok(()) => checked.states.push(said.clone()),
            Err(refusal) => checked.refused.push((said.epoch, refusal)),
        }
    }

    fn admit(
        &self,
        node: NodeId,
        key: auditflow_wire::KeyId,
        verifies: impl FnOnce(&auditflow_wire::NodePublicKey) -> bool,
    ) -> Result<(), Refusal> {
        if let Some(refusal) = self.closed {
            return Err(refusal);
        }
        if node != self.node {
            return Err(Refusal::Malformed);
        }
        let key = self.keys.get(key).ok_or(Refusal::UnknownKey)?;
        if verifies(key) { Ok(()) } else { Err(Refusal::BadSignature) }
    }
}
