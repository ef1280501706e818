//! `EventV1`: an event as schema version 1 has it. **Frozen.** postcard is not self-describing, so nothing here may
//! be added, removed, reordered or retyped; a change is `EventV2` in a file of its own.
//!
//! Its own types, so that the vocabulary may change without the wire: every conversion is spelled out. Three things
//! are left out because decoding computes them again:
//!
//! - the id and time of a kernel audit event (from stamp, records and node) and of a Kubernetes event (from its
//!   text); where they differ from what would be computed they are shipped;
//! - the stamp's distance from zero: each stamp is a difference to the audit event before it in the payload;
//! - the stamp and node name of each record, which are its event's.

use auditflow_audit_record::{AuditEvent, Completion, Record, RecordType, Stamp};
use auditflow_event::{
    AgentState, Ancestor, Condition, Container, Context, Event, EventId, JsonText, NodeId, Origin,
    OriginError, Timestamp,
};
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::header::{priority_code, priority_of};

/// The most entries of any list inside one event. An event's own byte limits keep it far below.
const MAX_LIST: usize = 65_536;

/// Why an event cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// postcard could not read or write it.
    #[error("not an event of schema version 1")]
    Postcard(#[from] postcard::Error),
    /// Its text is not what its origin requires.
    #[error("its text is not valid")]
    Origin(#[from] OriginError),
    /// A code without a meaning, or a value that its field cannot have.
    #[error("impossible {0}")]
    Invalid(&'static str),
}

/// One event.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventV1<'a> {
    #[serde(borrow)]
    origin: OriginV1<'a>,
    priority: u8,
    #[serde(borrow, deserialize_with = "list")]
    tags: Vec<&'a str>,
    #[serde(borrow)]
    context: Option<ContextV1<'a>>,
    stated: Option<StatedV1>,
}

/// Id and time where they cannot be computed again.
#[derive(Debug, Serialize, Deserialize)]
struct StatedV1 {
    id: [u8; 16],
    /// Microseconds, a difference to the stated time before it in the payload.
    micros: i64,
}

#[derive(Debug, Serialize, Deserialize)]
enum OriginV1<'a> {
    #[serde(borrow)]
    Audit(AuditV1<'a>),
    Kubernetes(&'a str),
    Synthetic(&'a str),
    #[serde(borrow)]
    State(StateV1<'a>),
}

#[derive(Debug, Serialize, Deserialize)]
struct AuditV1<'a> {
    millis: i64,
    serial: i32,
    node: Option<&'a str>,
    completion: u8,
    #[serde(borrow, deserialize_with = "list")]
    records: Vec<RecordV1<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordV1<'a> {
    kind: u16,
    #[serde(serialize_with = "bytes")]
    body: &'a [u8],
}

#[derive(Debug, Serialize, Deserialize)]
struct StateV1<'a> {
    source: &'a str,
    state: u8,
    at: i64,
    since: i64,
    reason: Option<&'a str>,
    #[serde(borrow, deserialize_with = "list")]
    counts: Vec<(&'a str, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ContextV1<'a> {
    #[serde(borrow, deserialize_with = "list")]
    users: Vec<(u32, &'a str)>,
    #[serde(borrow, deserialize_with = "list")]
    groups: Vec<(u32, &'a str)>,
    #[serde(borrow, deserialize_with = "list")]
    ancestors: Vec<AncestorV1<'a>>,
    #[serde(borrow)]
    container: Option<ContainerV1<'a>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct AncestorV1<'a> {
    pid: u32,
    executable: Option<&'a str>,
    name: Option<&'a str>,
    title: Option<&'a str>,
    start: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ContainerV1<'a> {
    id: &'a str,
    runtime: Option<&'a str>,
    name: Option<&'a str>,
    image: Option<&'a str>,
    pod_uid: Option<&'a str>,
    pod_name: Option<&'a str>,
    namespace: Option<&'a str>,
}

/// What differences are taken from while a payload is written or read: all zero at its start.
#[derive(Debug, Default)]
pub struct Previous {
    millis: u64,
    serial: u32,
    stated: i64,
}

impl<'a> EventV1<'a> {
    /// The event as it travels; `node` is the header's.
    pub fn of(event: &'a Event, node: NodeId, previous: &mut Previous) -> Self {
        let derived = match &event.origin {
            Origin::Audit(audit) => {
                Some((EventId::audit(Some(node), audit), Timestamp::from_millis(audit.stamp.millis)))
            }
            Origin::Kubernetes(text) => {
                Event::kubernetes(Some(node), text.as_str()).ok().map(|again| (again.id, again.time))
            }
            Origin::Synthetic(_) | Origin::State(_) => None,
        };
        let stated = (derived != Some((event.id, event.time))).then(|| {
            let micros = event.time.as_micros().wrapping_sub(previous.stated);
            previous.stated = event.time.as_micros();
            StatedV1 { id: *event.id.as_bytes(), micros }
        });
        Self {
            origin: OriginV1::of(&event.origin, previous),
            priority: priority_code(event.priority),
            tags: event.tags.iter().map(|tag| &**tag).collect(),
            context: event.context.as_deref().map(ContextV1::of),
            stated,
        }
    }

    /// The event that was encoded; `node` is the header's.
    pub fn into_event(self, node: NodeId, previous: &mut Previous) -> Result<Event, EventError> {
        let stated = self.stated.map(|stated| {
            previous.stated = previous.stated.wrapping_add(stated.micros);
            (EventId::from_uuid(uuid::Uuid::from_bytes(stated.id)), Timestamp::from_micros(previous.stated))
        });
        let mut event = self.origin.into_event(node, stated, previous)?;
        event.priority = priority_of(self.priority).ok_or(EventError::Invalid("priority"))?;
        event.tags = self.tags.into_iter().map(Box::from).collect();
        event.context = self.context.map(|context| Box::new(context.into()));
        Ok(event)
    }

    /// About how much memory the decoded event will take.
    pub(super) fn heap(&self) -> usize {
        let origin = match &self.origin {
            OriginV1::Audit(audit) => {
                let bodies: usize = audit.records.iter().map(|record| record.body.len()).sum();
                bodies + audit.records.len() * size_of::<Record>()
            }
            OriginV1::Kubernetes(text) | OriginV1::Synthetic(text) => text.len(),
            OriginV1::State(state) => state.counts.len() * 64,
        };
        let context = self.context.as_ref().map_or(0, |context| {
            let names = (context.users.len() + context.groups.len()) * 48;
            size_of::<Context>() + names + context.ancestors.len() * (size_of::<Ancestor>() + 48)
        });
        size_of::<Event>() + origin + context + self.tags.len() * 48
    }
}

impl<'a> OriginV1<'a> {
    fn of(origin: &'a Origin, previous: &mut Previous) -> Self {
        match origin {
            Origin::Audit(audit) => Self::Audit(AuditV1::of(audit, previous)),
            Origin::Kubernetes(text) => Self::Kubernetes(text.as_str()),
            Origin::Synthetic(text) => Self::Synthetic(text.as_str()),
            Origin::State(state) => Self::State(StateV1::of(state)),
        }
    }

    fn into_event(
        self,
        node: NodeId,
        stated: Option<(EventId, Timestamp)>,
        previous: &mut Previous,
    ) -> Result<Event, EventError> {
        let node = Some(node);
        let mut event = match (self, stated) {
            (Self::Audit(audit), None) => Event::audit(node, audit.into_audit(previous)?),
            (Self::Kubernetes(text), None) => Event::kubernetes(node, text)?,
            (Self::Synthetic(_) | Self::State(_), None) => return Err(EventError::Invalid("id")),
            (origin, Some((id, time))) => bare(id, time, origin.into_origin(previous)?),
        };
        if let Some((id, time)) = stated {
            (event.id, event.time) = (id, time);
        }
        Ok(event)
    }

    fn into_origin(self, previous: &mut Previous) -> Result<Origin, EventError> {
        Ok(match self {
            Self::Audit(audit) => Origin::Audit(audit.into_audit(previous)?),
            Self::Kubernetes(text) => Origin::Kubernetes(JsonText::parse(text)?),
            Self::Synthetic(text) => Origin::Synthetic(JsonText::parse(text)?),
            Self::State(state) => Origin::State(state.try_into()?),
        })
    }
}

impl<'a> AuditV1<'a> {
    fn of(audit: &'a AuditEvent, previous: &mut Previous) -> Self {
        let millis = audit.stamp.millis.wrapping_sub(previous.millis).cast_signed();
        let serial = audit.stamp.serial.wrapping_sub(previous.serial).cast_signed();
        (previous.millis, previous.serial) = (audit.stamp.millis, audit.stamp.serial);
        let record = |record: &'a Record| RecordV1 { kind: record.kind.0, body: &record.body };
        Self {
            millis,
            serial,
            node: audit.node.as_deref(),
            completion: completion_code(audit.completion),
            records: audit.records.iter().map(record).collect(),
        }
    }

    fn into_audit(self, previous: &mut Previous) -> Result<AuditEvent, EventError> {
        previous.millis = previous.millis.wrapping_add_signed(self.millis);
        previous.serial = previous.serial.wrapping_add_signed(self.serial);
        let stamp = Stamp { millis: previous.millis, serial: previous.serial };
        let node: Option<Box<str>> = self.node.map(Box::from);
        let record = |record: RecordV1<'_>| Record {
            kind: RecordType(record.kind),
            stamp,
            node: node.clone(),
            body: record.body.into(),
        };
        let records = self.records.into_iter().map(record).collect();
        let completion = completion_of(self.completion).ok_or(EventError::Invalid("completion"))?;
        Ok(AuditEvent { stamp, node, records, completion })
    }
}

impl<'a> StateV1<'a> {
    fn of(state: &'a AgentState) -> Self {
        Self {
            source: &state.source,
            state: condition_code(state.state),
            at: state.at.as_micros(),
            since: state.since.as_micros(),
            reason: state.reason.as_deref(),
            counts: state.counts.iter().map(|(name, count)| (&**name, *count)).collect(),
        }
    }
}

impl TryFrom<StateV1<'_>> for AgentState {
    type Error = EventError;

    fn try_from(state: StateV1<'_>) -> Result<Self, EventError> {
        let state = Self {
            source: state.source.into(),
            state: condition_of(state.state).ok_or(EventError::Invalid("condition"))?,
            at: Timestamp::from_micros(state.at),
            since: Timestamp::from_micros(state.since),
            reason: state.reason.map(Box::from),
            counts: state.counts.into_iter().map(|(name, count)| (name.into(), count)).collect(),
        };
        Ok(state.bounded())
    }
}

impl<'a> ContextV1<'a> {
    fn of(context: &'a Context) -> Self {
        let names = |names: &'a [(u32, Box<str>)]| names.iter().map(|(id, name)| (*id, &**name)).collect();
        Self {
            users: names(&context.users),
            groups: names(&context.groups),
            ancestors: context.ancestors.iter().map(AncestorV1::of).collect(),
            container: context.container.as_ref().map(ContainerV1::of),
        }
    }
}

impl From<ContextV1<'_>> for Context {
    fn from(context: ContextV1<'_>) -> Self {
        let names = |names: Vec<(u32, &str)>| names.into_iter().map(|(id, name)| (id, name.into())).collect();
        Self {
            users: names(context.users),
            groups: names(context.groups),
            ancestors: context.ancestors.into_iter().map(Ancestor::from).collect(),
            container: context.container.map(Container::from),
        }
    }
}

impl<'a> AncestorV1<'a> {
    fn of(ancestor: &'a Ancestor) -> Self {
        Self {
            pid: ancestor.pid,
            executable: ancestor.executable.as_deref(),
            name: ancestor.name.as_deref(),
            title: ancestor.title.as_deref(),
            start: ancestor.start.map(Timestamp::as_micros),
        }
    }
}

impl From<AncestorV1<'_>> for Ancestor {
    fn from(ancestor: AncestorV1<'_>) -> Self {
        Self {
            pid: ancestor.pid,
            executable: ancestor.executable.map(Box::from),
            name: ancestor.name.map(Box::from),
            title: ancestor.title.map(Box::from),
            start: ancestor.start.map(Timestamp::from_micros),
        }
    }
}

impl<'a> ContainerV1<'a> {
    fn of(container: &'a Container) -> Self {
        Self {
            id: &container.id,
            runtime: container.runtime.as_deref(),
            name: container.name.as_deref(),
            image: container.image.as_deref(),
            pod_uid: container.pod_uid.as_deref(),
            pod_name: container.pod_name.as_deref(),
            namespace: container.namespace.as_deref(),
        }
    }
}

impl From<ContainerV1<'_>> for Container {
    fn from(container: ContainerV1<'_>) -> Self {
        Self {
            id: container.id.into(),
            runtime: container.runtime.map(Box::from),
            name: container.name.map(Box::from),
            image: container.image.map(Box::from),
            pod_uid: container.pod_uid.map(Box::from),
            pod_name: container.pod_name.map(Box::from),
            namespace: container.namespace.map(Box::from),
        }
    }
}

const COMPLETIONS: [Completion; 6] = [
    Completion::Eoe,
    Completion::Proctitle,
    Completion::Single,
    Completion::TimedOut,
    Completion::Evicted,
    Completion::Late,
];

const CONDITIONS: [Condition; 6] = [
    Condition::Running,
    Condition::Degraded,
    Condition::Unavailable,
    Condition::NotApplicable,
    Condition::NotRunning,
    Condition::TestAlert,
];

/// Spelled out so that a new value does not compile before it has a code here.
fn completion_code(completion: Completion) -> u8 {
    match completion {
        Completion::Eoe => 0,
        Completion::Proctitle => 1,
        Completion::Single => 2,
        Completion::TimedOut => 3,
        Completion::Evicted => 4,
        Completion::Late => 5,
    }
}

fn completion_of(code: u8) -> Option<Completion> {
    COMPLETIONS.get(usize::from(code)).copied()
}

fn condition_code(condition: Condition) -> u8 {
    match condition {
        Condition::Running => 0,
        Condition::Degraded => 1,
        Condition::Unavailable => 2,
        Condition::NotApplicable => 3,
        Condition::NotRunning => 4,
        Condition::TestAlert => 5,
    }
}

fn condition_of(code: u8) -> Option<Condition> {
    CONDITIONS.get(usize::from(code)).copied()
}

fn bare(id: EventId, time: Timestamp, origin: Origin) -> Event {
    Event { id, time, origin, context: None, tags: Vec::new(), priority: auditflow_event::Priority::Normal }
}

/// As one run of bytes; serde's own way would visit each.
fn bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// A list of at most [`MAX_LIST`] entries.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Bounded<T>(std::marker::PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {MAX_LIST} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let claimed = seq.size_hint().unwrap_or(0);
            if claimed > MAX_LIST {
                return Err(de::Error::invalid_length(claimed, &self));
            }
            // An entry is read before room for the next is made, so a false claim costs little.
            let mut entries = Vec::with_capacity(claimed.min(16));
            while let Some(entry) = seq.next_element()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }

    deserializer.deserialize_seq(Bounded(std::marker::PhantomData))
}
