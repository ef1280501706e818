//! The alert of a rule that needs one event only.

use auditflow_event::{Event, HostFacts, Timestamp};
use auditflow_rules::{Detection, RuleSetVersion};
use serde_json::{Map, Value};

use super::facts::Facts;
use super::{ALERT_TYPE, copy, fingerprint, id, rule, severity};
use crate::store::{EventRef, NewAlert};

/// Matched fields kept, to say why it fired.
const MATCHED: usize = 32;

/// A rule that matched an event.
#[derive(Clone, Copy, Debug)]
pub struct Occurrence<'a> {
    /// The event.
    pub event: &'a Event,
    /// The node that it came from.
    pub host: &'a HostFacts,
    /// Where the event is.
    pub at: EventRef,
    /// When it happened, its boot's clock step taken out.
    pub time: Timestamp,
    /// It was too late to be correlated.
    pub too_late: bool,
    /// The match, of the first of several records that match.
    pub detection: &'a Detection,
    /// The rule set that judged it.
    pub version: &'a RuleSetVersion,
}

/// The alert.
pub fn build(occurrence: &Occurrence<'_>) -> NewAlert {
    let Occurrence { event, host, at, time, detection, version, .. } = *occurrence;
    let facts = Facts::of(event, host);
    let matched = &detection.rule;
    let text = |map: &Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let about = [
        text(&facts.triggered_by, "actor_id"),
        text(&facts.triggered_by, "client_ip"),
        text(&facts.impacted_resource, "resource_id"),
        facts.server_hostname.clone(),
    ];
    let event_id = event.id.to_string();
    NewAlert {
        alert_id: id(matched.id.as_str(), "", event.id),
        correlation_id: event_id,
        fingerprint: fingerprint(matched.id.as_str(), about.iter().map(String::as_str)),
        rule: rule(matched, version.as_str()),
        group: None,
        stamp: Some(event.time),
        timestamp: time,
        severity: severity(matched.level).to_owned(),
        alert_type: ALERT_TYPE.to_owned(),
        description: format!("{}: {}", matched.title, facts.sentence()),
        triggered_by: facts.triggered_by,
        impacted_resource: facts.impacted_resource,
        action_observed: facts.action_observed,
        source_service_name: facts.source_service_name,
        server_hostname: facts.server_hostname,
        node: Some(at.node),
        evidence: vec![at],
        events: vec![copy::of(event, host)],
        metadata: metadata(occurrence),
    }
}

fn metadata(occurrence: &Occurrence<'_>) -> Map<String, Value> {
    let detection = occurrence.detection;
    let mut metadata = Map::new();
    let fields =
        detection.matched.iter().take(MATCHED).map(|field| serde_json::to_value(field).unwrap_or_default());
    metadata.insert("matched".to_owned(), fields.collect());
    metadata.insert("tags".to_owned(), detection.rule.tags.iter().map(|tag| Value::from(&**tag)).collect());
    if occurrence.too_late {
        metadata.insert("too_late".to_owned(), Value::Bool(true));
    }
    let shifted = occurrence.time.as_micros() - occurrence.event.time.as_micros();
    if shifted != 0 {
        metadata.insert("clock_shift_seconds".to_owned(), Value::from(shifted as f64 / 1e6));
    }
    metadata
}
