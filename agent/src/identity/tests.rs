use std::fs;
use std::os::unix::fs::PermissionsExt;

use auditflow_event::Timestamp;
use auditflow_wire::enrol::{MAX_REKEY_LEN, MAX_ROTATIONS, RekeyRequest};
use auditflow_wire::node_keys::MAX_SEALED;
use auditflow_wire::{BatchSeq, Digest, EpochId, Head, NodeKeys};

use super::*;

fn hardware(serial: &str) -> Hardware {
    serde_json::from_value(serde_json::json!({ "product": serial })).unwrap()
}

#[test]
fn an_identity_is_made_once_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (made, found) = Identity::load_or_make(dir.path(), &hardware("a")).unwrap();
    assert_eq!(found, Found::Made);
    let (again, found) = Identity::load_or_make(dir.path(), &hardware("a")).unwrap();
    assert_eq!(found, Found::Known);
    assert_eq!((again.node, again.key.public()), (made.node, made.key.public()));
}

#[test]
fn only_the_owner_may_read_the_file() {
    let dir = tempfile::tempdir().unwrap();
    Identity::load_or_make(dir.path(), &hardware("a")).unwrap();
    let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn an_identity_of_other_hardware_is_set_aside_and_named_as_the_former() {
    let dir = tempfile::tempdir().unwrap();
    let (original, _) = Identity::load_or_make(dir.path(), &hardware("a")).unwrap();
    let (new, found) = Identity::load_or_make(dir.path(), &hardware("b")).unwrap();
    assert_eq!(found, Found::Cloned);
    assert_ne!(new.node, original.node);
    assert_ne!(new.key.public(), original.key.public());
    assert_eq!(new.former, Some(original.node));
    assert!(dir.path().join(format!("{FILE}.{}", original.node)).exists());
    let (_, found) = Identity::load_or_make(dir.path(), &hardware("b")).unwrap();
    assert_eq!(found, Found::Known);
}

#[test]
fn a_damaged_file_is_an_error_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), "{\"node\":").unwrap();
    let error = Identity::load_or_make(dir.path(), &hardware("a")).unwrap_err();
    assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), "{\"node\":");
}

#[test]
fn new_keys_of_the_site_are_pinned_whole_and_leave_it_the_same_site() {
    let dir = tempfile::tempdir().unwrap();
    let (mut identity, _) = Identity::load_or_make(dir.path(), &hardware("a")).unwrap();
    let pins = Kept::new(dir.path(), &hardware("a"));
    let key = || auditflow_wire::SiteKey::generate().unwrap().public();
    let (first, second) = (key(), key());
    pins.pin(SitePins { current: first, next: None }).unwrap();
    assert_eq!(Identity::read(dir.path()).unwrap().unwrap().site, None);
    let text = String::new();
    let joined = Site {
        url: text.clone(),
        ca_certificate: text.clone(),
        client_certificate: text,
        keys: SitePins { current: first, next: Some(second) },
    };
    identity.site = Some(joined.clone());
    identity.save(dir.path(), &hardware("a")).unwrap();
    let rotated = SitePins { current: second, next: Some(key()) };
    pins.pin(rotated).unwrap();
    pins.pin(rotated).unwrap();
    let found = Identity::read(dir.path()).unwrap().unwrap().site.unwrap();
    assert_eq!(found.keys, rotated);
    assert!(found.is_same(&joined) && found != joined);
    assert!(!found.is_same(&Site { url: "https://elsewhere".to_owned(), ..joined }));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half-written stays behind");
}

/// An identity that has joined, and its file.
fn joined(dir: &std::path::Path) -> (Identity, Kept) {
    let (mut identity, _) = Identity::load_or_make(dir, &hardware("a")).unwrap();
    let key = auditflow_wire::SiteKey::generate().unwrap().public();
    let (url, ca_certificate, client_certificate) = Default::default();
    let keys = SitePins { current: key, next: None };
    identity.join(identity.node, Site { url, ca_certificate, client_certificate, keys });
    identity.save(dir, &hardware("a")).unwrap();
    (identity, Kept::new(dir, &hardware("a")))
}

fn last_sealed(batches: u64) -> LastSealed {
    let epoch = EpochId::from_bytes([1; 16]);
    let head = BatchSeq::new(batches).map(|number| Head { number, digest: Digest::of(b"head") });
    LastSealed { epoch, heads: head.map(|head| (epoch, head)).into_iter().collect() }
}

#[test]
fn a_new_key_is_introduced_by_the_old_one_which_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (before, kept) = joined(dir.path());
    let key = kept.rotate(last_sealed(7), Timestamp::EPOCH).unwrap();
    let after = kept.read().unwrap().unwrap();
    assert_eq!((after.key.id(), after.node, after.uncertified), (key.id(), before.node, true));
    assert_eq!(kept.keys(), 1);
    let mut keys = NodeKeys::from_iter([before.key.public()]);
    assert!(keys.follow(&after.rotations[0]).unwrap());
    assert_eq!(keys.current(), Some(&key.public()));
    assert_eq!(after.keys().collect::<Vec<_>>(), [before.key.public(), key.public()]);
    let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
    let secret = before.key.to_pkcs8_pem().unwrap();
    assert!(!text.contains(secret.lines().nth(1).unwrap()), "the old secret is still there");
}

#[test]
fn a_certificate_counts_for_the_key_that_it_was_made_for() {
    let dir = tempfile::tempdir().unwrap();
    let (_, kept) = joined(dir.path());
    let first = kept.rotate(last_sealed(1), Timestamp::EPOCH).unwrap();
    let second = kept.rotate(last_sealed(2), Timestamp::EPOCH).unwrap();
    kept.certify(first.id(), "late").unwrap();
    assert!(kept.read().unwrap().unwrap().uncertified);
    kept.certify(second.id(), "right").unwrap();
    let identity = kept.read().unwrap().unwrap();
    assert_eq!((identity.uncertified, &*identity.site.unwrap().client_certificate), (false, "right"));
}

#[test]
fn as_many_rotations_are_kept_as_can_be_presented_and_no_more_are_made_until_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (_, kept) = joined(dir.path());
    let mut last = None;
    for _ in 0..MAX_ROTATIONS {
        last = Some(kept.rotate(last_sealed(1), Timestamp::EPOCH).unwrap());
    }
    let untold = kept.rotate(last_sealed(1), Timestamp::EPOCH);
    assert!(matches!(untold, Err(RotateError::Untold)));
    let last = last.unwrap().id();
    assert_eq!(kept.read().unwrap().unwrap().key.id(), last);
    for round in 0..100 {
        let identity = kept.read().unwrap().unwrap();
        kept.certify(identity.key.id(), "certificate").unwrap();
        kept.rotate(last_sealed(1), Timestamp::EPOCH).unwrap();
        let identity = kept.read().unwrap().unwrap();
        assert_eq!(identity.rotations.len(), MAX_ROTATIONS, "round {round}");
        assert!(identity.retired.len() <= kept::MAX_RETIRED);
    }
}

#[test]
fn a_node_that_has_not_joined_or_holds_too_much_keeps_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, _) = Identity::load_or_make(dir.path(), &hardware("a")).unwrap();
    let kept = Kept::new(dir.path(), &hardware("a"));
    assert!(matches!(kept.rotate(last_sealed(1), Timestamp::EPOCH), Err(RotateError::NotJoined)));
    let (_, kept) = joined(dir.path());
    let heads = vec![last_sealed(1).heads[0]; MAX_SEALED + 1];
    let much = LastSealed { heads, ..last_sealed(1) };
    assert!(matches!(kept.rotate(much, Timestamp::EPOCH), Err(RotateError::TooMuchWaits)));
    assert_eq!(kept.read().unwrap().unwrap().key.id(), identity.key.id());
}

#[test]
fn the_largest_rotations_that_may_wait_still_fit_the_file_and_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let (_, kept) = joined(dir.path());
    let heads = vec![last_sealed(u64::MAX >> 1).heads[0]; MAX_SEALED];
    for _ in 0..MAX_ROTATIONS {
        kept.rotate(LastSealed { heads: heads.clone(), ..last_sealed(1) }, Timestamp::EPOCH).unwrap();
    }
    let identity = kept.read().unwrap().unwrap();
    assert_eq!(identity.rotations.len(), MAX_ROTATIONS);
    let certificate_request = identity.certificate_request().unwrap();
    let request = RekeyRequest { rotations: identity.rotations, certificate_request };
    request.check().unwrap();
    assert!(serde_json::to_vec(&request).unwrap().len() <= MAX_REKEY_LEN);
}
