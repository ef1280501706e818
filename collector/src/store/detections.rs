//! Detections, the groups they touch, and what the analyser writes back.

use std::collections::BTreeMap;

use async_trait::async_trait;
use auditflow_event::{EventId, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{BatchKey, EventRef, NewAlert, Result};

/// What the analyser keeps in the store.
#[async_trait]
pub trait DetectionStore {
    /// Takes batches that nobody has analysed yet or whose times changed since, oldest arrival first. Until `until` they
    /// are left to this process: others that ask are given other ones, and one that dies leaves them till then. Where
    /// there are no others (an embedded store has one process), the same ones are given each time. Batches of a version
    /// that this release can't read are not among them until it can.
    async fn take_unanalysed(&self, now: Timestamp, until: Timestamp, limit: usize) -> Result<Vec<BatchKey>>;

    /// One transaction: the batch's detections and single-event alerts are written, `analysed` is set, every group
    /// among the detections is marked dirty. Of several analysers that race, the first wins
    /// ([`Recorded::fresh`] is false for the others, and nothing of theirs is written).
    async fn record_detections(&self, batch: BatchKey, findings: BatchFindings) -> Result<Recorded>;

    /// Locks a dirty group that nobody else has locked, until `until`; after that another may take it (its worker
    /// died). The group touched longest ago comes first.
    async fn take_dirty(&self, now: Timestamp, until: Timestamp) -> Result<Option<DirtyGroup>>;

    /// A group's detections with event times in `from..=to`, ordered by (event time, node, order).
    async fn detections_of_group(
        &self,
        correlation: &str,
        group: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<DetectionPoint>>;

    /// One transaction: the changes are written and the mark is cleared, unless the group was touched while it was
    /// locked; then only the lock is given up and the group comes up again. A lock that somebody else took meanwhile
    /// changes nothing, and says so.
    async fn finish_group(&self, group: DirtyGroup, changes: AlertChanges) -> Result<Finished>;

    /// Marks a group dirty by hand: after a rule changed.
    async fn mark_dirty(&self, group: GroupKey, from: Timestamp, to: Timestamp) -> Result<()>;

    /// Removes detections whose newest event is older than `before`. Returns how many rows went.
    async fn expire_detections(&self, before: Timestamp) -> Result<u64>;
}

/// Which group of which correlation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GroupKey {
    /// The correlation rule's id.
    pub correlation: String,
    /// The canonical text of its group-by values.
    pub group: String,
}

/// All that the analysis of one batch yields.
#[derive(Clone, Debug)]
pub struct BatchFindings {
    /// The rule-set version that judged it.
    pub rule_set: String,
    /// Why the batch is looked at.
    pub pass: Pass,
    /// Matches of correlated base rules, one row per correlation, base rule and group.
    pub detections: Vec<DetectionRow>,
    /// Alerts that need one event only, bounded as [`super::storm`] says. One that is there already is left as it is,
    /// except by a rewrite.
    pub alerts: Vec<NewAlert>,
    /// Groups to recompute besides those of `detections`.
    pub dirty: Vec<GroupKey>,
}

/// Why a batch is analysed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It is due: new, or (the store knows) to be rewritten.
    First,
    /// Its times changed (a late clock step): its detections are replaced, and the groups it had are dirty too.
    Rewrite,
    /// A correlation is new or changed: its detections are added to those there are; alerts are not raised.
    Prime,
}

/// What `record_detections` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// False: the batch is unknown, or (first pass) somebody else has analysed it; nothing was written.
    pub fresh: bool,
    /// Alerts that were not there before.
    pub opened: Vec<Uuid>,
    /// By rule, matches that are told by number only; see [`super::storm`].
    pub beyond: BTreeMap<String, u64>,
    /// What became of the groups whose detections changed; only from a store that tells revisions.
    pub regrouped: Vec<Regrouped>,
}

/// A state of a group's detections. Two that are equal never stand for different ones, not even after the store was
/// restored from a backup.
pub type Revision = Uuid;

/// How the findings of one batch changed a group's detections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regrouped {
    /// Which group.
    pub key: GroupKey,
    /// Its revision before; none if that is not known any more.
    pub before: Option<Revision>,
    /// Its revision since.
    pub after: Revision,
    /// What is there that was not.
    pub added: Vec<DetectionPoint>,
    /// Whether anything that was there is not.
    pub removed: bool,
}

/// Matches of one base rule, for one correlation and group, in one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectionRow {
    /// The correlation rule that consumes them, and the group.
    pub group: GroupKey,
    /// The base rule's id.
    pub rule: String,
    /// The matching events.
    pub matches: Vec<Match>,
}

/// One matching event, as far as correlation needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Match {
    /// Event time, shifted by its boot's clock step if there is one.
    pub time: Timestamp,
    /// What orders events of one node and one time: boot and position, as the analyser packs them.
    pub order: u64,
    /// Its place in the batch.
    pub index: u32,
    /// Its id.
    pub event_id: EventId,
    /// The field values that this correlation or its parents need, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<(String, String)>,
}

/// One detection read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionPoint {
    /// Where the event is.
    pub at: EventRef,
    /// The base rule.
    pub rule: String,
    /// The rule-set version that judged the batch.
    pub rule_set: String,
    /// Event time.
    pub time: Timestamp,
    /// The tie-break within node and time.
    pub order: u64,
    /// Field values by name.
    pub fields: Vec<(String, String)>,
}

/// A group that this worker has to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirtyGroup {
    /// Which.
    pub key: GroupKey,
    /// The oldest event time that was touched.
    pub from: Timestamp,
    /// The newest event time that was touched.
    pub to: Timestamp,
    /// How often it had been touched when it was taken: an implementation's own mark.
    pub touched: i64,
    /// Until when it is locked: the lock's identity.
    pub until: Timestamp,
    /// The revision of its detections when it was taken; none if the store has none.
    pub revision: Option<Revision>,
}

/// What recomputing a group makes of its alerts. Human state is never overwritten.
#[derive(Clone, Debug, Default)]
pub struct AlertChanges {
    /// Alerts that stand. A new id is inserted; a known one whose machine part differs is amended.
    pub standing: Vec<NewAlert>,
    /// Alerts that another took the place of: (old, new). The new one inherits the old one's human state unless a
    /// person has already touched it.
    pub superseded: Vec<(Uuid, Uuid)>,
    /// Alerts that the complete view does not support.
    pub withdrawn: Vec<Uuid>,
}

/// What `finish_group` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// False: the lock had run out and somebody else holds the group; nothing was written.
    pub held: bool,
    /// Alerts that were not there before.
    pub opened: Vec<Uuid>,
    /// Alerts that were amended, superseded or withdrawn.
    pub changed: Vec<Uuid>,
}
