use auditflow_event::NodeId;
use auditflow_wire::EpochId;
use serde_json::json;

use super::*;
use crate::source::outlet::{self, Inbox, Item};

fn control(capacity: usize) -> (Control, Inbox<()>) {
    let (outlet, _, inbox) = outlet::channel(capacity);
    let station = Station { node: NodeId::from_bytes([1; 16]), run: EpochId::from_bytes([2; 16]) };
    let (rate, rate_changed, numbers) = (AtomicU32::new(0), Notify::new(), AtomicU64::new(0));
    (Control(Arc::new(Shared { rate, rate_changed, numbers, station, outlet })), inbox)
}

fn posted(event: &Value) -> Map<String, Value> {
    event.as_object().unwrap().clone()
}

#[test]
fn a_posted_event_is_completed_and_handed_over_under_the_id_that_is_answered() {
    let (control, inbox) = control(1 << 20);
    let id = control
        .post(posted(&json!({"event_type": "user_login", "user_id": "eve", "event_id": "x"})))
        .unwrap();
    let Some(Item::Output(output)) = inbox.receive(Instant::now(), true) else {
        panic!("nothing was handed over")
    };
    assert_eq!(output.events[0].id, id);
    let auditflow_event::Origin::Synthetic(text) = &output.events[0].origin else { panic!("not synthetic") };
    let event: Value = serde_json::from_str(text.as_str()).unwrap();
    assert_eq!(
        (event["event_id"].as_str(), event["user_id"].as_str()),
        (Some(id.to_string().as_str()), Some("eve"))
    );
    assert_eq!(
        (event["severity"].as_str(), event["action_result"].as_str()),
        (Some("INFO"), Some("SUCCESS"))
    );
}

#[test]
fn a_posted_event_needs_a_type_and_room() {
    let (control, _inbox) = control(1);
    assert!(matches!(control.post(Map::new()), Err(PostError::NoType)));
    let event = || posted(&json!({"event_type": "user_login"}));
    control.post(event()).unwrap();
    assert!(matches!(control.post(event()), Err(PostError::Full)));
}

#[test]
fn the_rate_has_an_upper_bound() {
    let (control, _inbox) = control(1);
    assert_eq!(control.set_rate(MAX_RATE + 1), Err(TooFast));
    assert_eq!(control.rate(), 0);
    control.set_rate(MAX_RATE).unwrap();
    assert_eq!(control.rate(), MAX_RATE);
}

#[test]
fn as_many_events_are_due_as_the_rate_says_however_often_one_asks() {
    for (rate, step_micros, steps, expected) in [
        (100, 10_000, 100, 100),
        (7, 10_000, 1000, 70),
        (100_000, 3_333, 300, 99_990),
        (0, 10_000, 100, 0),
        (50, 5_000_000, 2, 100),
    ] {
        let begin = Instant::now();
        let mut due = Due::default();
        due.at(rate, begin);
        let made: usize =
            (1..=steps).map(|step| due.at(rate, begin + Duration::from_micros(step * step_micros))).sum();
        assert_eq!(made, expected, "{rate} per second in steps of {step_micros} µs");
    }
}
