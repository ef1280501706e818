//! The collector's own measurements. Names begin with `auditflow_`; the reference in the docs is printed from them.

use auditflow_service::metrics::{Metrics, MetricsError};
use prometheus::{IntCounter, IntCounterVec, IntGauge};

/// What ingest counts.
#[derive(Clone)]
pub struct IngestMetrics {
    /// Frames whose node is known.
    pub frames: IntCounter,
    /// Bytes of those frames.
    pub bytes: IntCounter,
    /// Batches and folds by verdict.
    pub batches: IntCounterVec,
    /// Events in batches that were stored.
    pub events: IntCounter,
    /// Parts that were refused, by reason.
    pub refused: IntCounterVec,
    /// Requests that were turned away because too many were being served, by what was exhausted.
    pub turned_away: IntCounterVec,
    /// Messages that a broker was told to set aside, by why.
    pub dead_lettered: IntCounterVec,
    /// Open connections of agents.
    pub connections: IntGauge,
}

impl IngestMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            frames: metrics.counter("auditflow_ingest_frames_total", "Frames received from known nodes.")?,
            bytes: metrics
                .counter("auditflow_ingest_bytes_total", "Bytes of frames received from known nodes.")?,
            batches: metrics.counter_vec(
                "auditflow_ingest_batches_total",
                "Batches and folded ranges received, by what the ledger made of them.",
                &["verdict"],
            )?,
            events: metrics
                .counter("auditflow_ingest_events_total", "Events in batches that were stored.")?,
            refused: metrics.counter_vec(
                "auditflow_ingest_refused_total",
                "Parts of frames, and new keys of nodes, that were refused, by reason.",
                &["reason"],
            )?,
            turned_away: metrics.counter_vec(
                "auditflow_ingest_turned_away_total",
                "Requests that were asked to come again later, by what was exhausted.",
                &["limit"],
            )?,
            dead_lettered: metrics.counter_vec(
                "auditflow_ingest_dead_lettered_total",
                "Messages from RabbitMQ that can never be taken and were set aside as dead letters, by reason.",
                &["reason"],
            )?,
            connections: metrics.gauge("auditflow_ingest_connections", "Open connections of agents.")?,
        })
    }
}

/// What retention counts.
#[derive(Clone)]
pub struct StorageMetrics {
    /// Batches without their payload, by why.
    pub pruned: IntCounterVec,
    /// Numbers that a checkpoint stands for.
    pub checkpointed: IntCounter,
    /// Epochs for which none could be signed.
    pub unsound: IntGauge,
}

impl StorageMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> Result<Self, MetricsError> {
        Ok(Self {
            pruned: metrics.counter_vec(
                "auditflow_store_pruned_batches_total",
                "Batches whose payload retention dropped, by reason.",
                &["reason"],
            )?,
            checkpointed: metrics.counter(
                "auditflow_store_checkpointed_batches_total",
                "Batches whose row in the ledger a countersigned checkpoint replaced.",
            )?,
            unsound: metrics.gauge(
                "auditflow_store_unsound_epochs",
                "Epochs whose old rows can't be replaced because something in them is bad or missing.",
            )?,
        })
    }
}
