//! Alerts: what people are told.
//!
//! Fed by `detect` (a rule matched one event) and `correlate` (a group has episodes); feeds the store. An alert's id is a
//! function of rule, group and event, so computing it again changes nothing; `lineage` decides what becomes of
//! alerts that a more complete view contradicts. Names are the ancestor's.

pub mod again;
pub mod compat;
pub mod copy;
pub mod episode;
pub mod facts;
pub mod lineage;
pub mod single;

use auditflow_event::EventId;
use auditflow_rules::{Level, Rule};
use uuid::Uuid;

use crate::store::AlertRule;

/// The namespace of alert ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0a_3f5b_8c1d_5e7a_9b42_d1c6_40fe_27a8);

/// The id of a rule's alert: `UUIDv5` of rule, group (empty for a rule that needs one event only) and the event that
/// completed it, NUL between them.
pub fn id(rule: &str, group: &str, event: EventId) -> Uuid {
    let mut name = Vec::with_capacity(rule.len() + group.len() + 18);
    name.extend_from_slice(rule.as_bytes());
    name.push(0);
    name.extend_from_slice(group.as_bytes());
    name.push(0);
    name.extend_from_slice(event.as_bytes());
    Uuid::new_v5(&NAMESPACE, &name)
}

/// What makes two alerts "the same again": 16 hex digits over rule and what it is about.
fn fingerprint<'t>(rule: &'t str, about: impl IntoIterator<Item = &'t str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(rule).chain(about) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The ancestor's three severities from Sigma's five levels.
fn severity(level: Level) -> &'static str {
    match level {
        Level::Informational | Level::Low => "INFO",
        Level::Medium => "WARNING",
        Level::High | Level::Critical => "CRITICAL",
    }
}

/// The only type of alert that the ancestor's programs know.
const ALERT_TYPE: &str = "SECURITY";

fn rule(rule: &Rule, version: &str) -> AlertRule {
    AlertRule {
        id: rule.id.as_str().to_owned(),
        name: rule.title.as_ref().to_owned(),
        description: rule.description.as_ref().to_owned(),
        level: rule.level.as_str().to_owned(),
        version: version.to_owned(),
    }
}
