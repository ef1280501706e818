//! What holds for every event, whatever is in it.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod kit;

use auditflow_audit_record::Record;
use auditflow_event::{Event, EventId, EventJson, NodeId};
use kit::{audit, json, of_records};
use proptest::prelude::*;

const EXEC: [&str; 5] = [
    "SYSCALL arch=c000003e syscall=59 success=yes exit=0 a0=1 a1=2 a2=3 a3=8 items=2 ppid=10 pid=11 auid=1000 uid=0",
    "EXECVE argc=2 a0=\"ls\" a1=\"-l\"",
    "CWD cwd=\"/root\"",
    "PATH item=0 name=\"/usr/bin/ls\" nametype=NORMAL",
    "PROCTITLE proctitle=6C73002D6C",
];

fn record_kinds() -> impl Strategy<Value = u16> {
    prop_oneof![
        1000_u16..3000,
        Just(1300),
        Just(1302),
        Just(1306),
        Just(1309),
        Just(1327),
        Just(1400),
        Just(1112)
    ]
}

/// Bodies as hostile as they come: real fields, cut and shuffled, between arbitrary bytes.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..12),
        proptest::sample::select(
            &[
                "arch=c000003e ",
                "syscall=59 ",
                "syscall=257 ",
                "a0=\"ls\" ",
                "a1=2F ",
                "a2=241 ",
                "a9999999999=1 ",
                "argc=9 ",
                "name=\"../x\" ",
                "name=2F2E2EFF ",
                "nametype=CREATE ",
                "item=0 ",
                "saddr=0200 ",
                "saddr=01",
                "auid=4294967295 ",
                "uid=-1 ",
                "uid=0 ",
                "acct=\"a\" ",
                "addr=10.0.0.7 ",
                "res=failed ",
                "msg='",
                "op=a b ",
                "mode=0100755 ",
                "exit=-13 ",
                "key=\"a\" ",
                "\u{1d}",
                "UID=\"root\" ",
                "comm=\"\\\" ",
                "avc:  denied  { x } for ",
                "apparmor=\"DENIED\" ",
                "uring_op=18 ",
                "'",
                "\"",
                "{",
                "=",
                " ",
            ][..]
        )
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    proptest::collection::vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

fn check_json(event: &Event) {
    let value = json(event);
    assert_eq!(value["event_id"], event.id.to_string());
    let text = EventJson::of(event).to_text();
    assert!(!text.contains('\n'), "one line");
    assert_eq!(text, EventJson::of(event).to_text());
    assert_eq!(serde_json::to_string(&EventJson::of(event)).unwrap(), text);
}

proptest! {
    #[test]
    fn an_audit_events_id_survives_reordering_repetition_and_auditds_additions(
        order in proptest::collection::vec(0..EXEC.len(), 1..12),
        enriched in any::<bool>(),
    ) {
        let whole = EventId::audit(None, &audit(&EXEC));
        let mut lines = vec![EXEC[0]];
        lines.extend(order.iter().map(|at| EXEC[*at]));
        let rotate = order[0] % lines.len();
        lines.rotate_left(rotate);
        let lines: Vec<String> =
            lines.iter().map(|line| if enriched { format!("{line}\u{1d}UID=\"root\"") } else { (*line).to_owned() }).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        prop_assert_eq!(EventId::audit(None, &audit(&lines)), whole);
    }

    #[test]
    fn without_a_syscall_record_the_id_is_the_same_in_any_order(
        bodies in proptest::collection::vec((record_kinds(), "[a-z=0-9 ]{0,20}"), 1..6),
    ) {
        let payload = |body: &str| format!("audit(1795413050.319:3198): {body}");
        let mut records: Vec<Record> = bodies
            .iter()
            .map(|(kind, body)| Record::from_netlink(*kind, payload(body).as_bytes()).unwrap())
            .collect();
        let id = EventId::audit(None, &of_records(records.clone()));
        records.reverse();
        records.push(records[0].clone());
        prop_assert_eq!(EventId::audit(None, &of_records(records)), id);
    }

    #[test]
    fn hostile_records_have_a_meaning_and_valid_json(
        records in proptest::collection::vec((record_kinds(), bodies()), 1..7),
    ) {
        let records: Vec<Record> = records
            .into_iter()
            .map(|(kind, body)| {
                let mut payload = b"audit(1795413050.319:3198): ".to_vec();
                payload.extend(body);
                Record::from_netlink(kind, &payload).unwrap()
            })
            .collect();
        let event = Event::audit(None, of_records(records));
        let text = EventJson::of(&event).to_text();
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&text);
        prop_assert!(parsed.is_ok(), "{}", text);
        event.meaning().visit_terms(&event, &mut |_, _| {});
    }

    #[test]
    fn hostile_json_has_a_meaning_and_valid_json(text in json_texts()) {
        let made = [Event::kubernetes(None, &text), Event::synthetic(None, [0; 16], 1, &text)];
        for event in made.into_iter().flatten() {
            check_json(&event);
            event.meaning().visit_terms(&event, &mut |_, _| {});
        }
    }

    #[test]
    fn node_ids_print_as_they_are_read(bytes in any::<[u8; 16]>(), text in "[0-9a-fA-F]{30,34}") {
        let node = NodeId::from_bytes(bytes);
        prop_assert_eq!(node.to_string().parse(), Ok(node));
        if let Ok(node) = text.parse::<NodeId>() {
            prop_assert_eq!(node.to_string(), text);
        }
    }
}

/// Objects with the fields that are looked at, of every type.
fn json_texts() -> impl Strategy<Value = String> {
    let value = proptest::sample::select(
        &[
            "null",
            "1",
            "-1.5",
            "true",
            "\"\"",
            "\"a\\n\\u0000\\\"\"",
            "{}",
            "[]",
            "[\"10.0.0.7\"]",
            "{\"code\":403}",
            "{\"resource\":\"pods\",\"name\":{}}",
            "{\"username\":\"a\",\"uid\":1}",
            "\"2026-11-23T05:50:50Z\"",
        ][..],
    );
    let field = proptest::sample::select(
        &[
            "verb",
            "user",
            "sourceIPs",
            "objectRef",
            "responseStatus",
            "requestURI",
            "details",
            "user_id",
            "severity",
            "action_result",
            "resource",
            "ip_address",
            "event_id",
            "server_hostname",
            "impersonatedUser",
        ][..],
    );
    proptest::collection::btree_map(field, value, 0..8).prop_map(|fields| {
        let mut text = String::from(
            r#"{"auditID":"a","stage":"Panic","stageTimestamp":"2026-11-23T05:50:50Z","event_type":"user_login","timestamp":"2026-11-23T05:50:50Z""#,
        );
        for (field, value) in fields {
            text.extend([",\"", field, "\":", value]);
        }
        text + "}"
    })
}

#[test]
fn an_event_of_another_node_boot_or_text_has_another_id() {
    let id = |node: Option<NodeId>, lines: &[&str]| EventId::audit(node, &audit(lines));
    let node = Some(NodeId::from_bytes([1; 16]));
    assert_ne!(id(node, &EXEC), id(None, &EXEC));
    assert_ne!(id(None, &EXEC), id(None, &[&EXEC[0].replace("pid=11", "pid=12"), EXEC[1]]));
    let mut later = audit(&EXEC);
    later.stamp.serial += 1;
    assert_ne!(EventId::audit(None, &later), id(None, &EXEC));
}

#[test]
fn an_audit_events_id_is_what_the_documentation_says() {
    use auditflow_event::digest::xxh64;
    let node = NodeId::from_bytes([1; 16]);
    let mut name = b"audit\x001795413050.319:3198".to_vec();
    name.extend(xxh64(EXEC[0].strip_prefix("SYSCALL ").unwrap().as_bytes()).to_be_bytes());
    let expected = uuid::Uuid::new_v5(&uuid::Uuid::from_bytes([1; 16]), &name);
    assert_eq!(EventId::audit(Some(node), &audit(&EXEC)).as_uuid(), &expected);
    let name = b"state\x0002020202020202020202020202020202:18446744073709551615";
    let expected = uuid::Uuid::new_v5(&uuid::Uuid::nil(), name);
    assert_eq!(EventId::counted(None, "state", [2; 16], u64::MAX).as_uuid(), &expected);
}
