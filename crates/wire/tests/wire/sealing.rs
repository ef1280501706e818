//! Seals payloads into a chain as an agent would, with everything that an ordinary header carries.

#![allow(clippy::expect_used, reason = "part of tests and examples, which fail by panicking")]

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{
    AckSeen, BatchSeq, BootId, ClockCause, ClockFact, Clocks, Draft, Encoded, EpochId, Link, NodeFacts,
    NodeKey, RuleSetVersion, SignedHeader, UnknownPredecessor, seal,
};

/// The node that seals.
pub(crate) const NODE: NodeId = NodeId::from_bytes([0x5A; 16]);
/// Its epoch.
pub(crate) const EPOCH: EpochId = EpochId::from_bytes([0xE1; 16]);

/// The node's key.
pub(crate) fn key() -> NodeKey {
    NodeKey::from_seed(&[7; 32])
}

/// One epoch of batches, each acknowledging the one before.
pub(crate) fn seal_all(payloads: &[Encoded]) -> Vec<SignedHeader> {
    let key = key();
    let mut sealed: Vec<SignedHeader> = Vec::new();
    let mut events_before = 0;
    for payload in payloads {
        let last = sealed.last().map(SignedHeader::head);
        let draft = draft(last, events_before);
        events_before += u64::from(payload.events);
        sealed.push(seal(draft, payload, &key).expect("drafts are within bounds"));
    }
    sealed
}

/// What an agent knows when it seals the batch after `last`.
pub(crate) fn draft(last: Option<auditflow_wire::Head>, events_before: u64) -> Draft {
    let number = last.map_or(BatchSeq::FIRST, |last| last.number.next().expect("few batches"));
    let link = match last {
        Some(last) => Link::Previous(last.digest),
        None => Link::Unknown { why: UnknownPredecessor::FirstStart, epoch: None },
    };
    let wall = Timestamp::from_millis(1_795_413_050_000 + number.get() * 10_000);
    let fact = ClockFact {
        cause: ClockCause::Seal,
        wall,
        boottime_micros: 86_400_000_000 + number.get() * 10_000_000,
        synchronised: true,
    };
    Draft {
        node: NODE,
        epoch: EPOCH,
        number,
        oldest_unacknowledged: number,
        link,
        events_before,
        rule_set: RuleSetVersion::from_bytes([0x11; 16]),
        about: about(),
        clocks: Clocks { boot: BootId::from_bytes([0xB0; 16]), facts: vec![fact] },
        last_ack: last.map(|last| AckSeen { epoch: EPOCH, number: last.number, digest: last.digest }),
        losses: Vec::new(),
    }
}

/// What a Raspberry Pi with two labels says of itself.
pub(crate) fn about() -> NodeFacts {
    let labels = [("site", "north"), ("rack", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    NodeFacts::new("k3s-agent-3", "0.1.0", "6.12.47+rpt-rpi-2712", "aarch64", labels)
}

/// Bytes of all headers, signatures and payloads.
#[allow(dead_code)]
pub(crate) fn wire_len(payloads: &[Encoded], sealed: &[SignedHeader]) -> usize {
    let headers: usize = sealed.iter().map(|header| header.as_bytes().len()).sum();
    headers + payloads.iter().map(|payload| payload.bytes.len()).sum::<usize>()
}
