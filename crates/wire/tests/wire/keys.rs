//! Keys, rotations, enrolment.

use auditflow_wire::{
    CaHash, EnrolRequest, JoinToken, KeyRing, NodeKey, NodePublicKey, Rotation, Signed, SiteKey,
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

#[test]
fn rotation_is_followed_only_if_a_known_key_signed_it() {
    let keys: Vec<SiteKey> = (1..=4).map(|seed| SiteKey::from_seed(&[seed; 32])).collect();
    let rotate =
        |old: &SiteKey, new: &SiteKey| Signed::sign(Rotation { new: new.public(), at: time(0) }, old);
    let mut ring: KeyRing<_> = [keys[0].public()].into_iter().collect();
    assert!(ring.follow(&rotate(&keys[1], &keys[2])).is_err());
    assert_eq!(ring.follow(&rotate(&keys[0], &keys[1])).unwrap(), keys[1].public());
    assert_eq!(ring.follow(&rotate(&keys[1], &keys[2])).unwrap(), keys[2].public());
    assert!(ring.get(keys[2].id()).is_some() && ring.get(keys[3].id()).is_none());
}

#[test]
fn node_cannot_pass_for_a_site_with_the_same_secret() {
    let node = NodeKey::from_seed(&[9; 32]);
    let rotation = Rotation { new: node.public(), at: time(0) };
    let signed = Signed::sign(rotation, &node);
    assert!(Signed::<Rotation<auditflow_wire::keys::Site>>::parse(signed.as_bytes()).is_err());
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
