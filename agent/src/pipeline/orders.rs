//! What the rest of the agent asks of the pipeline, obeyed between two events.

use std::time::Instant;

use auditflow_event::{AgentState, Condition};
use auditflow_wire::keys::Site;
use auditflow_wire::{Rotation, Signed};

use super::{Command, Pipeline};
use crate::ship::Report;
use crate::spool::Acknowledged;

impl Pipeline {
    pub(super) fn obey(&mut self, command: Command) {
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
}
