//! Collector and agent as processes: started, asked, stopped, killed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use crate::http;
use crate::wait::until;

/// Both programs.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// `auditflow-agent`.
    pub agent: PathBuf,
    /// `auditflow-collector`.
    pub collector: PathBuf,
}

impl Binaries {
    /// Where the environment says (`cargo xtask test` sets it), else beside the test that is running.
    pub fn find() -> anyhow::Result<Self> {
        let beside = std::env::current_exe()?;
        let beside =
            beside.parent().and_then(Path::parent).context("a test lies in target/PROFILE/deps")?.to_owned();
        let find = |variable: &str, name: &str| {
            let path = std::env::var_os(variable).map_or_else(|| beside.join(name), PathBuf::from);
            if path.is_file() {
                return Ok(path);
            }
            bail!("{} is not built; run `cargo build --bins` first, or `cargo xtask test`", path.display())
        };
        Ok(Self {
            agent: find("AUDITFLOW_TEST_AGENT", "auditflow-agent")?,
            collector: find("AUDITFLOW_TEST_COLLECTOR", "auditflow-collector")?,
        })
    }
}

/// A process that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process(Option<Child>);

impl Process {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        // In a group of its own: Ctrl-C is for us, who stop everything in order.
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(Some(child)))
    }

    fn id(&self) -> Option<Pid> {
        self.0.as_ref().map(|child| Pid::from_raw(child.id().cast_signed()))
    }

    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(self.id().context("it has ended")?, signal)?)
    }

    pub(crate) fn pid(&self) -> anyhow::Result<i32> {
        Ok(self.id().context("it has ended")?.as_raw())
    }

    /// Sends a signal to it and to whatever descends from it, in whichever group or session that is.
    pub(crate) fn signal_family(&self, signal: Signal) -> anyhow::Result<()> {
        for member in family(self.pid()?)? {
            // One that ended meanwhile needs no signal.
            let _ = kill(Pid::from_raw(member), signal);
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, signal: Signal) -> anyhow::Result<ExitStatus> {
        self.signal(signal)?;
        self.wait()
    }

    /// Ends it and everything that it started, and waits for all of them: a server that is started again must not find
    /// the old one's sockets.
    pub(crate) fn end_group(&mut self, signal: Signal) -> anyhow::Result<()> {
        let family = family(self.pid()?)?;
        killpg(self.id().context("it has ended")?, signal)?;
        self.wait()?;
        until("all that it started has ended", || {
            let left = states()?.into_iter().any(|one| family.contains(&one.id) && one.state != 'Z');
            Ok((!left).then_some(()))
        })
    }

    fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let mut child = self.0.take().context("it has ended")?;
        Ok(child.wait()?)
    }

    pub(crate) fn has_ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.0.as_mut().map(Child::try_wait).transpose()?.flatten())
    }
}

/// A process and whatever descends from it.
pub(crate) fn family(process: i32) -> anyhow::Result<Vec<i32>> {
    let states = states()?;
    let mut family = vec![process];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        family.extend(states.iter().filter(|one| one.parent == parent).map(|one| one.id));
        next += 1;
    }
    Ok(family)
}

/// One process of this machine, as `proc_pid_stat(5)` has it; state `Z` has ended and closed all it had open.
struct ProcessState {
    id: i32,
    state: char,
    parent: i32,
}

fn states() -> anyhow::Result<Vec<ProcessState>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let state = |id: i32| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // After the name, which may hold anything.
        let mut words = stat.rsplit_once(") ")?.1.split(' ');
        Some(ProcessState { id, state: words.next()?.parse().ok()?, parent: words.next()?.parse().ok()? })
    };
    Ok(ids.filter_map(state).collect())
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    process: Process,
    binary: PathBuf,
    data: PathBuf,
    /// Its configuration, if it is more than its data directory.
    config: Option<PathBuf>,
    /// `host:port` of page and API.
    pub page: String,
    /// `host:port` that agents deliver to.
    pub agents: String,
    /// What the API is asked with, once it was needed.
    api_token: OnceLock<String>,
}

impl Collector {
    /// Starts one on ports that the system chooses.
    pub fn start(binaries: &Binaries, data: &Path) -> anyhow::Result<Self> {
        Self::start_on(binaries, data, "127.0.0.1:0", "127.0.0.1:0")
    }

    /// Starts one again, where it was.
    pub fn start_again(binaries: &Binaries, data: &Path, before: (&str, &str)) -> anyhow::Result<Self> {
        Self::start_on(binaries, data, before.0, before.1)
    }

    fn start_on(binaries: &Binaries, data: &Path, agents: &str, page: &str) -> anyhow::Result<Self> {
        Self::watch(Self::process(binaries, data, (agents, page), Stdio::piped())?, binaries, data)
    }

    /// Starts one with these words on its command line, which have it on `data`.
    pub fn start_as(binaries: &Binaries, data: &Path, words: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(&binaries.collector);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped());
        let process = Process::start(command.stderr(log_file(data, "collector.log")?))?;
        Self::watch(process, binaries, data)
    }

    /// Reads where it listens from what it says, and waits until it is ready.
    fn watch(mut process: Process, binaries: &Binaries, data: &Path) -> anyhow::Result<Self> {
        let stdout =
            process.0.as_mut().and_then(|child| child.stdout.take()).context("its output is piped")?;
        let (mut page, mut agents) = (None, None);
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            match line.split_once(char::is_whitespace) {
                Some(("page", url)) => page = address_of(url),
                Some(("agents", url)) => agents = address_of(url),
                _ => {}
            }
            if let (Some(page), Some(agents)) = (&page, &agents) {
                let mut collector = Self {
                    process,
                    binary: binaries.collector.clone(),
                    data: data.to_owned(),
                    config: None,
                    page: page.clone(),
                    agents: agents.clone(),
                    api_token: OnceLock::new(),
                };
                collector.wait_until_ready()?;
                return Ok(collector);
            }
        }
        bail!("the collector ended before it was ready; see {}", data.with_extension("log").display())
    }

    /// Starts one where it was, and doesn't wait for it: it may be killed at any moment from here on.
    pub fn launch(binaries: &Binaries, data: &Path, before: (&str, &str)) -> anyhow::Result<Self> {
        Ok(Self {
            process: Self::process(binaries, data, before, Stdio::null())?,
            binary: binaries.collector.clone(),
            data: data.to_owned(),
            config: None,
            page: before.1.to_owned(),
            agents: before.0.to_owned(),
            api_token: OnceLock::new(),
        })
    }

    /// Starts one with a configuration, which has it on `data`, where it was, and doesn't wait for it.
    pub fn launch_with(
        binaries: &Binaries,
        data: &Path,
        config: &Path,
        before: (&str, &str),
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(&binaries.collector);
        command.args(["run", "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self {
            process: Process::start(command.stderr(log_file(data, "collector.log")?))?,
            binary: binaries.collector.clone(),
            data: data.to_owned(),
            config: Some(config.to_owned()),
            page: before.1.to_owned(),
            agents: before.0.to_owned(),
            api_token: OnceLock::new(),
        })
    }

    /// Has commands use this configuration, with which it was started.
    #[must_use]
    pub fn with_config(self, config: &Path) -> Self {
        Self { config: Some(config.to_owned()), ..self }
    }

    fn process(
        binaries: &Binaries,
        data: &Path,
        (agents, page): (&str, &str),
        stdout: Stdio,
    ) -> anyhow::Result<Process> {
        let log = log_file(data, "collector.log")?;
        let mut command = Command::new(&binaries.collector);
        command.args(["run", "--listen-agents", agents, "--listen-web", page, "--data"]).arg(data);
        Process::start(command.stdin(Stdio::null()).stdout(stdout).stderr(log))
    }

    /// Waits until it takes what agents send.
    pub fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        until("the collector is ready", || {
            if let Some(status) = self.process.has_ended()? {
                bail!("the collector ended with {status}");
            }
            Ok(Some(self.get("/readyz")?).filter(|answer| answer.status == 200))
        })
        .map(drop)
    }

    /// Runs one of the collector's commands on its data and returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Outcome> {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        match &self.config {
            Some(config) => command.arg("--config").arg(config),
            None => command.arg("--data").arg(&self.data),
        };
        Outcome::of(&mut command)
    }

    /// A join token for so many nodes.
    pub fn token(&self, uses: u32) -> anyhow::Result<String> {
        let outcome = self.run(&["token", "create", "--uses", &uses.to_string()])?.success()?;
        Ok(outcome.stdout.lines().next().context("a token on the first line")?.to_owned())
    }

    /// Asks the API, as an administrator where it wants to know who asks.
    pub fn get(&self, path: &str) -> anyhow::Result<http::Answer> {
        if self.api_token.get().is_none() {
            let answer = http::ask(&self.page, "GET", path, &[], "")?;
            if answer.status != 401 {
                return Ok(answer);
            }
        }
        let authorization = format!("Bearer {}", self.api_token()?);
        http::ask(&self.page, "GET", path, &[("Authorization", &authorization)], "")
    }

    /// Changes something by the API, as an administrator.
    pub fn change(&self, path: &str, body: &str) -> anyhow::Result<()> {
        let authorization = format!("Bearer {}", self.api_token()?);
        http::ask(&self.page, "PATCH", path, &[("Authorization", &authorization)], body)?.json().map(drop)
    }

    /// An administrator's API token.
    pub fn api_token(&self) -> anyhow::Result<&str> {
        if self.api_token.get().is_none() {
            let token = self.run(&["token", "api", "--name", "tests", "--role", "admin"])?.success()?;
            // Two that ask at once each made one; either will do.
            let _ = self.api_token.set(token.stdout.trim().to_owned());
        }
        self.api_token.get().map(String::as_str).context("it was made above")
    }

    /// Asks the API for JSON.
    pub fn json(&self, path: &str) -> anyhow::Result<Value> {
        self.get(path)?.json()
    }

    /// Asks its admin interface.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<http::Answer> {
        http::ask_socket(&self.data.join("admin.sock"), method, path, body)
    }

    /// Every event that the query finds, newest first, read page by page. `query` is what follows `/api/v1/events?`.
    pub fn events(&self, query: &str) -> anyhow::Result<Vec<Value>> {
        let mut events = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.json(&format!("/api/v1/events?limit=500&{query}{cursor}"))?;
            let found = page["events"].as_array().context("a page has events")?;
            events.extend(found.iter().map(|found| found["event"].clone()));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(events),
            }
        }
    }

    /// A metric's value, added up over its labels; zero if there is none yet.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        Ok(metric_of(&self.get("/metrics")?.body, name))
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<i32> {
        self.process.pid()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) -> anyhow::Result<ExitStatus> {
        self.process.wait()
    }

    /// Where it listens, to start it again there.
    pub fn addresses(&self) -> (String, String) {
        (self.agents.clone(), self.page.clone())
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.process.end(Signal::SIGTERM)
    }

    /// Ends it without a warning.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.end(Signal::SIGKILL).map(|_| ())
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    socket: PathBuf,
}

impl Agent {
    /// Lets the node join, before its agent runs.
    pub fn join(binaries: &Binaries, config: &Path, address: &str, token: &str) -> anyhow::Result<Outcome> {
        let mut command = Command::new(&binaries.agent);
        command.args(["join", "--config"]).arg(config).arg(format!("https://{address}")).arg(token);
        Outcome::of(&mut command)
    }

    /// Starts one and waits until its admin socket answers. `socket` is the one that the configuration names.
    pub fn start(binaries: &Binaries, config: &Path, socket: &Path) -> anyhow::Result<Self> {
        let mut agent = Self::launch(binaries, config, socket)?;
        agent.wait_until_ready()?;
        Ok(agent)
    }

    /// Starts one and doesn't wait for it: it may be killed at any moment from here on.
    pub fn launch(binaries: &Binaries, config: &Path, socket: &Path) -> anyhow::Result<Self> {
        let log = log_file(socket, "agent.log")?;
        let mut command = Command::new(&binaries.agent);
        command.args(["run", "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.envs(environment_of_unit()?);
        Ok(Self { process: Process::start(&mut command)?, socket: socket.to_owned() })
    }

    /// Waits until it works.
    pub fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        until("the agent is ready", || {
            self.ensure_running()?;
            Ok(Some(self.ask("GET", "/readyz", "")?).filter(|answer| answer.status == 200))
        })
        .map(drop)
    }

    /// An error if the process has ended by itself.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.process.has_ended()? {
            Some(status) => bail!("the agent ended with {status}"),
            None => Ok(()),
        }
    }

    /// Stops it where it is, so that its files can be copied as of one moment.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGSTOP)?;
        let threads = PathBuf::from(format!("/proc/{}/task", self.pid()?));
        until("every thread of the agent is stopped", || {
            for thread in fs::read_dir(&threads)? {
                let status = fs::read_to_string(thread?.path().join("stat"))?;
                if !status.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Lets it go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Asks its admin interface.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<http::Answer> {
        http::ask_socket(&self.socket, method, path, body)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) -> anyhow::Result<ExitStatus> {
        self.process.wait()
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<i32> {
        self.process.pid()
    }

    /// Asks it to stop and waits until it has.
    pub fn stop(mut self) -> anyhow::Result<ExitStatus> {
        self.process.end(Signal::SIGTERM)
    }

    /// Ends it without a warning.
    pub fn kill(mut self) -> anyhow::Result<()> {
        self.process.end(Signal::SIGKILL).map(|_| ())
    }
}

/// The variables that the agent's unit sets: how it manages its memory is part of how it ships.
fn environment_of_unit() -> anyhow::Result<Vec<(String, String)>> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/auditflow-agent.service");
    let text = fs::read_to_string(&unit).with_context(|| format!("cannot read {}", unit.display()))?;
    let words =
        text.lines().filter_map(|line| line.strip_prefix("Environment=")).flat_map(str::split_whitespace);
    Ok(words
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.into(), value.into()))
        .collect())
}

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs the command to its end.
    pub fn of(command: &mut Command) -> anyhow::Result<Self> {
        let output =
            command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Self { status: output.status, stdout: text(&output.stdout), stderr: text(&output.stderr) })
    }

    /// The outcome if it is a success, else an error with what the command said.
    pub fn success(self) -> anyhow::Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        bail!("it ended with {}: {}{}", self.status, self.stdout, self.stderr)
    }
}

/// What a program says is appended beside its data, for whoever looks into a failure.
pub(crate) fn log_file(beside: &Path, name: &str) -> anyhow::Result<File> {
    let folder = beside.parent().context("a path with a folder")?;
    fs::create_dir_all(folder)?;
    Ok(File::options().create(true).append(true).open(folder.join(name))?)
}

/// A metric's value in what `/metrics` says, added up over its labels; zero if there is none yet.
pub(crate) fn metric_of(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        // Not a longer name that begins like it.
        let (_, value) = rest.starts_with([' ', '{']).then(|| rest.rsplit_once(' '))??;
        value.parse::<f64>().ok()
    });
    values.sum()
}

fn address_of(url: &str) -> Option<String> {
    let (_, address) = url.trim().split_once("://")?;
    Some(address.trim_end_matches('/').to_owned())
}
