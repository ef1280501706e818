use std::collections::BTreeSet;
use std::time::Duration;

use auditflow_audit_record::{Assembler, Limits, Record};
use auditflow_event::{AgentState, Condition, Container, EventJson, NodeId, Timestamp};
use rsigma_eval::{Event as _, JsonEvent};

use super::*;

fn audit(lines: &str) -> Event {
    let mut assembler = Assembler::new(Limits::default());
    for line in lines.lines() {
        assembler.push(Record::from_line(line.trim().as_bytes()).unwrap(), Duration::ZERO);
    }
    assembler.flush();
    Event::audit(None, assembler.pop().unwrap())
}

fn exec() -> Event {
    let mut event = audit(
        "type=SYSCALL msg=audit(1.000:9): arch=c000003e syscall=59 success=yes exit=0 ppid=7 pid=8 auid=1000 uid=0 gid=0 euid=0 suid=1 fsuid=2 egid=3 sgid=4 fsgid=5 tty=pts0 ses=3 comm=\"ls\" exe=\"/bin/ls\" key=6101622D6B6579
         type=EXECVE msg=audit(1.000:9): argc=2 a0=\"ls\" a1=\"-l\"
         type=CWD msg=audit(1.000:9): cwd=\"/tmp\"
         type=PATH msg=audit(1.000:9): item=0 name=\"/bin/ls\" inode=12 dev=08:01 mode=0100755 ouid=0 ogid=1 rdev=00:00 nametype=NORMAL
         type=PROCTITLE msg=audit(1.000:9): proctitle=6C73002D6C",
    );
    event.tags = vec!["one".into(), "two".into()];
    let ancestor = |pid, name: &str| Ancestor {
        pid,
        executable: Some(format!("/bin/{name}").into()),
        name: Some(name.into()),
        title: Some(format!("{name} -x").into()),
        start: None,
    };
    event.context = Some(Box::new(Context {
        users: vec![(0, "root".into()), (1000, "alice".into()), (1, "daemon".into()), (2, "bin".into())],
        groups: vec![(0, "root".into()), (3, "sys".into()), (1, "daemon".into())],
        ancestors: vec![ancestor(7, "bash"), ancestor(1, "init")],
        container: Some(Container {
            id: "c1".into(),
            runtime: Some("containerd".into()),
            name: Some("app".into()),
            image: Some("app:1".into()),
            pod_uid: Some("u1".into()),
            pod_name: Some("app-1".into()),
            namespace: Some("default".into()),
        }),
    }));
    event
}

fn state() -> Event {
    let state = AgentState {
        source: "kernel_audit".into(),
        state: Condition::Degraded,
        at: Timestamp::EPOCH,
        since: Timestamp::EPOCH,
        reason: Some("full".into()),
        counts: vec![("lost".into(), 4)],
    };
    Event::state(None, [0; 16], 1, state)
}

fn events() -> Vec<Event> {
    let stamps =
        r#""requestReceivedTimestamp":"2026-01-01T00:00:00Z","stageTimestamp":"2026-01-01T00:00:00Z""#;
    let kubernetes = format!(
        r#"{{"kind":"Event","apiVersion":"audit.k8s.io/v1","auditID":"a","stage":"ResponseComplete","verb":"create","user":{{"username":"eve","groups":["g"]}},"sourceIPs":["10.0.0.1"],"objectRef":{{"resource":"pods","namespace":"default","name":"app","subresource":"exec"}},"responseStatus":{{"code":403,"reason":"Forbidden"}},{stamps}}}"#
    );
    let synthetic = |kind: &str, details: &str| {
        let text = format!(
            r#"{{"event_id":"x-1","timestamp":"2026-01-01T00:00:00Z","source_service":"s","server_hostname":"h","event_type":"{kind}","severity":"WARNING","user_id":"eve","action_result":"FAILURE","details":{details}}}"#
        );
        Event::synthetic(None, [0; 16], 1, &text).unwrap()
    };
    vec![
        exec(),
        audit("type=USER_LOGIN msg=audit(1.000:1): pid=5 uid=0 auid=1000 ses=2 msg='op=login acct=\"eve\" exe=\"/usr/sbin/sshd\" hostname=h addr=10.0.0.9 terminal=sshd res=failed'"),
        audit("type=USER_CMD msg=audit(1.000:2): pid=5 uid=1000 auid=1000 ses=2 msg='cwd=\"/home/eve\" cmd=6964202D75 exe=\"/usr/bin/sudo\" terminal=pts/0 res=success'"),
        audit("type=SYSCALL msg=audit(1.000:3): arch=c000003e syscall=42 success=yes exit=0 ppid=7 pid=8 auid=1000 uid=0 exe=\"/bin/nc\" key=(null)
               type=SOCKADDR msg=audit(1.000:3): saddr=020011D7C63364070000000000000000"),
        audit("type=SYSCALL msg=audit(1.000:4): arch=c000003e syscall=43 success=yes exit=5 ppid=7 pid=8 auid=1000 uid=0 exe=\"/bin/nc\" key=(null)
               type=SOCKADDR msg=audit(1.000:4): saddr=020011D7C63364070000000000000000"),
        audit("type=ADD_USER msg=audit(1.000:5): pid=5 uid=0 auid=1000 ses=2 msg='op=add-user id=1001 acct=\"eve\" exe=\"/usr/sbin/useradd\" hostname=? addr=? terminal=? res=success'"),
        Event::kubernetes(None, &kubernetes).unwrap(),
        synthetic("user_login", r#"{"ip_address":"10.0.0.9","n":{"deep":[1,2]}}"#),
        synthetic("file_modified", r#"{"resource":"/etc/shadow"}"#),
        state(),
    ]
}

fn host() -> HostFacts {
    HostFacts {
        id: Some(NodeId::from_bytes([7; 16])),
        name: Some("node-1".into()),
        boot_id: Some("boot".into()),
        ..HostFacts::default()
    }
}

/// What the JSON has that rules over normalised events do not see: the records themselves (`linux/auditd` is for
/// them), what is the same for every event, and time.
fn not_served(path: &str) -> bool {
    ["auditd.records", "auditd.paths", "auditd.socket.", "process.ancestors", "timestamp", "group.target"]
        .iter()
        .any(|prefix| path.starts_with(prefix))
}

#[test]
fn every_field_of_the_json_is_served_under_its_name_with_its_value() {
    for event in events() {
        let host = host();
        let json = serde_json::to_value(EventJson { event: &event, host: Some(&host) }).unwrap();
        let json = JsonEvent::borrow(&json);
        let meaning = event.meaning();
        let view = NormalisedView::new(&event, Some(&host), &meaning);
        for path in json.field_keys().iter().filter(|path| !not_served(path)) {
            let expected = json.get_field(path).unwrap().to_json();
            let served = view.field(path).map(|value| value.to_json());
            assert_eq!(served, Some(expected), "{path}");
        }
    }
}

#[test]
fn every_listed_field_is_served_by_some_event_and_is_in_the_json() {
    let mut seen = BTreeSet::new();
    for event in events() {
        let host = host();
        let json = serde_json::to_value(EventJson { event: &event, host: Some(&host) }).unwrap();
        let json = JsonEvent::borrow(&json);
        let meaning = event.meaning();
        let view = NormalisedView::new(&event, Some(&host), &meaning);
        for path in FIELDS.iter().filter(|path| view.field(path).is_some()) {
            seen.insert(*path);
            let in_json = json.get_field(path).is_some() || *path == "process.command_line";
            assert!(in_json, "{path} is not in the JSON of {:?}", meaning.event_type);
        }
    }
    // None of the events here is about a file whose digest is known, or a Unix socket.
    let elsewhere = ["file.hash.sha256", "source.path", "destination.path"];
    let unseen: Vec<_> =
        FIELDS.iter().filter(|path| !seen.contains(*path) && !elsewhere.contains(path)).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}

#[test]
fn the_command_line_is_whole_where_there_are_arguments() {
    let event = exec();
    let meaning = event.meaning();
    let view = NormalisedView::new(&event, None, &meaning);
    assert_eq!(view.field("process.command_line"), Some(EventValue::Str("ls -l".into())));
}

#[test]
fn counts_of_a_state_are_served_by_name() {
    let event = state();
    let meaning = event.meaning();
    let view = NormalisedView::new(&event, None, &meaning);
    assert_eq!(view.field("details.counts.lost"), Some(EventValue::Int(4)));
    assert_eq!(view.field("details.counts.gained"), None);
}

#[test]
fn keywords_see_texts_and_not_names() {
    let event = exec();
    let meaning = event.meaning();
    let view = NormalisedView::new(&event, None, &meaning);
    let strings = view.strings();
    for text in ["/bin/ls", "alice", "process_execution", "two", "b-key"] {
        assert!(strings.iter().any(|string| string == text), "{text}");
    }
    assert!(!strings.iter().any(|string| string == "event_type"));
}
