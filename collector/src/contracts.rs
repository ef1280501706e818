//! What programs beside ours may count on, as docs/contracts has it: events that we take, alerts that we publish.

use auditflow_event::{EventId, EventJson, NodeId, Timestamp};
use jsonschema::{Draft, Validator};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::alert::compat::CompatAlert;
use crate::ingest::ancestor::event;
use crate::store::postgres::tests::{ANCESTOR, kit};
use crate::store::{AlertRow, AlertRule, AlertStatus, Machine, NewAlert};

const EVENT: &str = include_str!("../../docs/contracts/audit-event.schema.json");
const ALERT: &str = include_str!("../../docs/contracts/alert.schema.json");
const NODE: NodeId = NodeId::from_bytes([7; 16]);

fn contract(text: &str) -> Validator {
    let schema: Value = serde_json::from_str(text).unwrap();
    jsonschema::options().with_draft(Draft::Draft202012).should_validate_formats(true).build(&schema).unwrap()
}

fn ensure(contract: &Validator, message: &Value) -> Result<(), TestCaseError> {
    let wrong: Vec<String> =
        contract.iter_errors(message).map(|error| format!("{}: {error}", error.instance_path())).collect();
    prop_assert!(wrong.is_empty(), "{wrong:#?} in {message}");
    Ok(())
}

/// Text as people, kernels and attackers write it.
fn anything() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9/._-]{1,20}",
        any::<String>().prop_filter("not empty", |text| !text.is_empty()),
        "[a\u{0}\u{1}é𝄞\"\\\\\n]{1,8}",
        (200..5_000_usize).prop_map(|length| "é".repeat(length)),
    ]
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<std::net::Ipv4Addr>().prop_map(|address| address.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|address| address.to_string()),
    ]
}

/// Events that the contract allows.
fn events() -> impl Strategy<Value = Value> {
    let time = (
        0..4_102_444_800_000_000_i64,
        prop_oneof![Just("Z"), Just("+00:00"), Just("+02:30"), Just("+00:00Z")],
    );
    let top = (any::<u128>(), time, anything(), anything(), anything());
    let optional = (
        prop::option::of(anything()),
        prop::option::of(anything()),
        prop::option::of(anything()),
        prop::option::of(address()),
    );
    (top, prop::sample::select(vec!["INFO", "WARNING", "CRITICAL"]), optional).prop_map(
        |((id, (micros, ending), service, host, kind), severity, (user, result, resource, address))| {
            let stamp = Timestamp::from_micros(micros).to_string();
            let mut event = json!({
                "event_id": Uuid::from_u128(id).to_string(),
                "timestamp": format!("{}{ending}", stamp.trim_end_matches('Z')),
                "source_service": service,
                "server_hostname": host,
                "event_type": kind,
                "severity": severity,
                "details": {},
            });
            let mut put = |pointer: &str, name: &str, value: Option<String>| {
                if let (Some(value), Some(place)) = (value, event.pointer_mut(pointer)) {
                    place[name] = value.into();
                }
            };
            put("", "user_id", user);
            put("", "action_result", result);
            put("/details", "resource", resource);
            put("/details", "ip_address", address);
            event
        },
    )
}

proptest! {
    #[test]
    fn whatever_is_an_event_by_the_contract_is_taken_and_read_and_goes_on_as_one(message in events()) {
        let contract = contract(EVENT);
        ensure(&contract, &message)?;
        let taken = event(NODE, message.to_string().as_bytes()).unwrap();
        prop_assert_eq!(taken.id.to_string(), message["event_id"].as_str().unwrap());
        let meaning = taken.meaning();
        prop_assert_eq!(&*meaning.source_service, &message["source_service"]);
        prop_assert_eq!(meaning.severity.as_str(), &message["severity"]);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        for (read, said) in [
            (&meaning.hostname, &message["server_hostname"]),
            (&meaning.user_id, &message["user_id"]),
            (&meaning.action_result, &message["action_result"]),
            (&meaning.resource, &message["details"]["resource"]),
        ] {
            prop_assert_eq!(read.as_deref().map(str::to_owned), text(said));
        }
        let from = meaning.source.as_ref().and_then(|source| source.ip.as_deref()).map(str::to_owned);
        prop_assert_eq!(from, text(&message["details"]["ip_address"]));
        let told: Value = serde_json::from_str(&EventJson::of(&taken).to_text()).unwrap();
        ensure(&contract, &told)?;
    }
}

/// What becomes of a message that the contract forbids.
#[derive(Debug, PartialEq)]
enum End {
    /// A dead letter that says this.
    Dead(&'static str),
    /// An event as if that field were not there.
    Without,
    /// An event with that text.
    With,
}

#[test]
fn whatever_the_contract_forbids_has_an_end() {
    let contract = contract(EVENT);
    let good = json!({
        "event_id": "0b9c2f5e-4a1d-4d6e-9a51-1c7f1d2e3a4b",
        "timestamp": "2026-11-24T10:00:00.5+00:00Z",
        "source_service": "auth-service",
        "server_hostname": "server-01",
        "event_type": "user_login",
        "severity": "WARNING",
        "user_id": "alice",
        "action_result": "FAILURE",
        "details": { "ip_address": "192.0.2.7" },
    });
    assert!(contract.is_valid(&good));
    let Value::Object(fields) = &good else { panic!("an object") };
    for name in fields.keys() {
        let mut without = fields.clone();
        without.remove(name);
        let is_needed = ["event_id", "timestamp", "source_service", "event_type", "severity", "details"];
        let without = Value::Object(without);
        assert_eq!(contract.is_valid(&without), !is_needed.contains(&name.as_str()), "{name}");
        let end = match name.as_str() {
            "timestamp" => End::Dead("no timestamp"),
            "event_type" => End::Dead("no event_type"),
            _ => End::Without,
        };
        assert_eq!(end_of(&without, &end), end, "without {name}");
        let read_without = (end == End::Without).then(|| read(&without));
        for wrong in [json!(["x"]), json!({ "x": 1 }), json!(null), json!("")] {
            let mut event = good.clone();
            event[name] = wrong;
            if name == "details" && event[name].is_object() {
                continue;
            }
            assert!(!contract.is_valid(&event), "{event}");
            let end = match (name.as_str(), &event[name]) {
                ("timestamp", _) => End::Dead("timestamp"),
                ("event_type", _) => End::Dead("no event_type"),
                ("event_id", Value::Null) => End::Without,
                ("event_id", _) => End::Dead("no UUID"),
                _ => End::Without,
            };
            assert_eq!(end_of(&event, &end), end, "{event}");
            if end == End::Without {
                assert_eq!(Some(read(&event)), read_without, "{event}");
            }
        }
    }
    for (pointer, wrong, end) in [
        ("/event_id", json!("seven"), End::Dead("no UUID")),
        ("/timestamp", json!("2026-11-24 10:00"), End::Dead("unreadable timestamp")),
        ("/severity", json!("DREADFUL"), End::Without),
        ("/details/ip_address", json!("300.1.2.3"), End::With),
    ] {
        let mut event = good.clone();
        *event.pointer_mut(pointer).unwrap() = wrong;
        assert!(!contract.is_valid(&event), "{event}");
        assert_eq!(end_of(&event, &end), end, "{event}");
    }
}

/// What is read of an event, but for its id and time.
fn read(message: &Value) -> [Option<String>; 7] {
    let taken = event(NODE, message.to_string().as_bytes()).unwrap();
    let meaning = taken.meaning();
    let text = |text: &Option<std::borrow::Cow<'_, str>>| text.as_deref().map(str::to_owned);
    [
        Some(meaning.source_service.to_string()),
        Some(meaning.severity.as_str().to_owned()),
        text(&meaning.hostname),
        text(&meaning.user_id),
        text(&meaning.action_result),
        text(&meaning.resource),
        meaning.source.as_ref().and_then(|source| text(&source.ip)),
    ]
}

fn end_of(message: &Value, expected: &End) -> End {
    match (event(NODE, message.to_string().as_bytes()), expected) {
        (Ok(_), End::With) => End::With,
        (Ok(_), _) => End::Without,
        (Err(error), End::Dead(why)) if error.to_string().contains(why) => End::Dead(why),
        (Err(error), _) => panic!("{message}: {error}"),
    }
}

/// Alerts about any event by any rule.
fn alerts() -> impl Strategy<Value = AlertRow> {
    let texts = prop::collection::vec(anything(), 9);
    (events(), texts, any::<[u128; 2]>(), prop::option::of(anything())).prop_map(
        |(message, texts, ids, ip)| {
            let [alert_id, event_id] = ids.map(Uuid::from_u128);
            let mut words = texts.into_iter();
            let mut word = || words.next().unwrap_or_default();
            let mut triggered_by = Map::from_iter([("actor_type".to_owned(), json!("USER"))]);
            triggered_by.insert("actor_id".to_owned(), word().into());
            triggered_by.extend(ip.map(|ip| ("client_ip".to_owned(), ip.into())));
            let mut raw = message;
            raw["event_id"] = EventId::from_uuid(event_id).to_string().into();
            raw["details"][word()] = word().into();
            let impacted = [
                ("resource_type", json!("FILE")),
                ("resource_id", word().into()),
                ("server_hostname", word().into()),
            ];
            let alert = NewAlert {
                alert_id,
                correlation_id: EventId::from_uuid(event_id).to_string(),
                fingerprint: String::new(),
                rule: AlertRule {
                    id: word(),
                    name: word(),
                    description: word(),
                    level: "high".to_owned(),
                    version: String::new(),
                },
                group: None,
                stamp: None,
                timestamp: Timestamp::EPOCH,
                severity: "CRITICAL".to_owned(),
                alert_type: "SECURITY".to_owned(),
                description: word(),
                triggered_by,
                impacted_resource: impacted
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
                action_observed: "LOGIN_FAILURE".to_owned(),
                source_service_name: raw["source_service"].as_str().unwrap_or_default().to_owned(),
                server_hostname: raw["server_hostname"].as_str().unwrap_or_default().to_owned(),
                node: Some(NODE),
                evidence: Vec::new(),
                events: vec![raw.clone()],
                metadata: Map::from_iter([("matched".to_owned(), raw)]),
            };
            AlertRow {
                alert,
                received_at: Timestamp::EPOCH,
                changed_at: Timestamp::EPOCH,
                machine: Machine::Standing,
                status: AlertStatus::Open,
                assignee: None,
                note: None,
                deleted_at: None,
            }
        },
    )
}

/// How the ancestor's notification service keeps an alert.
const KEEP: &str = "INSERT INTO alerts SELECT (m->>'alert_id')::uuid, (m->>'correlation_id')::uuid,
    (m->>'timestamp')::timestamptz, (m->>'received_at')::timestamptz, m->>'alert_name', m->>'alert_type', m->>'severity',
    m->>'description', m->>'source_service_name', m#>>'{analysis_rule,rule_id}', m#>>'{analysis_rule,rule_name}',
    m#>>'{triggered_by,actor_type}', m#>>'{triggered_by,actor_id}', (m#>>'{triggered_by,client_ip}')::inet,
    m#>>'{impacted_resource,resource_type}', m#>>'{impacted_resource,resource_id}', m#>>'{impacted_resource,server_hostname}',
    m->>'action_observed', m->'analysis_rule', m->'triggered_by', m->'impacted_resource', m->'metadata', m->'raw_event_data'
    FROM (SELECT $1::jsonb AS m) AS message ON CONFLICT DO NOTHING";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_alert_is_as_the_contract_has_it_and_fits_the_ancestor_s_table() {
    let contract = contract(ALERT);
    let Some(database) = kit::database() else { return };
    let mut connection = PgConnection::connect(&database.url()).await.unwrap();
    sqlx::raw_sql(ANCESTOR).execute(&mut connection).await.unwrap();
    let connection = std::cell::RefCell::new(connection);
    let told = |row: AlertRow| {
        let message = serde_json::to_value(CompatAlert::of(row)).unwrap();
        ensure(&contract, &message)?;
        let kept = sqlx::query(KEEP).bind(message.to_string());
        let kept = kit::wait(kept.execute(&mut *connection.borrow_mut()));
        prop_assert!(kept.is_ok(), "{:?}: {message}", kept.err());
        Ok(())
    };
    let mut runner = proptest::test_runner::TestRunner::default();
    runner.run(&alerts(), told).unwrap();
}
