//! What a node may do at RabbitMQ: asked by the broker, decided here, so that no node has to be made known to it.
//!
//! `rabbitmq_auth_backend_http` asks over the agents' port (`https` has the way there and knows that it is the broker) one
//! question per right; the answer is yes if the right is one of a node's, and the node is one whose data is taken. What a
//! node has is its own: it publishes its batches, hears its acknowledgements, and has the queue of that subscription. There
//! is nothing to be asked about anybody else: services are RabbitMQ's own users.

use std::fmt;

use auditflow_event::NodeId;
use serde::Deserialize;

/// Where the broker asks.
pub(super) const RIGHTS_PATH: &str = "/broker/v1/{kind}";

/// The vhost that nodes publish in.
const VHOST: &str = "auditflow";
/// The exchange that MQTT topics are routing keys of.
const EXCHANGE: &str = "amq.topic";
/// The plugin's name for the queue of an MQTT client's subscription, before its id.
const QUEUE: &str = "mqtt-subscription-";

/// What the broker asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// May it log in?
    User,
    /// May it use this vhost?
    Vhost,
    /// May it do this with that queue or exchange?
    Resource,
    /// May it do this with that topic?
    Topic,
}

/// The broker's words, as the plugin of RabbitMQ 3.10 puts them; it says more than is read here.
#[derive(Default, Deserialize)]
pub(super) struct Question {
    username: String,
    /// A node proves itself with its certificate: the broker has checked that, and asks without a password.
    password: Option<String>,
    vhost: Option<String>,
    resource: Option<String>,
    name: Option<String>,
    permission: Option<String>,
    routing_key: Option<String>,
}

impl Question {
    /// The node that has what is asked for as long as its data is taken; `None` if nobody has.
    pub(super) fn node(&self, kind: Kind) -> Option<NodeId> {
        let node = self.username.parse().ok()?;
        let is_own = match kind {
            Kind::User => self.password.is_none(),
            Kind::Vhost => self.is_in_vhost(),
            Kind::Resource => self.is_in_vhost() && self.is_own_resource(node),
            Kind::Topic => self.is_in_vhost() && self.is_own_topic(node),
        };
        is_own.then_some(node)
    }

    /// Who wants to log in with a password, and with which; nodes never do, only the site itself in their place.
    pub(super) fn login(&self, kind: Kind) -> Option<(NodeId, &str)> {
        let password = self.password.as_deref().filter(|_| kind == Kind::User)?;
        Some((self.username.parse().ok()?, password))
    }

    fn is_in_vhost(&self) -> bool {
        self.vhost.as_deref() == Some(VHOST)
    }

    fn is_own_resource(&self, node: NodeId) -> bool {
        let name = self.name.as_deref().unwrap_or_default();
        match (self.resource.as_deref(), self.permission.as_deref()) {
            (Some("exchange"), Some("write" | "read")) => name == EXCHANGE,
            (Some("queue"), Some("configure" | "write" | "read")) => is_own_queue(name, node),
            _ => false,
        }
    }

    fn is_own_topic(&self, node: NodeId) -> bool {
        let last = match self.permission.as_deref() {
            Some("write") => "batch",
            Some("read") => "ack",
            _ => return false,
        };
        self.name.as_deref() == Some(EXCHANGE)
            && self.routing_key.as_deref() == Some(format!("audit.{node}.{last}").as_str())
    }
}

/// The password is nobody's to see.
impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, vhost, resource, name, permission, routing_key, .. } = self;
        f.debug_struct("Question")
            .field("username", username)
            .field("vhost", vhost)
            .field("resource", resource)
            .field("name", name)
            .field("permission", permission)
            .field("routing_key", routing_key)
            .finish_non_exhaustive()
    }
}

/// The client id is the node's, a dash, and eight hexadecimal digits of the process.
fn is_own_queue(name: &str, node: NodeId) -> bool {
    let own = name.strip_prefix(QUEUE).and_then(|rest| rest.strip_prefix(&format!("{node}-")));
    let instance = own.and_then(|rest| rest.strip_suffix("qos0").or_else(|| rest.strip_suffix("qos1")));
    instance.is_some_and(|instance| {
        instance.len() == 8 && instance.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "07070707070707070707070707070707";
    const OTHER: &str = "08080808080808080808080808080808";

    fn of(username: &str) -> Question {
        let vhost = Some("auditflow".to_owned());
        Question { username: username.to_owned(), vhost, ..Question::default() }
    }

    fn resource(resource: &str, name: &str, permission: &str) -> Question {
        let text = |text: &str| Some(text.to_owned());
        Question { resource: text(resource), name: text(name), permission: text(permission), ..of(OWN) }
    }

    fn topic(permission: &str, key: &str) -> Question {
        Question { routing_key: Some(key.to_owned()), ..resource("topic", "amq.topic", permission) }
    }

    #[test]
    fn a_node_logs_in_by_its_certificate_and_never_by_a_password() {
        assert_eq!(of(OWN).node(Kind::User), OWN.parse().ok());
        for password in ["", "guess"] {
            let question = Question { password: Some(password.to_owned()), ..of(OWN) };
            assert_eq!(question.node(Kind::User), None);
        }
        for name in ["", "auditflow-analyzer", "07070707", "0707070707070707070707070707070G"] {
            assert_eq!(of(name).node(Kind::User), None, "{name}");
        }
    }

    #[test]
    fn a_node_uses_its_vhost_alone() {
        assert!(of(OWN).node(Kind::Vhost).is_some());
        for vhost in [None, Some("/".to_owned()), Some("auditflow-2".to_owned())] {
            for kind in [Kind::Vhost, Kind::Resource, Kind::Topic] {
                let question =
                    Question { vhost: vhost.clone(), ..topic("write", &format!("audit.{OWN}.batch")) };
                assert_eq!(question.node(kind), None);
            }
        }
    }

    #[test]
    fn a_node_has_the_queue_of_its_own_subscription_and_no_other() {
        let own = format!("mqtt-subscription-{OWN}-0badc0deqos1");
        for permission in ["configure", "write", "read"] {
            assert!(resource("queue", &own, permission).node(Kind::Resource).is_some());
            for other in [
                "audit_batches.0".to_owned(),
                "dead.batches".to_owned(),
                own.replace(OWN, OTHER),
                format!("{own}x"),
                format!("x{own}"),
                format!("mqtt-subscription-{OWN}qos1"),
                format!("mqtt-subscription-{OWN}-{OTHER}qos1"),
                format!("mqtt-subscription-{OWN}-0BADC0DEqos1"),
                "amq.topic".to_owned(),
            ] {
                assert_eq!(resource("queue", &other, permission).node(Kind::Resource), None, "{other}");
            }
        }
    }

    #[test]
    fn a_node_uses_the_exchange_of_topics_and_changes_none() {
        for (name, permission, is_allowed) in [
            ("amq.topic", "write", true),
            ("amq.topic", "read", true),
            ("amq.topic", "configure", false),
            ("amq.default", "write", false),
            ("alerts", "write", false),
            ("audit_batches", "write", false),
        ] {
            let question = resource("exchange", name, permission);
            assert_eq!(question.node(Kind::Resource).is_some(), is_allowed, "{permission} {name}");
        }
        assert_eq!(resource("topic", "amq.topic", "write").node(Kind::Resource), None);
    }

    #[test]
    fn a_node_publishes_its_own_batches_and_hears_its_own_acknowledgements() {
        for (permission, key, is_allowed) in [
            ("write", format!("audit.{OWN}.batch"), true),
            ("read", format!("audit.{OWN}.ack"), true),
            ("read", format!("audit.{OWN}.batch"), false),
            ("write", format!("audit.{OWN}.ack"), false),
            ("write", format!("audit.{OTHER}.batch"), false),
            ("read", format!("audit.{OTHER}.ack"), false),
            ("read", "audit.*.ack".to_owned(), false),
            ("read", "#".to_owned(), false),
            ("write", format!("audit.{OWN}.batch.x"), false),
        ] {
            let question = topic(permission, &key);
            assert_eq!(question.node(Kind::Topic).is_some(), is_allowed, "{permission} {key}");
        }
        let elsewhere =
            Question { name: Some("amq.fanout".to_owned()), ..topic("write", &format!("audit.{OWN}.batch")) };
        assert_eq!(elsewhere.node(Kind::Topic), None);
    }
}
