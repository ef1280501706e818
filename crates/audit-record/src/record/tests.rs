use proptest::prelude::*;

use super::*;

fn stamp(millis: u64, serial: u32) -> Stamp {
    Stamp { millis, serial }
}

#[test]
fn a_line_is_read_into_kind_stamp_node_and_text() {
    for (line, kind, node, body) in [
        ("type=CWD msg=audit(1795413050.319:3198): cwd=\"/\"", RecordType::CWD, None, "cwd=\"/\""),
        ("type=CWD msg=audit(1795413050.319:3198): cwd=\"/\"\n", RecordType::CWD, None, "cwd=\"/\""),
        ("type=CWD msg=audit(1795413050.319:3198): cwd=\"/\"\r\n", RecordType::CWD, None, "cwd=\"/\""),
        ("node=pi-4.lan type=EOE msg=audit(1795413050.319:3198): ", RecordType::EOE, Some("pi-4.lan"), ""),
        ("type=EOE msg=audit(1795413050.319:3198):", RecordType::EOE, None, ""),
        ("type=UNKNOWN[1399] msg=audit(1795413050.319:3198): x=1", RecordType(1399), None, "x=1"),
        (
            "audit: type=1400 audit(1795413050.319:3198): apparmor=\"DENIED\"",
            RecordType::AVC,
            None,
            "apparmor=\"DENIED\"",
        ),
        (
            "type=CWD msg=audit(1795413050.319:3198): cwd=\"/\"\x1dA=\"b\"",
            RecordType::CWD,
            None,
            "cwd=\"/\"\x1dA=\"b\"",
        ),
    ] {
        let record = Record::from_line(line.as_bytes()).unwrap();
        assert_eq!(record.kind, kind, "{line}");
        assert_eq!(record.stamp, stamp(1_795_413_050_319, 3198), "{line}");
        assert_eq!(record.node.as_deref(), node, "{line}");
        assert_eq!(&*record.body, body.as_bytes(), "{line}");
    }
}

#[test]
fn what_is_no_record_is_refused_with_its_reason() {
    for (line, reason) in [
        ("", ParseError::NoType),
        ("hello", ParseError::NoType),
        ("node=a", ParseError::NoType),
        ("node= msg=audit(1.000:1): ", ParseError::NoType),
        ("type=", ParseError::UnknownType),
        ("type=NO_SUCH msg=audit(1.000:1): ", ParseError::UnknownType),
        ("type=CWD", ParseError::BadStamp),
        ("type=CWD msg=audit(", ParseError::BadStamp),
        ("type=CWD msg=audit(1.000:1)", ParseError::BadStamp),
        ("type=CWD msg=audit(1.00:1): ", ParseError::BadStamp),
        ("type=CWD msg=audit(1.0000:1): ", ParseError::BadStamp),
        ("type=CWD msg=audit(.000:1): ", ParseError::BadStamp),
        ("type=CWD msg=audit(1.000:): ", ParseError::BadStamp),
        ("type=CWD msg=audit(-1.000:1): ", ParseError::BadStamp),
        ("type=CWD msg=audit(1.000:4294967296): ", ParseError::BadStamp),
        ("type=CWD msg=audit(18446744073709551615.999:1): ", ParseError::BadStamp),
        ("type=CWD msg=audit(99999999999999999999.000:1): ", ParseError::BadStamp),
    ] {
        assert_eq!(Record::from_line(line.as_bytes()), Err(reason), "{line}");
    }
    assert_eq!(Record::from_line(b"node=\xff type=CWD msg=audit(1.000:1): "), Err(ParseError::BadNode));
    assert_eq!(Record::from_line(b"type=\xff msg=audit(1.000:1): "), Err(ParseError::UnknownType));
}

#[test]
fn the_largest_serial_and_the_epoch_itself_are_valid() {
    let record = Record::from_line(b"type=EOE msg=audit(0.000:4294967295): ").unwrap();
    assert_eq!(record.stamp, stamp(0, u32::MAX));
}

#[test]
fn a_netlink_payload_is_the_line_without_its_head() {
    let payload = b"audit(1795413050.319:3198): item=0 name=\"/etc\"\0\0";
    let record = Record::from_netlink(1302, payload).unwrap();
    let line =
        Record::from_line(b"type=PATH msg=audit(1795413050.319:3198): item=0 name=\"/etc\"\n").unwrap();
    assert_eq!(record, line);
    assert_eq!(Record::from_netlink(1302, b""), Err(ParseError::BadStamp));
    assert_eq!(Record::from_netlink(1302, b"\0\0"), Err(ParseError::BadStamp));
}

#[test]
fn a_stamp_is_shown_as_the_kernel_writes_it() {
    assert_eq!(stamp(1_795_413_050_009, 3198).to_string(), "1795413050.009:3198");
}

#[test]
fn serials_that_wrap_or_come_late_have_a_small_distance() {
    assert_eq!(serial_distance(41, 42), 1);
    assert_eq!(serial_distance(u32::MAX, 0), 1);
    assert_eq!(serial_distance(u32::MAX - 1, 3), 5);
    assert_eq!(serial_distance(42, 41), -1);
    assert_eq!(serial_distance(0, u32::MAX), -1);
}

#[test]
fn the_enrichment_is_apart_from_the_text() {
    let record =
        Record::from_line(b"type=CWD msg=audit(1.000:1): cwd=\"/\" a=1\x1dSYSCALL=\"open\" AUID=unset")
            .unwrap();
    assert_eq!(record.text(), b"cwd=\"/\" a=1");
    let names: Vec<_> = record.fields().map(|field| field.name).collect();
    assert_eq!(names, ["cwd", "a"]);
    let enriched: Vec<_> =
        record.enriched().map(|field| (field.name, field.value.text().into_owned())).collect();
    assert_eq!(enriched, [("SYSCALL", "open".to_owned()), ("AUID", "unset".to_owned())]);
}

#[test]
fn a_divider_that_a_program_sent_divides_nothing() {
    let line = b"type=USER_CMD msg=audit(1.000:1): pid=1 uid=1000 msg='op=x\x1dUID=\"root\" res=success'";
    let record = Record::from_line(line).unwrap();
    assert_eq!(record.enriched().count(), 0);
    assert_eq!(record.field("res").unwrap().text(), "success");
    let enriched = Record::from_line(&[line.as_slice(), b"\x1dUID=\"bob\""].concat()).unwrap();
    assert_eq!(enriched.enriched().next().unwrap().value.text(), "bob");
    assert_eq!(enriched.enriched().count(), 1);
}

proptest! {
    #[test]
    fn no_bytes_make_reading_a_record_panic(line in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Record::from_line(&line);
        let _ = Record::from_netlink(1300, &line);
    }

    #[test]
    fn whatever_the_text_every_field_can_be_read(
        kind in prop::sample::select(vec![1300u16, 1302, 1306, 1309, 1327, 1400, 1107, 1112, 1124, 9999]),
        text in r#"([a-z0-9_ ="'{}(),.:?\[\]\x00\x01\x1d\n-]|msg='|avc: |denied |=|[^a])*"#,
    ) {
        let payload = format!("audit(1.000:1): {text}");
        let record = Record::from_netlink(kind, payload.as_bytes()).unwrap();
        for field in record.fields().chain(record.enriched()) {
            let _ = (field.value.text(), field.value.keys(), field.value.as_u64(), field.value.as_i64(), field.value.as_hex_u64());
        }
        let _ = record.message();
    }

    #[test]
    fn a_record_reads_back_from_its_line(
        millis in 0..10_000_000_000_000u64,
        serial: u32,
        kind in prop::sample::select(vec!["SYSCALL", "USER_CMD", "UNKNOWN[1399]"]),
        node in prop::option::of("[a-z0-9.-]{1,20}"),
        body in "[ -~]{0,100}",
    ) {
        let prefix = node.as_ref().map(|node| format!("node={node} ")).unwrap_or_default();
        let line = format!("{prefix}type={kind} msg=audit({}): {body}\n", stamp(millis, serial));
        let record = Record::from_line(line.as_bytes()).unwrap();
        prop_assert_eq!(record.kind.to_string(), kind);
        prop_assert_eq!(record.stamp, stamp(millis, serial));
        prop_assert_eq!(record.node.as_deref(), node.as_deref());
        prop_assert_eq!(&*record.body, body.as_bytes());
    }
}
