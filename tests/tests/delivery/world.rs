//! A collector, a faulty way to it, and nodes, all below one folder that goes with them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_event::NodeId;
use auditflow_tests::{Agent, Binaries, Collector, Outcome, Proxy, Random, until};
use auditflow_wire::NodeKeys;
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::log::AuditLog;
use crate::stored::Stored;
use crate::wal;

/// What is said of a failure's logs.
const LAST_LINES: usize = 25;

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) proxy: Proxy,
    binaries: Binaries,
    collector: Option<Collector>,
    /// Where it listens, for agents and for browsers.
    addresses: (String, String),
    /// What its configuration says besides, if anything.
    besides: Option<Besides>,
    dir: TempDir,
}

/// What a node's configuration says besides where things are.
pub(crate) struct Settings {
    pub(crate) spool_max_bytes: &'static str,
    pub(crate) commit_interval_ms: u32,
    pub(crate) seal_interval_ms: u32,
    /// Where its data is to be, instead of beside everything else.
    pub(crate) data: Option<PathBuf>,
    /// How its batches travel.
    pub(crate) way: Way,
}

/// What a collector has besides its data directory.
#[derive(Debug, Clone)]
pub(crate) enum Besides {
    /// It subscribes to the broker on this port.
    Broker(u16),
    /// The same, and the broker's management plugin is at this address.
    Managed(u16, String),
    /// Its store is in the database at this URL.
    Database(String),
    /// It takes from the queues of the RabbitMQ at this URL, and publishes alerts there and in the ancestor's vhost.
    Queues { url: String, ancestor_url: String, password_file: PathBuf },
    /// It takes the ancestor's events, and tells the ancestor of alerts, at these URLs of one RabbitMQ.
    Ancestor { events: String, alerts: String, password_file: PathBuf },
}

/// How a node's batches travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Way {
    #[default]
    Https,
    /// Over the broker on this port, which takes messages of so many bytes.
    Mqtt { port: u16, max_message: u64 },
}

impl Way {
    /// Over the world's broker, which takes whatever an agent sends.
    pub(crate) fn broker(port: u16) -> Self {
        Self::Mqtt { port, max_message: 8 << 20 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            spool_max_bytes: "64MiB",
            commit_interval_ms: 20,
            seal_interval_ms: 60,
            data: None,
            way: Way::Https,
        }
    }
}

/// A node that has joined.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    folder: PathBuf,
    data: PathBuf,
    binaries: Binaries,
    agent: Option<Agent>,
}

impl World {
    /// Runs a test in a world of its own and shows the programs' last words if it fails.
    pub(crate) fn run(test: impl FnOnce(&mut World) -> anyhow::Result<()>) -> anyhow::Result<()> {
        Self::run_with(None, test)
    }

    /// The same, with a collector that also subscribes to a broker on this port, which the test starts.
    pub(crate) fn run_with_broker(
        port: u16,
        test: impl FnOnce(&mut World) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        Self::run_with(Some(Besides::Broker(port)), test)
    }

    /// The same, with what the collector has besides.
    pub(crate) fn run_with(
        besides: Option<Besides>,
        test: impl FnOnce(&mut World) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let name = std::thread::current().name().unwrap_or("delivery").to_owned();
        let mut world = World::start(&name, besides)?;
        let outcome = test(&mut world);
        if outcome.is_err() {
            world.show_logs();
        }
        outcome
    }

    fn start(name: &str, besides: Option<Besides>) -> anyhow::Result<Self> {
        let (binaries, dir) = (Binaries::find()?, tempfile::tempdir()?);
        let random = Random::announced(name);
        let data = collector_data(dir.path());
        let collector = match &besides {
            None => Collector::start(&binaries, &data)?,
            Some(besides) => start_with(&binaries, &data, besides, ("127.0.0.1:0", "127.0.0.1:0"))?,
        };
        let proxy = Proxy::start(&collector.agents)?;
        let addresses = collector.addresses();
        Ok(Self { random, proxy, binaries, collector: Some(collector), addresses, besides, dir })
    }

    /// Makes certificates for a broker on this machine, and says where they are.
    pub(crate) fn certificates(&self) -> anyhow::Result<PathBuf> {
        let folder = self.dir.path().join("certificates");
        let out = folder.to_str().context("a path in UTF-8")?;
        let collector = self.collector.as_ref().context("the collector runs")?;
        collector.run(&["broker-certificate", "--out", out, "localhost", "127.0.0.1"])?.success()?;
        Ok(folder)
    }

    /// Waits until the collector hears what is published at its broker.
    pub(crate) fn until_subscribed(&self) -> anyhow::Result<()> {
        self.until_health("mqtt", "up").map(drop)
    }

    /// Waits until a part of the collector is in this state; returns what it says of its health then.
    pub(crate) fn until_health(&self, part: &str, state: &str) -> anyhow::Result<Value> {
        let collector = self.collector()?;
        until(&format!("{part} is {state}"), || {
            let report: Value = serde_json::from_str(&collector.ask("GET", "/healthz", "")?.body)?;
            Ok((report["parts"][part]["state"] == state).then_some(report))
        })
    }

    /// The running collector.
    pub(crate) fn collector(&self) -> anyhow::Result<&Collector> {
        self.collector.as_ref().context("the collector runs")
    }

    /// Where the collector listens for agents, by a name that its certificate has.
    pub(crate) fn agents_address(&self) -> String {
        self.addresses.0.replace("127.0.0.1", "localhost")
    }

    /// Approves a node, or revokes it.
    pub(crate) fn set_status(&self, node: &Node, status: &str) -> anyhow::Result<()> {
        let change = format!("{{\"status\":\"{status}\"}}");
        self.collector()?.change(&format!("/api/v1/nodes/{}", node.id), &change)
    }

    /// A metric of the collector.
    pub(crate) fn metric(&self, name: &str) -> anyhow::Result<f64> {
        self.collector.as_ref().context("the collector runs")?.metric(name)
    }

    /// Lets a node join over the proxy.
    pub(crate) fn join(&mut self, name: &str, settings: &Settings) -> anyhow::Result<Node> {
        let token = self.collector.as_ref().context("the collector runs")?.token(1)?;
        let folder = self.dir.path().join(name);
        Node::join(&self.binaries, &folder, settings, (&self.proxy.address(), &token))
    }

    /// A second installation with all that the first one has: its key, its spool.
    pub(crate) fn clone_of(&mut self, node: &Node, name: &str) -> anyhow::Result<Node> {
        let folder = self.dir.path().join(name);
        let data = folder.join("data");
        copy_folder(&node.data, &data)?;
        configure(&folder, &data, &Settings::default())?;
        Ok(Node { id: node.id, folder, data, binaries: self.binaries.clone(), agent: None })
    }

    /// An empty log for the node's agent to read.
    pub(crate) fn audit_log(&mut self, node: &Node) -> anyhow::Result<AuditLog> {
        node.audit_log(self.random.split())
    }

    /// A folder for the test's own use.
    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.dir.path().join(name);
        fs::create_dir(&folder)?;
        Ok(folder)
    }

    /// Such a folder, made before.
    pub(crate) fn existing(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the collector's store is.
    pub(crate) fn collector_data(&self) -> PathBuf {
        collector_data(self.dir.path())
    }

    /// Starts the collector again, without waiting for it.
    pub(crate) fn launch_collector(&mut self) -> anyhow::Result<()> {
        let (data, addresses) = (collector_data(self.dir.path()), (&*self.addresses.0, &*self.addresses.1));
        self.collector = Some(match &self.besides {
            None => Collector::launch(&self.binaries, &data, addresses)?,
            Some(besides) => {
                let config = configure_collector(&data, besides, addresses)?;
                Collector::launch_with(&self.binaries, &data, &config, addresses)?
            }
        });
        Ok(())
    }

    /// Starts the collector again.
    pub(crate) fn start_collector(&mut self) -> anyhow::Result<()> {
        self.launch_collector()?;
        self.collector.as_mut().context("it was launched")?.wait_until_ready()
    }

    /// Starts the collector again with something besides.
    pub(crate) fn restart_with(&mut self, besides: Besides) -> anyhow::Result<()> {
        self.stop_collector()?;
        let data = collector_data(self.dir.path());
        let collector = start_with(&self.binaries, &data, &besides, (&self.addresses.0, &self.addresses.1))?;
        (self.collector, self.besides) = (Some(collector), Some(besides));
        Ok(())
    }

    /// Waits until a part of the collector is so, and says why.
    pub(crate) fn until_state(&self, part: &str, state: &str, why: &str) -> anyhow::Result<()> {
        until(&format!("{part} is {state}: {why}"), || {
            let (now, reason) = self.part(part)?;
            ensure!(now == state && reason.contains(why), "it is {now}: {reason}");
            Ok(Some(()))
        })
    }

    /// How a part of the collector is: its state, and why.
    pub(crate) fn part(&self, name: &str) -> anyhow::Result<(String, String)> {
        let health: Value = serde_json::from_str(&self.collector()?.ask("GET", "/healthz", "")?.body)?;
        let part = &health["parts"][name];
        let text = |key: &str| part[key].as_str().unwrap_or_default().to_owned();
        Ok((text("state"), text("reason")))
    }

    /// Ends the collector without a warning.
    pub(crate) fn kill_collector(&mut self) -> anyhow::Result<()> {
        self.collector.take().context("the collector runs")?.kill()
    }

    /// Has the collector stop.
    pub(crate) fn stop_collector(&mut self) -> anyhow::Result<()> {
        let status = self.collector.take().context("the collector runs")?.stop()?;
        ensure!(status.success(), "the collector ended with {status}");
        Ok(())
    }

    /// Copies all that the running collector has, as an operator would.
    pub(crate) fn back_up_collector(&self) -> anyhow::Result<PathBuf> {
        let backup = self.dir.path().join("backup");
        let destination = backup.to_str().context("a path in UTF-8")?;
        self.collector.as_ref().context("the collector runs")?.run(&["backup", destination])?.success()?;
        Ok(backup)
    }

    /// Puts a backup in the place of what the stopped collector has.
    pub(crate) fn restore_collector(&self, backup: &Path) -> anyhow::Result<()> {
        let data = collector_data(self.dir.path());
        fs::remove_dir_all(&data)?;
        Ok(fs::rename(backup, data)?)
    }

    /// What the collector holds of the node.
    pub(crate) fn stored(&self, node: &Node) -> anyhow::Result<Stored> {
        match &self.besides {
            Some(Besides::Database(url)) => Stored::read_database(url, node.id),
            _ => Stored::read(&collector_data(self.dir.path()), node.id),
        }
    }

    /// Waits until the collector holds every event of the log.
    pub(crate) fn until_stored(&self, node: &Node, log: &AuditLog) -> anyhow::Result<()> {
        self.until_stored_after(0, node, log)
    }

    /// Waits until the collector holds every event of the log but the oldest ones.
    pub(crate) fn until_stored_after(
        &self,
        oldest: usize,
        node: &Node,
        log: &AuditLog,
    ) -> anyhow::Result<()> {
        const PAUSE: Duration = Duration::from_millis(100);
        until("every event is stored", || {
            std::thread::sleep(PAUSE);
            let missing = self.stored(node)?.missing_after(oldest, log);
            ensure!(missing == 0, "{missing} of {} are not", log.len());
            Ok(Some(()))
        })
    }

    /// A further event gets through: all are alive.
    pub(crate) fn ensure_alive(&self, node: &mut Node, log: &mut AuditLog) -> anyhow::Result<()> {
        let before = log.len();
        log.append(3)?;
        self.until_stored_after(before, node, log)?;
        node.agent()?.ensure_running()
    }

    /// Stops both, and has `verify` prove what is stored.
    pub(crate) fn stop_and_verify(&mut self, node: &mut Node) -> anyhow::Result<Stored> {
        let (stored, verdict) = self.stop_and_ask_verify(node)?;
        ensure!(verdict == "sound", "verify says {verdict}");
        Ok(stored)
    }

    /// Stops both, and asks `verify` for its verdict on what is stored.
    pub(crate) fn stop_and_ask_verify(&mut self, node: &mut Node) -> anyhow::Result<(Stored, String)> {
        node.stop()?;
        self.stop_collector()?;
        let (node_id, data) = (node.id.to_string(), collector_data(self.dir.path()));
        let mut verify = Command::new(&self.binaries.collector);
        verify.args(["verify", "--node", &node_id]);
        match &self.besides {
            Some(Besides::Database(_)) => verify.arg("--config").arg(data.with_extension("toml")),
            _ => verify.arg("--data").arg(data),
        };
        let outcome = Outcome::of(&mut verify)?;
        let verdict = outcome.stdout.lines().last().unwrap_or_default();
        ensure!(outcome.status.success() == (verdict == "sound"), "it ended with {}", outcome.status);
        Ok((self.stored(node)?, verdict.to_owned()))
    }

    /// The node's keys, as the collector knows them.
    pub(crate) fn keys_of(&self, node: &Node) -> anyhow::Result<NodeKeys> {
        Stored::keys(&collector_data(self.dir.path()), node.id)
    }

    fn show_logs(&self) {
        let Ok(folders) = fs::read_dir(self.dir.path()) else { return };
        for folder in folders.flatten() {
            for name in ["agent.log", "collector.log", "broker.log"] {
                let Ok(text) = fs::read_to_string(folder.path().join(name)) else { continue };
                let lines: Vec<&str> = text.lines().collect();
                let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
                eprintln!("--- {}/{name}\n{}", folder.file_name().display(), last.join("\n"));
            }
        }
    }
}

impl Node {
    /// A node in `folder`, which joins whoever has given this token out and is at this address.
    pub(crate) fn join(
        binaries: &Binaries,
        folder: &Path,
        settings: &Settings,
        (address, token): (&str, &str),
    ) -> anyhow::Result<Self> {
        fs::create_dir(folder)?;
        let data = settings.data.clone().unwrap_or_else(|| folder.join("data"));
        configure(folder, &data, settings)?;
        let joined = Agent::join(binaries, &folder.join("agent.toml"), address, token)?.success()?;
        let id = joined.stdout.lines().find_map(|line| line.strip_prefix("joined as node "));
        let id = id.context("join says the node's id")?.trim().parse()?;
        Ok(Self { id, folder: folder.to_owned(), data, binaries: binaries.clone(), agent: None })
    }

    /// An empty log for its agent to read.
    pub(crate) fn audit_log(&self, random: Random) -> anyhow::Result<AuditLog> {
        AuditLog::create(&self.folder.join("audit.log"), random)
    }

    /// Where its spool is.
    pub(crate) fn spool(&self) -> PathBuf {
        self.data.join("spool")
    }

    /// Starts its agent, without waiting for it.
    pub(crate) fn launch(&mut self) -> anyhow::Result<()> {
        self.agent = Some(Agent::launch(&self.binaries, &self.config(), &self.socket())?);
        Ok(())
    }

    /// Starts its agent.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.launch()?;
        self.agent()?.wait_until_ready()
    }

    /// From its agent's next start on, its batches travel so.
    pub(crate) fn travel(&self, way: Way) -> anyhow::Result<()> {
        configure(&self.folder, &self.data, &Settings { way, ..Settings::default() })
    }

    /// Ends its agent without a warning.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.agent()?.ensure_running()?;
        self.agent.take().context("its agent runs")?.kill()
    }

    /// Ends its agent without a warning, so long after it was asked for something.
    pub(crate) fn kill_during(
        &mut self,
        moment: Duration,
        ask: impl FnOnce(&Agent) + Send,
    ) -> anyhow::Result<()> {
        let agent = self.agent.take().context("its agent runs")?;
        std::thread::scope(|threads| {
            threads.spawn(|| ask(&agent));
            std::thread::sleep(moment);
            agent.signal(Signal::SIGKILL)
        })?;
        agent.kill()
    }

    /// Has its agent stop.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        let status = self.agent.take().context("its agent runs")?.stop()?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }

    /// Its running agent.
    pub(crate) fn agent(&mut self) -> anyhow::Result<&mut Agent> {
        self.agent.as_mut().context("its agent runs")
    }

    /// Has its running agent change its key, with the collector there to hear of it.
    pub(crate) fn rotate_key(&self) -> anyhow::Result<()> {
        let mut rotate = Command::new(&self.binaries.agent);
        rotate.args(["key", "rotate", "--config"]).arg(self.config());
        let said = Outcome::of(&mut rotate)?.success()?.stdout;
        ensure!(said.ends_with("the collector has taken it\n"), "key rotate says {said}");
        Ok(())
    }

    /// What its agent says of itself.
    pub(crate) fn ask(&mut self, path: &str) -> anyhow::Result<Value> {
        self.agent()?.ask("GET", path, "")?.json()
    }

    /// Copies the spool as it is at one moment of the agent's running.
    pub(crate) fn copy_spool(&mut self, to: &Path) -> anyhow::Result<()> {
        self.agent()?.freeze()?;
        let copied = copy_folder(&self.spool(), to);
        self.agent()?.thaw()?;
        copied
    }

    /// Ends its agent without a warning while the spool's log is being written, if that can be had. Returns which part
    /// of the log need not be on a disk that keeps its word; it is empty if nothing was being written.
    pub(crate) fn kill_in_the_middle_of_a_write(&mut self) -> anyhow::Result<Range<u64>> {
        const ATTEMPTS: usize = 200;
        let (log, index) = (self.spool().join("spool.db-wal"), self.spool().join("spool.db-shm"));
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.agent()?.freeze()?;
            let unsynced = wal::unsynced(&fs::read(&log)?, &fs::read(&index)?);
            if unsynced.is_empty() && attempts < ATTEMPTS {
                self.agent()?.thaw()?;
                continue;
            }
            self.kill()?;
            return Ok(unsynced);
        }
    }

    /// Puts a copy in the place of its spool.
    pub(crate) fn restore_spool(&self, from: &Path) -> anyhow::Result<()> {
        fs::remove_dir_all(self.spool())?;
        copy_folder(from, &self.spool())
    }

    fn config(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }
}

/// The collector's own folder, with its log beside its data.
fn collector_data(dir: &Path) -> PathBuf {
    dir.join("collector").join("data")
}

/// Starts a collector that is more than its data directory, and waits until it is ready.
fn start_with(
    binaries: &Binaries,
    data: &Path,
    besides: &Besides,
    addresses: (&str, &str),
) -> anyhow::Result<Collector> {
    let config = configure_collector(data, besides, addresses)?;
    let words = ["run", "--config", config.to_str().context("a path in UTF-8")?];
    Ok(Collector::start_as(binaries, data, &words)?.with_config(&config))
}

/// Writes a collector's configuration, and says where it is.
fn configure_collector(
    data: &Path,
    besides: &Besides,
    (agents, page): (&str, &str),
) -> anyhow::Result<PathBuf> {
    let (file, place) = (data.with_extension("toml"), data.display());
    let besides = match besides {
        Besides::Broker(port) => format!("[ingest.mqtt]\nurl = \"mqtts://localhost:{port}\"\n"),
        Besides::Managed(port, management) => {
            format!("[ingest.mqtt]\nurl = \"mqtts://localhost:{port}\"\n[bus]\nmanagement = {management:?}\n")
        }
        Besides::Database(url) => format!("[storage.postgres]\nurl = \"{url}\"\n"),
        Besides::Ancestor { events, alerts, password_file } => {
            let password = format!("password_file = \"{}\"", password_file.display());
            format!(
                "[ancestor.events]\nurl = \"{events}\"\n{password}\n[ancestor.alerts]\nurl = \"{alerts}\"\n{password}\n"
            )
        }
        Besides::Queues { url, ancestor_url, password_file } => {
            let password = format!("password_file = \"{}\"", password_file.display());
            format!(
                "[bus]\nurl = \"{url}\"\n{password}\n[ancestor.alerts]\nurl = \"{ancestor_url}\"\n{password}\n"
            )
        }
    };
    fs::create_dir_all(data.parent().context("a path with a folder")?)?;
    let text = format!(
        "[listen]\nagents = \"{agents}\"\nweb = \"{page}\"\n[storage]\ndata_dir = \"{place}\"\n\
         [rules]\ndirs = []\n[admin]\nsocket = \"{place}/admin.sock\"\n{besides}"
    );
    fs::write(&file, text)?;
    Ok(file)
}

/// Only what the tests feed is read, and no rule drops any of it.
fn configure(folder: &Path, data: &Path, settings: &Settings) -> anyhow::Result<()> {
    let folder_name = folder.display();
    let Settings { spool_max_bytes, commit_interval_ms, seal_interval_ms, .. } = settings;
    let way = match settings.way {
        Way::Https => String::new(),
        Way::Mqtt { port, max_message } => format!(
            "[collector]\ntransport = \"mqtt\"\n[collector.mqtt]\nurl = \"mqtts://localhost:{port}\"\n\
             max_message = \"{max_message}B\"\n"
        ),
    };
    let text = format!(
        r#"
        [node]
        data_dir = "{}"
        [sources.kernel_audit]
        enabled = false
        [sources.kubernetes_audit]
        enabled = false
        [sources.audit_log]
        enabled = true
        path = "{folder_name}/audit.log"
        [sources.synthetic]
        enabled = true
        [spool]
        max_bytes = "{spool_max_bytes}"
        commit_interval_ms = {commit_interval_ms}
        seal_interval_ms = {seal_interval_ms}
        [rules]
        shipped = false
        dirs = []
        [admin]
        socket = "{folder_name}/admin.sock"
        {way}
        "#,
        data.display()
    );
    Ok(fs::write(folder.join("agent.toml"), text)?)
}

/// Files and folders; the spool's index of its log is left out, it means nothing without the process that made it.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &target)?;
        } else if source.extension().is_none_or(|extension| extension != "db-shm") {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
