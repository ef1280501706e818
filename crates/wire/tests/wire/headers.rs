//! Sealing and opening batches.

use auditflow_event::Event;
use auditflow_wire::batch::BatchError;
use auditflow_wire::header::{MAX_EVENTS, MAX_HEADER_LEN};
use auditflow_wire::{
    Batch, ClockCause, ClockFact, Clocks, Content, Decoder, Draft, Encoded, Encoder, EvictReason, Eviction,
    Head, Link, Loss, NodeFacts, NodeKey, NodeKeys, ParseError, SealError, SignedHeader, TimeRange, seal,
};

use crate::samples::{self, number, time};
use crate::sealing::{self, NODE};

#[test]
fn what_is_sealed_is_parsed_verified_and_opened() {
    let payload = samples::payload();
    let sealed = samples::full_header();
    let parsed = SignedHeader::parse(sealed.as_bytes()).unwrap();
    assert_eq!(parsed, sealed);
    let batch = Batch { signed: parsed, content: Content::Payload(&payload.bytes) };
    batch.verify(&NodeKeys::from_iter([sealing::key().public()])).unwrap();
    let facts = batch.signed.header.facts.as_ref().unwrap();
    assert_eq!((facts.events, facts.cumulative), (5, 5));
    assert_eq!(facts.priority, auditflow_event::Priority::High);
    let events = Decoder::new().unwrap().decode(NODE, facts, &payload.bytes).unwrap();
    assert_eq!(format!("{events:?}"), format!("{:?}", samples::events()));
}

#[test]
fn ordinary_header_with_its_signature_stays_small() {
    let len = samples::ordinary_header().as_bytes().len();
    assert!(len <= 380, "{len} bytes");
}

#[test]
fn idle_interval_is_a_batch_without_events() {
    let sealed =
        seal(sealing::draft(Some(samples::head(3)), 70), &Encoded::empty(), &sealing::key()).unwrap();
    let facts = sealed.header.facts.as_ref().unwrap();
    assert_eq!((facts.events, facts.cumulative, facts.times), (0, 70, None));
    assert!(sealed.is_payload(&[]));
    assert!(Decoder::new().unwrap().decode(NODE, facts, &[]).unwrap().is_empty());
}

#[test]
fn altered_payload_other_key_and_foreign_eviction_are_refused() {
    let payload = samples::payload();
    let signed = samples::full_header();
    let keys = NodeKeys::from_iter([sealing::key().public()]);
    let verify = |content| Batch { signed: signed.clone(), content }.verify(&keys);
    let mut altered = payload.bytes.clone();
    altered[7] ^= 1;
    assert_eq!(verify(Content::Payload(&altered)), Err(BatchError::Payload));
    assert_eq!(verify(Content::Payload(&payload.bytes[1..])), Err(BatchError::Payload));

    let evicted =
        |digest, key: &NodeKey| Content::Evicted(Eviction::sign(digest, EvictReason::SpoolFull, key));
    assert_eq!(verify(evicted(signed.digest(), &sealing::key())), Ok(()));
    let stranger = NodeKey::from_seed(&[8; 32]);
    assert!(matches!(verify(evicted(signed.digest(), &stranger)), Err(BatchError::Key(_))));
    let of_another = evicted(samples::head(1).digest, &sealing::key());
    assert!(matches!(verify(of_another), Err(BatchError::Signature(_))));
    assert!(signed.verify(&stranger.public()).is_err());
}

#[test]
fn one_bit_of_a_header_is_enough_to_be_refused() {
    let sealed = samples::full_header();
    let key = sealing::key().public();
    for bit in 0..sealed.as_bytes().len() * 8 {
        let mut bytes = sealed.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(altered) = SignedHeader::parse(&bytes) {
            assert!(altered.verify(&key).is_err(), "bit {bit} was not noticed");
        }
    }
}

#[test]
fn largest_header_fits_its_bound_and_a_larger_one_is_not_sealed() {
    let loss = Loss {
        count: Some(u64::MAX),
        times: Some(TimeRange::new(auditflow_event::Timestamp::MIN, auditflow_event::Timestamp::MAX)),
        serials: Some((u32::MAX, u32::MAX)),
        ..samples::losses()[0]
    };
    let fact =
        ClockFact { cause: ClockCause::Step, wall: time(0), boottime_micros: u64::MAX, synchronised: true };
    let heads: Vec<Head> = (1..=4).map(samples::head).collect();
    let largest = Draft {
        link: Link::Successor { epoch: samples::epoch(0xE0), heads: heads.clone() },
        events_before: u64::MAX,
        about: largest_about(),
        clocks: Clocks { facts: vec![fact; 8], ..samples::clocks() },
        losses: vec![loss; 64],
        ..sealing::draft(None, 0)
    };
    let sealed = seal(largest.clone(), &samples::payload(), &sealing::key()).unwrap();
    assert!(sealed.as_bytes().len() - 64 <= MAX_HEADER_LEN);
    assert_eq!(SignedHeader::parse(sealed.as_bytes()).unwrap(), sealed);

    let too_large = [
        Draft { losses: vec![loss; 65], ..largest.clone() },
        Draft { about: labelled(32, 33), ..largest.clone() },
        Draft { clocks: Clocks { facts: vec![fact; 9], ..samples::clocks() }, ..largest.clone() },
        Draft {
            link: Link::Successor { epoch: samples::epoch(0xE0), heads: [&heads[..], &heads].concat() },
            ..largest.clone()
        },
        Draft { link: Link::Previous(samples::head(1).digest), ..largest.clone() },
        Draft { number: number(2), ..largest.clone() },
        Draft { oldest_unacknowledged: number(2), ..largest },
    ];
    for draft in too_large {
        let refused = seal(draft, &samples::payload(), &sealing::key());
        assert!(matches!(refused, Err(SealError::Header(_))), "{refused:?}");
    }
}

/// So many labels, of names with two bytes and values with this many.
fn labelled(labels: usize, value: usize) -> NodeFacts {
    let labels = (0..labels).map(|label| (format!("{label:02}"), "v".repeat(value)));
    NodeFacts::new(&"h".repeat(300), &"1".repeat(65), &"k\n".repeat(128), &"a".repeat(33), labels)
}

/// Every field of the greatest length.
fn largest_about() -> NodeFacts {
    labelled(32, 30)
}

#[test]
fn a_node_says_no_more_of_itself_than_its_bounds_allow() {
    let seal = |about: NodeFacts| {
        let draft = Draft { about, ..sealing::draft(None, 0) };
        seal(draft, &Encoded::empty(), &sealing::key())
    };
    let label = |name: &str, value: &str| NodeFacts {
        labels: vec![(name.into(), value.into())],
        ..NodeFacts::default()
    };
    let twice = NodeFacts::new("", "", "", "", [("a", "1"), ("a", "2")].map(|(n, v)| (n.into(), v.into())));
    let (long, longer) = ("n".repeat(63), "n".repeat(64));
    for (about, fits) in [
        (NodeFacts::default(), true),
        (largest_about(), true),
        (labelled(33, 0), false),
        (labelled(4, 254), true),
        (labelled(4, 255), false),
        (label(&long, &"v".repeat(255)), true),
        (label(&longer, ""), false),
        (label("n", &"v".repeat(256)), false),
        (label("", "v"), false),
        (label("n", "a\nb"), false),
        (twice, false),
        (NodeFacts { host_name: "h".repeat(254).into(), ..NodeFacts::default() }, false),
        (NodeFacts { kernel: "a\u{7}".into(), ..NodeFacts::default() }, false),
    ] {
        assert_eq!(seal(about.clone()).is_ok(), fits, "{about:?}");
    }
}

#[test]
fn the_node_of_a_batch_is_told_by_its_header_alone() {
    let host = samples::ordinary_header().header.host();
    assert_eq!((host.id, host.name.as_deref()), (Some(NODE), Some("k3s-agent-3")));
    assert_eq!(host.labels, [("rack".into(), "7".into()), ("site".into(), "north".into())]);
    assert_eq!(host.boot_id.as_deref().map(str::len), Some(32));
    assert_eq!(host.rule_set.as_deref(), Some(&*"11".repeat(16)));
}

#[test]
fn lengths_beyond_the_bounds_are_refused_before_anything_is_read() {
    let sealed = samples::ordinary_header();
    let mut bytes = sealed.as_bytes().to_vec();
    bytes[64..68].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        SignedHeader::parse(&bytes),
        Err(ParseError::OutOfBounds { field: "payload bytes", .. })
    ));
    let mut bytes = sealed.as_bytes().to_vec();
    bytes[6..8].copy_from_slice(&u16::MAX.to_le_bytes());
    assert!(matches!(SignedHeader::parse(&bytes), Err(ParseError::OutOfBounds { field: "bytes", .. })));
}

#[test]
fn payload_that_expands_beyond_its_bound_or_holds_another_count_is_refused() {
    let facts = samples::full_header().header.facts.unwrap();
    let mut decoder = Decoder::new().unwrap();
    let bomb = zstd::bulk::compress(&vec![0; auditflow_wire::payload::MAX_DECODED_LEN + 1], 3).unwrap();
    let plain = auditflow_wire::Facts {
        codec: auditflow_wire::Codec::Zstd,
        dictionary: auditflow_wire::DictionaryId::NONE,
        ..facts.clone()
    };
    assert!(decoder.decode(NODE, &plain, &bomb).is_err());
    let payload = samples::payload();
    for events in [0, 4, 6, MAX_EVENTS, u32::MAX] {
        let facts = auditflow_wire::Facts { events, ..facts.clone() };
        assert!(decoder.decode(NODE, &facts, &payload.bytes).is_err(), "{events} events were taken");
    }
    let unknown = auditflow_wire::DictionaryId::from_bytes([1, 2, 3, 4]);
    let facts = auditflow_wire::Facts { dictionary: unknown, ..facts };
    assert!(decoder.decode(NODE, &facts, &payload.bytes).is_err());
}

#[test]
fn batch_of_too_many_events_is_not_encoded() {
    let event = samples::events().remove(0);
    let events: Vec<Event> = vec![event; MAX_EVENTS as usize + 1];
    assert!(Encoder::new().unwrap().encode(NODE, &events).is_err());
}
