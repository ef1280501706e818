//! The bound on alerts of single events: a rule that matches everything must not bury the others, nor fill the disk.
//!
//! Of one rule, node and hour of the events' own time the first [`ALERTS_PER_HOUR`] stand, whatever the order in which
//! they arrive: an earlier one that comes late takes the place of the last, which is superseded. All that are beyond
//! are told by one alert, with their number. Implementations of the store keep this inside the transaction that
//! writes a batch's findings.

use std::collections::{BTreeMap, HashSet};

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

/// Of one slot, what stands already: how many matched, and its last alerts, latest first.
#[derive(Clone, Debug, Default)]
pub struct Filled {
    /// Events counted before.
    pub matched: u64,
    /// The last alerts that stand, as (stamp, id): at least as many as the batch has, if there are.
    pub last: Vec<(Timestamp, Uuid)>,
}

/// What becomes of a batch's alerts.
#[derive(Debug, Default)]
pub struct Plan<'a> {
    /// To be written, new.
    pub open: Vec<&'a NewAlert>,
    /// To be written, known.
    pub amend: Vec<&'a NewAlert>,
    /// To be superseded: which, and by which.
    pub displace: Vec<(Uuid, Uuid)>,
    /// How many matched now, by slot.
    pub counts: BTreeMap<Slot, u64>,
    /// To be written, each telling of what is beyond the bound.
    pub told: Vec<NewAlert>,
    /// By rule, how many are beyond the bound.
    pub beyond: BTreeMap<String, u64>,
}

/// Decides what becomes of a batch's alerts. `known` says of those that are there whether they stand; `filled` has every
/// slot of the others. A rewrite amends what stands and counts nothing a second time.
pub fn plan<'a>(
    batch: &'a [NewAlert],
    known: &BTreeMap<Uuid, bool>,
    mut filled: BTreeMap<Slot, Filled>,
    rewrite: bool,
) -> Plan<'a> {
    let mut plan = Plan::default();
    let mut like: BTreeMap<Slot, &NewAlert> = BTreeMap::new();
    let mut opened: HashSet<Uuid> = HashSet::new();
    for alert in batch {
        if opened.contains(&alert.alert_id) {
            continue;
        }
        if let Some(stands) = known.get(&alert.alert_id) {
            if rewrite && *stands {
                plan.amend.push(alert);
            }
            continue;
        }
        let Some(slot) = Slot::of(alert) else {
            opened.insert(alert.alert_id);
            plan.open.push(alert);
            continue;
        };
        like.entry(slot.clone()).or_insert(alert);
        let place = filled.entry(slot.clone()).or_default();
        let room = if place.matched < ALERTS_PER_HOUR { Room::Free } else { place.room_for(alert) };
        if let Room::Of(last) = room {
            // It may be one that this very batch opens: it is written first, then superseded.
            plan.displace.push((last, slot.alert_id()));
        }
        if !matches!(room, Room::None) {
            opened.insert(alert.alert_id);
            place.stand(alert);
            plan.open.push(alert);
        }
        if !rewrite {
            *plan.beyond.entry(slot.rule).or_default() += u64::from(place.matched >= ALERTS_PER_HOUR);
            place.matched += 1;
        }
    }
    if !rewrite {
        for (slot, like) in like {
            let matched = filled.get(&slot).map_or(0, |place| place.matched);
            if matched > ALERTS_PER_HOUR {
                plan.told.push(slot.alert(like, matched));
            }
            plan.counts.insert(slot, matched);
        }
    }
    plan
}

/// Where an alert stands in a full slot.
enum Room {
    None,
    Free,
    /// In the place of one that comes after it.
    Of(Uuid),
}

impl Filled {
    /// Takes the last that stands away, if an alert comes before it.
    fn room_for(&mut self, alert: &NewAlert) -> Room {
        let Some((stamp, id)) = self.last.first().copied() else { return Room::Free };
        if (Some(stamp), id) <= (alert.stamp, alert.alert_id) {
            return Room::None;
        }
        self.last.remove(0);
        Room::Of(id)
    }

    fn stand(&mut self, alert: &NewAlert) {
        let Some(stamp) = alert.stamp else { return };
        let place = (stamp, alert.alert_id);
        let at = self.last.partition_point(|other| *other > place);
        self.last.insert(at, place);
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
