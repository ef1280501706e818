//! The collector as a cluster: its roles as processes of their own, on one database, one RabbitMQ and one Redis, all private
//! and below one folder. The system tests disturb it, `cargo xtask cluster` shows it.
//!
//! Database, ingest and web start first, so that nodes can join and there are certificates; then the broker, which asks
//! ingest about nodes, Redis and the analyzers.
//! Between every process and the database is a proxy, so that it can be slowed and cut, and another before Redis.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::http;
use crate::programs::{Binaries, Outcome, Process, log_file, metric_of};
use crate::proxy::Proxy;
use crate::services::{Mqtt, PostgresServer, RabbitMqServer, RedisServer, definitions, free_port};
use crate::wait::until;

/// A cluster. What it holds is public, for whoever disturbs it.
#[derive(Debug)]
pub struct Cluster {
    /// Takes what agents send over HTTPS, and enrols them.
    pub ingest: Member,
    /// Page and API.
    pub web: Member,
    /// Take what waits in RabbitMQ, and find what matters.
    pub analyzers: Vec<Member>,
    /// RabbitMQ, once it has been opened.
    pub broker: Option<RabbitMqServer>,
    /// Redis, once it has been opened. Analyzers that are added where it was taken out do without.
    pub redis: Option<Cache>,
    /// The way to the database.
    pub proxy: Proxy,
    /// The database.
    pub database: PostgresServer,
    /// `host:port` of page and API.
    pub page: String,
    /// `host:port` that agents deliver to over HTTPS.
    pub agents: String,
    /// The port that agents publish to.
    pub mqtt: u16,
    binaries: Binaries,
    folder: PathBuf,
}

/// Redis, and the way to it.
#[derive(Debug)]
pub struct Cache {
    /// The server.
    pub server: RedisServer,
    /// The way to it.
    pub proxy: Proxy,
}

/// A process of the cluster.
#[derive(Debug)]
pub struct Member {
    /// What it is called here, and its folder.
    pub name: String,
    binary: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
}

impl Cluster {
    /// Starts the database, ingest and web below `folder`; `None`, said aloud, where a server is missing.
    pub fn start(binaries: &Binaries, folder: &Path) -> anyhow::Result<Option<Self>> {
        let Some(mut database) = PostgresServer::make()? else { return Ok(None) };
        database.start()?;
        let proxy = Proxy::start(&database.address())?;
        let [agents, page, mqtt] = [free_port()?, free_port()?, free_port()?];
        let mut cluster = Self {
            ingest: Member::new(binaries, folder, "ingest"),
            web: Member::new(binaries, folder, "web"),
            analyzers: Vec::new(),
            broker: None,
            redis: None,
            proxy,
            database,
            page: format!("127.0.0.1:{page}"),
            agents: format!("127.0.0.1:{agents}"),
            mqtt,
            binaries: binaries.clone(),
            folder: folder.to_owned(),
        };
        // The first to start makes the site; the others are given its files, as a secret is mounted.
        cluster.ingest.configure(&cluster.settings("ingest"))?;
        cluster.ingest.start()?;
        cluster.ingest.until_ready()?;
        cluster.web.share_site(&cluster.ingest)?;
        cluster.web.configure(&cluster.settings("web"))?;
        cluster.web.start()?;
        cluster.web.until_ready()?;
        Ok(Some(cluster))
    }

    /// Starts RabbitMQ, which asks ingest what a node may do, and Redis; `false`, said aloud, where one is missing.
    pub fn open_services(&mut self) -> anyhow::Result<bool> {
        let folder = self.folder.join("broker");
        let certificates = folder.join("certificates");
        let out = certificates.to_str().context("a path in UTF-8")?;
        self.ingest.run(&["broker-certificate", "--out", out, "localhost", "127.0.0.1"])?.success()?;
        let rights = self.agents.replace("127.0.0.1", "localhost");
        let mqtt = Mqtt { certificates: &certificates, port: self.mqtt, rights: Some(&rights) };
        let made = RabbitMqServer::make(&folder, &definitions::shipped()?, Some(mqtt))?;
        let Some(mut broker) = made else { return Ok(false) };
        let made = RedisServer::make(&self.folder.join("redis"), Some(&certificates))?;
        let Some(mut redis) = made else { return Ok(false) };
        redis.start()?;
        self.redis = Some(Cache { proxy: Proxy::start(&redis.address())?, server: redis });
        fs::write(folder.join("password"), definitions::PASSWORD)?;
        broker.start()?;
        self.broker = Some(broker);
        Ok(true)
    }

    /// Starts one analyzer more, and doesn't wait for it.
    pub fn add_analyzer(&mut self) -> anyhow::Result<()> {
        let name = format!("analyze-{}", self.analyzers.len());
        let mut member = Member::new(&self.binaries, &self.folder, &name);
        member.share_site(&self.ingest)?;
        member.configure(&self.settings("analyze"))?;
        member.start()?;
        self.analyzers.push(member);
        Ok(())
    }

    /// Stops the analyzer that was added last.
    pub fn remove_analyzer(&mut self) -> anyhow::Result<()> {
        self.analyzers.pop().context("there is an analyzer")?.stop()
    }

    /// Every process.
    pub fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        [&mut self.ingest, &mut self.web].into_iter().chain(&mut self.analyzers)
    }

    /// The database's address, past the proxy.
    pub fn database_url(&self) -> String {
        self.database.url()
    }

    /// What a member's configuration says besides where its own things are.
    fn settings(&self, role: &str) -> String {
        let (agents, page) = (&self.agents, &self.page);
        let database = format!("postgres://auditflow@{}/auditflow", self.proxy.address());
        let mut text = format!(
            "[process]\nroles = [{role:?}]\n[listen]\nagents = {agents:?}\nweb = {page:?}\n\
             [storage.postgres]\nurl = {database:?}\nconnections = 6\n[rules]\ndirs = []\n"
        );
        if let (Some(broker), "analyze") = (&self.broker, role) {
            let (url, password) = (broker.url("auditflow-analyzer"), self.folder.join("broker/password"));
            let (password, management) = (password.display(), broker.management_address());
            text += &format!(
                "[bus]\nurl = {url:?}\npassword_file = \"{password}\"\nmanagement = {management:?}\n"
            );
        }
        if let (Some(redis), "analyze") = (&self.redis, role) {
            let url = redis.server.url(Some(&redis.proxy.address()));
            let password = redis.server.password_file();
            text += &format!("[windows]\nurl = {url:?}\npassword_file = \"{}\"\n", password.display());
        }
        text
    }

    /// Stops every process, in the order that a rollout of nothing would.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.members().try_for_each(Member::stop_if_running)
    }
}

impl Member {
    fn new(binaries: &Binaries, folder: &Path, name: &str) -> Self {
        let (binary, folder) = (binaries.collector.clone(), folder.join(name));
        Self { name: name.to_owned(), binary, folder, process: None }
    }

    fn configure(&self, settings: &str) -> anyhow::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let (data, socket) = (self.folder.join("data"), self.socket());
        let (data, socket) = (data.display(), socket.display());
        let own = format!("[storage]\ndata_dir = \"{data}\"\n[admin]\nsocket = \"{socket}\"\n");
        Ok(fs::write(self.config(), format!("{own}{settings}"))?)
    }

    fn share_site(&self, with: &Self) -> anyhow::Result<()> {
        let data = self.folder.join("data");
        fs::create_dir_all(&data)?;
        Ok(std::os::unix::fs::symlink(with.folder.join("data/site"), data.join("site"))?)
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("collector.toml")
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// Starts it and doesn't wait for it.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.binary);
        command.args(["run", "--config"]).arg(self.config()).stdin(Stdio::null()).stdout(Stdio::null());
        let log = log_file(&self.config(), "collector.log")?;
        self.process = Some(Process::start(command.stderr(log))?);
        Ok(())
    }

    /// Waits until it does what it is for.
    pub fn until_ready(&mut self) -> anyhow::Result<()> {
        until(&format!("{} is ready", self.name), || {
            self.ensure_running()?;
            Ok(Some(self.ask("/readyz")?).filter(|answer| answer.status == 200))
        })
        .map(drop)
    }

    /// An error if it has ended by itself.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.process.as_mut().context("it was started")?.has_ended()? {
            Some(status) => bail!("{} ended with {status}", self.name),
            None => Ok(()),
        }
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("it runs")?.end(Signal::SIGKILL).map(drop)
    }

    /// Has it stop, which must succeed; once it answers, for a process that has just begun does not hear yet.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        until(&format!("{} answers", self.name), || {
            self.ensure_running()?;
            self.ask("/healthz").map(Some)
        })?;
        let status = self.process.take().context("it runs")?.end(Signal::SIGTERM)?;
        anyhow::ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    fn stop_if_running(&mut self) -> anyhow::Result<()> {
        if self.process.is_some() { self.stop() } else { Ok(()) }
    }

    /// Sends it a signal: SIGSTOP pauses it, SIGCONT lets it go on.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.as_ref().context("it runs")?.signal(signal)
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<i32> {
        self.process.as_ref().context("it runs")?.pid()
    }

    /// Asks its admin interface.
    pub fn ask(&self, path: &str) -> anyhow::Result<http::Answer> {
        http::ask_socket(&self.socket(), "GET", path, "")
    }

    /// A metric's value, added up over its labels; zero if there is none yet.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        Ok(metric_of(&self.ask("/metrics")?.body, name))
    }

    /// What it says of a part of itself.
    pub fn health(&self, part: &str) -> anyhow::Result<Value> {
        let report: Value = serde_json::from_str(&self.ask("/healthz")?.body)?;
        Ok(report["parts"][part].clone())
    }

    /// Runs one of the collector's commands with its configuration.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<Outcome> {
        Outcome::of(Command::new(&self.binary).args(words).arg("--config").arg(self.config()))
    }

    /// Its log's last lines.
    pub fn last_lines(&self, count: usize) -> String {
        let text = fs::read_to_string(self.folder.join("collector.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}
