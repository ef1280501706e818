//! The event: what the sources make, the spool keeps, the wire carries and the collector judges.

use auditflow_audit_record::{AuditEvent, Record};
use serde::{Deserialize, Serialize};

use crate::meaning::{kubernetes, synthetic};
use crate::{AgentState, Context, EventId, JsonText, Meaning, NodeId, Origin, OriginError, Timestamp};

/// One thing that happened.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its identity: the same whenever and however often the same event is read.
    pub id: EventId,
    /// When it happened, by the clock of whoever recorded it.
    pub time: Timestamp,
    /// What was seen, verbatim.
    pub origin: Origin,
    /// What only the node knew about it.
    pub context: Option<Box<Context>>,
    /// Labels that pre-filter rules gave it.
    pub tags: Vec<Box<str>>,
    /// How much it matters when not everything can be kept or sent.
    pub priority: Priority,
}

impl Event {
    /// A kernel audit event.
    pub fn audit(node: Option<NodeId>, event: AuditEvent) -> Self {
        let id = EventId::audit(node, &event);
        Self::new(id, Timestamp::from_millis(event.stamp.millis), Origin::Audit(event))
    }

    /// One line of a Kubernetes audit log. Its time is that of its stage, else that of its request.
    pub fn kubernetes(node: Option<NodeId>, line: &str) -> Result<Self, OriginError> {
        let text = JsonText::parse(line)?;
        let head = kubernetes::Head::parse(&text)?;
        let id = EventId::kubernetes(node, &head.audit_id, &head.stage);
        let time = head.time()?;
        Ok(Self::new(id, time, Origin::Kubernetes(text)))
    }

    /// An event in the ancestor's shape; `epoch` and `counter` are the generator's numbering. It has to have an
    /// `event_type` and a `timestamp`.
    pub fn synthetic(
        node: Option<NodeId>,
        epoch: [u8; 16],
        counter: u64,
        text: &str,
    ) -> Result<Self, OriginError> {
        let text = JsonText::parse(text)?;
        let time = synthetic::time(&text)?;
        Ok(Self::new(EventId::counted(node, "synthetic", epoch, counter), time, Origin::Synthetic(text)))
    }

    /// The memory that it takes, in bytes, near enough for a bound.
    pub fn weight(&self) -> usize {
        let origin = match &self.origin {
            Origin::Audit(audit) => audit.records.iter().map(Record::size).sum(),
            Origin::Kubernetes(text) | Origin::Synthetic(text) => text.as_str().len(),
            Origin::State(state) => {
                state.reason.as_ref().map_or(0, |reason| reason.len()) + state.counts.len() * 32
            }
        };
        let context = self.context.as_ref().map_or(0, |context| {
            size_of_val(&**context)
                + (context.users.len() + context.groups.len()) * 32
                + context.ancestors.len() * 256
        });
        size_of::<Self>() + origin + context
    }

    /// The agent's word on itself or a source. High in priority: it says what was not seen.
    pub fn state(node: Option<NodeId>, epoch: [u8; 16], counter: u64, state: AgentState) -> Self {
        let id = EventId::counted(node, "state", epoch, counter);
        let event = Self::new(id, state.at, Origin::State(state.bounded()));
        Self { priority: Priority::High, ..event }
    }

    /// What it means; computed anew at each call.
    pub fn meaning(&self) -> Meaning<'_> {
        Meaning::of(self)
    }

    fn new(id: EventId, time: Timestamp, origin: Origin) -> Self {
        Self { id, time, origin, context: None, tags: Vec::new(), priority: Priority::Normal }
    }
}

/// What is evicted last and sent first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// The first to go.
    Low,
    /// What no rule spoke of.
    #[default]
    Normal,
    /// Urgent: committed at once, sent first, evicted last.
    High,
}

impl Priority {
    /// The name in rule files and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }
}
