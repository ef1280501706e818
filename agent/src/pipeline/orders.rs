//! What the rest of the agent asks of the pipeline, obeyed between two events.

use std::time::Instant;

use auditflow_event::{AgentState, Condition};
use auditflow_wire::{KeyId, SignedRotation};

use super::{Command, Pipeline};
use crate::identity::RotateError;
use crate::ship::Report;
use crate::spool::Acknowledged;

impl Pipeline {
    pub(super) fn obey(&mut self, command: Command) {
        match command {
            Command::Report(report) => self.heed(report),
            Command::Trust(keys) => self.parts.spool.trust(*keys),
            Command::RotateKey(reply) => {
                // Whoever asked may have given up waiting.
                let _ = reply.send(self.rotate_key());
            }
            Command::TestAlert(reply) => {
                let at = crate::clock::wall();
                let reason = Some("auditflow-agent test-alert: harmless, made to be alerted on".into());
                let (source, state) = ("agent".into(), Condition::TestAlert);
                let id =
                    self.add_state(AgentState { source, state, at, since: at, reason, counts: Vec::new() });
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

    /// Nothing is sealed between the last word of the old key and the first of the new one: both are this thread's.
    fn rotate_key(&mut self) -> Result<KeyId, RotateError> {
        let sealed = self.parts.spool.last_sealed()?;
        let key = self.parts.identity.rotate(sealed, crate::clock::wall())?;
        let id = key.id();
        self.parts.spool.sign_with(key);
        tracing::info!(node.key = %id, "the node signs with a new key");
        Ok(id)
    }

    fn follow(&mut self, rotation: &SignedRotation) {
        match self.parts.spool.follow(rotation) {
            Ok(None) => {}
            Ok(Some(pins)) => {
                tracing::info!(site.key = %pins.newest(), "followed the site to its next key");
                self.parts.site_keys.up();
                // The collector sends the chain again to whoever comes back with the old pins.
                if let Err(error) = self.parts.identity.pin(pins) {
                    tracing::error!("the site's new keys hold until the next start only: {error}");
                }
            }
            Err(error) => {
                tracing::warn!("a rotation of the site's key was not followed: {error}");
                let reason = format!(
                    "a rotation of the site's key was not followed: {error}; if the site was set up anew, join again"
                );
                self.parts.site_keys.degraded(&reason, &["acknowledgements after the site's next rotation"]);
            }
        }
    }
}
