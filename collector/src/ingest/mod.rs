//! Ingest: what nodes send becomes what the store holds, and is answered with the site's signature.
//!
//! Fed by `https` with the bodies of authenticated nodes, and by `mqtt` with what a broker let nodes publish; feeds the store, and analysis with hints. The way of a body:
//! frame → parts → the node's own? signed by its key? → payload opened, terms taken, rules matched → stored in one
//! transaction, which judges the chain → acknowledged. Nothing is acknowledged before it is durable, nothing that is not the node's own
//! is stored, and each case has its one answer (`answer` lists them).

pub mod amqp;
pub mod ancestor;
pub mod answer;
pub mod brokered;
pub mod enrol;
pub mod https;
pub mod intake;
pub mod late;
pub mod mqtt;
pub(crate) mod open;
mod raised;
pub mod rekey;
mod rights;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use auditflow_event::{NodeId, Timestamp};
use auditflow_rules::Current;
use auditflow_wire::batch::BatchError;
use auditflow_wire::frame::{Part, Parts};
use auditflow_wire::keys::PublicKey;
use auditflow_wire::statement::Statement;
use auditflow_wire::{
    Batch, BootId, EpochId, Folded, Header, KeyId, NodeKeys, NotASigner, ParseError, Refusal, Signed,
    SignedFold, SignedState, State,
};
use bytes::Bytes;

use crate::analyse::{Hints, OpenBatch};
use crate::detect::Rules;
use crate::metrics::IngestMetrics;
use crate::site::Site;
use crate::site::authority::Peer;
use crate::store::{Arrival, FlagKind, NewFlag, NodeStatus, Store, StoreError};
use answer::Answers;
use open::Opened;

/// Takes frames of authenticated nodes.
pub struct Ingest {
    store: Arc<dyn Store>,
    site: Site,
    analysis: Option<Feed>,
    metrics: IngestMetrics,
}

/// The analysis of the same process: what is stored is hinted at, with what it matches by the rules in force.
pub struct Feed {
    /// The rules.
    pub rules: Current<Rules>,
    /// Where hints go.
    pub hints: Hints,
}

/// Who sends a frame, as far as the way that it came can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// The node.
    pub node: NodeId,
    /// The key that it proved to have when it connected; a broker doesn't tell.
    pub key: Option<KeyId>,
}

impl From<Peer> for Speaker {
    fn from(Peer { node, key }: Peer) -> Self {
        Self { node, key: Some(key) }
    }
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
    refused: Vec<Refused>,
    /// Parts that can't be read at all.
    malformed: usize,
}

/// A part that is not taken.
struct Refused {
    epoch: EpochId,
    why: Refusal,
    /// Whether it may be somebody else's: an operator is told.
    alarming: bool,
}

impl Ingest {
    /// An ingest that writes to `store` and signs for `site`. Where another process analyses, that one's sweep finds
    /// what is stored.
    pub fn new(store: Arc<dyn Store>, site: Site, analysis: Option<Feed>, metrics: IngestMetrics) -> Self {
        Self { store, site, analysis, metrics }
    }

    /// Takes one frame from the node that it came from for certain, or as the broker's rules have it.
    pub async fn take(&self, speaker: Speaker, body: Bytes, now: Timestamp) -> Result<Answers, IngestError> {
        let node = speaker.node;
        self.metrics.frames.inc();
        self.metrics.bytes.inc_by(body.len() as u64);
        let access = self.store.node_access(node).await?;
        let (keys, closed) = match access {
            None => (NodeKeys::default(), Some(Refusal::UnknownNode)),
            Some((NodeStatus::Pending, keys)) => (keys, Some(Refusal::Pending)),
            Some((NodeStatus::Revoked, keys)) => (keys, Some(Refusal::Revoked)),
            Some((NodeStatus::Active, keys)) => {
                let closed = speaker.key.and_then(|key| keys.speaker(key).err()).map(refusal_of);
                (keys, closed)
            }
        };
        let is_let_in = closed.is_none();
        let gate = Gate { node, keys, closed, now };
        let rules = self.analysis.as_ref().map(|feed| feed.rules.get());
        let work = tokio::task::spawn_blocking(move || gate.check(&body, rules));
        let checked = work.await.map_err(|_| IngestError::Stopping)??;
        let mut answers = self.store_checked(node, checked, now).await?;
        answers.is_let_in = is_let_in;
        Ok(answers)
    }

    async fn store_checked(
        &self,
        node: NodeId,
        checked: Checked,
        now: Timestamp,
    ) -> Result<Answers, IngestError> {
        let mut answers = Answers::new(node, now);
        answers.malformed = checked.malformed;
        for Refused { epoch, why, alarming } in checked.refused {
            self.metrics.refused.with_label_values(&[why.as_str()]).inc();
            if alarming {
                let detail = why.as_str().to_owned();
                let kind = FlagKind::BadSignature;
                self.store.raise_flag(NewFlag { node, epoch, seq: None, kind, detail, at: now }).await?;
            }
            answers.refuse(epoch, why);
        }
        let (batches, events): (Vec<_>, Vec<_>) =
            checked.opened.into_iter().map(|opened| (opened.batch, (opened.events, opened.matched))).unzip();
        let hints: Vec<OpenBatch> = batches
            .iter()
            .zip(events)
            .map(|(batch, (events, matched))| OpenBatch {
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
                    if let Some(feed) = &self.analysis {
                        feed.hints.offer(hint);
                    }
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
    keys: NodeKeys,
    /// Why nothing of this node is taken.
    closed: Option<Refusal>,
    now: Timestamp,
}

impl Gate {
    fn check(&self, body: &[u8], rules: Option<Arc<Rules>>) -> Result<Checked, ParseError> {
        let mut checked = Checked::default();
        let mut opener = rules.map_or_else(open::Opener::default, open::Opener::matching);
        for part in Parts::new(body)? {
            let Ok(part) = part else {
                checked.malformed += 1;
                continue;
            };
            match part {
                Part::Batch(batch) => {
                    let Header { node, epoch, .. } = batch.signed.header;
                    match self.admit(node, || verify(&batch, &self.keys)) {
                        Ok(()) => checked.opened.push(opener.open(batch, self.now)),
                        Err(why) => checked.refused.push(self.refused(epoch, why)),
                    }
                }
                Part::Folded(fold) => {
                    let Folded { node, epoch, span, .. } = *fold.unverified();
                    let signer = || self.keys.signer(fold.key(), epoch, span.last()).map_err(refusal_of);
                    match self.admit(node, || proved(&fold, signer()?)) {
                        Ok(()) => checked.folds.push(fold),
                        Err(why) => checked.refused.push(self.refused(epoch, why)),
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
        let speaker = || self.keys.speaker(state.key()).map_err(refusal_of);
        match self.admit(said.node, || proved(state, speaker()?)) {
            Ok(()) => checked.states.push(said.clone()),
            Err(why) => {
                // Signed just before the key gave way to the next, and said again by that one.
                let outdated = self.closed.is_none() && why == Refusal::RetiredKey;
                let refused = self.refused(said.epoch, why);
                checked.refused.push(Refused { alarming: refused.alarming && !outdated, ..refused });
            }
        }
    }

    fn refused(&self, epoch: EpochId, why: Refusal) -> Refused {
        let alarming = match why {
            Refusal::BadSignature | Refusal::RetiredKey => true,
            // A certificate of this site for a key that it does not know: the store was restored from before that key.
            Refusal::UnknownKey => self.closed.is_none(),
            _ => false,
        };
        Refused { epoch, why, alarming }
    }

    fn admit(&self, node: NodeId, verify: impl FnOnce() -> Result<(), Refusal>) -> Result<(), Refusal> {
        match self.closed {
            Some(refusal) => Err(refusal),
            None if node != self.node => Err(Refusal::Malformed),
            None => verify(),
        }
    }
}

fn verify(batch: &Batch<'_>, keys: &NodeKeys) -> Result<(), Refusal> {
    batch.verify(keys).map_err(|error| match error {
        BatchError::Key(why) => refusal_of(why),
        BatchError::Signature(_) | BatchError::Payload => Refusal::BadSignature,
    })
}

fn proved<T: Statement>(statement: &Signed<T>, key: &PublicKey<T::Signer>) -> Result<(), Refusal> {
    statement.verify(key).map(drop).map_err(|_| Refusal::BadSignature)
}

fn refusal_of(why: NotASigner) -> Refusal {
    match why {
        NotASigner::Unknown(_) => Refusal::UnknownKey,
        NotASigner::Retired(_) => Refusal::RetiredKey,
    }
}
