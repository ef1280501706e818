//! The bound on alerts of single events: a rule that matches everything must not bury the others, nor fill the disk.
//!
//! Of one rule, node and hour of the events' own time the first [`ALERTS_PER_HOUR`] stand, whatever the order in which
//! they arrive: an earlier one that comes late takes the place of the last, which is superseded. All that are beyond
//! are told by one alert, with their number. Implementations of the store keep this inside the transaction that
//! writes a batch's findings.

use auditflow_event::{NodeId, Timestamp};
use serde_json::{Map, json};
use uuid::Uuid;

use super::NewAlert;

/// Alerts of one rule, node and hour that stand by themselves.
pub const ALERTS_PER_HOUR: u64 = 1_000;

const HOUR_MICROS: i64 = 3_600_000_000;
/// The namespace of the ids of alerts that tell of a storm.
const NAMESPACE: Uuid = Uuid::from_u128(0x2d4e_7b90_51c3_5f08_b6a1_93e7_0c5d_84fb);

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    /// The rule's id.
    pub rule: String,
    /// The node.
    pub node: NodeId,
    /// The hour, counted from the Unix epoch.
    pub hour: i64,
}

impl Slot {
    /// Where an alert counts; none for one that no single event of a node raised.
    pub fn of(alert: &NewAlert) -> Option<Self> {
        let (node, stamp) = (alert.node?, alert.stamp?);
        Some(Self { rule: alert.rule.id.clone(), node, hour: stamp.as_micros().div_euclid(HOUR_MICROS) })
    }

    /// When the hour begins.
    pub fn from(&self) -> Timestamp {
        Timestamp::from_micros(self.hour.saturating_mul(HOUR_MICROS))
    }

    /// When it is over.
    pub fn until(&self) -> Timestamp {
        Timestamp::from_micros(self.hour.saturating_add(1).saturating_mul(HOUR_MICROS))
    }

    /// The id of the alert that tells of what is beyond the bound.
    pub fn alert_id(&self) -> Uuid {
        let mut name = self.node.as_bytes().to_vec();
        name.extend_from_slice(&self.hour.to_be_bytes());
        name.extend_from_slice(self.rule.as_bytes());
        Uuid::new_v5(&NAMESPACE, &name)
    }

    /// That alert, after `matched` events; `like` is one of those that it stands for.
    pub fn alert(&self, like: &NewAlert, matched: u64) -> NewAlert {
        let beyond = matched.saturating_sub(ALERTS_PER_HOUR);
        let id = self.alert_id();
        let mut metadata = Map::new();
        metadata.insert("storm".to_owned(), json!({ "matched": matched, "beyond": beyond }));
        NewAlert {
            alert_id: id,
            correlation_id: id.to_string(),
            fingerprint: format!("storm {}", self.rule),
            rule: like.rule.clone(),
            group: None,
            stamp: None,
            timestamp: self.from(),
            severity: like.severity.clone(),
            alert_type: like.alert_type.clone(),
            triggered_by: Map::from_iter([("actor_type".to_owned(), json!("SYSTEM"))]),
            impacted_resource: Map::from_iter([
                ("resource_type".to_owned(), json!("SERVER")),
                ("resource_id".to_owned(), json!(self.node.to_string())),
            ]),
            action_observed: "ALERT_STORM".to_owned(),
            source_service_name: "auditflow-collector".to_owned(),
            server_hostname: String::new(),
            node: Some(self.node),
            description: format!(
                "{}: {beyond} more within the hour, beyond the {ALERTS_PER_HOUR} raised one by one; narrow the rule, \
                 or except what is ordinary with `auditflow-collector rules exclude`",
                like.rule.name
            ),
            evidence: Vec::new(),
            events: Vec::new(),
            metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::alerts::alert;

    #[test]
    fn alerts_count_by_rule_node_and_hour_of_the_events_own_time() {
        let node = NodeId::from_bytes([7; 16]);
        let at = |micros| NewAlert {
            node: Some(node),
            stamp: Some(Timestamp::from_micros(micros)),
            ..alert(1, "rule", None)
        };
        let slot = Slot::of(&at(HOUR_MICROS)).unwrap();
        assert_eq!(Slot::of(&at(2 * HOUR_MICROS - 1)).unwrap(), slot);
        assert_ne!(Slot::of(&at(2 * HOUR_MICROS)).unwrap().alert_id(), slot.alert_id());
        assert_eq!(Slot::of(&at(-1)).unwrap().hour, -1);
        assert_eq!(slot.until(), Timestamp::from_micros(2 * HOUR_MICROS));
        assert!(Slot::of(&NewAlert { stamp: None, ..at(0) }).is_none());
    }
}
