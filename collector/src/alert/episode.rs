//! The alert of a correlation: one per episode, amended as it grows.

use auditflow_event::{EventId, Timestamp};
use serde_json::{Map, Value, json};

use super::facts::Facts;
use super::lineage::Standing;
use super::{ALERT_TYPE, fingerprint, id, rule, severity};
use crate::correlate::definition::Definition;
use crate::correlate::group::FoundEpisode;
use crate::correlate::row;
use crate::store::{AlertRow, EventRef, Machine, NewAlert};

/// Events copied from the beginning of the evidence, and from its end.
const COPIES: usize = 4;
/// Where the alert's metadata has the definition that it was computed by.
const DEFINITION: &str = "definition";
/// Where it has the episode's extent.
const EPISODE: &str = "episode";

/// The id of an episode's alert.
pub fn alert_id(definition: &Definition, group: &str, found: &FoundEpisode) -> uuid::Uuid {
    id(definition.id().as_str(), group, found.trigger.event_id)
}

/// The events of the evidence that an alert copies: some from each end, and the one that made it.
pub fn to_copy(found: &FoundEpisode) -> Vec<EventRef> {
    let count = found.evidence.len();
    let chosen = |(index, at): &(usize, &EventRef)| {
        *index < COPIES || *index + COPIES >= count || at.event_id == found.trigger.event_id
    };
    let mut chosen: Vec<EventRef> =
        found.evidence.iter().enumerate().filter(chosen).map(|(_, at)| *at).collect();
    if chosen.iter().all(|at| at.event_id != found.trigger.event_id) {
        chosen.insert(COPIES.min(chosen.len()), found.trigger);
    }
    chosen
}

/// The copy of an event that an alert already has.
pub fn copy_in(alert: &NewAlert, event: EventId) -> Option<&Value> {
    let wanted = event.to_string();
    alert.events.iter().find(|copy| copy.get("event_id").and_then(Value::as_str) == Some(&wanted))
}

/// The alert.
pub fn build(
    definition: &Definition,
    group: &str,
    found: &FoundEpisode,
    facts: Facts,
    events: Vec<Value>,
) -> NewAlert {
    let matched = &definition.correlation.rule;
    let values: Vec<String> = serde_json::from_str(group).unwrap_or_default();
    let names = definition.correlation.group_by.iter();
    let grouped: Vec<(&str, &str)> =
        names.map(|name| &**name).zip(values.iter().map(String::as_str)).collect();
    let mut metadata = Map::new();
    metadata.insert("tags".to_owned(), matched.tags.iter().map(|tag| Value::from(&**tag)).collect());
    metadata.insert("group_by".to_owned(), grouped.iter().map(|(name, value)| (*name, *value)).collect());
    metadata.insert(DEFINITION.to_owned(), definition.key.clone().into());
    metadata.insert(EPISODE.to_owned(), extent(found));
    NewAlert {
        alert_id: alert_id(definition, group, found),
        correlation_id: found.trigger.event_id.to_string(),
        fingerprint: fingerprint(definition.id().as_str(), [group]),
        rule: rule(matched, &found.rule_set),
        group: Some(group.to_owned()),
        timestamp: row::start_of(found.first),
        severity: severity(matched.level).to_owned(),
        alert_type: ALERT_TYPE.to_owned(),
        description: describe(&matched.title, &grouped, found),
        triggered_by: facts.triggered_by,
        impacted_resource: facts.impacted_resource,
        action_observed: facts.action_observed,
        source_service_name: facts.source_service_name,
        server_hostname: facts.server_hostname,
        node: found.node,
        evidence: found.evidence.clone(),
        events,
        metadata,
    }
}

/// A stored alert as lineage sees it, if it stands and was computed by this definition. Without detections from before
/// `horizon` (milliseconds) an alert can't be judged again.
pub fn standing(row: &AlertRow, definition: &Definition, horizon: i64) -> Option<Standing> {
    let stands = matches!(row.machine, Machine::Standing | Machine::Amended);
    let own = row.alert.metadata.get(DEFINITION).and_then(Value::as_str) == Some(&definition.key);
    let extent = row.alert.metadata.get(EPISODE).filter(|_| stands && own)?;
    let time = |name: &str| extent.get(name)?.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_millis);
    let begin = time("begin")?;
    Some(Standing {
        id: row.alert.alert_id,
        trigger: row.alert.correlation_id.parse().ok()?,
        begin,
        first: time("first_match")?,
        last: time("last_match")?,
        frozen: begin < horizon,
    })
}

fn extent(found: &FoundEpisode) -> Value {
    let mut extent = json!({
        "begin": row::start_of(found.begin).to_string(),
        "first_match": row::start_of(found.first).to_string(),
        "last_match": row::start_of(found.last).to_string(),
        "events": found.events,
        "match_points": found.matches,
    });
    if let (Some(values), Some(extent)) = (found.values, extent.as_object_mut()) {
        extent.insert("different_values".to_owned(), values.into());
    }
    extent
}

fn describe(title: &str, grouped: &[(&str, &str)], found: &FoundEpisode) -> String {
    let events = if found.events == 1 { "1 event".to_owned() } else { format!("{} events", found.events) };
    let values = found.values.map(|values| format!(", {values} different values")).unwrap_or_default();
    let group: Vec<String> = grouped.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let group = if group.is_empty() { String::new() } else { format!("; {}", group.join(", ")) };
    format!("{title}: {events} in {}{values}{group}", duration(found.last - found.begin))
}

/// Milliseconds for people.
fn duration(millis: i64) -> String {
    if millis < 1_000 {
        format!("{millis} ms")
    } else if millis < 120_000 {
        format!("{} s", millis / 1_000)
    } else if millis < 7_200_000 {
        format!("{} min", millis / 60_000)
    } else {
        format!("{} h", millis / 3_600_000)
    }
}
