//! What a detection row carries besides time and event, and how it becomes a detection again.
//!
//! Written by `detect` when a batch is judged, read by [`super::group`]. A row's matches name the value that is counted,
//! the group of the child correlation through which the event is reached (for a correlation of correlations), and the
//! groups of correlations above, which have to look again when this one's match points change.

use auditflow_event::{Event, Origin, Timestamp};
use auditflow_wire::BootId;

use super::definition::Definition;
use super::episodes::{Detection, Place};
use crate::store::DetectionPoint;

const VALUE: &str = "value";
const CHILD: &str = "child";
/// Followed by the parent's key.
const PARENT: &str = "parent ";

/// The field values of a match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// The counted value.
    pub value: Option<String>,
    /// The group in the child correlation whose match point this must be.
    pub child: Option<String>,
    /// Key and group of each correlation directly above.
    pub parents: Vec<(String, String)>,
}

impl Fields {
    /// As a row keeps them.
    pub fn to_pairs(&self) -> Vec<(String, String)> {
        let one = |name: &str, value: &Option<String>| value.clone().map(|value| (name.to_owned(), value));
        let parents = self.parents.iter().map(|(key, group)| (format!("{PARENT}{key}"), group.clone()));
        one(VALUE, &self.value).into_iter().chain(one(CHILD, &self.child)).chain(parents).collect()
    }
}

/// The counted value of a row read back.
pub fn value(point: &DetectionPoint) -> Option<&str> {
    find(point, VALUE)
}

/// The child's group of a row read back.
pub fn child(point: &DetectionPoint) -> Option<&str> {
    find(point, CHILD)
}

/// Key and group of each correlation above, of a row read back.
pub fn parents(point: &DetectionPoint) -> impl Iterator<Item = (&str, &str)> {
    point.fields.iter().filter_map(|(name, group)| Some((name.strip_prefix(PARENT)?, group.as_str())))
}

fn find<'p>(point: &'p DetectionPoint, name: &str) -> Option<&'p str> {
    point.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// A group's values as the text that names the group: a JSON array.
pub fn group(values: &[Box<str>]) -> String {
    serde_json::to_string(values).unwrap_or_default()
}

/// What orders events of one node and one millisecond: the boot's digest above the position in its stream. The
/// position is the kernel's serial; of a source without one, the microsecond.
pub fn order(event: &Event, boot: BootId) -> u64 {
    let boot = if boot == BootId::UNKNOWN { 0 } else { auditflow_event::digest::xxh64(boot.as_bytes()) };
    let position = match &event.origin {
        Origin::Audit(records) => u64::from(records.stamp.serial),
        _ => event.time.as_micros().rem_euclid(1000) as u64,
    };
    (boot >> 32 << 32) | position
}

/// A row's match as the episode function takes it. Nothing for a rule that the correlation does not count.
pub fn detection(definition: &Definition, point: &DetectionPoint) -> Option<Detection> {
    Some(Detection {
        time: point.time.as_millis(),
        place: Place { node: point.at.node, boot: point.order >> 32, position: point.order & 0xffff_ffff },
        event: point.at.event_id,
        rule: definition.base(&point.rule)?,
        value: value(point).map(Into::into),
    })
}

/// The first point in time of a millisecond.
pub fn start_of(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis.saturating_mul(1000))
}

/// The last point in time of a millisecond.
pub fn end_of(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis.saturating_mul(1000).saturating_add(999))
}
