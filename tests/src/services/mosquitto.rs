//! Mosquitto, which keeps nothing on disk here: killed, it forgets what it has acknowledged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use super::{certificate_files, find};
use crate::programs::{Process, log_file};
use crate::wait::until;

/// Who may do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// A node publishes its batches and hears its acknowledgements, the collector the reverse; docs/mqtt.md has it so.
    Proper,
    /// Nodes may publish nothing.
    NoBatches,
    /// Everybody may do everything.
    Everything,
}

/// A Mosquitto of the test's own.
#[derive(Debug)]
pub struct Mosquitto {
    process: Option<Process>,
    program: PathBuf,
    folder: PathBuf,
}

impl Mosquitto {
    /// One below `folder`, not started yet; `None`, said aloud, where there is no Mosquitto. `certificates` is where the
    /// collector's `broker-certificate` wrote.
    pub fn make(folder: &Path, certificates: &Path, port: u16) -> anyhow::Result<Option<Self>> {
        let Some(program) = find("mosquitto", "mosquitto")? else { return Ok(None) };
        fs::create_dir_all(folder)?;
        let [authority, certificate, key] = certificate_files(certificates);
        let user = nix::unistd::User::from_uid(nix::unistd::getuid())?.context("this user has a name")?.name;
        let acl = folder.join("acl");
        let text = format!(
            "user {user}\nlistener {port} 127.0.0.1\ncafile {authority}\ncertfile {certificate}\nkeyfile {key}\n\
             require_certificate true\nuse_identity_as_username true\nallow_anonymous false\nacl_file {}\n\
             persistence false\nlog_dest stderr\nlog_type error\nlog_type warning\nlog_type notice\nlog_type information\n",
            acl.display()
        );
        fs::write(folder.join("mosquitto.conf"), text)?;
        let broker = Self { process: None, program, folder: folder.to_owned() };
        broker.write_access(Access::Proper)?;
        Ok(Some(broker))
    }

    /// Starts it and waits until it listens.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.join("mosquitto.conf"));
        let log = log_file(&self.folder.join("mosquitto.conf"), "broker.log")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let before = self.times_running()?;
        let mut process = Process::start(&mut command)?;
        // It listens before it minds signals, and a signal then would end it.
        until("mosquitto runs", || match process.has_ended()? {
            Some(status) => bail!("mosquitto ended with {status}"),
            None => Ok((self.times_running()? > before).then_some(())),
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it without a warning: it forgets everything.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("it runs")?.end(Signal::SIGKILL).map(drop)
    }

    /// From now on this holds; connections stay.
    pub fn set_access(&self, access: Access) -> anyhow::Result<()> {
        self.write_access(access)?;
        self.process.as_ref().context("it runs")?.signal(Signal::SIGHUP)
    }

    fn times_running(&self) -> anyhow::Result<usize> {
        let log = fs::read_to_string(self.folder.join("broker.log"))?;
        Ok(log.lines().filter(|line| line.ends_with(" running")).count())
    }

    fn write_access(&self, access: Access) -> anyhow::Result<()> {
        let collector = "user auditflow-collector\ntopic read audit/+/batch\ntopic write audit/+/ack\n";
        let text = match access {
            Access::Proper => {
                format!("{collector}pattern write audit/%u/batch\npattern read audit/%u/ack\n")
            }
            Access::NoBatches => format!("{collector}pattern read audit/%u/ack\n"),
            Access::Everything => "topic readwrite #\npattern readwrite #\n".to_owned(),
        };
        Ok(fs::write(self.folder.join("acl"), text)?)
    }
}
