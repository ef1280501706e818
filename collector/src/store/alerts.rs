//! Alerts: what the machine says of them and what people say of them, kept apart.

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{By, EventRef, Result};

/// Reading alerts, adding some, and setting their human state.
#[async_trait]
pub trait AlertStore {
    /// Inserts alerts in one transaction, and says which of them were not there. One that was there stays as it was.
    async fn insert_alerts(&self, alerts: Vec<NewAlert>) -> Result<Vec<Uuid>>;

    /// Alerts newest first: by the time they were first written here, then by id. At most `limit`, starting after
    /// `after`, then skipping `offset` (the ancestor's paging; give 0 with a cursor).
    async fn alerts(
        &self,
        filter: AlertFilter,
        after: Option<AlertCursor>,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<AlertRow>>;

    /// How many alerts there are by this filter.
    async fn count_alerts(&self, filter: AlertFilter) -> Result<u64>;

    /// One alert, also a deleted, superseded or withdrawn one.
    async fn alert(&self, id: Uuid) -> Result<Option<AlertRow>>;

    /// Every alert of one correlation and group, oldest first, whatever its state.
    async fn alerts_of_group(&self, rule_id: &str, group: &str) -> Result<Vec<AlertRow>>;

    /// How many there are, for the first screen: `since` bounds the per-rule counts, not the open ones.
    async fn alert_counts(&self, since: Timestamp) -> Result<AlertCounts>;

    /// Sets the human part and writes the audit trail. False: there is no such alert.
    async fn set_alert_status(&self, id: Uuid, change: StatusChange, by: By, now: Timestamp) -> Result<bool>;

    /// Marks an alert deleted (it stays readable by its id) and writes the audit trail. False: no such alert.
    async fn delete_alert(&self, id: Uuid, by: By, now: Timestamp) -> Result<bool>;
}

/// The machine's part of an alert, as the analyser writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewAlert {
    /// `UUIDv5` of rule, group and events.
    pub alert_id: Uuid,
    /// The ancestor's field: what this alert's events have in common, as text.
    pub correlation_id: String,
    /// What makes two alerts "the same again".
    pub fingerprint: String,
    /// The rule as it was when it judged.
    pub rule: AlertRule,
    /// The correlation's canonical group; none for a single-event alert.
    pub group: Option<String>,
    /// For a single-event alert its event's own time, which no clock step shifts: what bounds a storm goes by it.
    pub stamp: Option<Timestamp>,
    /// Event time.
    pub timestamp: Timestamp,
    /// `INFO`, `WARNING` or `CRITICAL`.
    pub severity: String,
    /// The ancestor's `alert_type`.
    pub alert_type: String,
    /// `actor_type`, `actor_id`, `client_ip`.
    pub triggered_by: Map<String, Value>,
    /// `resource_type`, `resource_id`, `server_hostname`.
    pub impacted_resource: Map<String, Value>,
    /// What was done.
    pub action_observed: String,
    /// Which service's events these are.
    pub source_service_name: String,
    /// On which host.
    pub server_hostname: String,
    /// The node, where there is one only.
    pub node: Option<NodeId>,
    /// For people.
    pub description: String,
    /// Where the events are; bounded by the analyser.
    pub evidence: Vec<EventRef>,
    /// Copies of the events as JSON; bounded by the analyser.
    pub events: Vec<Value>,
    /// Anything else.
    pub metadata: Map<String, Value>,
}

/// The rule that an alert comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRule {
    /// Its id.
    pub id: String,
    /// Its title.
    pub name: String,
    /// Its description.
    pub description: String,
    /// Sigma's level.
    pub level: String,
    /// The rule-set version.
    pub version: String,
}

/// An alert as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AlertRow {
    /// What the analyser wrote, last.
    #[serde(flatten)]
    pub alert: NewAlert,
    /// When it was first written here.
    pub received_at: Timestamp,
    /// When any part of it last changed.
    pub changed_at: Timestamp,
    /// Whether the machine still says so.
    pub machine: Machine,
    /// What people made of it.
    pub status: AlertStatus,
    /// Who has it.
    pub assignee: Option<String>,
    /// A person's note.
    pub note: Option<String>,
    /// When a person deleted it.
    pub deleted_at: Option<Timestamp>,
}

/// The machine's state of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Machine {
    /// As it was first said.
    Standing,
    /// Still standing, with other evidence than at first.
    Amended,
    /// Another alert says it better.
    Superseded {
        /// Which.
        by: Uuid,
    },
    /// The complete view does not support it.
    Withdrawn,
}

impl Machine {
    /// What its name and its successor say; what does not fit together says nothing any more.
    pub fn of(name: &str, superseded_by: Option<Uuid>) -> Self {
        match (name, superseded_by) {
            ("standing", _) => Self::Standing,
            ("amended", _) => Self::Amended,
            ("superseded", Some(by)) => Self::Superseded { by },
            _ => Self::Withdrawn,
        }
    }

    /// Whether the alert stands.
    pub fn stands(self) -> bool {
        matches!(self, Self::Standing | Self::Amended)
    }
}

/// The human state of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertStatus {
    /// Nobody has said anything.
    Open,
    /// Somebody is at it.
    Acknowledged,
    /// Done.
    Resolved,
    /// It was nothing.
    FalsePositive,
}

impl AlertStatus {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Open, Self::Acknowledged, Self::Resolved, Self::FalsePositive];

    /// As the API and the store write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
            Self::FalsePositive => "false_positive",
        }
    }

    /// The status of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// What a person sets; absent parts stay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusChange {
    /// The new status.
    pub status: Option<AlertStatus>,
    /// The new assignee; an empty name takes it away.
    pub assignee: Option<String>,
    /// The new note; an empty one takes it away.
    pub note: Option<String>,
}

/// Which alerts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AlertFilter {
    /// With this human status.
    pub status: Option<AlertStatus>,
    /// Of this severity.
    pub severity: Option<String>,
    /// Of this rule.
    pub rule_id: Option<String>,
    /// Of this node.
    pub node: Option<NodeId>,
    /// On this host.
    pub server_hostname: Option<String>,
    /// Of this type.
    pub alert_type: Option<String>,
    /// Triggered by this actor (`triggered_by.actor_id`).
    pub user: Option<String>,
    /// With this text, in any case, in what it says of rule, actor, resource, host and action.
    pub text: Option<String>,
    /// With event times from here (inclusive).
    pub from: Option<Timestamp>,
    /// With event times up to here (inclusive).
    pub to: Option<Timestamp>,
    /// Also those that the machine superseded or withdrew.
    pub include_retracted: bool,
    /// Also those that a person deleted.
    pub include_deleted: bool,
}

/// Where a page of alerts ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertCursor {
    /// The last alert's `received_at`.
    pub received_at: Timestamp,
    /// Its id.
    pub alert_id: Uuid,
}

/// How many alerts there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AlertCounts {
    /// Open, standing, undeleted: by severity.
    pub open: Vec<(String, u64)>,
    /// Rules by how many alerts they raised since the asked time, noisiest first: (rule id, rule name, alerts).
    pub rules: Vec<(String, String, u64)>,
}
