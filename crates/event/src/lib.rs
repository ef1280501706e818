//! The vocabulary both programs speak: one audit event, its identity, its meaning and its JSON.
//!
//! Fed by the agent's sources (kernel audit records, Kubernetes audit lines, generated events, the agent's own
//! state) and by `wire` when a batch is opened again; feeds rules, detection, search, the API and `decode`.
//!
//! An [`Event`] keeps what was seen verbatim ([`Origin`]) and the little that only the node knew ([`Context`]).
//! Everything else, [`Meaning`] and [`EventJson`], is derived from those by pure functions here, so the agent,
//! the collector and an offline `decode` always agree, and a better reading later needs no migration.

pub mod context;
pub mod digest;
mod event;
pub mod id;
pub mod origin;
pub mod time;

pub mod json;
pub mod meaning;
pub mod terms;

pub use context::{Ancestor, Container, Context};
pub use event::{Event, Priority};
pub use id::{EventId, NodeId, ParseIdError};
pub use json::{EventJson, HostFacts, JsonWriter};
pub use meaning::{EventType, Meaning, Outcome, Severity};
pub use origin::{AgentState, Condition, JsonText, Origin, OriginError};
pub use time::{ParseTimeError, Timestamp};
