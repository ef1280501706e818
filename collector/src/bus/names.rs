//! What things are called at the broker, as `rabbitmq/definitions.json` has them.

use auditflow_event::NodeId;

/// Where batches come from, by way of the MQTT plugin, and answers go to.
pub const TOPICS: &str = "amq.topic";
/// Where every alert is published, in our vhost and in the ancestor's.
pub const ALERTS: &str = "alerts";
/// Where the ancestor's programs publish their events, in their vhost.
pub const ANCESTOR_EVENTS: &str = "audit_events";
/// The exchange before that queue, for our own users.
pub const EVENTS: &str = "events";
/// Batches that nobody could take.
pub const DEAD_BATCHES: &str = "dead.batches";

/// The queue of one shard of the nodes.
pub fn batches(shard: u16) -> String {
    format!("audit_batches.{shard}")
}

/// What a node's batches are routed by: its topic `audit/<node>/batch`, as the plugin translates it.
pub fn batch_key(node: NodeId) -> String {
    format!("audit.{node}.batch")
}

/// What a node's answers are routed by.
pub fn ack_key(node: NodeId) -> String {
    format!("audit.{node}.ack")
}

/// The node that batches with this routing key are of.
pub fn node_of_key(key: &str) -> Option<NodeId> {
    key.strip_prefix("audit.")?.strip_suffix(".batch")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_s_key_names_its_node_and_nothing_else_does() {
        let node = NodeId::from_bytes([0xab; 16]);
        assert_eq!(node_of_key(&batch_key(node)), Some(node));
        for key in [ack_key(node), String::new(), "audit.#.batch".into(), format!("audit.{node}.x.batch")] {
            assert_eq!(node_of_key(&key), None, "{key}");
        }
    }
}
