//! The agent's configuration: what `agent.toml` may say, with its defaults and the checks that types can't make.
//!
//! Read once at start (and by `check`), consumed by `agent::build`, read by nobody later. The commented reference is
//! `config/reference.toml`; a test holds it to these types.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use auditflow_mqtt::Address;
use auditflow_service::admin;
use auditflow_service::config::{Age, ByteSize, Configuration, Problems};
use auditflow_service::telemetry::LogConfig;
use auditflow_wire::node_facts::{MAX_LABEL_NAME_LEN, MAX_LABEL_VALUE_LEN, MAX_LABELS, MAX_LABELS_LEN};
use serde::{Deserialize, Serialize};

use crate::kernel_rules::load;
use crate::source::kernel_audit::Mode;

/// The commented reference, as `config default` prints it.
pub const REFERENCE: &str = include_str!("config/reference.toml");
/// What environment variables that override single keys begin with.
pub const ENVIRONMENT_PREFIX: &str = "AUDITFLOW_";

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `[node]`
    pub node: NodeConfig,
    /// `[collector]`
    pub collector: CollectorConfig,
    /// `[sources.*]`
    pub sources: SourcesConfig,
    /// `[spool]`
    pub spool: SpoolConfig,
    /// `[rules]`
    pub rules: RulesConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[lifecycle]`
    pub lifecycle: LifecycleConfig,
}

/// `[node]`: this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeConfig {
    /// The directory of spool, key and node id.
    pub data_dir: PathBuf,
    /// What the collector is told about the node besides its name.
    pub labels: BTreeMap<String, String>,
}

/// `[collector]`: where events go.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CollectorConfig {
    /// Its address; without one, and without `join`, the agent keeps everything in its spool.
    pub url: Option<String>,
    /// The certificate authority to trust instead of the one that `join` pinned.
    pub ca_file: Option<PathBuf>,
    /// How batches travel.
    pub transport: Transport,
    /// Whether unencrypted http is allowed to an address that isn't this machine.
    pub allow_plain_http: bool,
    /// What may be sent within a day, urgent batches excepted; nothing is no limit.
    pub bytes_per_day: Option<ByteSize>,
    /// How much of the day's budget may be sent at once.
    pub burst: ByteSize,
    /// `[collector.mqtt]`
    pub mqtt: MqttConfig,
}

/// `[collector.mqtt]`: the broker, if batches travel over one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MqttConfig {
    /// Its address.
    pub url: Option<String>,
    /// The certificate authority of the broker, if it is not the one that `join` pinned.
    pub ca_file: Option<PathBuf>,
    /// The most bytes of one message that the broker takes.
    pub max_message: ByteSize,
}

/// How batches travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// HTTPS with client certificates.
    #[default]
    Https,
    /// MQTT over a broker, with client certificates.
    Mqtt,
}

/// `[sources.*]`: what is read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct SourcesConfig {
    /// The kernel's audit socket.
    pub kernel_audit: KernelAuditConfig,
    /// audit.log, or standard input.
    pub audit_log: AuditLogConfig,
    /// The Kubernetes API server's audit log.
    pub kubernetes_audit: KubernetesAuditConfig,
    /// The generator.
    pub synthetic: SyntheticConfig,
}

/// `[sources.kernel_audit]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KernelAuditConfig {
    /// Whether it is read.
    pub enabled: bool,
    /// How it is read.
    pub mode: Mode,
    /// Rule files in auditctl syntax that `load-rules` loads.
    pub rules: Vec<PathBuf>,
    /// What `load-rules` wrote down (its `--state`); drift from it is noticed.
    pub rules_state: PathBuf,
}

/// `[sources.audit_log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AuditLogConfig {
    /// Whether it is read.
    pub enabled: bool,
    /// The log, or `-` for standard input (as a plugin of auditd).
    pub path: PathBuf,
}

/// `[sources.kubernetes_audit]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct KubernetesAuditConfig {
    /// Whether it is read.
    pub enabled: bool,
    /// The log.
    pub path: PathBuf,
    /// Whether an API server runs here.
    pub role: KubernetesRole,
}

/// Whether a Kubernetes API server runs on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KubernetesRole {
    /// Looks whether K3s has a server's directory here.
    #[default]
    Auto,
    /// It does.
    Server,
    /// It doesn't.
    Agent,
}

/// `[sources.synthetic]`
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct SyntheticConfig {
    /// Whether the generator is there.
    pub enabled: bool,
    /// Events per second at start.
    pub rate: u32,
    /// Makes the same events at every start; without it they differ.
    pub seed: Option<u64>,
}

/// `[spool]`: what is kept until the collector has it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SpoolConfig {
    /// The most it may take on the disk.
    pub max_bytes: ByteSize,
    /// The longest that an event that isn't urgent waits for being written, milliseconds.
    pub commit_interval_ms: u64,
    /// The longest that a written event waits for being sealed into a batch, milliseconds.
    pub seal_interval_ms: u64,
}

/// `[rules]`: the pre-filter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RulesConfig {
    /// Whether the rules that ship inside the program are in force.
    pub shipped: bool,
    /// Directories with rule files, in the order in which they are read, after the shipped ones.
    pub dirs: Vec<PathBuf>,
}

/// `[admin]`: the agent's own interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// The Unix socket.
    pub socket: PathBuf,
    /// A loopback address on which the interface listens as well.
    pub listen: Option<SocketAddr>,
}

/// `[lifecycle]`: stopping.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LifecycleConfig {
    /// The longest that a clean stop may take.
    pub grace: Age,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { socket: "/run/auditflow-agent/admin.sock".into(), listen: None }
    }
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self {
            url: None,
            ca_file: None,
            transport: Transport::Https,
            allow_plain_http: false,
            bytes_per_day: None,
            burst: ByteSize::mib(16),
            mqtt: MqttConfig::default(),
        }
    }
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self { url: None, ca_file: None, max_message: ByteSize::mib(8) }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self { data_dir: "/var/lib/auditflow-agent".into(), labels: BTreeMap::new() }
    }
}

impl Default for KernelAuditConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            mode: Mode::Auto,
            rules: vec!["/etc/auditflow/audit.rules".into()],
            rules_state: load::STATE.into(),
        }
    }
}

impl Default for AuditLogConfig {
    fn default() -> Self {
        Self { enabled: false, path: "/var/log/audit/audit.log".into() }
    }
}

impl Default for KubernetesAuditConfig {
    fn default() -> Self {
        let path = "/var/lib/rancher/k3s/server/logs/audit.log".into();
        Self { enabled: true, path, role: KubernetesRole::Auto }
    }
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self { max_bytes: ByteSize::mib(512), commit_interval_ms: 1000, seal_interval_ms: 5000 }
    }
}

impl Default for RulesConfig {
    fn default() -> Self {
        Self { shipped: true, dirs: vec!["/etc/auditflow/rules/edge".into()] }
    }
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self { grace: Age::seconds(10) }
    }
}

impl AdminConfig {
    /// As the service crate takes it.
    pub fn to_service(&self) -> admin::AdminConfig {
        admin::AdminConfig { socket: Some(self.socket.clone()), listen: self.listen }
    }
}

impl SpoolConfig {
    /// The commit interval.
    pub fn commit_interval(&self) -> Duration {
        Duration::from_millis(self.commit_interval_ms)
    }

    /// The seal interval.
    pub fn seal_interval(&self) -> Duration {
        Duration::from_millis(self.seal_interval_ms)
    }
}

/// The highest rate of the generator, events per second.
pub const MAX_RATE: u32 = 100_000;
/// The spool, within the data directory.
const SPOOL: &str = "spool";

impl Configuration for Config {
    fn validate(&self, problems: &mut Problems) {
        self.node.validate(problems);
        self.collector.validate(problems);
        self.sources.validate(problems);
        problems.require(
            self.spool.max_bytes >= ByteSize::mib(8),
            "spool.max_bytes",
            "is too small to work with; give at least 8MiB",
        );
        for (key, value, most) in [
            ("spool.commit_interval_ms", self.spool.commit_interval_ms, 60_000),
            ("spool.seal_interval_ms", self.spool.seal_interval_ms, 600_000),
        ] {
            problems.require((10..=most).contains(&value), key, format!("must be between 10 and {most}"));
        }
        for (index, dir) in self.rules.dirs.iter().enumerate() {
            require_absolute(problems, &format!("rules.dirs.{index}"), dir);
        }
        self.admin.to_service().validate(problems);
        let grace = self.lifecycle.grace.duration();
        problems.require(
            (Duration::from_millis(100)..=Duration::from_mins(10)).contains(&grace),
            "lifecycle.grace",
            "must be between 100ms and 10m",
        );
    }
}

impl NodeConfig {
    /// The spool's directory.
    pub fn spool_dir(&self) -> PathBuf {
        self.data_dir.join(SPOOL)
    }

    fn validate(&self, problems: &mut Problems) {
        require_absolute(problems, "node.data_dir", &self.data_dir);
        problems.require(
            self.labels.len() <= MAX_LABELS,
            "node.labels",
            format!("are more than {MAX_LABELS}"),
        );
        for (name, value) in &self.labels {
            let is_name =
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
            let key = format!("node.labels.{name}");
            problems.require(is_name, &key, "is no label; use letters, digits and . _ - /");
            let fits = name.len() <= MAX_LABEL_NAME_LEN && value.len() <= MAX_LABEL_VALUE_LEN;
            let bounds = format!(
                "is too long: a name may have {MAX_LABEL_NAME_LEN} bytes, a value {MAX_LABEL_VALUE_LEN}"
            );
            problems.require(fits, &key, bounds);
            let plain = !value.chars().any(char::is_control);
            problems.require(plain, &key, "holds a control character, as a line end is");
        }
        let together: usize = self.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        problems.require(
            together <= MAX_LABELS_LEN,
            "node.labels",
            format!("have more than {MAX_LABELS_LEN} bytes together: every batch carries them"),
        );
    }
}

impl CollectorConfig {
    fn validate(&self, problems: &mut Problems) {
        if let Some(url) = &self.url {
            match url.parse::<http::Uri>() {
                Ok(uri) if uri.host().is_some() && matches!(uri.scheme_str(), Some("https" | "http")) => {
                    let allowed =
                        uri.scheme_str() == Some("https") || self.allow_plain_http || is_loopback(&uri);
                    problems.require(
                        allowed,
                        "collector.url",
                        "sends events unencrypted to another machine; use https, or set collector.allow_plain_http = true",
                    );
                }
                _ => problems.report(
                    "collector.url",
                    "is no address; write for example \"https://collector.example:7443\"",
                ),
            }
        }
        if let Some(file) = &self.ca_file {
            require_absolute(problems, "collector.ca_file", file);
        }
        problems.require(
            self.burst >= ByteSize::mib(1),
            "collector.burst",
            "must be at least 1MiB, the largest batch",
        );
        problems.require(
            self.transport != Transport::Mqtt || self.mqtt.url.is_some(),
            "collector.transport",
            "is \"mqtt\": name the broker in [collector.mqtt] url",
        );
        self.mqtt.validate(problems);
    }
}

impl MqttConfig {
    fn validate(&self, problems: &mut Problems) {
        if let Some(Err(error)) = self.url.as_deref().map(Address::parse) {
            problems.report("collector.mqtt.url", error);
        }
        if let Some(file) = &self.ca_file {
            require_absolute(problems, "collector.mqtt.ca_file", file);
        }
        problems.require(
            (ByteSize::kib(64)..=ByteSize::mib(8)).contains(&self.max_message),
            "collector.mqtt.max_message",
            "must be between 64KiB and 8MiB, the largest frame",
        );
    }
}

impl SourcesConfig {
    fn validate(&self, problems: &mut Problems) {
        for (index, file) in self.kernel_audit.rules.iter().enumerate() {
            require_absolute(problems, &format!("sources.kernel_audit.rules.{index}"), file);
        }
        require_absolute(problems, "sources.kernel_audit.rules_state", &self.kernel_audit.rules_state);
        if self.audit_log.path != Path::new("-") {
            require_absolute(problems, "sources.audit_log.path", &self.audit_log.path);
        }
        require_absolute(problems, "sources.kubernetes_audit.path", &self.kubernetes_audit.path);
        problems.require(
            self.synthetic.rate <= MAX_RATE,
            "sources.synthetic.rate",
            format!("is above {MAX_RATE} events per second"),
        );
    }
}

/// Whether the address is this machine's own, by what it says: names are not looked up.
pub fn is_loopback(uri: &http::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn require_absolute(problems: &mut Problems, key: &str, path: &Path) {
    problems.require(
        path.is_absolute(),
        key,
        format!("{:?} is not an absolute path", path.display().to_string()),
    );
}

#[cfg(test)]
mod tests;
