//! The bound on alerts of single events: a rule that matches everything must not bury the others, nor fill the disk.

use std::collections::BTreeMap;

use auditflow_event::{NodeId, Timestamp};

use crate::store::NewAlert;

/// Alerts of one rule, node and hour of event time that are raised. What is beyond is counted.
pub(super) const ALERTS_PER_HOUR: u32 = 1_000;
/// Counts remembered; the oldest hours are forgotten first.
const REMEMBERED: usize = 20_000;

/// Hour of event time, rule, node (nil where an alert has none).
type Slot = (i64, Box<str>, Option<NodeId>);

/// Counts alerts.
#[derive(Debug, Default)]
pub(super) struct Storm {
    raised: BTreeMap<Slot, u32>,
}

impl Storm {
    /// Keeps of `alerts` what may be raised; gives back the rules of those taken out.
    pub(super) fn bound(&mut self, alerts: &mut Vec<NewAlert>) -> Vec<String> {
        let mut taken_out = Vec::new();
        alerts.retain(|alert| {
            let admitted = self.admit(&alert.rule.id, alert.node, alert.timestamp);
            if !admitted {
                taken_out.push(alert.rule.id.clone());
            }
            admitted
        });
        while self.raised.len() > REMEMBERED {
            self.raised.pop_first();
        }
        taken_out
    }

    fn admit(&mut self, rule: &str, node: Option<NodeId>, time: Timestamp) -> bool {
        let raised =
            self.raised.entry((time.as_micros().div_euclid(3_600_000_000), rule.into(), node)).or_default();
        *raised = raised.saturating_add(1);
        if *raised == ALERTS_PER_HOUR + 1 {
            tracing::warn!(
                rule.id = rule,
                "rule raised {ALERTS_PER_HOUR} alerts for one node and hour: further ones are counted only; \
                 narrow the rule or exclude what is ordinary (`auditflow-collector rules exclude`)"
            );
        }
        *raised <= ALERTS_PER_HOUR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storm_of_one_rule_is_bounded_and_leaves_others_alone() {
        let mut storm = Storm::default();
        let node = Some(NodeId::from_bytes([1; 16]));
        let hour = |hour: i64| Timestamp::from_micros(hour * 3_600_000_000 + 5);
        let admitted = (0..5_000).filter(|_| storm.admit("noisy", node, hour(7))).count();
        assert_eq!(admitted, 1_000);
        assert!(storm.admit("quiet", node, hour(7)));
        assert!(storm.admit("noisy", Some(NodeId::from_bytes([2; 16])), hour(7)));
        assert!(storm.admit("noisy", node, hour(8)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut storm = Storm::default();
        for hour in 0..REMEMBERED as i64 * 2 {
            storm.admit("rule", None, Timestamp::from_micros(hour * 3_600_000_000));
            storm.bound(&mut Vec::new());
        }
        assert_eq!(storm.raised.len(), REMEMBERED);
    }
}
