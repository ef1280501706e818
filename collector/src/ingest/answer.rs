//! The answers. Every body that is a frame gets a frame back, with one acknowledgement per epoch it spoke of, signed
//! by the site; the HTTP status repeats the gravest for whoever reads logs.
//!
//! | case | acknowledgement | status |
//! |---|---|---|
//! | new, duplicate, replayed, out of order, of an older epoch, gap below, broken link, unknown version | stored-through and ranges | 200 |
//! | contradicts the ledger: rolled back or cloned | `fork` | 409 |
//! | too many holes below | refused: `too_many_holes` | 200 |
//! | wrong signature, payload not the signed one, unknown key | refused: `bad_signature`, `unknown_key` | 403 |
//! | another node's data | refused: `malformed` | 403 |
//! | node unknown, waiting for approval, revoked | refused: `unknown_node`, `pending`, `revoked` | 403 |
//! | a part that can't be read | none for it | 400 |
//! | not a frame | none: problem details | 400 |
//! | too large, too many at once, store busy or full | none: problem details, `Retry-After` with the last two | 413, 429, 503 |

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::frame::FrameWriter;
use auditflow_wire::{Ack, Answer, EpochId, EpochLedger, Refusal, Signed, SignedRotation, SiteKey, Verdict};
use http::StatusCode;

use crate::store::StoreReport;

/// The acknowledgements that answer one frame.
pub struct Answers {
    node: NodeId,
    now: Timestamp,
    acks: Vec<Ack>,
    rotations: Vec<SignedRotation>,
    /// How many parts could not be read.
    pub malformed: usize,
    /// Whether the node is one that may send at all.
    pub is_let_in: bool,
}

impl Answers {
    /// None yet.
    pub(super) fn new(node: NodeId, now: Timestamp) -> Self {
        Self { node, now, acks: Vec::new(), rotations: Vec::new(), malformed: 0, is_let_in: true }
    }

    /// An epoch of which something was refused, once per reason.
    pub(super) fn refuse(&mut self, epoch: EpochId, why: Refusal) {
        let answer = Answer::Refused(why);
        if !self.acks.iter().any(|ack| ack.epoch == epoch && ack.answer == answer) {
            let (node, time) = (self.node, self.now);
            self.acks.push(Ack { node, epoch, time, answer, through: None, above: Vec::new() });
        }
    }

    /// What the store did; the gravest of an epoch's verdicts speaks for it.
    pub(super) fn acknowledge(&mut self, report: &StoreReport) {
        for (node, epoch, ledger) in &report.epochs {
            let own = report.outcomes.iter().filter(|outcome| outcome.epoch == (*node, *epoch));
            let verdict = own.map(|outcome| &outcome.verdict).max_by_key(|verdict| gravity(verdict));
            self.acks.push(ledger.ack(*node, *epoch, verdict, self.now));
        }
    }

    /// What is held of the epochs that a state spoke of.
    pub(super) fn acknowledge_state(&mut self, epochs: &[(EpochId, EpochLedger)]) {
        for (epoch, ledger) in epochs {
            // A frame with batches and a state speaks of an epoch twice: the later word holds.
            self.acks.retain(|ack| ack.epoch != *epoch || ack.answer != Answer::Stored);
            self.acks.push(ledger.ack(self.node, *epoch, None, self.now));
        }
    }

    /// The rotations of the site's key that the node has missed.
    pub(super) fn tell(&mut self, rotations: &[SignedRotation]) {
        self.rotations = rotations.to_vec();
    }

    /// The status that says the gravest of it.
    pub fn status(&self) -> StatusCode {
        let of = |ack: &Ack| match ack.answer {
            Answer::Fork { .. } => 3,
            Answer::Refused(Refusal::TooManyHoles) | Answer::Stored => 0,
            Answer::Refused(_) => 2,
        };
        let malformed = u8::from(self.malformed > 0);
        match self.acks.iter().map(of).max().unwrap_or(0).max(malformed) {
            3 => StatusCode::CONFLICT,
            2 => StatusCode::FORBIDDEN,
            1 => StatusCode::BAD_REQUEST,
            _ => StatusCode::OK,
        }
    }

    /// The frame to send back.
    pub(super) fn sign(&self, key: &SiteKey) -> Vec<u8> {
        let mut frame = FrameWriter::new();
        // First, so that the node knows the key of what follows. At most as many as one answer may carry: they fit.
        let told = self.rotations.iter().take_while(|rotation| frame.push_rotation(rotation)).count();
        if told < self.rotations.len() {
            tracing::warn!("rotations did not fit a frame");
        }
        for ack in &self.acks {
            // At most as many as parts and epochs of a state: far below a frame's bounds.
            if !frame.push_ack(&Signed::sign(ack.clone(), key)) {
                tracing::warn!("an answer did not fit a frame");
                break;
            }
        }
        frame.finish()
    }
}

/// A verdict's name in metrics.
pub(super) fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Store => "stored",
        Verdict::StoreAbove => "stored_above",
        Verdict::Duplicate => "duplicate",
        Verdict::Fork(_) => "fork",
        Verdict::TooManyHoles => "too_many_holes",
    }
}

fn gravity(verdict: &Verdict) -> u8 {
    match verdict {
        Verdict::Fork(_) => 2,
        Verdict::TooManyHoles => 1,
        _ => 0,
    }
}
