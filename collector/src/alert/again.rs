//! Judging an alert again by other rules: would it still be raised?
//!
//! Fed by `commands::rules` with stored alerts; reads the events of their evidence while their payloads are kept.

use auditflow_event::Timestamp;
use auditflow_rules::RuleId;
use auditflow_wire::BootId;

use crate::correlate::definition::Definition;
use crate::correlate::episodes::Timeline;
use crate::correlate::row;
use crate::detect::{self, BatchFacts, Rules};
use crate::store::{DetectionPoint, EventRef, NewAlert, Result, Store};

/// What judging again gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The alert is raised again.
    Raised,
    /// It is not.
    NotRaised,
    /// Not all of its evidence is kept.
    Unknown,
}

/// The rules whose alerts a rule has a part in: itself, and the correlations directly above it.
pub fn raised_by(rules: &Rules, rule: &RuleId) -> Vec<RuleId> {
    let above = rules.set().parents(rule).iter().map(|correlation| correlation.id().clone());
    std::iter::once(rule.clone()).chain(above).collect()
}

/// Judges an alert of one of [`raised_by`]'s rules again.
///
/// # Errors
/// What the store reports.
pub async fn judge(store: &dyn Store, rules: &Rules, alert: &NewAlert) -> Result<Again> {
    let id = RuleId::from(alert.rule.id.as_str());
    let definition = rules.definitions().by_id(&id);
    let mut points: Vec<DetectionPoint> = Vec::new();
    for at in &alert.evidence {
        let Some(found) = store.event(at.batch(), at.index).await? else { return Ok(Again::Unknown) };
        let (boot, host, horizon) = (BootId::UNKNOWN, found.host, Timestamp::MIN);
        let facts = BatchFacts { key: at.batch(), boot, host, shift: None, horizon };
        let judged = detect::judge(rules, &facts, std::slice::from_ref(&found.event), None);
        let Some(definition) = definition else {
            let raised = judged.alerts.iter().any(|raised| raised.alert_id == alert.alert_id);
            return Ok(if raised { Again::Raised } else { Again::NotRaised });
        };
        points.extend(own_points(definition, alert, *at, judged));
    }
    let Some(definition) = definition else { return Ok(Again::Unknown) };
    let kept = alert.evidence.len() as u64;
    let all = alert.metadata.get("episode").and_then(|episode| episode.get("events")?.as_u64()) == Some(kept);
    let timeline =
        Timeline::new(points.iter().filter_map(|point| row::detection(definition, point)).collect());
    let episodes = timeline.episodes(&definition.condition, definition.timespan.unsigned_abs());
    Ok(match (episodes.is_empty(), all) {
        (false, _) => Again::Raised,
        (true, true) => Again::NotRaised,
        (true, false) => Again::Unknown,
    })
}

/// The rows of the alert's own group, as the store would give them back.
fn own_points(
    definition: &Definition,
    alert: &NewAlert,
    at: EventRef,
    judged: detect::Judged,
) -> impl Iterator<Item = DetectionPoint> {
    let own = judged.detections.into_iter().filter(|row| {
        row.group.correlation == definition.key && Some(&row.group.group) == alert.group.as_ref()
    });
    own.flat_map(move |row| {
        let rule = row.rule;
        row.matches.into_iter().map(move |found| DetectionPoint {
            at,
            rule: rule.clone(),
            rule_set: String::new(),
            time: found.time,
            order: found.order,
            fields: found.fields,
        })
    })
}
