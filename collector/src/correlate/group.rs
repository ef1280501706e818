//! Looking at one group again: which episodes its detections form around the times that were touched.
//!
//! Fed by `analyse` with a dirty group; reads detections from the store, no more of them than the answer depends on,
//! and gives back whole episodes. Correct whatever was touched, in whatever order: what is computed depends on the
//! rows that are there and on nothing else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use auditflow_event::{EventId, NodeId};

use super::definition::{Definition, Definitions};
use super::episodes::{Detection, Timeline};
use super::row;
use crate::store::{DetectionPoint, EventRef, GroupKey, Result, Store};

/// References to evidence kept at the beginning of an episode, and as many at its end.
pub const EVIDENCE_ENDS: usize = 50;

/// Where episodes were computed anew. Those outside are as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// Match points from here (milliseconds, inclusive) may have changed.
    pub from: i64,
    /// Up to here.
    pub to: i64,
}

impl Zone {
    /// What may change when detections in `from..=to` do: windows and gaps reach one timespan further.
    fn around(from: i64, to: i64, timespan: i64) -> Self {
        Self { from: from.saturating_sub(timespan), to: to.saturating_add(timespan.saturating_mul(2)) }
    }

    /// Whether an episode with these first and last match points is within reach.
    pub fn touches(self, first: i64, last: i64) -> bool {
        last >= self.from && first <= self.to
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
    /// How many different events there are altogether.
    pub events: usize,
    /// How many match points.
    pub matches: usize,
    /// How many different values were counted (value counts).
    pub values: Option<usize>,
    /// Every event of the evidence, for telling which alert this one replaces.
    pub members: HashSet<EventId>,
}

/// What looking again gave.
#[derive(Clone, Debug, Default)]
pub struct Recomputed {
    /// The episodes in the zone, in order of time.
    pub episodes: Vec<FoundEpisode>,
    /// The zone; none: nothing was there to compute.
    pub zone: Option<Zone>,
    /// Groups of correlations above whose input may have changed, with the times concerned.
    pub above: BTreeMap<GroupKey, (i64, i64)>,
    /// How many detections were looked at.
    pub detections: usize,
}

/// Computes the episodes of a group around touched times (milliseconds).
///
/// # Errors
/// What the store reports.
pub async fn recompute(
    store: &dyn Store,
    definitions: &Definitions,
    definition: &Definition,
    group: &str,
    touched: (i64, i64),
) -> Result<Recomputed> {
    let span = definition.timespan;
    let zone = Zone::around(touched.0, touched.1, span);
    let mut back = span.saturating_mul(4).max(1);
    let mut ahead = back;
    loop {
        let (low, high) = (touched.0.saturating_sub(back), touched.1.saturating_add(ahead));
        let points = points(store, definitions, definition, group, low, high).await?;
        let detections = points.iter().filter_map(|point| row::detection(definition, point)).collect();
        let timeline = Timeline::new(detections);
        let episodes: Vec<FoundEpisode> = found(&timeline, definition, &points)
            .into_iter()
            .filter(|episode| zone.touches(episode.first, episode.last))
            .collect();
        // A window is whole one timespan above the lowest detection read; that an episode begins where it seems to is
        // certain one timespan above that. At the upper end only the run's continuation can be missing.
        let unsure_below = low.saturating_add(span.saturating_mul(2));
        let unsure_above = high.saturating_sub(span);
        let more_below = low > MIN && episodes.iter().any(|episode| episode.first < unsure_below);
        let more_above = high < MAX && episodes.iter().any(|episode| episode.last > unsure_above);
        if !more_below && !more_above {
            let above = above(&points, touched.0, touched.1.saturating_add(span));
            return Ok(Recomputed { episodes, zone: Some(zone), above, detections: points.len() });
        }
        if more_below {
            back = back.saturating_mul(2);
        }
        if more_above {
            ahead = ahead.saturating_mul(2);
        }
    }
}

const MIN: i64 = auditflow_event::Timestamp::MIN.as_millis();
const MAX: i64 = auditflow_event::Timestamp::MAX.as_millis();

type Points<'a> = Pin<Box<dyn Future<Output = Result<Vec<DetectionPoint>>> + Send + 'a>>;

/// A group's detections in a time range. Those that come through a child correlation are there only if they are
/// match points of it.
fn points<'a>(
    store: &'a dyn Store,
    definitions: &'a Definitions,
    definition: &'a Definition,
    group: &'a str,
    from: i64,
    to: i64,
) -> Points<'a> {
    Box::pin(async move {
        let key = &definition.key;
        let mut points = store.detections_of_group(key, group, row::start_of(from), row::end_of(to)).await?;
        let mut through: BTreeMap<(&str, String), HashSet<EventId>> = BTreeMap::new();
        for point in &points {
            if let (Some(child), Some(group)) = (definition.child(&point.rule), row::child(point)) {
                through.entry((child, group.to_owned())).or_default();
            }
        }
        for ((child, group), match_points) in &mut through {
            let Some(child) = definitions.by_key(child) else { continue };
            let low = from.saturating_sub(child.timespan);
            let inputs = self::points(store, definitions, child, group, low, to).await?;
            let timeline =
                Timeline::new(inputs.iter().filter_map(|point| row::detection(child, point)).collect());
            let episodes = timeline.episodes(&child.condition, child.timespan.unsigned_abs());
            let indices = episodes.iter().flat_map(|episode| episode.match_points.iter());
            match_points.extend(indices.filter_map(|&index| Some(timeline.detections().get(index)?.event)));
        }
        points.retain(|point| match (definition.child(&point.rule), row::child(point)) {
            (Some(child), Some(group)) => {
                let key = (child, group.to_owned());
                through.get(&key).is_some_and(|match_points| match_points.contains(&point.at.event_id))
            }
            (Some(_), None) => false,
            (None, _) => true,
        });
        Ok(points)
    })
}

/// The groups above that see detections in `from..=to`, whether these are match points now or were before.
fn above(points: &[DetectionPoint], from: i64, to: i64) -> BTreeMap<GroupKey, (i64, i64)> {
    let mut above: BTreeMap<GroupKey, (i64, i64)> = BTreeMap::new();
    for point in points.iter().filter(|point| (from..=to).contains(&point.time.as_millis())) {
        let time = point.time.as_millis();
        for (correlation, group) in row::parents(point) {
            let key = GroupKey { correlation: correlation.to_owned(), group: group.to_owned() };
            let range = above.entry(key).or_insert((time, time));
            *range = (range.0.min(time), range.1.max(time));
        }
    }
    above
}

fn found(timeline: &Timeline, definition: &Definition, points: &[DetectionPoint]) -> Vec<FoundEpisode> {
    let episodes = timeline.episodes(&definition.condition, definition.timespan.unsigned_abs());
    if episodes.is_empty() {
        return Vec::new();
    }
    // An event that arrived in several batches is referred to where it was stored under the smallest key, so that it
    // does not matter which came first.
    let place = |point: &DetectionPoint| (point.at.node, point.at.epoch, point.at.seq, point.at.index);
    let mut kept: HashMap<EventId, &DetectionPoint> = HashMap::with_capacity(points.len());
    for point in points {
        let known = kept.entry(point.at.event_id).or_insert(point);
        if place(point) < place(known) {
            *known = point;
        }
    }
    let all = timeline.detections();
    let mut found = Vec::with_capacity(episodes.len());
    for episode in episodes {
        let Some(evidence) = all.get(episode.evidence()) else { continue };
        let (Some(first), Some(last)) = (all.get(episode.first()), evidence.last()) else { continue };
        let Some(trigger) = kept.get(&first.event) else { continue };
        let mut members = HashSet::with_capacity(evidence.len());
        let events: Vec<EventRef> = evidence
            .iter()
            .filter(|detection| members.insert(detection.event))
            .filter_map(|detection| Some(kept.get(&detection.event)?.at))
            .collect();
        found.push(FoundEpisode {
            trigger: trigger.at,
            rule_set: trigger.rule_set.clone(),
            first: first.time,
            last: last.time,
            begin: evidence.first().map_or(first.time, |detection| detection.time),
            node: events.iter().all(|at| at.node == trigger.at.node).then_some(trigger.at.node),
            events: events.len(),
            evidence: both_ends(events),
            matches: episode.match_points.len(),
            values: values(evidence),
            members,
        });
    }
    found
}

fn values(evidence: &[Detection]) -> Option<usize> {
    let values: HashSet<&str> = evidence.iter().filter_map(|detection| detection.value.as_deref()).collect();
    (!values.is_empty()).then_some(values.len())
}

fn both_ends(mut events: Vec<EventRef>) -> Vec<EventRef> {
    if events.len() > 2 * EVIDENCE_ENDS {
        events.drain(EVIDENCE_ENDS..events.len() - EVIDENCE_ENDS);
    }
    events
}
