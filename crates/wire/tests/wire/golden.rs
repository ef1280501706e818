//! Bytes that were written once and are read for ever. `GOLDEN_WRITE=1 cargo test -p auditflow-wire golden` writes
//! those that are missing; one that is there never changes.

use std::path::PathBuf;

use auditflow_wire::header::Header;
use auditflow_wire::payload::{decode_raw, dictionary_id, encode_raw};
use auditflow_wire::{
    Ack, Checkpoint, Codec, Decoder, DictionaryId, Encoder, EvictReason, Eviction, Facts, Folded, Lost,
    NodeRotation, Rotation, Signed, SignedHeader, State,
};

use crate::samples;
use crate::sealing::{self, NODE};

fn golden(name: &str, written: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    if std::env::var_os("GOLDEN_WRITE").is_some() && !path.exists() {
        let lines: Vec<String> =
            written.chunks(48).map(|line| data_encoding::HEXLOWER.encode(line)).collect();
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: String = text.split_whitespace().collect();
    data_encoding::HEXLOWER.decode(digits.as_bytes()).unwrap()
}

#[test]
fn headers_of_version_1_are_read_and_written_as_ever() {
    for (name, header) in
        [("header_v1_first", samples::full_header()), ("header_v1_ordinary", samples::ordinary_header())]
    {
        // Compression may differ between releases of zstd, and with it payload length and hash: both are taken from
        // the golden header, whose layout is what is compared.
        let bytes = golden(name, header.as_bytes());
        let read = SignedHeader::parse(&bytes).unwrap();
        read.verify(&sealing::key().public()).unwrap();
        let mut expected = header.header.clone();
        expected.payload = read.header.payload;
        assert_eq!(read.header, expected, "{name}");
        if read.header.payload == header.header.payload {
            assert_eq!(header.as_bytes(), bytes, "{name}");
        }
    }
}

#[test]
fn statements_of_version_1_are_read_and_written_as_ever() {
    let (node, site) = (sealing::key().public(), samples::site_key().public());
    macro_rules! check {
        ($name:literal, $written:expr, $kind:ty, $key:expr) => {{
            let written = $written;
            let bytes = golden($name, written.as_bytes());
            let read = Signed::<$kind>::parse(&bytes).unwrap();
            assert_eq!(read.verify(&$key).unwrap(), written.unverified(), $name);
            assert_eq!(written.as_bytes(), bytes, $name);
        }};
    }
    check!("ack_v1_stored", samples::ack(), Ack, site);
    check!("ack_v1_fork", samples::fork_ack(), Ack, site);
    check!("state_v1", samples::state(), State, node);
    check!("rotation_v1", samples::rotation(), Rotation, site);
    check!("node_rotation_v1", samples::node_rotation(), NodeRotation, node);
    check!("lost_v1", samples::lost(), Lost, site);
    check!("checkpoint_v1", samples::checkpoint(), Checkpoint, site);
}

#[test]
fn folds_of_version_1_are_read_as_ever() {
    // It names digests of headers that name compressed payloads, so only reading can be compared.
    let bytes = golden("fold_v1", samples::fold().as_bytes());
    let read = Signed::<Folded>::parse(&bytes).unwrap();
    let read = read.verify(&sealing::key().public()).unwrap();
    let written = samples::fold();
    let expected = Folded {
        first_digest: read.first_digest,
        last_digest: read.last_digest,
        ..written.unverified().clone()
    };
    assert_eq!(*read, expected);
    assert_eq!(Signed::sign(expected, &sealing::key()).as_bytes(), bytes);
}

#[test]
fn evictions_of_version_1_are_read_and_written_as_ever() {
    let header =
        SignedHeader::parse(&golden("header_v1_ordinary", samples::ordinary_header().as_bytes())).unwrap();
    let written = Eviction::sign(header.digest(), EvictReason::DiskFull, &sealing::key());
    let bytes = golden("eviction_v1", &written.to_bytes());
    assert_eq!(written.to_bytes()[..], bytes);
    Eviction::parse(&bytes).unwrap().verify(&header, &sealing::key().public()).unwrap();
}

#[test]
fn events_of_version_1_are_read_and_written_as_ever() {
    let events = samples::events();
    let mut raw = Vec::new();
    encode_raw(NODE, &events, &mut raw).unwrap();
    let bytes = golden("payload_v1_raw", &raw);
    assert_eq!(raw, bytes);
    let read = decode_raw(NODE, 5, &bytes).unwrap();
    assert_eq!(format!("{read:?}"), format!("{events:?}"));
}

#[test]
fn compressed_payloads_of_version_1_are_read_as_ever() {
    let events = samples::events();
    let encoded = Encoder::new().unwrap().encode(NODE, &events).unwrap();
    let mut raw = Vec::new();
    encode_raw(NODE, &events, &mut raw).unwrap();
    let plain = zstd::bulk::compress(&raw, 3).unwrap();
    let facts = samples::full_header().header.facts.unwrap();
    for (name, codec, dictionary, written) in [
        ("payload_v1_dictionary", Codec::ZstdDictionary, dictionary_id(), &encoded.bytes),
        ("payload_v1_zstd", Codec::Zstd, DictionaryId::NONE, &plain),
        ("payload_v1_raw", Codec::Raw, DictionaryId::NONE, &raw),
    ] {
        let facts = Facts { codec, dictionary, ..facts.clone() };
        let read = Decoder::new().unwrap().decode(NODE, &facts, &golden(name, written)).unwrap();
        assert_eq!(format!("{read:?}"), format!("{events:?}"), "{name}");
    }
}

#[test]
fn dictionary_of_version_1_never_changes() {
    assert_eq!(dictionary_id().to_string(), "bff580e5");
}

#[test]
fn header_of_a_later_version_is_understood_as_far_as_chaining_needs() {
    let header = samples::ordinary_header();
    let mut later = header.as_bytes()[..header.as_bytes().len() - 64].to_vec();
    later[4] = 2;
    later.extend(b"what version 2 adds");
    let len = u16::try_from(later.len()).unwrap();
    later[6..8].copy_from_slice(&len.to_le_bytes());
    let bytes = golden("header_v2_imagined", &later);
    let (read, len) = Header::parse(&bytes).unwrap();
    assert_eq!(len, bytes.len());
    assert_eq!((read.version, read.facts.is_none()), (2, true));
    let known = header.header;
    assert_eq!(
        (read.node, read.epoch, read.number, read.link),
        (known.node, known.epoch, known.number, known.link)
    );
    assert_eq!(read.oldest_unacknowledged, known.oldest_unacknowledged);
}
