//! The meaning of an event in the ancestor's shape: `event_id, timestamp, source_service, server_hostname,
//! event_type, severity, user_id, action_result, details{}`.
//!
//! Its generator makes seven kinds: `user_login` (`FAILURE` with WARNING, `SUCCESS`; details `ip_address`,
//! `protocol`, `reason`), `sudo_command` (`SUCCESS`; `command`, `tty`, `cwd`), `file_modified` (`MODIFIED`,
//! CRITICAL; `resource`, `old_checksum`, `new_checksum`), `service_status_change` (`STARTED`; `STOPPED` with WARNING;
//! `resource`, `previous_state`, `message`) and `user_account_management` (`CREATED`; `resource`, `group`). People
//! post others to its API, so everything is read loosely: what is used may stand at the top or in `details`, under
//! the names that its programs use (`resource` or `file_path`; `ip_address`, `client_ip` or `source_ip`).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::loose::Loose;
use super::{Endpoint, EventType, File, Identity, Meaning, Outcome, Severity, table};
use crate::{JsonText, OriginError, Timestamp};

#[derive(Default, Deserialize)]
#[serde(default)]
struct Produced<'a> {
    #[serde(borrow)]
    event_id: Loose<'a>,
    #[serde(borrow)]
    timestamp: Loose<'a>,
    #[serde(borrow)]
    source_service: Loose<'a>,
    #[serde(borrow)]
    server_hostname: Loose<'a>,
    #[serde(borrow)]
    event_type: Loose<'a>,
    #[serde(borrow)]
    severity: Loose<'a>,
    #[serde(borrow)]
    user_id: Loose<'a>,
    #[serde(borrow)]
    action_result: Loose<'a>,
    #[serde(borrow)]
    details: Option<&'a RawValue>,
}

/// What is read from `details`, and from the top where `details` lacks it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Details<'a> {
    #[serde(borrow)]
    resource: Loose<'a>,
    #[serde(borrow)]
    file_path: Loose<'a>,
    #[serde(borrow)]
    ip_address: Loose<'a>,
    #[serde(borrow)]
    client_ip: Loose<'a>,
    #[serde(borrow)]
    source_ip: Loose<'a>,
    #[serde(borrow)]
    command: Loose<'a>,
    #[serde(borrow)]
    cwd: Loose<'a>,
    #[serde(borrow)]
    tty: Loose<'a>,
    #[serde(borrow)]
    reason: Loose<'a>,
}

/// When it happened, by its own word.
pub(crate) fn time(text: &JsonText) -> Result<Timestamp, OriginError> {
    let produced: Produced<'_> = serde_json::from_str(text.as_str()).map_err(OriginError::NotJson)?;
    if produced.event_type.known().is_none() {
        return Err(OriginError::MissingField("event_type"));
    }
    let time = produced.timestamp.known().ok_or(OriginError::MissingField("timestamp"))?;
    time.parse().map_err(|source| OriginError::BadTime { field: "timestamp", source })
}

pub(super) fn meaning(text: &JsonText) -> Meaning<'_> {
    // What cannot be read was refused when it was made; from a forged batch it yields no meaning.
    let produced: Produced<'_> = serde_json::from_str(text.as_str()).unwrap_or_default();
    let top: Details<'_> = serde_json::from_str(text.as_str()).unwrap_or_default();
    // A list would be taken for the fields in their order.
    let object = produced.details.map(RawValue::get).filter(|details| details.starts_with('{'));
    let details: Details<'_> =
        object.and_then(|details| serde_json::from_str(details).ok()).unwrap_or_default();

    let named = produced.event_type.known().unwrap_or_default();
    let event_type = event_type(&named);
    let result = produced.action_result.known();
    let row = table::produced(event_type, result.as_deref().unwrap_or_default());
    let mut meaning = Meaning::from_row(row, "synthetic");
    if event_type == EventType::Other && !named.is_empty() {
        meaning.action = named;
    }
    meaning.severity = produced.severity.0.as_deref().and_then(Severity::from_name).unwrap_or(row.severity);
    meaning.outcome = result.as_deref().and_then(outcome);
    meaning.action_result = result;
    if let Some(service) = produced.source_service.known() {
        meaning.source_service = service;
    }
    meaning.hostname = produced.server_hostname.known();
    meaning.producer_id = produced.event_id.known();
    meaning.user_id = produced.user_id.known();
    meaning.user.real = Identity { id: None, name: meaning.user_id.clone() };
    place_details(&mut meaning, details, top);
    meaning.details = produced.details;
    meaning
}

fn place_details<'e>(meaning: &mut Meaning<'e>, details: Details<'e>, top: Details<'e>) {
    let first = |candidates: [Loose<'e>; 2]| candidates.into_iter().find_map(Loose::known);
    meaning.resource =
        first([details.resource, details.file_path]).or_else(|| first([top.resource, top.file_path]));
    let ip = first([details.ip_address, top.ip_address])
        .or_else(|| first([details.client_ip, top.client_ip]))
        .or_else(|| first([details.source_ip, top.source_ip]));
    meaning.source = ip.map(|ip| Endpoint { ip: Some(ip), ..Endpoint::default() });
    meaning.command = first([details.command, top.command]);
    meaning.process.working_directory = first([details.cwd, top.cwd]);
    meaning.process.tty = first([details.tty, top.tty]);
    meaning.operation = first([details.reason, top.reason]);
    match meaning.event_type {
        EventType::FileModified | EventType::FileAccess => {
            meaning.file = Some(Box::new(File { path: meaning.resource.clone(), ..File::default() }));
        }
        EventType::UserAccountManagement => meaning.user.target.name.clone_from(&meaning.resource),
        _ => {}
    }
}

/// Our types by name, and one name that the ancestor's own tests use.
fn event_type(name: &str) -> EventType {
    match name {
        "file_modification" => EventType::FileModified,
        // Nobody but the agent speaks of the agent.
        "agent_state" => EventType::Other,
        name => EventType::from_name(name).unwrap_or(EventType::Other),
    }
}

fn outcome(result: &str) -> Option<Outcome> {
    const FAILED: [&str; 5] = ["FAILURE", "FAILED", "FAIL", "DENIED", "ERROR"];
    const DONE: [&str; 8] =
        ["SUCCESS", "SUCCEEDED", "MODIFIED", "STARTED", "STOPPED", "CREATED", "DELETED", "ALLOWED"];
    let is = |word: &&str| word.eq_ignore_ascii_case(result);
    if FAILED.iter().any(is) {
        Some(Outcome::Failure)
    } else {
        DONE.iter().any(is).then_some(Outcome::Success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_any_case_have_an_outcome_and_unknown_ones_none() {
        assert_eq!(outcome("failure"), Some(Outcome::Failure));
        assert_eq!(outcome("MODIFIED"), Some(Outcome::Success));
        assert_eq!(outcome("PENDING"), None);
    }
}
