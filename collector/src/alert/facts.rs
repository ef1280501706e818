//! Who, what and where of an alert, from the event that raised it, in the ancestor's words.

use auditflow_event::{Event, EventType, HostFacts, Meaning, Outcome};
use serde_json::{Map, Value};

use crate::store::NewAlert;

/// What an alert says of the event that raised it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// `actor_type`, `actor_id`, `client_ip`.
    pub triggered_by: Map<String, Value>,
    /// `resource_type`, `resource_id`, `server_hostname`.
    pub impacted_resource: Map<String, Value>,
    /// Such as `LOGIN_FAILURE`.
    pub action_observed: String,
    /// Whose event it is.
    pub source_service_name: String,
    /// On which host.
    pub server_hostname: String,
}

impl Facts {
    /// Of an event.
    pub fn of(event: &Event, host: &HostFacts) -> Self {
        let meaning = event.meaning();
        let hostname = meaning.hostname.as_deref().or(host.name.as_deref()).unwrap_or_default().to_owned();
        Self {
            triggered_by: actor(&meaning),
            impacted_resource: resource(&meaning, &hostname),
            action_observed: action(&meaning),
            source_service_name: meaning.source_service.clone().into_owned(),
            server_hostname: hostname,
        }
    }

    /// Those that an alert already has.
    pub fn from_alert(alert: &NewAlert) -> Self {
        Self {
            triggered_by: alert.triggered_by.clone(),
            impacted_resource: alert.impacted_resource.clone(),
            action_observed: alert.action_observed.clone(),
            source_service_name: alert.source_service_name.clone(),
            server_hostname: alert.server_hostname.clone(),
        }
    }

    /// In one line, as far as known: `FILE_MODIFIED /etc/passwd by root on web1`.
    pub fn sentence(&self) -> String {
        let text =
            |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
        let mut out = self.action_observed.clone();
        let mut add = |before: &str, word: Option<String>| {
            if let Some(word) = word.filter(|word| !word.is_empty()) {
                out.push_str(before);
                out.push_str(&word);
            }
        };
        let resource = text(&self.impacted_resource, "resource_id");
        add(" ", resource.filter(|resource| *resource != self.server_hostname));
        add(" by ", text(&self.triggered_by, "actor_id"));
        add(" from ", text(&self.triggered_by, "client_ip"));
        add(" on ", Some(self.server_hostname.clone()));
        out
    }
}

fn object<'v>(entries: impl IntoIterator<Item = (&'static str, Option<&'v str>)>) -> Map<String, Value> {
    let present =
        entries.into_iter().filter_map(|(key, value)| Some((key, value.filter(|value| !value.is_empty())?)));
    present.map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
}

fn actor(meaning: &Meaning<'_>) -> Map<String, Value> {
    let process = || meaning.process.executable.as_deref().or(meaning.process.name.as_deref());
    let (kind, id) = match (meaning.user_id.as_deref(), process()) {
        (Some(user), _) => ("USER", Some(user)),
        (None, Some(process)) => ("PROCESS", Some(process)),
        (None, None) => ("SYSTEM", None),
    };
    let ip = meaning.source.as_ref().and_then(|source| source.ip.as_deref());
    object([("actor_type", Some(kind)), ("actor_id", id), ("client_ip", ip)])
}

fn resource(meaning: &Meaning<'_>, hostname: &str) -> Map<String, Value> {
    let file = || meaning.file.as_ref().and_then(|file| file.path.as_deref());
    let said = || meaning.resource.as_deref();
    let (kind, id) = match meaning.event_type {
        EventType::FileModified | EventType::FileAccess | EventType::IntegrityViolation => {
            ("FILE", file().or(said()))
        }
        EventType::ServiceStatusChange => ("SERVICE", said()),
        EventType::UserAccountManagement => ("USER", meaning.user.target.name.as_deref().or(said())),
        EventType::ProcessExecution | EventType::SudoCommand => {
            ("PROCESS", meaning.process.executable.as_deref().or(meaning.command.as_deref()))
        }
        EventType::NetworkConnection => {
            let to = meaning.destination.as_ref();
            ("NETWORK", to.and_then(|to| to.ip.as_deref().or(to.path.as_deref())))
        }
        EventType::KubernetesApi => ("KUBERNETES", said()),
        EventType::KernelModule => ("KERNEL_MODULE", said().or(file())),
        _ => ("SERVER", None),
    };
    let (kind, id) = id.map_or(("SERVER", Some(hostname)), |id| (kind, Some(id)));
    object([("resource_type", Some(kind)), ("resource_id", id), ("server_hostname", Some(hostname))])
}

/// The ancestor's words where it has one, else our action in its manner.
fn action(meaning: &Meaning<'_>) -> String {
    let failed = meaning.outcome == Some(Outcome::Failure);
    match meaning.event_type {
        EventType::UserLogin if failed => "LOGIN_FAILURE".to_owned(),
        EventType::FileModified if !failed => "FILE_MODIFIED".to_owned(),
        _ => {
            let mut word: String = meaning
                .action
                .chars()
                .take(64)
                .map(|c| if c.is_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
                .collect();
            if failed {
                word.push_str("_FAILURE");
            }
            word
        }
    }
}
