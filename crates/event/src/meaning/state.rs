//! The meaning of what the agent says of itself.

use std::borrow::Cow;

use super::{Meaning, table};
use crate::AgentState;

pub(super) fn meaning(state: &AgentState) -> Meaning<'_> {
    let row = table::state(state.state);
    let mut meaning = Meaning::from_row(row, "auditflow-agent");
    meaning.resource = Some(Cow::Borrowed(&state.source));
    meaning.operation = state.reason.as_deref().map(Cow::Borrowed);
    meaning
}
