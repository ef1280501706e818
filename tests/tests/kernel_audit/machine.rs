//! The machine's audit subsystem, for one test at a time.
//!
//! Audit rules and settings are machine-wide. A [`Turn`] is the right to change them: it notes what stands, and puts it
//! back when it is dropped, also by a test that fails. Rules are confined to a user id that nobody has, or to paths in a
//! folder of the test's own; no others are touched.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_agent::netlink::{AuditSocket, NetlinkError, Status, StatusChange};
use auditflow_tests::{Binaries, Outcome, until};
use tempfile::TempDir;

/// `AUDIT_UID`, as rules name the user id.
const UID_FIELD: u32 = 1;

/// A turn at the machine's audit subsystem.
pub(crate) struct Turn {
    /// Nobody's user id, to which rules are confined.
    pub(crate) uid: u32,
    /// Both programs.
    pub(crate) binaries: Binaries,
    folder: TempDir,
    found: Status,
    _lock: File,
}

impl Turn {
    /// Waits for its turn. `None`, said aloud, where the machine has no audit or the test may not use it; as root on a
    /// kernel with audit it is never `None`.
    pub(crate) fn take(test: &str, uid: u32) -> anyhow::Result<Option<Self>> {
        if !nix::unistd::getuid().is_root() {
            eprintln!("SKIPPED: {test}: kernel audit needs root");
            return Ok(None);
        }
        let lock = auditflow_tests::lock_kernel_audit()?;
        let mut socket = match AuditSocket::open().and_then(|mut socket| socket.status().map(|_| socket)) {
            Err(NetlinkError::NoAudit) => {
                eprintln!("SKIPPED: {test}: this kernel has no audit");
                return Ok(None);
            }
            socket => socket?,
        };
        let found = until("the audit daemon's place is free (stop auditd, or whatever holds it)", || {
            Ok(Some(socket.status()?).filter(|status| status.pid == 0 || !is_alive(status.pid)))
        })?;
        ensure!(
            !found.is_locked(),
            "the audit configuration is locked (-e 2): these tests run after a reboot"
        );
        let folder = tempfile::Builder::new().prefix("auditflow-kernel-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Some(Self { uid, binaries: Binaries::find()?, folder, found, _lock: lock }))
    }

    /// A folder of the test's own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a rule file.
    pub(crate) fn write_rules(&self, name: &str, lines: &[&str]) -> anyhow::Result<PathBuf> {
        let path = self.folder().join(name);
        fs::write(&path, lines.join("\n") + "\n")?;
        Ok(path)
    }

    /// Has the kernel record every program that the user id runs.
    pub(crate) fn record_programs(&self) -> anyhow::Result<()> {
        let rule = format!("-a always,exit -F arch=b64 -S execve -F uid={} -k af-exec", self.uid);
        let file = self.write_rules("programs.rules", &["-e 1", "-b 8192", &rule])?;
        self.load_rules(&[&file.display().to_string()])?.success()?;
        Ok(())
    }

    /// Where `load-rules` keeps what it found and left.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder().join("found.json")
    }

    /// Runs `auditflow-agent load-rules`, keeping what it finds in the test's folder.
    pub(crate) fn load_rules(&self, arguments: &[&str]) -> anyhow::Result<Outcome> {
        let mut command = Command::new(&self.binaries.agent);
        command.arg("load-rules").args(arguments).arg("--state").arg(self.state());
        Outcome::of(&mut command)
    }

    /// Lets the user id run a program once for each of these numbers, which is its last argument. The one before is of
    /// so many bytes: few programs can be much to record.
    pub(crate) fn run_programs(&self, numbers: Range<u32>, bytes: usize) -> anyhow::Result<()> {
        let script = "i=$0; while [ $i -lt $1 ]; do /bin/true \"$2\" $i; i=$((i+1)); done";
        let (from, to, padding) = (numbers.start.to_string(), numbers.end.to_string(), "p".repeat(bytes));
        // Where the kernel's queue is full and its daemon stands still, whoever runs a program may wait for long.
        let bounded = ["300", "/bin/sh", "-c", script, &from, &to, &padding];
        Outcome::of(self.command("/usr/bin/timeout").args(bounded))?.success()?;
        Ok(())
    }

    /// A program to be run by the user id.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.uid(self.uid).gid(self.uid).current_dir("/").env_clear().stdin(Stdio::null());
        command
    }

    fn restore(&self) -> anyhow::Result<()> {
        let mut socket = AuditSocket::open()?;
        for rule in socket.rules()? {
            if self.is_own(&rule) {
                socket.delete_rule(&rule)?;
            }
        }
        let found = &self.found;
        let change = StatusChange {
            enabled: Some(found.enabled),
            failure: Some(found.failure),
            pid: None,
            rate_limit: Some(found.rate_limit),
            backlog_limit: Some(found.backlog_limit),
            backlog_wait_time: Some(found.backlog_wait_time),
        };
        socket.change(change, "put the audit settings back")?;
        Ok(())
    }

    /// Whether a rule, as the kernel encodes it, is confined to what is this test's: `struct audit_rule_data` has its
    /// number of fields in word 2, their kinds from word 67 on, their values from word 131 on, texts after word 259.
    fn is_own(&self, rule: &[u8]) -> bool {
        let word = |place: usize| {
            let bytes = rule.get(place * 4..place * 4 + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        let folder = self.folder().as_os_str().as_encoded_bytes();
        (0..word(2) as usize).any(|field| word(67 + field) == UID_FIELD && word(131 + field) == self.uid)
            || rule.windows(folder.len()).any(|text| text == folder)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            eprintln!("the audit rules and settings were not put back: {error:#}");
        }
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// The machine's audit settings, without what changes by itself.
pub(crate) fn settings() -> anyhow::Result<Status> {
    let status = AuditSocket::open()?.status()?;
    Ok(Status { lost: 0, backlog: 0, pid: 0, ..status })
}

/// The machine's audit rules as the kernel encodes them.
pub(crate) fn rules() -> anyhow::Result<Vec<Vec<u8>>> {
    Ok(AuditSocket::open()?.rules()?)
}

/// Another audit daemon: this process, registered and reading.
pub(crate) struct OtherDaemon {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl OtherDaemon {
    pub(crate) fn register() -> anyhow::Result<Self> {
        let mut socket = AuditSocket::open()?;
        let own = Some(std::process::id());
        socket.change(StatusChange { pid: own, ..StatusChange::default() }, "register a daemon")?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            // Read and forget: a daemon that does not read holds the whole machine up.
            while !told.load(Ordering::Acquire) && socket.receive(Duration::from_millis(50)).is_ok() {}
            let leave = StatusChange { pid: Some(0), ..StatusChange::default() };
            if let Err(error) = socket.change(leave, "unregister a daemon") {
                eprintln!("the other daemon did not leave: {error}");
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for OtherDaemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            eprintln!("the other daemon panicked");
        }
    }
}

/// What auditctl prints.
pub(crate) fn auditctl(arguments: &[&str]) -> anyhow::Result<String> {
    let outcome = Outcome::of(Command::new("auditctl").args(arguments));
    Ok(outcome.context("auditctl is in Debian package auditd")?.stdout)
}
