use std::fs;

use auditflow_event::NodeId;
use auditflow_wire::EpochId;

use super::*;

fn station() -> Station {
    Station { node: NodeId::from_bytes([1; 16]), run: EpochId::from_bytes([2; 16]) }
}

fn line(id: u32) -> String {
    format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"id-{id}","stage":"ResponseComplete","requestURI":"/api","verb":"get","user":{{"username":"a"}},"requestReceivedTimestamp":"2026-01-31T10:00:00.000000Z","stageTimestamp":"2026-01-31T10:00:00.000000Z"}}"#
    )
}

fn read(tail: &mut Tail, lines: &mut Lines) -> Option<Output> {
    let progress = tail.read(&mut |line| lines.line(line)).unwrap();
    progress.notes.into_iter().for_each(|note| lines.note(note));
    lines.take(tail, Duration::ZERO)
}

#[test]
fn reading_goes_on_behind_the_last_line_that_was_handed_over() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { path: dir.path().join("audit.log"), ..Config::default() };
    fs::write(&config.path, format!("{}\n{}\n{{\"auditID\"", line(1), line(2))).unwrap();
    let (mut tail, mut lines) =
        (Tail::new(&config.path, None, MAX_LINE_BYTES), Lines::new(&config, station()));
    let output = read(&mut tail, &mut lines).unwrap();
    assert_eq!(output.events.len(), 2);

    fs::write(&config.path, format!("{}\n{}\n{}\n", line(1), line(2), line(3))).unwrap();
    let place = serde_json::from_slice(&output.cursor.unwrap().0).unwrap();
    let (mut tail, mut lines) =
        (Tail::new(&config.path, Some(place), MAX_LINE_BYTES), Lines::new(&config, station()));
    let output = read(&mut tail, &mut lines).unwrap();
    assert_eq!(output.events.len(), 1);
    assert_eq!(output.events[0].id, Event::kubernetes(Some(station().node), &line(3)).unwrap().id);
}

#[test]
fn what_is_no_audit_record_is_counted_as_undecodable() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { path: dir.path().join("audit.log"), ..Config::default() };
    fs::write(&config.path, format!("{}\nnot json\n\u{fe}\n{{}}\n", line(1))).unwrap();
    let (mut tail, mut lines) =
        (Tail::new(&config.path, None, MAX_LINE_BYTES), Lines::new(&config, station()));
    let output = read(&mut tail, &mut lines).unwrap();
    assert_eq!(output.events.len(), 1);
    let undecodable = loss(LossReason::Undecodable, LossSource::KubernetesAudit, Some(3));
    assert_eq!(Loss::merge(output.losses), [undecodable]);
}

#[test]
fn a_missing_log_names_every_setting_that_k3s_lacks() {
    let lines = Lines::new(&Config::default(), station());
    let (state, reason) = lines.unreadable(&io::ErrorKind::NotFound.into());
    assert_eq!(state, CoverageState::Unavailable);
    for part in [
        "kube-apiserver-arg",
        "audit-log-path=/var/lib/rancher/k3s/server/logs/audit.log",
        "audit-policy-file=",
    ] {
        assert!(reason.contains(part), "{part} is missing in {reason}");
    }
}

#[test]
fn an_api_server_is_where_k3s_has_a_servers_directory_or_the_configuration_says_so() {
    let dir = tempfile::tempdir().unwrap();
    assert!(is_server(KubernetesRole::Auto, dir.path()));
    assert!(!is_server(KubernetesRole::Auto, &dir.path().join("none")));
    assert!(is_server(KubernetesRole::Server, &dir.path().join("none")));
    assert!(!is_server(KubernetesRole::Agent, dir.path()));
}
