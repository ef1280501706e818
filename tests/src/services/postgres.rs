//! PostgreSQL of a test's own: a server on a port of the loopback, with an empty database `auditflow`, that may be killed,
//! paused and started again. As root it runs as the user `postgres`, for the server refuses to be root.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{find, free_port, until_listening};
use crate::programs::{Outcome, Process, log_file};

/// Where Debian keeps the server's programs, by version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A server of the test's own.
#[derive(Debug)]
pub struct PostgresServer {
    process: Option<Process>,
    programs: PathBuf,
    port: u16,
    /// Its own, for another user has to reach it.
    folder: TempDir,
}

impl PostgresServer {
    /// One that is not started yet; `None`, said aloud, where there is no PostgreSQL.
    pub fn make() -> anyhow::Result<Option<Self>> {
        let programs = match newest_installed() {
            Some(programs) => programs,
            None => match find("initdb", "postgresql")? {
                Some(initdb) => initdb.parent().context("it lies in a folder")?.to_owned(),
                None => return Ok(None),
            },
        };
        let (port, folder) = (free_port()?, tempfile::tempdir()?);
        if is_root() {
            Outcome::of(Command::new("chown").arg("postgres").arg(folder.path()))?.success()?;
        }
        let server = Self { process: None, programs, port, folder };
        let mut initdb = server.program("initdb");
        initdb.args([
            "--username=auditflow",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "-D",
        ]);
        Outcome::of(initdb.arg(server.data()))?.success()?;
        Ok(Some(server))
    }

    /// Starts it and waits until it listens; the first time, makes the database.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = self.program("postgres");
        command
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-h", "127.0.0.1", "-c", "max_connections=60", "-k"])
            .arg(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&self.data(), "database.log")?);
        let mut process = Process::start(&mut command)?;
        until_listening(self.port, || match process.has_ended()? {
            // One that was killed has left processes that go by themselves; until then no other may start.
            Some(_) => {
                process = Process::start(&mut command)?;
                Ok(())
            }
            None => Ok(()),
        })?;
        self.process = Some(process);
        let mut create = self.program("createdb");
        create.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "auditflow", "auditflow"]);
        crate::wait::until("there is a database", || {
            let outcome = Outcome::of(&mut create)?;
            let is_there = outcome.status.success() || outcome.stderr.contains("already exists");
            Ok(is_there.then_some(()))
        })
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("it runs")?.end(Signal::SIGKILL).map(drop)
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<i32> {
        self.process.as_ref().context("it runs")?.pid()
    }

    /// Sends a signal to all its processes: SIGSTOP pauses it, SIGCONT lets it go on.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.as_ref().context("it runs")?.signal_family(signal)
    }

    /// Where the database is.
    pub fn url(&self) -> String {
        format!("postgres://auditflow@{}/auditflow", self.address())
    }

    /// `host:port` that the server listens on.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn program(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir(self.folder.path());
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // At once, but in order: its processes are gone when this returns, and then its folder goes.
            let _ = process.end(Signal::SIGQUIT);
        }
    }
}

fn newest_installed() -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let folders = versions.map(|version| version.path().join("bin"));
    folders.filter(|folder| folder.join("postgres").is_file()).max()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
