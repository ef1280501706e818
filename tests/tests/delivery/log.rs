//! The node's audit log: written as auditd writes it, rotated as auditd rotates it, and remembered.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use auditflow_audit_record::{AuditEvent, Completion, Record};
use auditflow_event::{Event, NodeId};
use auditflow_tests::Random;

/// Events after which the log is rotated.
const ROTATE_AFTER: usize = 2500;

/// A log with what was written to it.
pub(crate) struct AuditLog {
    path: PathBuf,
    file: File,
    random: Random,
    millis: u64,
    serial: u32,
    argument_bytes: usize,
    in_file: usize,
    rotated: usize,
    issued: Vec<AuditEvent>,
}

impl AuditLog {
    /// An empty log.
    pub(crate) fn create(path: &Path, random: Random) -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        Ok(Self {
            path: path.to_owned(),
            file: File::create_new(path)?,
            random,
            millis: now.as_millis() as u64,
            serial: 1,
            argument_bytes: 200,
            in_file: 0,
            rotated: 0,
            issued: Vec::new(),
        })
    }

    /// From now on events carry up to so many bytes that hardly compress.
    pub(crate) fn with_large_events(mut self, bytes: usize) -> Self {
        self.argument_bytes = bytes;
        self
    }

    /// Appends so many events, some of whose records interleave, in writes that may end anywhere.
    pub(crate) fn append(&mut self, events: usize) -> anyhow::Result<()> {
        let mut text = String::new();
        let mut left = events;
        while left > 0 {
            let together = (1 + self.random.below(2) as usize).min(left);
            left -= together;
            let mut open = (0..together).map(|_| self.event()).collect::<anyhow::Result<Vec<_>>>()?;
            while open.iter().any(|lines| !lines.is_empty()) {
                let next = self.random.below(open.len() as u64) as usize;
                if !open[next].is_empty() {
                    text.push_str(&open[next].remove(0));
                    text.push('\n');
                }
            }
        }
        let cut = self.random.below(text.len() as u64 + 1) as usize;
        let (first, second) = text.as_bytes().split_at(cut);
        self.file.write_all(first)?;
        thread::yield_now();
        self.file.write_all(second)?;
        self.in_file += events;
        if self.in_file >= ROTATE_AFTER {
            self.rotate()?;
        }
        Ok(())
    }

    /// Appends a few events at a time until told to stop, on a thread of its own.
    pub(crate) fn append_steadily(mut self) -> Appending {
        const PAUSE: Duration = Duration::from_millis(20);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let events = 1 + self.random.below(5) as usize;
                self.append(events)?;
                thread::sleep(PAUSE);
            }
            Ok(self)
        });
        Appending { stop, thread }
    }

    /// What the collector should hold of this log.
    pub(crate) fn expected(&self, node: NodeId) -> impl Iterator<Item = Event> + '_ {
        self.issued.iter().map(move |event| Event::audit(Some(node), event.clone()))
    }

    /// How many events it has.
    pub(crate) fn len(&self) -> usize {
        self.issued.len()
    }

    /// The names move up as with auditd, which keeps the newest under the plain name.
    fn rotate(&mut self) -> anyhow::Result<()> {
        let name = |number: usize| self.path.with_added_extension(number.to_string());
        for number in (1..=self.rotated).rev() {
            fs::rename(name(number), name(number + 1))?;
        }
        fs::rename(&self.path, name(1))?;
        self.file = File::create_new(&self.path)?;
        self.rotated += 1;
        self.in_file = 0;
        Ok(())
    }

    /// A new event as lines; also noted as issued.
    fn event(&mut self) -> anyhow::Result<Vec<String>> {
        self.millis += self.random.below(3);
        self.serial += 1;
        let lines = match self.random.below(5) {
            0 => self.command(),
            1 => self.user_added(),
            2 => self.login_failed(),
            _ => self.execution(),
        };
        let records = lines
            .iter()
            .map(|line| Record::from_line(line.as_bytes()).map_err(|error| anyhow!("{line}: {error}")))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let stamp = records.first().context("an event has a record")?.stamp;
        self.issued.push(AuditEvent { stamp, node: None, records, completion: Completion::Proctitle });
        Ok(lines)
    }

    fn line(&self, kind: &str, text: &str) -> String {
        let (millis, serial) = (self.millis, self.serial);
        format!("type={kind} msg=audit({}.{:03}:{serial}): {text}", millis / 1000, millis % 1000)
    }

    fn argument(&mut self) -> String {
        let length = self.random.below(self.argument_bytes as u64) as usize;
        self.random.text(length)
    }

    fn command(&mut self) -> Vec<String> {
        let argument = self.argument();
        vec![self.line(
            "USER_CMD",
            &format!(
                "pid=4711 uid=1000 auid=1000 ses=3 msg='cwd=\"/root\" cmd=\"ls {argument}\" \
                 exe=\"/usr/bin/sudo\" terminal=pts/0 res=success'"
            ),
        )]
    }

    fn user_added(&mut self) -> Vec<String> {
        let user = self.random.below(60_000);
        vec![self.line(
            "ADD_USER",
            &format!(
                "pid=4711 uid=0 auid=1000 ses=3 msg='op=adding user id={user} exe=\"/usr/sbin/useradd\" \
                 hostname=? addr=? terminal=pts/0 res=success'"
            ),
        )]
    }

    /// One of a few users, again and again: somebody guesses passwords.
    fn login_failed(&mut self) -> Vec<String> {
        let user = self.random.below(5);
        vec![self.line(
            "USER_LOGIN",
            &format!(
                "pid=4711 uid=0 auid=4294967295 ses=4294967295 msg='op=login acct=\"user{user}\" \
                 exe=\"/usr/sbin/sshd\" hostname=? addr=203.0.113.9 terminal=ssh res=failed'"
            ),
        )]
    }

    fn execution(&mut self) -> Vec<String> {
        let (argument, pid) = (self.argument(), 1000 + self.random.below(30_000));
        vec![
            self.line(
                "SYSCALL",
                &format!(
                    "arch=c000003e syscall=59 success=yes exit=0 a0=55d0 a1=55d8 a2=55e0 a3=8 items=1 ppid=900 \
                     pid={pid} auid=1000 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 ses=3 \
                     comm=\"touch\" exe=\"/usr/bin/touch\" key=\"delivery\""
                ),
            ),
            self.line("EXECVE", &format!("argc=2 a0=\"touch\" a1=\"{argument}\"")),
            self.line("CWD", "cwd=\"/root\""),
            self.line(
                "PATH",
                "item=0 name=\"/usr/bin/touch\" inode=4711 dev=fd:00 mode=0100755 ouid=0 ogid=0 rdev=00:00 \
                 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0",
            ),
            self.line("PROCTITLE", "proctitle=746F7563680066"),
        ]
    }
}

/// A log that is being appended to.
pub(crate) struct Appending {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<AuditLog>>,
}

impl Appending {
    /// Stops, with whole events, and gives the log back.
    pub(crate) fn stop(self) -> anyhow::Result<AuditLog> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| anyhow!("the thread that writes the log panicked"))?
    }
}
