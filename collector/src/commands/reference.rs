//! `reference`: what the code itself knows, as it stands in the docs.

use std::io::Write as _;

use anyhow::Context as _;
use auditflow_service::args::Exit;
use auditflow_service::metrics::Metrics;

use crate::analyse::AnalysisMetrics;
use crate::bus::metrics::RelayMetrics;
use crate::correlate::windows::WindowMetrics;
use crate::metrics::{IngestMetrics, StorageMetrics};
use crate::web::api::openapi;

/// Prints every metric as a Markdown table.
pub fn metrics() -> anyhow::Result<Exit> {
    super::unless_closed(std::io::stdout().write_all(metrics_table()?.as_bytes()))
}

/// Prints the API's description as JSON.
pub fn openapi() -> anyhow::Result<Exit> {
    let text = openapi::document().to_pretty_json().context("cannot write the description")?;
    super::unless_closed(writeln!(std::io::stdout(), "{text}"))
}

fn metrics_table() -> anyhow::Result<String> {
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"))?;
    IngestMetrics::register(&metrics)?;
    StorageMetrics::register(&metrics)?;
    AnalysisMetrics::register(&metrics)?;
    RelayMetrics::register(&metrics)?;
    WindowMetrics::register(&metrics)?;
    Ok(format!("# Metrics of the collector\n\n{}", metrics.markdown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_a_row_of_the_table() {
        let table = metrics_table().unwrap();
        for name in
            ["auditflow_ingest_frames_total", "auditflow_rule_matches_total", "process_resident_memory_bytes"]
        {
            assert!(table.lines().any(|line| line.starts_with(&format!("| `{name}` |"))), "{name}:\n{table}");
        }
    }
}
