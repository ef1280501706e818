//! The topics: `audit/<node>/batch` towards the collector, `audit/<node>/ack` back.

use auditflow_event::NodeId;

/// What the collector subscribes to: the batches of every node.
pub const ALL_BATCHES: &str = "audit/+/batch";

/// Where this node publishes.
pub fn batch(node: NodeId) -> String {
    format!("audit/{node}/batch")
}

/// Where this node is answered.
pub fn ack(node: NodeId) -> String {
    format!("audit/{node}/ack")
}

/// The node that a batch topic belongs to; `None` if it is no such topic.
pub fn node_of_batch(topic: &str) -> Option<NodeId> {
    topic.strip_prefix("audit/")?.strip_suffix("/batch")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_topic_names_its_node_and_nothing_else_does() {
        let node = NodeId::from_bytes([0xab; 16]);
        assert_eq!(node_of_batch(&batch(node)), Some(node));
        for topic in [ack(node), String::new(), "audit/+/batch".into(), format!("x/{node}/batch")] {
            assert_eq!(node_of_batch(&topic), None, "{topic}");
        }
        assert_eq!(node_of_batch(&format!("audit/{node}/{node}/batch")), None);
    }
}
