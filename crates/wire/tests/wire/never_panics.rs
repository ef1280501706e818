//! Bytes from outside are refused or understood, never more.

use std::sync::LazyLock;

use auditflow_wire::chain::EpochLedger;
use auditflow_wire::header::Header;
use auditflow_wire::payload::{decode_raw, encode_raw};
use auditflow_wire::{
    Ack, Checkpoint, Codec, Content, Decoder, DictionaryId, Eviction, Facts, Folded, FrameWriter, Lost,
    NodeKeys, NodeRotation, Part, Parts, Rotation, Signed, SignedHeader, State,
};
use proptest::prelude::*;

use crate::samples;
use crate::sealing::{self, NODE};

static FULL_HEADER: LazyLock<SignedHeader> = LazyLock::new(samples::full_header);

/// Gives `bytes` to everything that reads bytes from outside.
fn read_as_everything(bytes: &[u8]) {
    let _ = Header::parse(bytes);
    let _ = Eviction::parse(bytes);
    let _ = Signed::<Ack>::parse(bytes);
    let _ = Signed::<State>::parse(bytes);
    let _ = Signed::<Folded>::parse(bytes);
    let _ = Signed::<Checkpoint>::parse(bytes);
    let _ = Signed::<Rotation>::parse(bytes);
    let _ = Signed::<NodeRotation>::parse(bytes);
    let _ = Signed::<Lost>::parse(bytes);
    let _ = EpochLedger::from_bytes(bytes);
    if let Ok(parts) = Parts::new(bytes) {
        parts.for_each(drop);
    }
    let _ = decode_raw(NODE, 5, bytes);
    let facts = FULL_HEADER.header.facts.clone().unwrap();
    let mut decoder = Decoder::new().unwrap();
    let _ = decoder.decode(NODE, &facts, bytes);
    let _ =
        decoder.decode(NODE, &Facts { codec: Codec::Zstd, dictionary: DictionaryId::NONE, ..facts }, bytes);
}

/// Made once: signing and loading the dictionary for every case would take minutes.
fn whole_frame() -> Vec<u8> {
    static FRAME: LazyLock<Vec<u8>> = LazyLock::new(make_frame);
    FRAME.clone()
}

fn make_frame() -> Vec<u8> {
    let payload = samples::payload();
    let mut frame = FrameWriter::new();
    assert!(frame.push_batch(&samples::full_header(), Content::Payload(&payload.bytes)));
    assert!(frame.push_batch(&samples::ordinary_header(), Content::Payload(&payload.bytes)));
    assert!(frame.push_fold(&samples::fold()));
    assert!(frame.push_state(&samples::state()));
    assert!(frame.push_ack(&samples::ack()));
    assert!(frame.push_rotation(&samples::rotation()));
    assert!(frame.push_expired(&samples::ordinary_header()));
    assert!(frame.push_lost(&samples::lost()));
    assert!(frame.push_checkpoint(&samples::checkpoint()));
    frame.finish()
}

fn raw_payload() -> Vec<u8> {
    let mut raw = Vec::new();
    encode_raw(NODE, &samples::events(), &mut raw).unwrap();
    raw
}

/// Valid messages of every kind, for mutation.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    static MESSAGES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        vec![
            make_frame(),
            raw_payload(),
            samples::payload().bytes,
            samples::full_header().as_bytes().to_vec(),
            samples::ack().as_bytes().to_vec(),
            samples::state().as_bytes().to_vec(),
            samples::fold().as_bytes().to_vec(),
            samples::checkpoint().as_bytes().to_vec(),
        ]
    });
    proptest::sample::select(MESSAGES.as_slice())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn damaged_messages_never_panic(
        mut bytes in messages(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_as_everything(&bytes);
    }

    #[test]
    fn altered_frame_never_passes_for_what_was_signed(at: proptest::sample::Index, bit in 0..8) {
        let original = whole_frame();
        let mut bytes = original.clone();
        bytes[at.index(original.len())] ^= 1_u8 << bit;
        let node = sealing::key().public();
        let site = samples::site_key().public();
        let genuine: Vec<Part<'_>> = Parts::new(&original).unwrap().map(Result::unwrap).collect();
        let Ok(parts) = Parts::new(&bytes) else { return Ok(()) };
        for part in parts.flatten() {
            let proved = match &part {
                Part::Batch(batch) => batch.verify(&NodeKeys::from_iter([node])).is_ok(),
                Part::Folded(fold) => fold.verify(&node).is_ok(),
                Part::State(state) => state.verify(&node).is_ok(),
                Part::Ack(ack) => ack.verify(&site).is_ok(),
                Part::Rotation(rotation) => rotation.verify(&site).is_ok(),
                Part::Expired(signed) => signed.verify(&node).is_ok(),
                Part::Lost(lost) => lost.verify(&site).is_ok(),
                Part::Checkpoint(checkpoint) => checkpoint.verify(&site).is_ok(),
            };
            prop_assert!(!proved || genuine.contains(&part), "{part:?} passes though altered");
        }
    }

    #[test]
    fn header_that_parses_has_only_one_form(at: proptest::sample::Index, value: u8) {
        let genuine = &*FULL_HEADER;
        let mut bytes = genuine.as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = value;
        if let Ok(read) = SignedHeader::parse(&bytes) {
            let signed = bytes.len() - 64;
            prop_assert_eq!(read.header == genuine.header, bytes[..signed] == genuine.as_bytes()[..signed]);
        }
    }
}
