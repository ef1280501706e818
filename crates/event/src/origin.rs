//! What was seen, verbatim: the part of an event from which all else is derived. Made by the agent's sources, and
//! made again when a batch is opened; bounded here, before anything parses it further.

use auditflow_audit_record::AuditEvent;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::Timestamp;

/// Where an event came from, and its own bytes.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Records of the kernel's audit system that share a stamp, from netlink or from audit.log.
    Audit(AuditEvent),
    /// One line of a Kubernetes API server's audit log (`audit.k8s.io/v1`).
    Kubernetes(JsonText),
    /// One event in the ancestor's shape: generated, posted, or from its queue.
    Synthetic(JsonText),
    /// The agent speaking of itself or of one of its sources.
    State(AgentState),
}

/// The text of one JSON object, validated and bounded, otherwise untouched.
///
/// The one exception: line breaks between tokens (a pretty-printed document) become spaces, so that the text can
/// stand in a line of JSONL.
#[derive(Clone, Debug)]
pub struct JsonText(Box<RawValue>);

impl JsonText {
    /// The longest text accepted, in bytes. Kubernetes itself refuses objects above 1.5 MiB.
    pub const MAX_BYTES: usize = 1024 * 1024;
    /// The deepest nesting of objects and arrays accepted: twice what Kubernetes objects reach.
    pub const MAX_DEPTH: usize = 64;

    /// Checks that `text` is one JSON object within the bounds.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        if text.len() > Self::MAX_BYTES {
            return Err(OriginError::TooLong { bytes: text.len() });
        }
        let text = text.trim_ascii();
        if !text.starts_with('{') {
            return Err(OriginError::NotObject);
        }
        check_depth(text.as_bytes())?;
        let line =
            if text.contains(['\n', '\r']) { text.replace(['\n', '\r'], " ") } else { text.to_owned() };
        RawValue::from_string(line).map(Self).map_err(OriginError::NotJson)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for JsonText {}

/// A named condition of the agent or of one of its sources, said when it begins, changes or is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentState {
    /// Whom it is about: a source's name (`kernel_audit`) or `agent`.
    pub source: Box<str>,
    /// The condition.
    pub state: Condition,
    /// When this was said: the event's time.
    pub at: Timestamp,
    /// Since when the condition has held.
    pub since: Timestamp,
    /// Why, for a person to read; at most [`AgentState::MAX_REASON_BYTES`].
    pub reason: Option<Box<str>>,
    /// What was counted meanwhile, by name (`lost`, `serial_gap` …); at most [`AgentState::MAX_COUNTS`].
    pub counts: Vec<(Box<str>, u64)>,
}

impl AgentState {
    /// The longest reason kept, in bytes; a longer one is cut.
    pub const MAX_REASON_BYTES: usize = 1024;
    /// The most counts kept; what is beyond is left out.
    pub const MAX_COUNTS: usize = 64;

    /// The same state within its bounds.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        self.counts.truncate(Self::MAX_COUNTS);
        if let Some(reason) = &mut self.reason
            && reason.len() > Self::MAX_REASON_BYTES
        {
            *reason = reason[..reason.floor_char_boundary(Self::MAX_REASON_BYTES)].into();
        }
        self
    }
}

/// The conditions that an `agent_state` event names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Works, and sees everything that it is there to see.
    Running,
    /// Works, but loses or cannot see a part.
    Degraded,
    /// Should work and does not; it is tried again.
    Unavailable,
    /// Cannot apply on this node (no API server here, a kernel without audit).
    NotApplicable,
    /// Was not running for a time that is over: what happened meanwhile was not seen.
    NotRunning,
    /// `auditflow-agent test-alert`: harmless, made to be alerted on.
    TestAlert,
}

impl Condition {
    /// The name in JSON, rules and searches.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Unavailable => "unavailable",
            Self::NotApplicable => "not_applicable",
            Self::NotRunning => "not_running",
            Self::TestAlert => "test_alert",
        }
    }
}

/// Bytes that are no event.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// Longer than [`JsonText::MAX_BYTES`].
    #[error("event of {bytes} bytes exceeds the limit of {} bytes", JsonText::MAX_BYTES)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Nested deeper than [`JsonText::MAX_DEPTH`].
    #[error("event is nested deeper than {} levels", JsonText::MAX_DEPTH)]
    TooDeep,
    /// Not a JSON object.
    #[error("event is not a json object")]
    NotObject,
    /// Not JSON, or with a value of the wrong type.
    #[error("event is not valid json")]
    NotJson(#[source] serde_json::Error),
    /// A field without which it is no event of its kind.
    #[error("event has no {0}: add it")]
    MissingField(&'static str),
    /// A time stamp that cannot be read.
    #[error("event has an unreadable {field}")]
    BadTime {
        /// The field's name.
        field: &'static str,
        /// What is wrong.
        #[source]
        source: crate::ParseTimeError,
    },
}

/// Counts brackets outside strings; whether they match is the parser's business afterwards.
fn check_depth(text: &[u8]) -> Result<(), OriginError> {
    let mut depth = 0_usize;
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                while let Some(inner) = bytes.next() {
                    match inner {
                        b'"' => break,
                        b'\\' => {
                            bytes.next();
                        }
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > JsonText::MAX_DEPTH {
                    return Err(OriginError::TooDeep);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_within_the_bounds_is_kept_verbatim() {
        let text = r#"{"b": 1,  "a":[1.0e5,"\u00e9 }{"], "b":2}"#;
        assert_eq!(JsonText::parse(&format!(" {text}\n")).unwrap().as_str(), text);
    }

    #[test]
    fn pretty_printed_text_becomes_one_line() {
        assert_eq!(JsonText::parse("{\n\"a\":\r\n1}").unwrap().as_str(), "{ \"a\":  1}");
    }

    #[test]
    fn depth_and_length_are_bounded_before_parsing() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(JsonText::parse(&nested(JsonText::MAX_DEPTH)).is_ok());
        assert!(matches!(JsonText::parse(&nested(JsonText::MAX_DEPTH + 1)), Err(OriginError::TooDeep)));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(JsonText::MAX_BYTES));
        assert!(matches!(JsonText::parse(&long), Err(OriginError::TooLong { .. })));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "1", "\"a\"", "null"] {
            assert!(matches!(JsonText::parse(text), Err(OriginError::NotObject)), "{text}");
        }
        for text in ["{", "{]", "{\"a\":}", "{} {}", "{\"a\":\"\u{1}\"}"] {
            assert!(matches!(JsonText::parse(text), Err(OriginError::NotJson(_))), "{text}");
        }
    }

    #[test]
    fn state_is_cut_to_its_bounds_at_a_character() {
        let state = AgentState {
            source: "agent".into(),
            state: Condition::Degraded,
            at: Timestamp::EPOCH,
            since: Timestamp::EPOCH,
            reason: Some("é".repeat(AgentState::MAX_REASON_BYTES).into()),
            counts: vec![("lost".into(), 1); AgentState::MAX_COUNTS + 1],
        }
        .bounded();
        assert_eq!(state.reason.unwrap().len(), AgentState::MAX_REASON_BYTES);
        assert_eq!(state.counts.len(), AgentState::MAX_COUNTS);
    }
}
