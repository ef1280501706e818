//! Which episodes a group's detections form.
//!
//! Fed by the analyse worker with every detection the store has of one correlation and group (or the hot part of
//! them); feeds `alert::lineage`. One pure function, the same for memory, Redis and the store, so that an alert is a
//! function of the events and not of when, in what order or how often they arrived.
//!
//! A detection is a *match point* if the detections at or before it, no more than the timespan earlier, satisfy the
//! condition. An *episode* is a maximal run of match points each at most the timespan after the one before. Its
//! evidence is everything in its match points' windows. Only conditions that more detections can never make untrue
//! exist here; that is what makes arrival order irrelevant.

use auditflow_event::{EventId, NodeId};

/// What identifies and orders detections of one instant: the node, its boot, and the position in that boot's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The node that observed the event.
    pub node: NodeId,
    /// The boot during which it did, as a short digest of the boot id; zero where unknown.
    pub boot: u64,
    /// The event's position: the kernel's serial, or the source's own counter.
    pub position: u64,
}

/// One match of one of a correlation's base rules.
///
/// The derived order is the one that windows are cut by: time, place, and for the sake of a total order the rest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Detection {
    /// Event time, milliseconds since the Unix epoch.
    pub time: i64,
    /// Orders detections of the same millisecond.
    pub place: Place,
    /// The event that matched.
    pub event: EventId,
    /// Which of the correlation's rules matched: an index into its list of distinct rules.
    pub rule: usize,
    /// The value of the field that is counted, for `value_count`.
    pub value: Option<Box<str>>,
}

/// What must hold in a window. (Sigma correlation types; `gt n` is `at_least n + 1`.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// `event_count`: so many detections.
    EventCount {
        /// The least number that satisfies.
        at_least: usize,
    },
    /// `value_count`: so many distinct values of the counted field.
    ValueCount {
        /// The least number that satisfies.
        at_least: usize,
    },
    /// `temporal`: so many different rules, in any order.
    Temporal {
        /// How many distinct rules there are.
        rules: usize,
        /// How many of them must be present.
        at_least: usize,
    },
    /// `temporal_ordered`: the rules one after the other, others in between allowed.
    TemporalOrdered {
        /// The rules in the order they must appear; a rule may appear twice.
        sequence: Vec<usize>,
    },
}

/// A maximal run of match points, as indices into the timeline it was found in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    /// The match points, ascending, never empty.
    pub match_points: Vec<usize>,
    /// The first detection of the evidence; the evidence ends with the last match point.
    pub begin: usize,
}

impl Episode {
    /// The match point whose event names the episode.
    pub fn first(&self) -> usize {
        self.match_points.first().copied().unwrap_or(self.begin)
    }

    /// The evidence: everything in the windows of the match points. These overlap, so it is one range.
    pub fn evidence(&self) -> std::ops::RangeInclusive<usize> {
        self.begin..=self.match_points.last().copied().unwrap_or(self.begin)
    }
}

/// One group's detections in order, each event once per rule and counted value (several records of one event may match
/// with different values).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline(Vec<Detection>);

impl Timeline {
    /// Puts detections in order and drops repetitions: an event that arrived in two batches counts once, at the earlier
    /// of its times if these differ.
    pub fn new(mut detections: Vec<Detection>) -> Self {
        detections.sort_unstable();
        let mut seen = std::collections::HashSet::with_capacity(detections.len());
        detections
            .retain(|detection| seen.insert((detection.event, detection.rule, detection.value.clone())));
        Self(detections)
    }

    /// The detections, in order.
    pub fn detections(&self) -> &[Detection] {
        &self.0
    }

    /// The episodes, in order of time. `timespan` is in milliseconds.
    pub fn episodes(&self, condition: &Condition, timespan: u64) -> Vec<Episode> {
        let timespan = i64::try_from(timespan).unwrap_or(i64::MAX);
        let mut window = Window::new(condition);
        let mut episodes: Vec<Episode> = Vec::new();
        let mut begin = 0;
        for (index, detection) in self.0.iter().enumerate() {
            window.enter(index, detection);
            while let Some(oldest) = self.0.get(begin).filter(|oldest| apart(oldest, detection) > timespan) {
                window.leave(oldest);
                begin += 1;
            }
            if !window.satisfied(begin) {
                continue;
            }
            let running = episodes.last_mut().filter(|episode| {
                let last = episode.match_points.last().and_then(|&last| self.0.get(last));
                last.is_some_and(|last| apart(last, detection) <= timespan)
            });
            match running {
                Some(episode) => episode.match_points.push(index),
                None => episodes.push(Episode { match_points: vec![index], begin }),
            }
        }
        episodes
    }
}

fn apart(earlier: &Detection, later: &Detection) -> i64 {
    later.time.saturating_sub(earlier.time)
}

/// What of the detections in the window the condition looks at, kept up as the window slides.
enum Window<'c, 't> {
    Count {
        detections: usize,
        at_least: usize,
    },
    Values {
        counts: std::collections::HashMap<&'t str, usize>,
        at_least: usize,
    },
    Rules {
        counts: Vec<usize>,
        present: usize,
        at_least: usize,
    },
    /// `latest[p]`: the latest index at which a run through `sequence[0..=p]` begins, among those that are complete.
    Sequence {
        sequence: &'c [usize],
        latest: Vec<Option<usize>>,
    },
}

impl<'c, 't> Window<'c, 't> {
    fn new(condition: &'c Condition) -> Self {
        match condition {
            Condition::EventCount { at_least } => Self::Count { detections: 0, at_least: *at_least },
            Condition::ValueCount { at_least } => {
                Self::Values { counts: std::collections::HashMap::new(), at_least: *at_least }
            }
            Condition::Temporal { rules, at_least } => {
                Self::Rules { counts: vec![0; *rules], present: 0, at_least: *at_least }
            }
            Condition::TemporalOrdered { sequence } => {
                Self::Sequence { sequence, latest: vec![None; sequence.len()] }
            }
        }
    }

    fn enter(&mut self, index: usize, detection: &'t Detection) {
        match self {
            Self::Count { detections, .. } => *detections += 1,
            Self::Values { counts, .. } => {
                if let Some(value) = &detection.value {
                    *counts.entry(value).or_default() += 1;
                }
            }
            Self::Rules { counts, present, .. } => {
                if let Some(count) = counts.get_mut(detection.rule) {
                    *present += usize::from(*count == 0);
                    *count += 1;
                }
            }
            Self::Sequence { sequence, latest } => {
                // From the end, so that one detection does not serve two places of the sequence.
                for place in (0..sequence.len()).rev().filter(|&place| sequence[place] == detection.rule) {
                    latest[place] = if place == 0 { Some(index) } else { latest[place - 1] };
                }
            }
        }
    }

    fn leave(&mut self, detection: &'t Detection) {
        match self {
            Self::Count { detections, .. } => *detections -= 1,
            Self::Values { counts, .. } => {
                let Some(value) = detection.value.as_deref() else { return };
                if let Some(count) = counts.get_mut(value) {
                    *count -= 1;
                    if *count == 0 {
                        counts.remove(value);
                    }
                }
            }
            Self::Rules { counts, present, .. } => {
                if let Some(count) = counts.get_mut(detection.rule) {
                    *count -= 1;
                    *present -= usize::from(*count == 0);
                }
            }
            Self::Sequence { .. } => {}
        }
    }

    fn satisfied(&self, begin: usize) -> bool {
        match self {
            Self::Count { detections, at_least } => detections >= at_least,
            Self::Values { counts, at_least } => counts.len() >= *at_least,
            Self::Rules { present, at_least, .. } => present >= at_least,
            Self::Sequence { latest, .. } => {
                latest.last().is_some_and(|start| start.is_some_and(|start| start >= begin))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const SECOND: i64 = 1_000;

    fn detection(seconds: i64, rule: usize, value: Option<&str>) -> Detection {
        let number = (seconds as u64) << 8 | rule as u64;
        Detection {
            time: seconds * SECOND,
            place: Place { node: NodeId::from_bytes([1; 16]), boot: 0, position: number },
            event: EventId::from_uuid(Uuid::from_u64_pair(
                number,
                value.map_or(0, |value| value.len() as u64),
            )),
            rule,
            value: value.map(Into::into),
        }
    }

    fn at(seconds: &[i64]) -> Timeline {
        Timeline::new(seconds.iter().map(|&seconds| detection(seconds, 0, None)).collect())
    }

    fn spans(timeline: &Timeline, condition: &Condition, seconds: u64) -> Vec<(i64, i64)> {
        let time = |index: usize| timeline.detections()[index].time / SECOND;
        let episodes = timeline.episodes(condition, seconds * SECOND as u64);
        episodes
            .iter()
            .map(|episode| (time(*episode.evidence().start()), time(*episode.evidence().end())))
            .collect()
    }

    #[test]
    fn three_in_a_minute_are_found_where_they_are_and_not_where_they_are_not() {
        let three = Condition::EventCount { at_least: 3 };
        for (seconds, expected) in [
            (&[0, 30, 60][..], &[(0, 60)][..]), // the timespan is inclusive
            (&[0, 30, 61], &[]),
            (&[0, 50, 100, 150], &[]),                // never three in sixty seconds
            (&[0, 1, 2, 3, 4], &[(0, 4)]),            // one episode however many more there are
            (&[0, 1, 2, 30, 62, 63, 64], &[(0, 64)]), // 30, 62 and 63 bridge the gap
            (&[0, 1, 2, 3600, 3601, 3602], &[(0, 2), (3600, 3602)]),
            (&[0, 1, 2, 100, 1000, 1900, 3600, 3601, 3602], &[(0, 2), (3600, 3602)]), // noise joins nothing
            (&[], &[]),
        ] {
            assert_eq!(spans(&at(seconds), &three, 60), expected, "{seconds:?}");
        }
    }

    #[test]
    fn the_same_event_counts_once_however_often_it_arrives() {
        let thrice = Timeline::new(vec![detection(5, 0, None); 3]);
        assert!(thrice.episodes(&Condition::EventCount { at_least: 2 }, 60_000).is_empty());
        assert_eq!(thrice.detections().len(), 1);
    }

    #[test]
    fn distinct_values_are_counted_not_events() {
        let values = |values: &[&str]| {
            Timeline::new(
                values.iter().zip(0..).map(|(value, second)| detection(second, 0, Some(value))).collect(),
            )
        };
        let two = Condition::ValueCount { at_least: 2 };
        assert_eq!(spans(&values(&["a", "a", "a"]), &two, 60), []);
        assert_eq!(spans(&values(&["a", "a", "b"]), &two, 60), [(0, 2)]);
        assert_eq!(spans(&values(&["a", "a", "b"]), &two, 0), []);
    }

    #[test]
    fn temporal_wants_every_rule_and_ordered_wants_them_in_order() {
        let rules = |rules: &[usize]| {
            Timeline::new(
                rules.iter().zip(0..).map(|(rule, second)| detection(second, *rule, None)).collect(),
            )
        };
        let any = Condition::Temporal { rules: 2, at_least: 2 };
        let ordered = Condition::TemporalOrdered { sequence: vec![0, 1] };
        assert_eq!(spans(&rules(&[1, 0]), &any, 60), [(0, 1)]);
        assert_eq!(spans(&rules(&[1, 0]), &ordered, 60), []);
        assert_eq!(spans(&rules(&[1, 0, 1]), &ordered, 60), [(0, 2)]);
        assert_eq!(spans(&rules(&[0, 0]), &any, 60), []);
        let twice = Condition::TemporalOrdered { sequence: vec![0, 1, 0] };
        assert_eq!(spans(&rules(&[0, 1]), &twice, 60), []);
        assert_eq!(spans(&rules(&[0, 1, 0]), &twice, 60), [(0, 2)]);
        assert_eq!(spans(&rules(&[0, 1, 2, 2, 0]), &twice, 3), []);
    }

    /// The definition, word for word, without any sliding.
    fn by_definition(timeline: &Timeline, condition: &Condition, timespan: i64) -> Vec<usize> {
        let all = timeline.detections();
        let holds = |window: &[Detection]| match condition {
            Condition::EventCount { at_least } => window.len() >= *at_least,
            Condition::ValueCount { at_least } => {
                window.iter().filter_map(|d| d.value.as_ref()).collect::<std::collections::HashSet<_>>().len()
                    >= *at_least
            }
            Condition::Temporal { rules, at_least } => {
                (0..*rules).filter(|rule| window.iter().any(|d| d.rule == *rule)).count() >= *at_least
            }
            Condition::TemporalOrdered { sequence } => {
                let mut wanted = sequence.iter().peekable();
                for detection in window {
                    if wanted.peek() == Some(&&detection.rule) {
                        wanted.next();
                    }
                }
                wanted.peek().is_none()
            }
        };
        (0..all.len())
            .filter(|&index| {
                let first = all.iter().position(|d| all[index].time - d.time <= timespan).unwrap_or(index);
                holds(&all[first..=index])
            })
            .collect()
    }

    fn conditions() -> impl Strategy<Value = Condition> {
        prop_oneof![
            (1..5_usize).prop_map(|at_least| Condition::EventCount { at_least }),
            (1..4_usize).prop_map(|at_least| Condition::ValueCount { at_least }),
            (1..4_usize, 0..3_usize).prop_map(|(rules, fewer)| Condition::Temporal {
                rules,
                at_least: rules.saturating_sub(fewer).max(1),
            }),
            prop::collection::vec(0..3_usize, 1..4)
                .prop_map(|sequence| Condition::TemporalOrdered { sequence }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn match_points_are_those_of_the_definition_and_arrival_does_not_matter(
            raw in prop::collection::vec((0..120_i64, 0..3_usize, 0..3_usize), 0..40),
            condition in conditions(),
            seconds in 0..40_u64,
            shuffle in any::<prop::sample::Index>(),
        ) {
            let values = ["a", "bb", "ccc"];
            let mut detections: Vec<_> = raw.iter().map(|&(s, rule, value)| detection(s, rule, Some(values[value]))).collect();
            let timeline = Timeline::new(detections.clone());
            let episodes = timeline.episodes(&condition, seconds * 1_000);
            let points: Vec<usize> = episodes.iter().flat_map(|episode| episode.match_points.clone()).collect();
            prop_assert_eq!(points, by_definition(&timeline, &condition, seconds as i64 * SECOND));
            for pair in episodes.windows(2) {
                let last = &timeline.detections()[*pair[0].evidence().end()];
                let next = &timeline.detections()[pair[1].first()];
                prop_assert!(apart(last, next) > seconds as i64 * SECOND);
            }
            if !detections.is_empty() {
                let middle = shuffle.index(detections.len());
                detections.rotate_left(middle);
                detections.reverse();
                detections.extend(detections.clone().into_iter().take(middle));
            }
            let arrived_otherwise = Timeline::new(detections);
            prop_assert_eq!(arrived_otherwise.episodes(&condition, seconds * 1_000), episodes);
            prop_assert_eq!(arrived_otherwise, timeline);
        }
    }
}
