//! An event in a few lines: what a person looks for first. The whole of it stands below as JSON.

use serde_json::Value;

use crate::web::access::form_encoded;

/// An event as pages show it.
pub(super) struct Digest {
    /// When, to the millisecond.
    pub time: String,
    /// Its type, such as `process_execution`.
    pub kind: String,
    /// What happened, in one line.
    pub line: String,
    /// Its outcome; empty if it has none.
    pub outcome: String,
    /// What is known of it: name, value, and the search for the same.
    pub facts: Vec<Fact>,
    /// All of it.
    pub json: String,
}

/// A field of an event.
pub(super) struct Fact {
    pub name: &'static str,
    pub value: String,
    pub search: Option<String>,
}

/// Names, and where in the JSON the value is. The first line's value ends up in the digest's line.
const FACTS: [(&str, &str); 20] = [
    ("Host", "server_hostname"),
    ("User", "user.name"),
    ("User", "user_id"),
    ("Logged in as", "user.audit.name"),
    ("Target user", "user.target.name"),
    ("Program", "process.executable"),
    ("Command line", "process.args"),
    ("Title", "process.title"),
    ("Parent", "process.parent.executable"),
    ("Directory", "process.working_directory"),
    ("File", "file.path"),
    ("From", "source.ip"),
    ("To", "destination.ip"),
    ("Port", "destination.port"),
    ("Command", "details.command"),
    ("Resource", "details.resource"),
    ("Container", "container.id"),
    ("Pod", "kubernetes.pod.name"),
    ("Namespace", "kubernetes.namespace"),
    ("Syscall", "auditd.syscall"),
];

/// The longest JSON shown, in bytes; the rest is to be had from the API.
const MAX_JSON: usize = 256 << 10;

/// Of an event's JSON.
pub(super) fn of(event: &Value) -> Digest {
    let at = |path: &str| text(path.split('.').try_fold(event, |value, key| value.get(key)));
    let time = at("timestamp").unwrap_or_default();
    let mut facts: Vec<Fact> = Vec::new();
    for (name, path) in FACTS {
        let Some(value) = at(path).filter(|value| !value.is_empty()) else { continue };
        if facts.iter().any(|fact| fact.value == value && fact.name == name) {
            continue;
        }
        let search = (!path.ends_with("args") && value.len() <= 200).then(|| search(path, &value));
        facts.push(Fact { name, value, search });
    }
    let mut json = serde_json::to_string_pretty(event).unwrap_or_default();
    if json.len() > MAX_JSON {
        json.truncate(json.floor_char_boundary(MAX_JSON));
        json.push_str("\n… the rest is to be had from the API");
    }
    Digest {
        time: time.get(..23).unwrap_or(&time).replace('T', " "),
        kind: at("event_type").unwrap_or_default(),
        line: line(&at),
        outcome: at("event.outcome").unwrap_or_default(),
        facts,
        json,
    }
}

/// What happened: the most telling thing, by whom.
fn line(at: &impl Fn(&str) -> Option<String>) -> String {
    let action = at("event.action").map(|action| action.replace(['_', '-'], " "));
    let what = [
        "process.args",
        "details.command",
        "file.path",
        "destination.ip",
        "process.executable",
        "details.resource",
    ];
    let what = what.into_iter().find_map(|path| at(path).filter(|value| !value.is_empty()));
    let user = at("user.name").or_else(|| at("user_id")).filter(|user| !user.is_empty());
    let mut line = action.unwrap_or_default();
    if let Some(what) = what {
        if !line.is_empty() {
            line.push_str(": ");
        }
        line.push_str(&what);
    }
    if let Some(user) = user {
        line.extend([" by ", &*user]);
    }
    line.chars().take(240).collect()
}

/// The search for events with the same value.
fn search(path: &str, value: &str) -> String {
    let quoted = value.contains(char::is_whitespace);
    let term = if quoted { format!("\"{path}:{value}\"") } else { format!("{path}:{value}") };
    format!("/view/events?q={}", form_encoded(&term))
}

/// A value as a line of text: arrays with spaces between, objects as JSON.
pub(super) fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(values) => {
            Some(values.iter().filter_map(|value| text(Some(value))).collect::<Vec<_>>().join(" "))
        }
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_telling_comes_first() {
        let event = serde_json::json!({
            "timestamp": "2026-11-23T12:00:00.123456Z", "event_type": "process_execution", "user_id": "alice",
            "event": {"action": "executed", "outcome": "success"},
            "process": {"executable": "/usr/bin/curl", "args": ["curl", "-s", "http://x"]},
        });
        let digest = of(&event);
        assert_eq!(digest.time, "2026-11-23 12:00:00.123");
        assert_eq!(digest.line, "executed: curl -s http://x by alice");
        let program = digest.facts.iter().find(|fact| fact.name == "Program").unwrap();
        assert_eq!(program.search.as_deref(), Some("/view/events?q=process.executable%3A/usr/bin/curl"));
    }

    #[test]
    fn what_is_no_event_makes_an_empty_digest_and_a_huge_one_a_bounded_one() {
        assert_eq!(of(&Value::Null).line, "");
        let huge = serde_json::json!({ "details": { "x": "ü".repeat(MAX_JSON) } });
        assert!(of(&huge).json.len() < MAX_JSON + 100);
    }
}
