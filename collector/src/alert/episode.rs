//! The alert of a correlation: one per episode, amended as it grows.

use auditflow_event::{EventId, Timestamp};
use serde_json::{Map, Value};

use super::facts::Facts;
use super::lineage::Standing;
use super::{ALERT_TYPE, fingerprint, id, rule, severity};
use crate::correlate::definition::Definition;
use crate::correlate::found::{Counts, FoundEpisode, Prefix, Settled};
use crate::correlate::row;
use crate::store::{AlertRow, EventRef, Machine, NewAlert};

/// Events copied from the beginning of the evidence, and from its end.
const COPIES: usize = 4;
/// Where the alert's metadata has the definition that it was computed by.
const DEFINITION: &str = "definition";
/// Where it has the episode's extent.
const EPISODE: &str = "episode";
/// Within that: the part that need not be read again.
const SETTLED: &str = "settled";

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
        stamp: None,
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
    let begin = time(extent, "begin")?;
    Some(Standing {
        id: row.alert.alert_id,
        trigger: row.alert.correlation_id.parse().ok()?,
        begin,
        first: time(extent, "first_match")?,
        last: time(extent, "last_match")?,
        frozen: begin < horizon,
    })
}

/// The settled part of a stored alert's episode, if it stands, is this definition's, and has one.
pub fn prefix(row: &AlertRow, definition: &Definition, ends: usize) -> Option<Prefix> {
    let standing = standing(row, definition, i64::MIN)?;
    let settled = row.alert.metadata.get(EPISODE)?.get(SETTLED)?;
    let head = row.alert.evidence.get(..ends)?.to_vec();
    let at = row.alert.evidence.iter().find(|at| at.event_id == standing.trigger).or(head.first())?;
    Some(Prefix {
        settled: Settled { until: time(settled, "until")?, counts: counts(settled)? },
        // Where it is does not matter any more: the alert has its copy.
        trigger: EventRef { event_id: standing.trigger, ..*at },
        rule_set: row.alert.rule.version.clone(),
        first: standing.first,
        begin: standing.begin,
        node: row.alert.node,
        head,
    })
}

fn time(part: &Value, name: &str) -> Option<i64> {
    part.get(name)?.as_str()?.parse::<Timestamp>().ok().map(Timestamp::as_millis)
}

fn counts(part: &Value) -> Option<Counts> {
    let count = |name: &str| usize::try_from(part.get(name)?.as_u64()?).ok();
    Some(Counts {
        events: count("events")?,
        matches: count("match_points")?,
        values: count("different_values"),
    })
}

fn extent(found: &FoundEpisode) -> Value {
    let mut extent = counted(found.counts);
    extent.insert("begin".to_owned(), row::start_of(found.begin).to_string().into());
    extent.insert("first_match".to_owned(), row::start_of(found.first).to_string().into());
    extent.insert("last_match".to_owned(), row::start_of(found.last).to_string().into());
    if let Some(settled) = found.settled {
        let mut part = counted(settled.counts);
        part.insert("until".to_owned(), row::start_of(settled.until).to_string().into());
        extent.insert(SETTLED.to_owned(), part.into());
    }
    extent.into()
}

fn counted(counts: Counts) -> Map<String, Value> {
    let Counts { events, matches, values } = counts;
    let values = values.map(|values| ("different_values".to_owned(), values.into()));
    let both = [("events".to_owned(), events.into()), ("match_points".to_owned(), matches.into())];
    both.into_iter().chain(values).collect()
}

fn describe(title: &str, grouped: &[(&str, &str)], found: &FoundEpisode) -> String {
    let events = if found.counts.events == 1 {
        "1 event".to_owned()
    } else {
        format!("{} events", found.counts.events)
    };
    let values = found
        .counts
        .values
        .map(|values| format!(", up to {values} different values at once"))
        .unwrap_or_default();
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
