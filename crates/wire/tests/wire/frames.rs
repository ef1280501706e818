//! Frames hold what was put in, up to their bounds.

use auditflow_wire::frame::{MAX_FRAME_LEN, MAX_PART_LEN, MAX_PARTS};
use auditflow_wire::{Batch, Content, EvictReason, Eviction, FrameWriter, ParseError, Part, Parts};

use crate::samples;
use crate::sealing;

#[test]
fn every_kind_of_part_comes_out_as_it_went_in() {
    let payload = samples::payload();
    let header = samples::full_header();
    let eviction = Eviction::sign(header.digest(), EvictReason::SpoolFull, &sealing::key());
    let mut frame = FrameWriter::new();
    assert!(frame.is_empty());
    assert!(frame.push_batch(&header, Content::Payload(&payload.bytes)));
    assert!(frame.push_batch(&header, Content::Evicted(eviction)));
    assert!(frame.push_fold(&samples::fold()));
    assert!(frame.push_state(&samples::state()));
    assert!(frame.push_ack(&samples::ack()));
    assert!(frame.push_rotation(&samples::rotation()));
    let bytes = frame.finish();
    let parts: Vec<Part<'_>> = Parts::new(&bytes).unwrap().collect::<Result<_, _>>().unwrap();
    let batch = |content| Part::Batch(Batch { signed: header.clone(), content });
    assert_eq!(
        parts,
        [
            batch(Content::Payload(&payload.bytes)),
            batch(Content::Evicted(eviction)),
            Part::Folded(samples::fold()),
            Part::State(samples::state()),
            Part::Ack(samples::ack()),
            Part::Rotation(samples::rotation()),
        ]
    );
}

#[test]
fn malformed_part_is_an_error_and_the_next_one_is_read() {
    let mut frame = FrameWriter::new();
    assert!(frame.push_ack(&samples::ack()) && frame.push_state(&samples::state()));
    let mut bytes = frame.finish();
    bytes[4 + 5] ^= 1;
    let parts: Vec<_> = Parts::new(&bytes).unwrap().collect();
    assert_eq!(parts, [Err(ParseError::WrongMagic("acknowledgement")), Ok(Part::State(samples::state()))]);
}

#[test]
fn frame_that_is_cut_off_ends_with_an_error() {
    let mut frame = FrameWriter::new();
    assert!(frame.push_ack(&samples::ack()) && frame.push_ack(&samples::ack()));
    let bytes = frame.finish();
    let parts: Vec<_> = Parts::new(&bytes[..bytes.len() - 1]).unwrap().collect();
    assert_eq!(parts, [Ok(Part::Ack(samples::ack())), Err(ParseError::Truncated("frame"))]);
}

#[test]
fn bounds_hold_in_both_directions() {
    let mut frame = FrameWriter::new();
    let ack = samples::ack();
    for _ in 0..MAX_PARTS {
        assert!(frame.push_ack(&ack));
    }
    let full = frame.len();
    assert!(!frame.push_ack(&ack));
    assert_eq!(frame.len(), full);
    let mut bytes = frame.finish();
    assert_eq!(Parts::new(&bytes).unwrap().flatten().count(), MAX_PARTS);
    bytes.extend_from_within(4..full / MAX_PARTS + 4);
    assert!(matches!(
        Parts::new(&bytes).unwrap().last(),
        Some(Err(ParseError::OutOfBounds { field: "parts", .. }))
    ));

    let mut frame = FrameWriter::new();
    let header = samples::full_header();
    assert!(frame.push_batch(&header, Content::Payload(&vec![0; 4 << 20])));
    assert!(!frame.push_batch(&header, Content::Payload(&vec![0; 4 << 20])));
    assert!(!FrameWriter::new().push_batch(&header, Content::Payload(&vec![0; MAX_PART_LEN])));

    assert!(Parts::new(&vec![0; MAX_FRAME_LEN + 1]).is_err());
    let mut claims = b"AFF1\x01".to_vec();
    claims.extend(u32::MAX.to_le_bytes());
    assert!(matches!(Parts::new(&claims).unwrap().next(), Some(Err(ParseError::OutOfBounds { .. }))));
}
