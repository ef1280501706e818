//! RabbitMQ with its management plugin, and MQTT if it is asked for: its node, its data, its cookie and its port mapper the
//! caller's own.

pub mod definitions;
mod shared;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{certificate_files, find, free_port, until_listening};
use crate::programs::{Outcome, Process, log_file};

pub use shared::{RabbitMq, Vhost};

/// Where the test run's management plugin is, as `http://USER:PASSWORD@HOST:PORT`.
pub(super) const VARIABLE: &str = "AUDITFLOW_TEST_RABBITMQ";

/// Who may use the management plugin, and the password.
const ADMINISTRATOR: (&str, &str) = ("administrator", "of-a-test");

/// A RabbitMQ of the caller's own.
#[derive(Debug)]
pub struct RabbitMqServer {
    process: Option<Process>,
    /// Started by us, or the first node would leave one behind.
    _mapper: Process,
    folder: PathBuf,
    ports: Ports,
    programs: Programs,
}

/// How MQTT is to be had: by TLS, with certificates that name their users.
#[derive(Debug, Clone, Copy)]
pub struct Mqtt<'a> {
    /// Where the collector's `broker-certificate` wrote.
    pub certificates: &'a Path,
    /// The port.
    pub port: u16,
    /// `host:port` of the collector that says what nodes may do; nodes are RabbitMQ's own users without one.
    pub rights: Option<&'a str>,
}

#[derive(Debug)]
struct Programs {
    server: PathBuf,
    control: PathBuf,
}

#[derive(Debug)]
struct Ports {
    amqp: u16,
    management: u16,
    mqtt: Option<u16>,
    mapper: u16,
    between_nodes: u16,
}

impl RabbitMqServer {
    /// One below `folder`, not started yet, that begins with these definitions; `None`, said aloud, where there is no
    /// RabbitMQ.
    pub fn make(folder: &Path, definitions: &Value, mqtt: Option<Mqtt<'_>>) -> anyhow::Result<Option<Self>> {
        let server = find("rabbitmq-server", "rabbitmq-server")?;
        let control = find("rabbitmqctl", "rabbitmq-server")?;
        let mapper = find("epmd", "erlang-base")?;
        let (Some(server), Some(control), Some(mapper)) = (server, control, mapper) else { return Ok(None) };
        fs::create_dir_all(folder.join("home"))?;
        let ports = Ports {
            amqp: free_port()?,
            management: free_port()?,
            mqtt: mqtt.map(|mqtt| mqtt.port),
            mapper: free_port()?,
            between_nodes: free_port()?,
        };
        let (name, password) = ADMINISTRATOR;
        let definitions = definitions::with_administrator(definitions.clone(), name, password);
        fs::write(folder.join("definitions.json"), serde_json::to_string_pretty(&definitions)?)?;
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rabbitmq/enabled_plugins");
        fs::copy(&shipped, folder.join("enabled_plugins"))
            .with_context(|| format!("cannot copy {}", shipped.display()))?;
        fs::write(folder.join("rabbitmq.conf"), config(folder, &ports, mqtt))?;
        fs::write(folder.join("advanced.config"), advanced(mqtt))?;
        let mut map = Command::new(mapper);
        map.args(["-port", &ports.mapper.to_string(), "-address", "127.0.0.1"]);
        let map = map.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mapper = Process::start(map)?;
        let (folder, programs) = (folder.to_owned(), Programs { server, control });
        Ok(Some(Self { process: None, _mapper: mapper, folder, ports, programs }))
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.until_ready()
    }

    /// Starts it and doesn't wait for it.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = self.command(&self.programs.server);
        let log = log_file(&self.folder.join("rabbitmq.conf"), "broker.log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::start(&mut command)?);
        Ok(())
    }

    /// Waits until it listens on every port that it is to listen on.
    pub fn until_ready(&mut self) -> anyhow::Result<()> {
        let process = self.process.as_mut().context("it was launched")?;
        let Ports { amqp, management, mqtt, .. } = self.ports;
        for port in [Some(amqp), Some(management), mqtt].into_iter().flatten() {
            until_listening(port, || match process.has_ended()? {
                Some(status) => bail!("rabbitmq ended with {status}"),
                None => Ok(()),
            })?;
        }
        Ok(())
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("it runs")?.end_group(Signal::SIGKILL)
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<i32> {
        self.process.as_ref().context("it runs")?.pid()
    }

    /// Sends a signal to all its processes: SIGSTOP pauses it, SIGCONT lets it go on.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.as_ref().context("it runs")?.signal_family(signal)
    }

    /// Where one of its users finds vhost `auditflow` by AMQP; the password is for a file.
    pub fn url(&self, user: &str) -> String {
        format!("amqp://{user}@127.0.0.1:{}/auditflow", self.ports.amqp)
    }

    /// Where one of its users finds the ancestor's vhost.
    pub fn ancestor_url(&self, user: &str) -> String {
        format!("amqp://{user}@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// Where its management plugin is, and who may use it.
    pub fn management(&self) -> String {
        let (name, password) = ADMINISTRATOR;
        format!("http://{name}:{password}@127.0.0.1:{}", self.ports.management)
    }

    /// The same, for whoever says by himself who he is.
    pub fn management_address(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.management)
    }

    /// Lets a node publish its batches, or not.
    pub fn allow_batches(&self, node: &str, are_allowed: bool) -> anyhow::Result<()> {
        let write = if are_allowed { "^audit\\.{username}\\.batch$" } else { "^$" };
        let read = "^audit\\.{username}\\.ack$";
        self.control(&["set_topic_permissions", "-p", "auditflow", node, "amq.topic", write, read]).map(drop)
    }

    /// Runs `rabbitmqctl` with these words, and returns what it prints.
    pub fn control(&self, words: &[&str]) -> anyhow::Result<String> {
        let outcome = Outcome::of(self.command(&self.programs.control).arg("--quiet").args(words))?;
        Ok(outcome.success()?.stdout)
    }

    /// How many messages a queue of vhost `auditflow` has at this moment, handed out or not.
    pub fn waiting(&self, queue: &str) -> anyhow::Result<u64> {
        self.waiting_in("auditflow", queue)
    }

    /// The same of a queue of another vhost.
    pub fn waiting_in(&self, vhost: &str, queue: &str) -> anyhow::Result<u64> {
        let queues = self.control(&["list_queues", "--no-table-headers", "-p", vhost, "name", "messages"])?;
        let of_queue = queues.lines().find_map(|line| line.strip_prefix(queue)?.strip_prefix('\t'));
        Ok(of_queue.with_context(|| format!("there is no queue {queue}: {queues}"))?.trim().parse()?)
    }

    /// Publishes a message in vhost `auditflow`, as the administrator.
    pub fn publish(&self, exchange: &str, key: &str, body: &str) -> anyhow::Result<()> {
        let message =
            json!({ "properties": {}, "routing_key": key, "payload": body, "payload_encoding": "string" });
        let path = format!("/api/exchanges/auditflow/{exchange}/publish");
        RabbitMq::at(&self.management(), None)?.tell("POST", &path, &message)
    }

    /// Has it import the definitions that it began with, which brings back what was deleted.
    pub fn import_again(&self) -> anyhow::Result<()> {
        let definitions = self.folder.join("definitions.json");
        self.control(&["import_definitions", definitions.to_str().context("a path in UTF-8")?]).map(drop)
    }

    fn command(&self, program: &Path) -> Command {
        let place = |name: &str| self.folder.join(name);
        let mut command = Command::new(program);
        command
            .env("HOME", place("home"))
            .env("RABBITMQ_NODENAME", format!("auditflow{}@localhost", self.ports.amqp))
            .env("RABBITMQ_DIST_PORT", self.ports.between_nodes.to_string())
            .env("RABBITMQ_CONFIG_FILE", place("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", place("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", place("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", place("data"))
            .env("RABBITMQ_LOG_BASE", place("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", place("pid"))
            .env("ERL_EPMD_PORT", self.ports.mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-kernel inet_dist_use_interface {127,0,0,1}");
        command
    }
}

impl Drop for RabbitMqServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.end_group(Signal::SIGKILL);
        }
    }
}

fn config(folder: &Path, ports: &Ports, mqtt: Option<Mqtt<'_>>) -> String {
    let Ports { amqp, management, .. } = ports;
    let common = format!(
        "listeners.tcp.default = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {management}\nload_definitions = {}\nmqtt.listeners.tcp = none\n\
         mqtt.allow_anonymous = false\n",
        folder.join("definitions.json").display()
    );
    let Some(Mqtt { certificates, port, rights }) = mqtt else { return common };
    let [authority, certificate, key] = certificate_files(certificates);
    let backends = rights.map(backends).unwrap_or_default();
    format!(
        "{common}{backends}mqtt.listeners.ssl.default = 127.0.0.1:{port}\nmqtt.ssl_cert_login = true\n\
         mqtt.vhost = auditflow\nssl_cert_login_from = common_name\nssl_options.cacertfile = {authority}\n\
         ssl_options.certfile = {certificate}\nssl_options.keyfile = {key}\nssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n"
    )
}

/// As docs/mqtt.md has it, but for how long an answer is remembered.
fn backends(collector: &str) -> String {
    let path = |kind: &str| format!("auth_http.{kind}_path = https://{collector}/broker/v1/{kind}\n");
    let paths: String = ["user", "vhost", "resource", "topic"].map(path).concat();
    format!(
        "auth_backends.1 = internal\nauth_backends.2 = cache\nauth_cache.cached_backend = http\n\
         auth_cache.cache_ttl = 3000\nauth_http.http_method = get\n{paths}"
    )
}

/// What has no place in the other file: that both sides prove themselves when RabbitMQ asks the collector.
fn advanced(mqtt: Option<Mqtt<'_>>) -> String {
    let Some(Mqtt { certificates, .. }) = mqtt else { return "[].\n".to_owned() };
    let [authority, certificate, key] = certificate_files(certificates);
    format!(
        "[{{rabbitmq_auth_backend_http, [{{ssl_options, [{{cacertfile, \"{authority}\"}}, {{certfile, \"{certificate}\"}}, \
         {{keyfile, \"{key}\"}}, {{verify, verify_peer}}]}}]}}].\n"
    )
}
