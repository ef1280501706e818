use std::fs;
use std::os::unix::fs::PermissionsExt;

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
    let pins = Pins::new(dir.path(), &hardware("a"));
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
