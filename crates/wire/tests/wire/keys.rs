//! Keys, rotations, enrolment.

use auditflow_wire::{
    CaHash, EnrolRequest, JoinToken, NodeKey, NodePublicKey, Rotation, RotationError, Signed, SignedRotation,
    SiteKey, SitePins,
};

use crate::samples::{self, time};
use crate::sealing;

#[test]
fn secret_key_survives_both_of_its_text_forms() {
    let key = NodeKey::generate().unwrap();
    assert_eq!(NodeKey::from_seed_hex(&key.to_seed_hex()).unwrap().public(), key.public());
    let pem = key.to_pkcs8_pem().unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    assert_eq!(NodeKey::from_pkcs8_pem(&pem).unwrap().id(), key.id());
    assert!(
        NodeKey::from_pkcs8_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err()
    );
    assert!(NodeKey::from_seed_hex("00").is_err());
}

#[test]
fn pem_written_by_openssl_is_read() {
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    let key = NodeKey::from_pkcs8_pem(pem).unwrap();
    // RFC 8410, section 10.3, and the public key of section 10.1.
    assert_eq!(key.public().to_string(), "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1");
}

#[test]
fn debug_shows_the_id_and_never_the_secret() {
    let key = sealing::key();
    let shown = format!("{key:?}");
    assert_eq!(shown, format!("secret node key {}", key.id()));
    assert!(!shown.contains(&key.to_seed_hex()[..8]));
}

#[test]
fn points_under_which_anybody_could_sign_are_no_public_keys() {
    let mut small_order = [0; 32];
    small_order[0] = 1;
    assert!(NodePublicKey::from_bytes(&small_order).is_err());
    assert!("zz".parse::<NodePublicKey>().is_err());
}

/// The chain that a site with these keys signs, each key naming the next.
fn rotations(keys: &[SiteKey]) -> Vec<SignedRotation> {
    let sign = |pair: &[SiteKey]| Signed::sign(Rotation { next: pair[1].public(), at: time(0) }, &pair[0]);
    keys.windows(2).map(sign).collect()
}

#[test]
fn a_node_that_was_away_follows_the_chain_from_whatever_key_it_knows() {
    let keys: Vec<SiteKey> = (1..=6).map(|seed| SiteKey::from_seed(&[seed; 32])).collect();
    let chain = rotations(&keys);
    for known in 0..5 {
        for next in [None, Some(keys[known + 1].public())] {
            let mut pins = SitePins { current: keys[known].public(), next };
            assert_eq!(pins.newest(), next.unwrap_or(pins.current).id());
            for rotation in &chain[known..] {
                pins.follow(rotation).unwrap();
            }
            assert_eq!(pins, SitePins { current: keys[4].public(), next: Some(keys[5].public()) });
            // Said again it says nothing new; what was before counts no more.
            assert_eq!(pins.follow(&chain[4]), Ok(false));
            assert!(matches!(pins.follow(&chain[3]), Err(RotationError::Signature(_))));
            assert!(pins.get(keys[3].id()).is_none() && pins.get(keys[5].id()).is_some());
        }
    }
}

#[test]
fn a_forged_or_broken_chain_of_rotations_is_refused_and_changes_nothing() {
    let keys: Vec<SiteKey> = (1..=4).map(|seed| SiteKey::from_seed(&[seed; 32])).collect();
    let stranger = SiteKey::from_seed(&[9; 32]);
    let chain = rotations(&keys);
    let pinned = SitePins { current: keys[0].public(), next: Some(keys[1].public()) };
    let mut pins = pinned;
    // A statement is missing; a stranger signs; the thief of the key in use names a key of his own.
    assert!(matches!(pins.follow(&chain[2]), Err(RotationError::Signature(_))));
    let forged = Signed::sign(Rotation { next: stranger.public(), at: time(0) }, &stranger);
    assert!(matches!(pins.follow(&forged), Err(RotationError::Signature(_))));
    let stolen = Signed::sign(Rotation { next: stranger.public(), at: time(0) }, &keys[0]);
    assert!(matches!(pins.follow(&stolen), Err(RotationError::Contradiction { .. })));
    let mut altered = chain[1].as_bytes().to_vec();
    altered[20] ^= 1;
    let altered = SignedRotation::parse(&altered);
    assert!(altered.is_err() || matches!(pins.follow(&altered.unwrap()), Err(RotationError::Signature(_))));
    assert_eq!(pins, pinned);
}

#[test]
fn join_token_is_read_as_printed_and_hides_its_secret() {
    let token = JoinToken::new(CaHash::of(b"certificate"), "0123456789abcdefXYZ").unwrap();
    let text = token.reveal();
    assert!(text.starts_with("AF10") && text.contains("::"));
    assert!(text.parse::<JoinToken>().unwrap() == token);
    assert!(format!(" {text}\n").parse::<JoinToken>().unwrap() == token);
    assert!(!format!("{token:?}").contains("0123456789"));
    for bad in ["", "AF10", "AF10::secret", &text[1..], &text[..text.len() - 10], &text.replace("::", ":")] {
        assert!(bad.parse::<JoinToken>().is_err(), "{bad:?} was taken");
    }
}

#[test]
fn enrolment_request_is_read_as_json_and_its_bounds_are_checked() {
    let request = EnrolRequest {
        secret: "0123456789abcdef".into(),
        host_name: "rpi-1".into(),
        public_key: sealing::key().public(),
        hardware_fingerprint: String::new(),
        agent_version: "0.1.0".into(),
        certificate_request: "-----BEGIN CERTIFICATE REQUEST-----\n".into(),
        proposed_node: None,
        former_node: Some(samples::other_node()),
    };
    request.check().unwrap();
    let json = serde_json::to_string(&request).unwrap();
    assert!(serde_json::from_str::<EnrolRequest>(&json).unwrap() == request);
    assert!(!format!("{request:?}").contains("0123456789"));
    let bad = [
        EnrolRequest { host_name: String::new(), ..request.clone() },
        EnrolRequest { host_name: "a\nb".into(), ..request.clone() },
        EnrolRequest { secret: "short".into(), ..request.clone() },
        EnrolRequest { hardware_fingerprint: "f".repeat(257), ..request.clone() },
        EnrolRequest { certificate_request: "x".repeat(20_000), ..request },
    ];
    for bad in bad {
        assert!(bad.check().is_err(), "{bad:?} was taken");
    }
}
