//! What must hold for bytes from the network, whatever they are: they are refused, or they have exactly one form. Run by
//! the fuzz targets, and by the crate's tests over the checked-in corpus.

use auditflow_event::NodeId;
use auditflow_wire::chain::EpochLedger;
use auditflow_wire::enrol::{RekeyRequest, RekeyResponse};
use auditflow_wire::payload::MAX_DECODED_LEN;
use auditflow_wire::{
    Ack, Checkpoint, Content, Decoder, EnrolRequest, EnrolResponse, Folded, FrameWriter, JoinToken, Lost,
    NodeRotation, Part, Parts, Rotation, Signed, State, statement::Statement,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A frame with parts of every kind: what is read is written back as it was, and payloads stay within their bound.
pub(crate) fn wire_frame(data: &[u8]) {
    let Ok(parts) = Parts::new(data) else { return };
    let mut written = FrameWriter::new();
    let mut whole = true;
    for part in parts {
        let Ok(part) = part else {
            whole = false;
            continue;
        };
        assert!(push(&mut written, &part), "what came in one frame fits one");
        if let Part::Batch(batch) = part {
            if let (Some(facts), Content::Payload(payload)) = (&batch.signed.header.facts, batch.content) {
                open(batch.signed.header.node, facts, payload);
            }
            let host = batch.signed.header.host();
            assert_eq!(host.id, Some(batch.signed.header.node));
        }
    }
    assert!(!whole || written.finish() == data, "a frame reads back as it was");
}

/// One statement, or an epoch's stored state.
pub(crate) fn wire_statement(data: &[u8]) {
    one_form::<Ack>(data);
    one_form::<State>(data);
    one_form::<Folded>(data);
    one_form::<Rotation>(data);
    one_form::<NodeRotation>(data);
    one_form::<Checkpoint>(data);
    one_form::<Lost>(data);
    if let Ok(ledger) = EpochLedger::from_bytes(data) {
        let _ = (ledger.through(), ledger.above(), ledger.owed(), ledger.highest());
    }
}

/// A join token, or one of enrolment's messages.
pub(crate) fn wire_enrol(data: &[u8]) {
    same_again::<EnrolRequest>(data, |request| request.check().is_ok());
    same_again::<EnrolResponse>(data, |response| response.check().is_ok());
    same_again::<RekeyRequest>(data, |request| request.check().is_ok());
    same_again::<RekeyResponse>(data, |response| response.check().is_ok());
    if let Some(token) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<JoinToken>().ok()) {
        assert!(token.reveal().parse::<JoinToken>().is_ok_and(|again| again == token));
    }
}

fn push(frame: &mut FrameWriter, part: &Part<'_>) -> bool {
    match part {
        Part::Batch(batch) => frame.push_batch(&batch.signed, batch.content),
        Part::Folded(fold) => frame.push_fold(fold),
        Part::State(state) => frame.push_state(state),
        Part::Ack(ack) => frame.push_ack(ack),
        Part::Rotation(rotation) => frame.push_rotation(rotation),
        Part::Expired(signed) => frame.push_expired(signed),
        Part::Lost(lost) => frame.push_lost(lost),
        Part::Checkpoint(checkpoint) => frame.push_checkpoint(checkpoint),
    }
}

fn open(node: NodeId, facts: &auditflow_wire::Facts, payload: &[u8]) {
    let Ok(mut decoder) = Decoder::new() else { return };
    if let Ok(events) = decoder.decode(node, facts, payload) {
        assert_eq!(events.len(), facts.events as usize);
        assert!(events.len() <= MAX_DECODED_LEN);
    }
}

fn one_form<T: Statement>(data: &[u8]) {
    if let Ok(signed) = Signed::<T>::parse(data) {
        assert_eq!(signed.as_bytes(), data, "a statement has one form");
        assert!(Signed::<T>::parse(signed.as_bytes()).is_ok_and(|again| again.digest() == signed.digest()));
    }
}

fn same_again<T: Serialize + DeserializeOwned + PartialEq>(data: &[u8], in_bounds: fn(&T) -> bool) {
    if let Some(message) = serde_json::from_slice(data).ok().filter(in_bounds) {
        let text = serde_json::to_vec(&message).unwrap_or_default();
        assert!(serde_json::from_slice::<T>(&text).is_ok_and(|again| again == message));
    }
}
