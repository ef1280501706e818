//! The collector's configuration: what `collector.toml` may say, its defaults, the checks that types can't make.
//!
//! Read once at start (and by `check`), consumed by `collector::build`, read by nobody later. The commented reference
//! is `config/reference.toml`; a test holds it to these types.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use auditflow_event::NodeId;
use auditflow_mqtt::Address;
use auditflow_service::admin;
use auditflow_service::config::{Age, ByteSize, Configuration, Problems};
use auditflow_service::telemetry::LogConfig;
use serde::Deserialize;

use crate::bus;
use crate::correlate::windows;
use crate::store::postgres;

/// The commented reference, as `config default` prints it.
pub const REFERENCE: &str = include_str!("config/reference.toml");
/// What environment variables that override single keys begin with.
pub const ENVIRONMENT_PREFIX: &str = "AUDITFLOW_";

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// `[process]`
    pub process: ProcessConfig,
    /// `[listen]`
    pub listen: ListenConfig,
    /// `[tls]`
    pub tls: TlsConfig,
    /// `[ingest]`
    pub ingest: IngestConfig,
    /// `[bus]`
    pub bus: BusConfig,
    /// `[windows]`: Redis.
    pub windows: ServerConfig,
    /// `[ancestor]`
    pub ancestor: AncestorConfig,
    /// `[storage]`
    pub storage: StorageConfig,
    /// `[rules]`
    pub rules: RulesConfig,
    /// `[auth]`
    pub auth: AuthConfig,
    /// `[admin]`
    pub admin: AdminConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[lifecycle]`
    pub lifecycle: LifecycleConfig,
}

/// `[process]`: what this process does.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ProcessConfig {
    /// Its parts of the collector; everything, unless several processes share one store.
    pub roles: BTreeSet<ProcessRole>,
}

/// A part of the collector that can run as a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessRole {
    /// Takes what agents send over HTTPS, and over an MQTT broker that is subscribed to.
    Ingest,
    /// Takes what waits in RabbitMQ's queues, finds what matters, and prunes the store.
    Analyze,
    /// Page and API.
    Web,
}

/// `[bus]`: RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct BusConfig {
    /// Its address, with the user and the virtual host; without one there is no bus.
    pub url: Option<String>,
    /// The user's password, read again at each connection.
    pub password_file: Option<PathBuf>,
    /// The certificate authority of the broker, if it is not the site's own.
    pub ca_file: Option<PathBuf>,
    /// How many queues of batches there are.
    pub shards: u16,
    /// Where its management plugin is; without it a revoked node may keep its connection.
    pub management: Option<String>,
}

/// `[ancestor]`: services of the ancestor that run beside ours.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct AncestorConfig {
    /// `[ancestor.events]`: where they publish events.
    pub events: ServerConfig,
    /// `[ancestor.alerts]`: where they take alerts from.
    pub alerts: ServerConfig,
}

/// A server that is worked with, and a user of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct ServerConfig {
    /// Its address, with the user and the virtual host; without one there is none.
    pub url: Option<String>,
    /// The user's password, read again at each connection.
    pub password_file: Option<PathBuf>,
    /// The certificate authority of the server, if it is not the site's own.
    pub ca_file: Option<PathBuf>,
}

/// `[listen]`: where others find the collector.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ListenConfig {
    /// Where agents deliver, over TLS. Port 0 is any free one.
    pub agents: SocketAddr,
    /// Where page and API are served, without TLS: a loopback address, or one behind a proxy that adds it.
    pub web: SocketAddr,
    /// Whether `web` may be an address that other machines reach.
    pub allow_plain_web: bool,
}

/// `[tls]`: what the server's certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct TlsConfig {
    /// Host names and addresses that agents reach the collector by, besides its own name, localhost and the address
    /// it listens on.
    pub names: Vec<String>,
}

/// `[ingest]`: where batches come from besides the agents' port.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct IngestConfig {
    /// `[ingest.mqtt]`
    pub mqtt: IngestMqttConfig,
}

/// `[ingest.mqtt]`: a broker that agents publish to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IngestMqttConfig {
    /// Its address; without one there is no broker.
    pub url: Option<String>,
    /// The certificate authority of the broker, if it is not the site's own.
    pub ca_file: Option<PathBuf>,
    /// What the collector is called there: its session's name, and the name in the certificate that it shows.
    pub client_id: String,
}

/// `[storage]`: what is kept, where and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct StorageConfig {
    /// The directory of store and site keys.
    pub data_dir: PathBuf,
    /// The most that payloads and ledger take on disk; the oldest payloads go first, and the headers of those.
    pub max_bytes: ByteSize,
    /// How long payloads are kept; headers, as long again.
    pub max_age: Age,
    /// `[storage.postgres]`
    pub postgres: PostgresConfig,
}

/// `[storage.postgres]`: a database server that holds the store, instead of files in the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PostgresConfig {
    /// Where it is, and as whom.
    pub url: Option<String>,
    /// The same, in a file, which is read again when it changes.
    pub url_file: Option<PathBuf>,
    /// The most connections that this process opens to work with.
    pub connections: u32,
    /// Whether `run` brings the database to this release's schema.
    pub migrate: bool,
}

/// `[rules]`: where detection rules are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RulesConfig {
    /// Directories of Sigma rules besides those that ship inside the program; a later one's rules override an earlier
    /// one's, and the shipped ones, of the same id.
    pub dirs: Vec<PathBuf>,
}

/// `[auth]`: people at the page.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    /// How long somebody stays logged in.
    pub session: Age,
    /// What somebody without a credential may do.
    pub anonymous: Anonymous,
}

/// What somebody without a credential may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Nothing but health, metrics and logging in.
    #[default]
    None,
    /// Look at everything.
    Viewer,
}

/// `[admin]`: the collector's own interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct AdminConfig {
    /// The Unix socket.
    pub socket: Option<PathBuf>,
    /// A loopback address besides.
    pub listen: Option<SocketAddr>,
}

/// `[lifecycle]`: starting and stopping.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LifecycleConfig {
    /// How long a stop may take before what is left is dropped.
    pub grace: Age,
}

impl Default for ProcessConfig {
    fn default() -> Self {
        Self { roles: [ProcessRole::Ingest, ProcessRole::Analyze, ProcessRole::Web].into() }
    }
}

impl Default for BusConfig {
    fn default() -> Self {
        Self { url: None, password_file: None, ca_file: None, shards: 1, management: None }
    }
}

impl Default for ListenConfig {
    fn default() -> Self {
        Self {
            agents: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7443),
            web: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7480),
            allow_plain_web: false,
        }
    }
}

impl Default for IngestMqttConfig {
    fn default() -> Self {
        Self { url: None, ca_file: None, client_id: "auditflow-collector".to_owned() }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/auditflow-collector"),
            max_bytes: ByteSize::gib(10),
            max_age: Age::days(90),
            postgres: PostgresConfig::default(),
        }
    }
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self { url: None, url_file: None, connections: 8, migrate: true }
    }
}

impl Default for RulesConfig {
    fn default() -> Self {
        Self { dirs: vec![PathBuf::from("/etc/auditflow/rules.d")] }
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self { session: Age::hours(12), anonymous: Anonymous::None }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { socket: Some(PathBuf::from("/run/auditflow-collector/admin.sock")), listen: None }
    }
}

impl Default for LifecycleConfig {
    fn default() -> Self {
        Self { grace: Age::seconds(20) }
    }
}

impl Config {
    /// The configuration of `run --data DIR`: everything by default, below one directory.
    pub fn for_directory(directory: &Path) -> Self {
        let storage = StorageConfig { data_dir: directory.to_owned(), ..StorageConfig::default() };
        // A Unix socket's path is short; a directory whose path is long does without.
        let socket = Some(directory.join("admin.sock")).filter(|path| path.as_os_str().len() <= 107);
        let admin = AdminConfig { socket, listen: None };
        let rules = RulesConfig { dirs: vec![directory.join("rules.d")] };
        Self { storage, rules, admin, ..Self::default() }
    }

    /// How a command line names the collector of this data directory; empty where commands find it by themselves.
    pub fn option(&self) -> String {
        let usual = StorageConfig::default().data_dir;
        if self.storage.postgres.is_set() {
            // A data directory says nothing of a database.
            " --config FILE".to_owned()
        } else if self.storage.data_dir == usual {
            String::new()
        } else {
            format!(" --data {}", self.storage.data_dir.display())
        }
    }
}

impl AdminConfig {
    /// As the admin API takes it.
    pub fn to_service(&self) -> admin::AdminConfig {
        admin::AdminConfig { socket: self.socket.clone(), listen: self.listen }
    }
}

impl IngestMqttConfig {
    fn validate(&self, problems: &mut Problems) {
        if let Some(Err(error)) = self.url.as_deref().map(Address::parse) {
            problems.report("ingest.mqtt.url", error);
        }
        let is_name =
            self.client_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        // A node's id is a name of 32 hexadecimal digits; the broker tells the two apart by nothing else.
        let is_node = self.client_id.parse::<NodeId>().is_ok();
        problems.require(
            is_name && !is_node && (1..=64).contains(&self.client_id.len()),
            "ingest.mqtt.client_id",
            "must be 1 to 64 letters, digits, - or _, and no node's id",
        );
    }
}

impl PostgresConfig {
    /// Whether the store is in a database server.
    pub fn is_set(&self) -> bool {
        self.url.is_some() || self.url_file.is_some()
    }

    fn validate(&self, problems: &mut Problems) {
        if let Some(Err(error)) = self.url.as_deref().map(postgres::check_url) {
            problems.report("storage.postgres.url:", error);
        }
        problems.require(
            self.url.is_none() || self.url_file.is_none(),
            "storage.postgres.url_file",
            "says where the database is, and so does url: give one of them",
        );
        problems.require(
            (2..=1000).contains(&self.connections),
            "storage.postgres.connections",
            "must be between 2 and 1000",
        );
    }
}

impl ServerConfig {
    fn validate<T, E: ToString>(&self, key: &str, parse: fn(&str) -> Result<T, E>, problems: &mut Problems) {
        if let Some(Err(error)) = self.url.as_deref().map(parse) {
            problems.require(false, key, error.to_string());
        }
    }
}

impl BusConfig {
    /// Where it is, and as whom to come.
    pub fn broker(&self) -> ServerConfig {
        let Self { url, password_file, ca_file, .. } = self.clone();
        ServerConfig { url, password_file, ca_file }
    }

    fn validate(&self, problems: &mut Problems) {
        self.broker().validate("bus.url", bus::options::parse, problems);
        if let Some(Err(error)) = self.management.as_deref().map(bus::connections::parse) {
            problems.require(false, "bus.management", error.to_string());
        }
        problems.require(
            (1..=64).contains(&self.shards),
            "bus.shards",
            "must be between 1 and 64, as many as the broker's definitions have",
        );
    }
}

impl Configuration for Config {
    fn validate(&self, problems: &mut Problems) {
        problems.require(
            !self.process.roles.is_empty(),
            "process.roles",
            "must name what this process does: ingest, analyze, web",
        );
        self.bus.validate(problems);
        self.windows.validate("windows.url", windows::parse, problems);
        problems.require(
            self.windows.url.is_none() || self.storage.postgres.is_set(),
            "windows.url",
            "is for several processes that share a database, and there is none: set [storage.postgres], or leave Redis out",
        );
        self.ancestor.events.validate("ancestor.events.url", bus::options::parse, problems);
        self.ancestor.alerts.validate("ancestor.alerts.url", bus::options::parse, problems);
        problems.require(
            self.listen.web.ip().is_loopback() || self.listen.allow_plain_web,
            "listen.web",
            "other machines reach this address and it has no TLS: use 127.0.0.1, or set allow_plain_web behind a proxy \
             that adds it",
        );
        problems.require(
            self.listen.agents != self.listen.web || self.listen.web.port() == 0,
            "listen.web",
            "must differ from agents",
        );
        for (index, name) in self.tls.names.iter().enumerate() {
            let plausible = !name.is_empty() && name.len() <= 253 && !name.contains([':', '/', ' ']);
            let address = name.parse::<IpAddr>().is_ok();
            problems.require(
                plausible || address,
                &format!("tls.names.{index}"),
                "must be a host name or an address, without scheme and port",
            );
        }
        self.ingest.mqtt.validate(problems);
        self.storage.postgres.validate(problems);
        problems.require(
            !self.storage.data_dir.as_os_str().is_empty(),
            "storage.data_dir",
            "must be a directory",
        );
        problems.require(
            self.storage.max_bytes >= ByteSize::mib(64),
            "storage.max_bytes",
            "must be at least 64MiB",
        );
        problems.require(self.storage.max_age >= Age::hours(1), "storage.max_age", "must be at least 1h");
        problems.require(self.auth.session >= Age::minutes(1), "auth.session", "must be at least 1m");
        self.admin.to_service().validate(problems);
    }
}

#[cfg(test)]
mod tests {
    use auditflow_service::config::{Overrides, check_reference, parse};

    use super::*;

    #[test]
    fn the_reference_says_what_the_types_say() {
        assert_eq!(check_reference::<Config>(REFERENCE), Ok(()));
    }

    #[test]
    fn every_problem_is_named_with_its_key() {
        let text = "[listen]\nweb = \"0.0.0.0:80\"\n[storage]\nmax_bytes = \"1MiB\"\nmax_age = \"1m\"\n[tls]\nnames = [\"https://x\"]\n[ingest.mqtt]\nurl = \"https://x\"\nclient_id = \"a b\"\n[storage.postgres]\nurl = \"mysql://x\"\nurl_file = \"/x\"\nconnections = 1\n[ancestor.alerts]\nurl = \"amqp://elsewhere\"\n";
        let error = parse::<Config>(Path::new("collector.toml"), text, &Overrides::default())
            .unwrap_err()
            .to_string();
        for key in [
            "listen.web",
            "storage.max_bytes",
            "storage.max_age",
            "tls.names",
            "ingest.mqtt.url",
            "ingest.mqtt.client_id",
            "storage.postgres.url:",
            "storage.postgres.url_file",
            "storage.postgres.connections",
            "ancestor.alerts.url",
        ] {
            assert!(error.contains(key), "{key} is not in:\n{error}");
        }
    }
}
