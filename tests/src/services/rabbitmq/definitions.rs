//! What a RabbitMQ is told about vhosts, queues, users and rights: what the project ships, and what tests make of it.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

/// The password of every user that the shipped definitions name, once a test has given them one.
pub const PASSWORD: &str = "of-a-test";

/// What the project ships in `rabbitmq/definitions.json`, its users with a password.
pub fn shipped() -> anyhow::Result<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rabbitmq/definitions.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut definitions = serde_json::from_str(&text).context("rabbitmq/definitions.json is no JSON")?;
    for user in list(&mut definitions, "users") {
        user["password"] = PASSWORD.into();
        // RabbitMQ wants one of the two.
        if let Some(fields) = user.as_object_mut() {
            fields.remove("password_hash");
            fields.remove("hashing_algorithm");
        }
    }
    Ok(definitions)
}

/// A URL with the password of the user in it.
pub fn with_password(url: &str) -> String {
    url.replacen('@', &format!(":{PASSWORD}@"), 1)
}

/// The same with `vhost` in the place of `auditflow`, and `ancestor` in that of `/`.
pub(super) fn elsewhere(mut definitions: Value, vhost: &str, ancestor: &str) -> Value {
    let moved = |name: &Value| if name == "/" { ancestor.to_owned() } else { vhost.to_owned() };
    for object in list(&mut definitions, "vhosts") {
        object["name"] = moved(&object["name"]).into();
    }
    for kind in ["permissions", "topic_permissions", "policies", "exchanges", "queues", "bindings"] {
        for object in list(&mut definitions, kind) {
            object["vhost"] = moved(&object["vhost"]).into();
        }
    }
    definitions
}

/// Vhost `auditflow` without queues, for a collector that subscribes by MQTT itself, and these nodes; docs/mqtt.md has the
/// rights.
pub fn without_queues(nodes: &[String]) -> Value {
    let begin = json!({ "vhosts": [{ "name": "auditflow" }], "users": [], "permissions": [], "topic_permissions": [] });
    let names: Vec<String> = nodes.iter().cloned().chain(["auditflow-collector".to_owned()]).collect();
    with_certificates(begin, &names)
}

/// The same with users who come with a certificate that names them: nodes, or the collector.
pub fn with_certificates(mut definitions: Value, names: &[String]) -> Value {
    let user = |name: &str| json!({ "name": name, "password_hash": "", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "" });
    let permission = |name: &str| {
        let own = format!("mqtt-subscription-{name}(-[0-9a-f]{{8}})?qos[01]");
        let (configure, both) = (format!("^{own}$"), format!("^(amq\\.topic|{own})$"));
        json!({ "user": name, "vhost": "auditflow", "configure": configure, "write": both, "read": both })
    };
    let topics = |name: &str| {
        let (write, read) = if name == "auditflow-collector" {
            ("^audit\\.[0-9a-f]{32}\\.ack$", "^audit\\.\\*\\.batch$")
        } else {
            ("^audit\\.{username}\\.batch$", "^audit\\.{username}\\.ack$")
        };
        json!({ "user": name, "vhost": "auditflow", "exchange": "amq.topic", "write": write, "read": read })
    };
    let names = || names.iter().map(String::as_str);
    push(&mut definitions, "users", names().map(user));
    push(&mut definitions, "permissions", names().map(permission));
    push(&mut definitions, "topic_permissions", names().map(topics));
    definitions
}

/// The same with a user who may do everything everywhere, by the management plugin.
pub(super) fn with_administrator(mut definitions: Value, name: &str, password: &str) -> Value {
    let vhosts: Vec<Value> = list(&mut definitions, "vhosts").map(|vhost| vhost["name"].clone()).collect();
    let administrator = json!({ "name": name, "password": password, "tags": "administrator" });
    let everything =
        |vhost| json!({ "user": name, "vhost": vhost, "configure": ".*", "write": ".*", "read": ".*" });
    push(&mut definitions, "users", [administrator]);
    push(&mut definitions, "permissions", vhosts.into_iter().map(everything));
    definitions
}

fn list<'d>(definitions: &'d mut Value, kind: &str) -> impl Iterator<Item = &'d mut Value> {
    definitions[kind].as_array_mut().into_iter().flatten()
}

fn push(definitions: &mut Value, kind: &str, more: impl IntoIterator<Item = Value>) {
    if let Some(objects) = definitions[kind].as_array_mut() {
        objects.extend(more);
    }
}
