//! Episodes with what an alert needs of them, bounded however long they last.
//!
//! Fed by [`super::group`]; feeds `alert::episode`. Of a long episode the older part is *settled*: what it adds to the
//! alert is kept in numbers, and as long as nothing at or before that point changes, the episode is continued from there
//! instead of being read whole. Continuing gives exactly what reading it whole would give.

use std::collections::{HashMap, HashSet};

use auditflow_event::{EventId, NodeId};

use super::definition::Definition;
use super::episodes::{Condition, Detection, Episode, Timeline};
use crate::store::{DetectionPoint, EventRef};

/// How much is kept of an episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// References to evidence kept at the beginning of an episode, and as many at its end.
    pub ends: usize,
    /// From how many events on an episode has a settled part; at least twice `ends`.
    pub settled_from: usize,
    /// How many timespans before its last match point that part ends: what is late by less costs little.
    pub lag: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { ends: 50, settled_from: 500, lag: 4 }
    }
}

/// An episode with what an alert needs of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundEpisode {
    /// The first match point's event: it names the episode.
    pub trigger: EventRef,
    /// The rule-set version that judged the batch of the trigger.
    pub rule_set: String,
    /// The first match point's time, milliseconds.
    pub first: i64,
    /// The last match point's.
    pub last: i64,
    /// The earliest evidence's.
    pub begin: i64,
    /// Events of the evidence in order, each once; the middle of a long one is left out.
    pub evidence: Vec<EventRef>,
    /// The node that all of them are of, if it is one.
    pub node: Option<NodeId>,
    /// What is counted, over all of it.
    pub counts: Counts,
    /// The part that need not be read again, if it is long.
    pub settled: Option<Settled>,
    /// Events of the evidence, of a continued episode those read, for telling which alert this one replaces.
    pub members: HashSet<EventId>,
}

/// What of an episode is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Different events.
    pub events: usize,
    /// Match points.
    pub matches: usize,
    /// The most different values in one window (value counts).
    pub values: Option<usize>,
}

/// An episode up to one of its match points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// That match point's time: everything up to here is counted.
    pub until: i64,
    /// The counts.
    pub counts: Counts,
}

/// What an alert knows of the settled part of its episode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The part.
    pub settled: Settled,
    /// As in [`FoundEpisode`].
    pub trigger: EventRef,
    /// As in [`FoundEpisode`].
    pub rule_set: String,
    /// As in [`FoundEpisode`].
    pub first: i64,
    /// As in [`FoundEpisode`].
    pub begin: i64,
    /// As in [`FoundEpisode`].
    pub node: Option<NodeId>,
    /// The first references of its evidence.
    pub head: Vec<EventRef>,
}

/// The episodes of a timeline. With a prefix, the timeline begins one timespan before where that part ends, and the
/// first episode continues it; nothing if it cannot be continued and has to be read whole.
pub fn found(
    timeline: &Timeline,
    definition: &Definition,
    points: &[DetectionPoint],
    prefix: Option<&Prefix>,
    bounds: Bounds,
) -> Option<Vec<FoundEpisode>> {
    let episodes = timeline.episodes(&definition.condition, definition.timespan.unsigned_abs());
    let seen = Seen::new(timeline, definition, points, bounds);
    let mut episodes = episodes.iter();
    let mut found = Vec::with_capacity(episodes.len());
    if let Some(prefix) = prefix {
        found.push(seen.continued(episodes.next()?, prefix)?);
    }
    found.extend(episodes.filter_map(|episode| seen.whole(episode)));
    Some(found)
}

/// A timeline with where its events are and how many values its windows have.
struct Seen<'a> {
    all: &'a [Detection],
    span: i64,
    bounds: Bounds,
    places: HashMap<EventId, &'a DetectionPoint>,
    /// For value counts: different values in the window that ends with each detection.
    values: Option<Vec<usize>>,
}

impl<'a> Seen<'a> {
    fn new(
        timeline: &'a Timeline,
        definition: &Definition,
        points: &'a [DetectionPoint],
        bounds: Bounds,
    ) -> Self {
        // An event that arrived in several batches is referred to where it was stored under the smallest key, so that
        // it does not matter which came first.
        let place = |point: &DetectionPoint| (point.at.node, point.at.epoch, point.at.seq, point.at.index);
        let mut places: HashMap<EventId, &DetectionPoint> = HashMap::with_capacity(points.len());
        for point in points {
            let known = places.entry(point.at.event_id).or_insert(point);
            if place(point) < place(known) {
                *known = point;
            }
        }
        let all = timeline.detections();
        let counted = matches!(definition.condition, Condition::ValueCount { .. });
        let values = counted.then(|| values_in_windows(all, definition.timespan));
        Self { all, span: definition.timespan, bounds, places, values }
    }

    fn whole(&self, episode: &Episode) -> Option<FoundEpisode> {
        let evidence = self.all.get(episode.evidence())?;
        let (first, last) = (self.all.get(episode.first())?, evidence.last()?);
        let trigger = *self.places.get(&first.event)?;
        let (events, members) = self.events(evidence);
        let counts = self.counts(evidence, &episode.match_points);
        Some(FoundEpisode {
            trigger: trigger.at,
            rule_set: trigger.rule_set.clone(),
            first: first.time,
            last: last.time,
            begin: evidence.first()?.time,
            node: events.iter().all(|at| at.node == trigger.at.node).then_some(trigger.at.node),
            counts,
            settled: self
                .settled(evidence, &episode.match_points, Counts::default(), counts, last.time)
                .filter(|settled| settled.until > i64::MIN),
            evidence: self.both_ends(events),
            members,
        })
    }

    /// The episode that a settled part begins: the match point that the part ends with is the timeline's first run's.
    fn continued(&self, episode: &Episode, prefix: &Prefix) -> Option<FoundEpisode> {
        let Settled { until, counts: before } = prefix.settled;
        let time = |index: &usize| self.all.get(*index).map(|detection| detection.time);
        if !episode.match_points.iter().any(|index| time(index) == Some(until)) {
            return None;
        }
        let after: Vec<usize> = episode
            .match_points
            .iter()
            .copied()
            .filter(|index| time(index).is_some_and(|time| time > until))
            .collect();
        let read = self.all.get(..=*episode.evidence().end())?;
        let added = read.get(read.partition_point(|detection| detection.time <= until)..)?;
        let last = added.last().map_or(until, |detection| detection.time);
        let (events, mut members) = self.events(read);
        let tail = events.get(events.len().checked_sub(self.bounds.ends)?..)?;
        let counts = before.and(self.counts(added, &after));
        let settled = self.settled(added, &after, before, counts, last)?;
        let settled = if settled.until == i64::MIN { prefix.settled } else { settled };
        if last.saturating_sub(self.lag()) < until || counts.events < 2 * self.bounds.ends {
            return None;
        }
        members.insert(prefix.trigger.event_id);
        let own = prefix.node.filter(|node| events.iter().all(|at| at.node == *node));
        Some(FoundEpisode {
            trigger: prefix.trigger,
            rule_set: prefix.rule_set.clone(),
            first: prefix.first,
            last,
            begin: prefix.begin,
            evidence: prefix.head.iter().chain(tail).copied().collect(),
            node: own,
            counts,
            settled: Some(settled),
            members,
        })
    }

    /// Events in order, each once.
    fn events(&self, evidence: &[Detection]) -> (Vec<EventRef>, HashSet<EventId>) {
        let mut members = HashSet::with_capacity(evidence.len());
        let own = evidence.iter().filter(|detection| members.insert(detection.event));
        let events = own.filter_map(|detection| Some(self.places.get(&detection.event)?.at)).collect();
        (events, members)
    }

    fn counts(&self, evidence: &[Detection], match_points: &[usize]) -> Counts {
        let events: HashSet<EventId> = evidence.iter().map(|detection| detection.event).collect();
        let values =
            |values: &Vec<usize>| match_points.iter().filter_map(|index| values.get(*index)).max().copied();
        Counts {
            events: events.len(),
            matches: match_points.len(),
            values: self.values.as_ref().map(|all| values(all).unwrap_or(0)),
        }
    }

    /// The settled part of an episode: up to the last match point that lies far enough before its end. `before` counts
    /// what comes before `evidence`. If no match point of these lies there, its end is the beginning of time.
    fn settled(
        &self,
        evidence: &[Detection],
        match_points: &[usize],
        before: Counts,
        all: Counts,
        last: i64,
    ) -> Option<Settled> {
        if all.events < self.bounds.settled_from {
            return None;
        }
        let far = last.saturating_sub(self.lag());
        let time = |index: usize| self.all.get(index).map_or(i64::MAX, |detection| detection.time);
        let settled = match_points.partition_point(|index| time(*index) <= far);
        let match_points = match_points.get(..settled)?;
        let until = match_points.last().map_or(i64::MIN, |index| time(*index));
        let evidence = evidence.get(..evidence.partition_point(|detection| detection.time <= until))?;
        Some(Settled { until, counts: before.and(self.counts(evidence, match_points)) })
    }

    fn lag(&self) -> i64 {
        self.span.saturating_mul(self.bounds.lag)
    }

    fn both_ends(&self, mut events: Vec<EventRef>) -> Vec<EventRef> {
        let ends = self.bounds.ends;
        if events.len() > 2 * ends {
            events.drain(ends..events.len() - ends);
        }
        events
    }
}

impl Counts {
    /// Those of two parts that have no event in common.
    fn and(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            matches: self.matches + other.matches,
            values: self.values.max(other.values),
        }
    }
}

/// How many different values each detection's window holds.
fn values_in_windows(all: &[Detection], span: i64) -> Vec<usize> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut begin = 0;
    let mut values = Vec::with_capacity(all.len());
    for detection in all {
        if let Some(value) = detection.value.as_deref() {
            *counts.entry(value).or_default() += 1;
        }
        while let Some(oldest) =
            all.get(begin).filter(|oldest| detection.time.saturating_sub(oldest.time) > span)
        {
            if let Some(count) = oldest.value.as_deref().and_then(|value| counts.get_mut(value)) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(oldest.value.as_deref().unwrap_or_default());
                }
            }
            begin += 1;
        }
        values.push(counts.len());
    }
    values
}
