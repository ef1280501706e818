//! What analysis counts.

use std::time::Duration;

use auditflow_event::Timestamp;
use auditflow_service::metrics::{Metrics, MetricsError};
use prometheus::{HistogramVec, IntCounter, IntCounterVec};

/// From a thousandth of a second to a day.
const LATENCIES: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3_600.0, 86_400.0];
const SIZES: &[f64] = &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];

/// Counters and distributions.
#[derive(Clone)]
pub struct AnalysisMetrics {
    /// Events judged.
    pub events: IntCounter,
    /// Batches judged.
    pub batches: IntCounter,
    /// Batches that could not be judged.
    pub failed: IntCounter,
    /// Matches by rule.
    pub matches: IntCounterVec,
    /// Matches that a correlation could not use, by correlation and missing field.
    pub missing: IntCounterVec,
    /// Events too late to be correlated.
    pub too_late: IntCounter,
    /// Alerts opened, by rule.
    pub alerts: IntCounterVec,
    /// Alerts not raised because a rule had raised so many already, by rule.
    pub suppressed: IntCounterVec,
    /// Detections looked at per group recomputed; its count is the number of groups recomputed.
    pub groups: HistogramVec,
    /// From an event's time, and from its receipt, to its alert.
    pub latency: HistogramVec,
}

impl AnalysisMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// If a name is taken.
    pub fn register(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            events: metrics.counter("auditflow_analysed_events_total", "Events judged by the rules.")?,
            batches: metrics.counter("auditflow_analysed_batches_total", "Batches judged by the rules.")?,
            failed: metrics.counter(
                "auditflow_analysis_failures_total",
                "Attempts to judge a batch or a group that failed; they are made again.",
            )?,
            matches: metrics.counter_vec(
                "auditflow_rule_matches_total",
                "Events that a rule matched.",
                &["rule"],
            )?,
            missing: metrics.counter_vec(
                "auditflow_uncorrelated_matches_total",
                "Matches that a correlation could not use because the event lacks a field.",
                &["correlation", "field"],
            )?,
            too_late: metrics.counter(
                "auditflow_too_late_events_total",
                "Events that arrived after detections of their time had expired: judged, not correlated.",
            )?,
            alerts: metrics.counter_vec("auditflow_alerts_opened_total", "Alerts opened.", &["rule"])?,
            suppressed: metrics.counter_vec(
                "auditflow_alerts_suppressed_total",
                "Alerts not raised because their rule had raised too many for one node and hour.",
                &["rule"],
            )?,
            groups: metrics.histogram(
                "auditflow_group_detections",
                "Detections looked at when a correlated group is computed anew.",
                SIZES,
                &[],
            )?,
            latency: metrics.histogram(
                "auditflow_alert_latency_seconds",
                "Time until an alert is stored, since its event happened or was received.",
                LATENCIES,
                &["since"],
            )?,
        })
    }

    /// An alert was opened at `now`.
    pub(super) fn opened(&self, rule: &str, event: Timestamp, received: Option<Timestamp>, now: Timestamp) {
        self.alerts.with_label_values(&[rule]).inc();
        let since = |then: Timestamp| {
            let micros = now.as_micros().saturating_sub(then.as_micros()).max(0);
            Duration::from_micros(micros.unsigned_abs()).as_secs_f64()
        };
        self.latency.with_label_values(&["event"]).observe(since(event));
        if let Some(received) = received {
            self.latency.with_label_values(&["receipt"]).observe(since(received));
        }
    }
}
