//! Looking at one group again: which episodes its detections form around the times that were touched.
//!
//! Fed by `analyse` with a dirty group; reads its detections from the windows, no more of them than the answer depends on,
//! and gives back whole episodes. Correct whatever was touched, in whatever order: what is computed depends on the
//! rows that are there and on nothing else.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use auditflow_event::EventId;

use super::definition::{Definition, Definitions};
use super::episodes::Timeline;
use super::found::{Bounds, FoundEpisode, Prefix, found};
use super::row;
use super::windows::{Asked, Windows};
use crate::store::{DetectionPoint, GroupKey, Result, Revision};

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

/// What is to be looked at again.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The correlation.
    pub definition: &'a Definition,
    /// All correlations of its rule set.
    pub definitions: &'a Definitions,
    /// The group.
    pub group: &'a GroupKey,
    /// The revision that its detections had when it was taken.
    pub revision: Option<Revision>,
    /// The times that were touched, milliseconds.
    pub touched: (i64, i64),
    /// Long episodes that were found before: one whose settled part was not touched is continued, not read again.
    pub prefixes: &'a [Prefix],
    /// How much is kept of an episode.
    pub bounds: Bounds,
}

/// Computes the episodes of a group around touched times.
///
/// # Errors
/// What the store reports.
pub async fn recompute(windows: &dyn Windows, task: &Task<'_>) -> Result<Recomputed> {
    let Task { definition, touched, bounds, .. } = *task;
    let span = definition.timespan;
    let zone = Zone::around(touched.0, touched.1, span);
    let mut prefix: Option<&Prefix> = None;
    let mut before = task.prefixes.iter().filter(|prefix| prefix.settled.until < touched.0);
    let mut back = span.saturating_mul(4).max(1);
    let mut ahead = back;
    loop {
        let (mut low, high) = (touched.0.saturating_sub(back), touched.1.saturating_add(ahead));
        if let Some(prefix) = prefix {
            low = prefix.settled.until.saturating_sub(span);
        }
        let (revision, timespan) = (task.revision, definition.timespan);
        let asked = Asked { key: task.group, revision, timespan, from: low, to: high };
        let points = points(windows, task.definitions, definition, asked).await?;
        let detections = points.iter().filter_map(|point| row::detection(definition, point)).collect();
        let timeline = Timeline::new(detections);
        let Some(mut episodes) = found(&timeline, definition, &points, prefix, bounds) else {
            prefix = None;
            continue;
        };
        episodes.retain(|episode| zone.touches(episode.first, episode.last));
        // A window is whole one timespan above the lowest detection read; that an episode begins where it seems to is
        // certain one timespan above that, or where it continues another's settled part. At the upper end only the
        // run's continuation can be missing.
        let unsure_below = low.saturating_add(span.saturating_mul(2));
        let unsure_above = high.saturating_sub(span);
        let unsure = |episode: &FoundEpisode| episode.first < unsure_below;
        let more_below = prefix.is_none() && low > MIN && episodes.iter().any(unsure);
        let more_above = high < MAX && episodes.iter().any(|episode| episode.last > unsure_above);
        if !more_below && !more_above {
            let above = above(&points, touched.0, touched.1.saturating_add(span));
            return Ok(Recomputed { episodes, zone: Some(zone), above, detections: points.len() });
        }
        if more_below {
            back = back.saturating_mul(2);
            prefix = before.next_back();
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
    windows: &'a dyn Windows,
    definitions: &'a Definitions,
    definition: &'a Definition,
    asked: Asked<'a>,
) -> Points<'a> {
    Box::pin(async move {
        let mut points = windows.detections(asked).await?;
        let mut through: BTreeMap<(&str, String), HashSet<EventId>> = BTreeMap::new();
        for point in &points {
            if let (Some(child), Some(group)) = (definition.child(&point.rule), row::child(point)) {
                through.entry((child, group.to_owned())).or_default();
            }
        }
        for ((child, group), match_points) in &mut through {
            let Some(child) = definitions.by_key(child) else { continue };
            let key = GroupKey { correlation: child.key.clone(), group: group.clone() };
            let (timespan, from) = (child.timespan, asked.from.saturating_sub(child.timespan));
            let asked = Asked { key: &key, revision: None, timespan, from, to: asked.to };
            let inputs = self::points(windows, definitions, child, asked).await?;
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
