//! RabbitMQ with its MQTT plugin, its node, its data, its cookie and its port mapper the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{certificate_files, find, free_port, until_listening};
use crate::programs::{Outcome, Process, log_file};

/// A RabbitMQ of the test's own.
#[derive(Debug)]
pub struct RabbitMq {
    process: Option<Process>,
    /// Started by us, or the first node would leave one behind.
    _mapper: Process,
    folder: PathBuf,
    ports: Ports,
    programs: Programs,
}

#[derive(Debug)]
struct Programs {
    server: PathBuf,
    control: PathBuf,
}

#[derive(Debug)]
struct Ports {
    mqtt: u16,
    mapper: u16,
    between_nodes: u16,
}

impl RabbitMq {
    /// One below `folder` with these nodes as users, not started yet; `None`, said aloud, where there is no RabbitMQ.
    pub fn make(
        folder: &Path,
        certificates: &Path,
        port: u16,
        nodes: &[String],
    ) -> anyhow::Result<Option<Self>> {
        let server = find("rabbitmq-server", "rabbitmq-server")?;
        let control = find("rabbitmqctl", "rabbitmq-server")?;
        let mapper = find("epmd", "erlang-base")?;
        let (Some(_), Some(_), Some(mapper)) = (server, control, mapper) else { return Ok(None) };
        // Those on PATH change to another user.
        let own = |name: &str| PathBuf::from("/usr/lib/rabbitmq/bin").join(name);
        let programs = Programs { server: own("rabbitmq-server"), control: own("rabbitmqctl") };
        fs::create_dir_all(folder.join("home"))?;
        let ports = Ports { mqtt: port, mapper: free_port()?, between_nodes: free_port()? };
        let [authority, certificate, key] = certificate_files(certificates);
        let definitions = folder.join("definitions.json");
        fs::write(&definitions, serde_json::to_string_pretty(&self::definitions(nodes))?)?;
        fs::write(folder.join("plugins"), "[rabbitmq_mqtt].\n")?;
        let config = format!(
            "listeners.tcp = none\nload_definitions = {}\nmqtt.listeners.tcp = none\n\
             mqtt.listeners.ssl.default = 127.0.0.1:{port}\nmqtt.allow_anonymous = false\n\
             mqtt.ssl_cert_login = true\nmqtt.vhost = auditflow\nssl_cert_login_from = common_name\n\
             ssl_options.cacertfile = {authority}\nssl_options.certfile = {certificate}\n\
             ssl_options.keyfile = {key}\nssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = true\n",
            definitions.display()
        );
        fs::write(folder.join("rabbitmq.conf"), config)?;
        let mut map = Command::new(mapper);
        map.args(["-port", &ports.mapper.to_string(), "-address", "127.0.0.1"]);
        let map = map.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mapper = Process::start(map)?;
        Ok(Some(Self { process: None, _mapper: mapper, folder: folder.to_owned(), ports, programs }))
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = self.command(&self.programs.server);
        let log = log_file(&self.folder.join("rabbitmq.conf"), "broker.log")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = Process::start(&mut command)?;
        until_listening(self.ports.mqtt, || match process.has_ended()? {
            Some(status) => bail!("rabbitmq ended with {status}"),
            None => Ok(()),
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("it runs")?.end_group(Signal::SIGKILL)
    }

    /// Lets a node publish its batches, or not.
    pub fn allow_batches(&self, node: &str, are_allowed: bool) -> anyhow::Result<()> {
        let write = if are_allowed { "^audit\\.{username}\\.batch$" } else { "^$" };
        self.control(&[
            "set_topic_permissions",
            "-p",
            "auditflow",
            node,
            "amq.topic",
            write,
            "^audit\\.{username}\\.ack$",
        ])
    }

    /// Runs `rabbitmqctl` with these words.
    pub fn control(&self, words: &[&str]) -> anyhow::Result<()> {
        Outcome::of(self.command(&self.programs.control).args(words))?.success().map(drop)
    }

    fn command(&self, program: &Path) -> Command {
        let place = |name: &str| self.folder.join(name);
        let mut command = Command::new(program);
        command
            .env("HOME", place("home"))
            .env("RABBITMQ_NODENAME", format!("auditflow{}@localhost", self.ports.mqtt))
            .env("RABBITMQ_DIST_PORT", self.ports.between_nodes.to_string())
            .env("RABBITMQ_CONFIG_FILE", place("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", place("plugins"))
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

impl Drop for RabbitMq {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.end_group(Signal::SIGKILL);
        }
    }
}

/// Users by certificate, with the rights that docs/mqtt.md gives them.
fn definitions(nodes: &[String]) -> Value {
    let names = || nodes.iter().map(String::as_str).chain(["auditflow-collector"]);
    let user = |name: &str| json!({ "name": name, "password_hash": "", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "" });
    let permission = |name: &str| {
        let own = format!("mqtt-subscription-{name}(-[0-9a-f]{{8}})?qos[01]");
        let (configure, both) = (format!("^{own}$"), format!("^(amq\\.topic|{own})$"));
        json!({ "user": name, "vhost": "auditflow", "configure": configure, "write": both, "read": both })
    };
    let topics = |name: &str| {
        let (write, read) = if name == "auditflow-collector" {
            ("^audit\\.[0-9a-f]{32}\\.ack$", "^audit\\.\\*\\.batch$")
        } else {
            ("^audit\\.{username}\\.batch$", "^audit\\.{username}\\.ack$")
        };
        json!({ "user": name, "vhost": "auditflow", "exchange": "amq.topic", "write": write, "read": read })
    };
    json!({
        "vhosts": [{ "name": "auditflow" }],
        "users": names().map(user).collect::<Vec<_>>(),
        "permissions": names().map(permission).collect::<Vec<_>>(),
        "topic_permissions": names().map(topics).collect::<Vec<_>>(),
    })
}
