//! Redis of a test's own, set up as the project ships it: on a port of the loopback, in memory only, with the user that
//! analyzers have. It may be killed, paused, emptied and started again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::sys::signal::Signal;

use super::{certificate_files, find, free_port, until_listening};
use crate::programs::{Outcome, Process, log_file};

/// The password of the analyzers' user.
const PASSWORD: &str = "windows-secret";
/// What operators include.
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../redis/auditflow.conf");
/// Who may do everything here.
const ADMIN: &str = "admin";

/// A server of the test's own.
#[derive(Debug)]
pub struct RedisServer {
    process: Option<Process>,
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    /// The port for tests that look inside, past TLS.
    inside: u16,
    has_tls: bool,
}

impl RedisServer {
    /// One below `folder`, not started yet; `None`, said aloud, where there is no Redis. With `certificates`, where the
    /// collector's `broker-certificate` wrote, it speaks TLS.
    pub fn make(folder: &Path, certificates: Option<&Path>) -> anyhow::Result<Option<Self>> {
        let Some(program) = find("redis-server", "redis-server")? else { return Ok(None) };
        fs::create_dir_all(folder)?;
        let [port, inside] = [free_port()?, free_port()?];
        let shipped = fs::read_to_string(SHIPPED).with_context(|| format!("cannot read {SHIPPED}"))?;
        let own = shipped.replace("resetpass", &format!(">{PASSWORD}"));
        anyhow::ensure!(own != shipped, "the shipped file has a place for the password");
        let mut text = format!(
            "{own}\nuser {ADMIN} on >{PASSWORD} ~* &* +@all\nbind 127.0.0.1\ndir {}\n",
            folder.display()
        );
        match certificates {
            None => text += &format!("port {port}\n"),
            Some(certificates) => {
                let [authority, certificate, key] = certificate_files(certificates);
                text += &format!(
                    "port {inside}\ntls-port {port}\ntls-ca-cert-file {authority}\ntls-cert-file {certificate}\n\
                     tls-key-file {key}\ntls-auth-clients no\n"
                );
            }
        }
        let folder = folder.to_owned();
        fs::write(folder.join("redis.conf"), text)?;
        fs::write(folder.join("password"), PASSWORD)?;
        let has_tls = certificates.is_some();
        let inside = if has_tls { inside } else { port };
        Ok(Some(Self { process: None, program, folder, port, inside, has_tls }))
    }

    /// Starts it, empty, and waits until it listens.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let config = self.folder.join("redis.conf");
        let mut command = Command::new(&self.program);
        command
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log_file(&config, "redis.log")?)
            .stderr(Stdio::null());
        let mut process = Process::start(&mut command)?;
        let port = self.port;
        until_listening(port, || match process.has_ended()? {
            Some(status) => anyhow::bail!("redis-server ended with {status}"),
            None => Ok(()),
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it without a warning.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("it runs")?.end(Signal::SIGKILL).map(drop)
    }

    /// Sends it a signal: SIGSTOP pauses it, SIGCONT lets it go on.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.as_ref().context("it runs")?.signal(signal)
    }

    /// Its process id.
    pub fn pid(&self) -> anyhow::Result<i32> {
        self.process.as_ref().context("it runs")?.pid()
    }

    /// Its address as the analyzers' user, at `host:port` or where it listens.
    pub fn url(&self, through: Option<&str>) -> String {
        let scheme = if self.has_tls { "rediss" } else { "redis" };
        format!("{scheme}://auditflow@{}/0", through.unwrap_or(&self.address()))
    }

    /// `host:port` that the server listens on.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The port of the loopback where an administrator finds it, without TLS.
    pub fn inside(&self) -> u16 {
        self.inside
    }

    /// The file with the password.
    pub fn password_file(&self) -> PathBuf {
        self.folder.join("password")
    }

    /// What it answers to a command of an administrator.
    pub fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        self.ask_as(ADMIN, words)
    }

    /// What it answers to a command of this user.
    pub fn ask_as(&self, user: &str, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("redis-cli");
        command.args([
            "-e",
            "--no-auth-warning",
            "--user",
            user,
            "--pass",
            PASSWORD,
            "-p",
            &self.inside.to_string(),
        ]);
        let outcome = Outcome::of(command.args(words))?;
        Ok(outcome.success()?.stdout.trim().to_owned())
    }
}
