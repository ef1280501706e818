//! Prometheus metrics: made once by each part with a name and a help text, read by `/metrics` and by the docs.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// The content type of the text exposition. The `prometheus` crate's own lacks the charset.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What every name begins with, except Prometheus' own `process_` metrics.
const PREFIX: &str = "auditflow_";

/// A metric's documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it counts, in which unit.
    pub help: String,
    /// The names of its labels.
    pub labels: Vec<String>,
}

/// Why a metric could not be made: a mistake in the program, found at its start.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The name breaks the convention.
    #[error("metric {name}: {rule}")]
    Name {
        /// The name.
        name: String,
        /// What it should be.
        rule: &'static str,
    },
    /// The registry refused it.
    #[error("metric {name} cannot be registered")]
    Registry {
        /// The name.
        name: String,
        /// Why.
        source: prometheus::Error,
    },
}

type Refresh = Box<dyn Fn() + Send>;

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    described: Arc<Mutex<Vec<Description>>>,
    before_scrape: Arc<Mutex<Vec<Refresh>>>,
}

impl Metrics {
    /// A registry with the program's version and resident memory in it.
    pub fn new(version: &str) -> Result<Self, MetricsError> {
        let metrics =
            Self { registry: Registry::new(), described: Arc::default(), before_scrape: Arc::default() };
        let build = metrics.gauge_vec(
            "auditflow_build_info",
            "Always 1; the label is the program's version.",
            &["version"],
        )?;
        build.with_label_values(&[version]).set(1);
        let memory =
            metrics.gauge("process_resident_memory_bytes", "Resident memory of the process in bytes.")?;
        metrics.before_scrape(move || memory.set(resident_bytes()));
        Ok(metrics)
    }

    /// A number that only grows; its name ends in `_total`.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.add(name, help, "counter", &[], |opts, _| IntCounter::with_opts(opts))
    }

    /// A number that only grows, for each combination of labels; its name ends in `_total`.
    pub fn counter_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, MetricsError> {
        self.add(name, help, "counter", labels, IntCounterVec::new)
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        self.add(name, help, "gauge", &[], |opts, _| IntGauge::with_opts(opts))
    }

    /// A number that goes up and down, for each combination of labels.
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.add(name, help, "gauge", labels, IntGaugeVec::new)
    }

    /// A fraction that goes up and down (seconds, ratios), for each combination of labels.
    pub fn float_gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, MetricsError> {
        self.add(name, help, "gauge", labels, GaugeVec::new)
    }

    /// A distribution with these bucket bounds, for each combination of labels (none for a single one).
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        labels: &[&str],
    ) -> Result<HistogramVec, MetricsError> {
        self.add(name, help, "histogram", labels, |opts, labels| {
            HistogramVec::new(HistogramOpts { common_opts: opts, buckets: buckets.to_vec() }, labels)
        })
    }

    /// Runs `refresh` before each scrape, for gauges that are read rather than kept. It must not block.
    pub fn before_scrape(&self, refresh: impl Fn() + Send + 'static) {
        self.before_scrape.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(refresh));
    }

    /// Every metric's documentation, by name.
    pub fn describe(&self) -> Vec<Description> {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner).clone();
        described.sort_by(|a, b| a.name.cmp(&b.name));
        described
    }

    /// Every metric's documentation as a Markdown table, for the docs.
    pub fn markdown(&self) -> String {
        let mut table = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
        for Description { name, kind, labels, help } in self.describe() {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            table.extend(["| `", &name, "` | ", kind, " | ", &labels.join(", "), " | ", &help, " |\n"]);
        }
        table
    }

    /// The text exposition of all metrics, of type [`CONTENT_TYPE`].
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        for refresh in self.before_scrape.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            refresh();
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    fn add<M: Collector + Clone + 'static>(
        &self,
        name: &str,
        help: &str,
        kind: &'static str,
        labels: &[&str],
        make: impl FnOnce(Opts, &[&str]) -> prometheus::Result<M>,
    ) -> Result<M, MetricsError> {
        if let Some(rule) = broken_rule(name, help, kind) {
            return Err(MetricsError::Name { name: name.to_owned(), rule });
        }
        let failed = |source| MetricsError::Registry { name: name.to_owned(), source };
        let metric = make(Opts::new(name, help), labels).map_err(failed)?;
        self.registry.register(Box::new(metric.clone())).map_err(failed)?;
        self.described.lock().unwrap_or_else(PoisonError::into_inner).push(Description {
            name: name.to_owned(),
            kind,
            help: help.to_owned(),
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
        });
        Ok(metric)
    }
}

/// The naming convention (<https://prometheus.io/docs/practices/naming/>) that a metric breaks.
fn broken_rule(name: &str, help: &str, kind: &str) -> Option<&'static str> {
    if !name.starts_with(PREFIX) && !name.starts_with("process_") {
        return Some("the name must begin with auditflow_");
    }
    if (kind == "counter") != name.ends_with("_total") {
        return Some("the names of counters, and only theirs, end in _total");
    }
    if ["_ms", "_millis", "_mib", "_kb"].iter().any(|unit| name.trim_end_matches("_total").ends_with(unit)) {
        return Some("the unit must be a base unit: seconds or bytes");
    }
    help.is_empty().then_some("the help text is missing")
}

/// `VmRSS` of /proc/self/status (proc(5)), 0 where it can't be read.
fn resident_bytes() -> i64 {
    let status =
        crate::file::read_bounded(std::path::Path::new("/proc/self/status"), 64 * 1024).unwrap_or_default();
    let line = String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:").map(str::to_owned));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render().unwrap()).unwrap()
    }

    #[test]
    fn exposition_has_help_type_and_value_of_each_metric() {
        let metrics = Metrics::new("1.2.3").unwrap();
        let counter = metrics.counter_vec("auditflow_events_total", "Events.", &["source"]).unwrap();
        counter.with_label_values(&["journald"]).inc_by(3);
        let text = rendered(&metrics);
        for line in [
            "# HELP auditflow_events_total Events.",
            "# TYPE auditflow_events_total counter",
            "auditflow_events_total{source=\"journald\"} 3",
            "auditflow_build_info{version=\"1.2.3\"} 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in {text}");
        }
    }

    #[test]
    fn gauges_are_refreshed_before_each_scrape() {
        let metrics = Metrics::new("1").unwrap();
        let gauge = metrics.gauge("auditflow_queue_bytes", "Bytes.").unwrap();
        metrics.before_scrape(move || gauge.set(gauge.get() + 1));
        assert!(rendered(&metrics).contains("auditflow_queue_bytes 1\n"));
        let text = rendered(&metrics);
        assert!(text.contains("auditflow_queue_bytes 2\n"));
        assert!(!text.contains("process_resident_memory_bytes 0\n"), "{text}");
    }

    #[test]
    fn metric_without_values_is_described_all_the_same() {
        let metrics = Metrics::new("1").unwrap();
        metrics.histogram("auditflow_wait_seconds", "Waiting.", &[0.1, 1.0], &["queue"]).unwrap();
        let described = metrics.describe();
        let wait = described.iter().find(|d| d.name == "auditflow_wait_seconds").unwrap();
        assert_eq!(
            (wait.kind, wait.help.as_str(), wait.labels.as_slice()),
            ("histogram", "Waiting.", &["queue".to_owned()][..])
        );
        assert!(!rendered(&metrics).contains("auditflow_wait_seconds"));
    }

    #[test]
    fn names_against_the_convention_are_refused() {
        let metrics = Metrics::new("1").unwrap();
        metrics.counter("auditflow_x_total", "X.").unwrap();
        for (kind, name, help) in [
            ("counter", "auditflow_x_total", "twice"),
            ("counter", "events_total", "no prefix"),
            ("counter", "auditflow_events", "no _total"),
            ("gauge", "auditflow_events_total", "gauge with _total"),
            ("gauge", "auditflow_wait_ms", "not a base unit"),
            ("gauge", "auditflow_x", ""),
            ("gauge", "auditflow_ü", "not a name"),
        ] {
            let refused = match kind {
                "counter" => metrics.counter(name, help).err(),
                _ => metrics.gauge(name, help).err(),
            };
            assert!(refused.is_some(), "{name}");
        }
    }
}
