//! What the agent counts, by its names in `/metrics`.

use auditflow_rules::DropReason;
use auditflow_service::metrics::{Metrics, MetricsError};
use auditflow_wire::Loss;
use prometheus::{IntCounterVec, IntGauge};

use crate::pipeline::Status;
use crate::source::{Board, CoverageState, Outlet, SourceName};

/// The pipeline's counters.
#[derive(Clone)]
pub struct Meters {
    received: IntCounterVec,
    lost: IntCounterVec,
    dropped: IntCounterVec,
    spool: IntCounterVec,
    spool_bytes: IntGauge,
}

impl Meters {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            received: metrics.counter_vec(
                "auditflow_agent_events_received_total",
                "Events that sources handed to the pipeline.",
                &["source"],
            )?,
            lost: metrics.counter_vec(
                "auditflow_agent_events_lost_total",
                "Events or records that sources declared lost, by reason; an unknown number counts as one.",
                &["source", "reason"],
            )?,
            dropped: metrics.counter_vec(
                "auditflow_agent_events_dropped_total",
                "Events that a pre-filter rule dropped, by reason.",
                &["reason"],
            )?,
            spool: metrics.counter_vec(
                "auditflow_agent_spool_total",
                "What the spool did since the agent started: events and commits written, batches sealed, released and evicted.",
                &["what"],
            )?,
            spool_bytes: metrics.gauge("auditflow_agent_spool_bytes", "Bytes that the spool takes on the disk.")?,
        })
    }

    pub(crate) fn received(&self, source: SourceName, events: usize, losses: &[Loss]) {
        self.received.with_label_values(&[source.0]).inc_by(events as u64);
        for loss in losses {
            self.lost.with_label_values(&[source.0, loss.reason.as_str()]).inc_by(loss.count.unwrap_or(1));
        }
    }

    pub(crate) fn dropped(&self, reason: DropReason) {
        self.dropped.with_label_values(&[reason.as_str()]).inc();
    }

    pub(crate) fn spool(&self, status: &Status) {
        let counters = status.spool;
        for (what, value) in [
            ("events", counters.events),
            ("commits", counters.commits),
            ("batches", counters.batches),
            ("released", counters.released),
            ("evicted_batches", counters.evicted_batches),
            ("evicted_events", counters.evicted_events),
            ("set_aside", counters.set_aside),
            ("refusals", counters.refusals),
        ] {
            let counter = self.spool.with_label_values(&[what]);
            counter.inc_by(value.saturating_sub(counter.get()));
        }
        self.spool_bytes.set(status.spool_bytes.cast_signed());
    }
}

/// Shows how full the border between sources and pipeline has been.
pub fn watch_outlet(metrics: &Metrics, outlet: &Outlet) -> Result<(), MetricsError> {
    let peak = metrics.gauge(
        "auditflow_agent_inbox_peak_bytes",
        "The most bytes that ever waited between the sources and the pipeline.",
    )?;
    let outlet = outlet.clone();
    metrics.before_scrape(move || peak.set(outlet.peak_bytes() as i64));
    Ok(())
}

/// Shows which sources are as they should be; drift of the kernel's rules is `kernel_rules`.
pub fn watch_sources(metrics: &Metrics, board: &Board) -> Result<(), MetricsError> {
    let impaired = metrics.gauge_vec(
        "auditflow_agent_source_impaired",
        "1 where a source is degraded or unavailable, or the kernel's audit rules differ from those that were loaded (kernel_rules), else 0.",
        &["source"],
    )?;
    let board = board.clone();
    metrics.before_scrape(move || {
        for (source, coverage) in board.snapshot() {
            let is_impaired = matches!(coverage.state, CoverageState::Degraded | CoverageState::Unavailable);
            impaired.with_label_values(&[source.0]).set(is_impaired.into());
        }
    });
    Ok(())
}
