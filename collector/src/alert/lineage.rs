//! What becomes of the alerts that stand, given the episodes that a more complete view shows. Pure.
//!
//! Fed by `analyse` with a group's standing alerts and the episodes just computed in a zone of time; feeds
//! `DetectionStore::finish_group`. An alert whose episode is there again stands (amended if its evidence grew); one whose
//! events are part of another episode now is superseded by that one, which inherits what people made of it; one that
//! nothing supports any more is withdrawn. Nothing is deleted.

use std::collections::HashSet;

use auditflow_event::EventId;
use uuid::Uuid;

use crate::correlate::group::Zone;

/// An alert that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its id.
    pub id: Uuid,
    /// The event that named its episode.
    pub trigger: EventId,
    /// Its evidence's beginning, first and last match point, in milliseconds.
    pub begin: i64,
    /// See `begin`.
    pub first: i64,
    /// See `begin`.
    pub last: i64,
    /// What it was computed from is gone in part: it can't be judged again and stays as it is.
    pub frozen: bool,
}

/// An episode that was computed.
#[derive(Clone, Debug)]
pub struct Claim<'m> {
    /// The id of its alert.
    pub id: Uuid,
    /// Its evidence's beginning, in milliseconds.
    pub begin: i64,
    /// Its last match point.
    pub last: i64,
    /// The events of its evidence.
    pub members: &'m HashSet<EventId>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Which of the claims stand, by their place.
    pub stand: Vec<usize>,
    /// (old, new).
    pub superseded: Vec<(Uuid, Uuid)>,
    /// Nothing supports these.
    pub withdrawn: Vec<Uuid>,
}

/// Compares what stands with what was computed in `zone`; `claims` are in order of time.
pub fn plan(standing: &[Standing], claims: &[Claim<'_>], zone: Zone) -> Plan {
    let mut plan = Plan::default();
    for (index, claim) in claims.iter().enumerate() {
        // A frozen alert speaks for its time: what is left of its detections would only tell a shorter story.
        let spoken_for =
            standing.iter().any(|known| known.frozen && known.id != claim.id && overlap(known, claim));
        let itself = standing.iter().any(|known| known.frozen && known.id == claim.id);
        if !spoken_for && !itself {
            plan.stand.push(index);
        }
    }
    for known in standing.iter().filter(|known| !known.frozen && zone.touches(known.first, known.last)) {
        if claims.iter().any(|claim| claim.id == known.id) {
            continue;
        }
        let by_event = claims.iter().find(|claim| claim.members.contains(&known.trigger));
        match by_event.or_else(|| claims.iter().find(|claim| overlap(known, claim))) {
            Some(successor) => plan.superseded.push((known.id, successor.id)),
            None => plan.withdrawn.push(known.id),
        }
    }
    plan
}

fn overlap(known: &Standing, claim: &Claim<'_>) -> bool {
    known.begin <= claim.last && claim.begin <= known.last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> EventId {
        EventId::from_uuid(Uuid::from_u64_pair(1, number))
    }

    fn id(number: u64) -> Uuid {
        Uuid::from_u64_pair(2, number)
    }

    /// An alert named by event `trigger`.
    fn alert(trigger: u64, begin: i64, first: i64, last: i64) -> Standing {
        Standing { id: id(trigger), trigger: event(trigger), begin, first, last, frozen: false }
    }

    struct Episode {
        trigger: u64,
        begin: i64,
        last: i64,
        members: HashSet<EventId>,
    }

    fn episode(trigger: u64, begin: i64, last: i64, members: &[u64]) -> Episode {
        Episode { trigger, begin, last, members: members.iter().map(|number| event(*number)).collect() }
    }

    fn planned(standing: &[Standing], episodes: &[Episode], zone: (i64, i64)) -> Plan {
        let claims: Vec<Claim<'_>> = episodes
            .iter()
            .map(|e| Claim { id: id(e.trigger), begin: e.begin, last: e.last, members: &e.members })
            .collect();
        plan(standing, &claims, Zone { from: zone.0, to: zone.1 })
    }

    #[test]
    fn standing_alerts_follow_the_episodes() {
        let everywhere = (0, 1_000);
        let cases = [
            ("the first alert", vec![], vec![episode(3, 1, 3, &[1, 2, 3])], vec![0], vec![], vec![]),
            (
                "the same again",
                vec![alert(3, 1, 3, 3)],
                vec![episode(3, 1, 3, &[1, 2, 3])],
                vec![0],
                vec![],
                vec![],
            ),
            (
                "it grew",
                vec![alert(3, 1, 3, 3)],
                vec![episode(3, 1, 9, &[1, 2, 3, 9])],
                vec![0],
                vec![],
                vec![],
            ),
            (
                "a late event names it anew",
                vec![alert(4, 2, 4, 4)],
                vec![episode(3, 1, 4, &[1, 2, 3, 4])],
                vec![0],
                vec![(id(4), id(3))],
                vec![],
            ),
            (
                "a late event joins two",
                vec![alert(3, 1, 3, 3), alert(9, 7, 9, 9)],
                vec![episode(3, 1, 9, &[1, 2, 3, 5, 7, 8, 9])],
                vec![0],
                vec![(id(9), id(3))],
                vec![],
            ),
            ("nothing supports it", vec![alert(3, 1, 3, 3)], vec![], vec![], vec![], vec![id(3)]),
            (
                "its time moved, its event is found elsewhere",
                vec![alert(3, 1, 3, 3)],
                vec![episode(2, 501, 503, &[1, 2, 3])],
                vec![0],
                vec![(id(3), id(2))],
                vec![],
            ),
        ];
        for (what, standing, episodes, stand, superseded, withdrawn) in cases {
            assert_eq!(
                planned(&standing, &episodes, everywhere),
                Plan { stand, superseded, withdrawn },
                "{what}"
            );
        }
    }

    #[test]
    fn alert_outside_the_zone_is_left_alone() {
        assert_eq!(planned(&[alert(3, 1, 3, 3)], &[], (100, 200)), Plan::default());
        assert_eq!(planned(&[alert(3, 1, 3, 100)], &[], (100, 200)).withdrawn, [id(3)]);
    }

    #[test]
    fn frozen_alert_stays_and_keeps_its_time() {
        let frozen = Standing { frozen: true, ..alert(3, 1, 3, 50) };
        assert_eq!(planned(std::slice::from_ref(&frozen), &[], (0, 100)), Plan::default());
        let rest = [episode(40, 30, 50, &[30, 40, 50]), episode(90, 80, 90, &[80, 90])];
        assert_eq!(planned(&[frozen], &rest, (0, 100)), Plan { stand: vec![1], ..Plan::default() });
    }
}
