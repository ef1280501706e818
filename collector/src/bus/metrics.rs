//! What the relays of alerts count.

use auditflow_service::metrics::{Metrics, MetricsError};
use prometheus::{IntCounterVec, IntGaugeVec};

/// Counters by who hears of alerts.
#[derive(Clone)]
pub struct RelayMetrics {
    /// Alerts that a destination's broker has taken.
    pub announced: IntCounterVec,
    /// Alerts that it has not.
    pub waiting: IntGaugeVec,
}

impl RelayMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            announced: metrics.counter_vec(
                "auditflow_alerts_announced_total",
                "Alerts that RabbitMQ has taken for a destination; after a fault one may be counted twice.",
                &["destination"],
            )?,
            waiting: metrics.gauge_vec(
                "auditflow_alerts_waiting",
                "Alerts that RabbitMQ has still to take for a destination.",
                &["destination"],
            )?,
        })
    }
}
