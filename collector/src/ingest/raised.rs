//! What became of a node's own event: lets `auditflow-agent test-alert` see its alert with no other credential than the
//! node's certificate.

use std::sync::Arc;

use auditflow_event::NodeId;
use serde::Serialize;

use crate::store::{AlertFilter, Result, Store};

/// Where a node asks, with `?event_id=`.
pub(super) const ALERTS_PATH: &str = "/agent/v1/alerts";
/// How many of the node's newest alerts are looked through.
const NEWEST: usize = 100;

/// The alert that an event raised.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Raised {
    /// Its id.
    pub alert_id: String,
    /// The rule's name.
    pub rule_name: String,
}

/// The newest alert of this node that rests on this event.
pub(super) async fn by(store: &Arc<dyn Store>, node: NodeId, event: &str) -> Result<Option<Raised>> {
    let filter = AlertFilter { node: Some(node), ..AlertFilter::default() };
    let rows = store.alerts(filter, None, 0, NEWEST).await?;
    let rests =
        |row: &&crate::store::AlertRow| row.alert.evidence.iter().any(|at| at.event_id.to_string() == event);
    Ok(rows.iter().find(rests).map(|row| Raised {
        alert_id: row.alert.alert_id.to_string(),
        rule_name: row.alert.rule.name.clone(),
    }))
}
