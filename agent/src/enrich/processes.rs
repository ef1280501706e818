//! A bounded shadow of the process table: who started whom, from what, in which container.
//!
//! Filled from `/proc` at start, fed by every event that names a process, and asked for the ancestry of an event's
//! process when that process and its parents may long be gone. What a fork or an exec said is kept; what was never
//! seen is read from `/proc` while the event is fresh (a process id is used again sooner or later, so a stale event
//! never makes it look there). The table is bounded in bytes; the least recently used entries go first.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use auditflow_event::Timestamp;

use super::cgroup;

/// How many generations an ancestry goes back.
pub const MAX_ANCESTORS: usize = 8;
const CAPACITY_BYTES: usize = 2 << 20;
const MAX_PROC_FILE_BYTES: u64 = 16 << 10;
const MAX_TEXT_BYTES: usize = 1024;
/// `/proc` counts in hundredths of a second on every architecture (`USER_HZ`).
const MICROS_PER_TICK: i64 = 10_000;

/// What is known of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its parent's id; 0 when it has none.
    pub parent: u32,
    /// The path of what it runs, where that is known.
    pub executable: Option<Arc<str>>,
    /// Its short name (`comm`).
    pub name: Arc<str>,
    /// Its command line, arguments joined by spaces.
    pub title: Option<Arc<str>>,
    /// When it started.
    pub start: Option<Timestamp>,
    whereabouts: Whereabouts,
}

/// Where a process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Whereabouts {
    #[default]
    NotLookedUp,
    Host,
    Container(Arc<Placement>),
}

/// The container that a process runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The container's id.
    pub container_id: Box<str>,
    /// Its runtime, where the cgroup path says so.
    pub runtime: Option<&'static str>,
    /// Its pod's UID.
    pub pod_uid: Option<Box<str>>,
}

/// What an event says of its process.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its id.
    pub pid: u32,
    /// Its parent's id.
    pub parent: u32,
    /// The path of what it runs.
    pub executable: Option<&'a str>,
    /// Its short name.
    pub name: &'a str,
    /// Its new command line, if it has just started a program.
    pub title: Option<&'a str>,
}

/// The table.
#[derive(Debug)]
pub struct Processes {
    proc_root: PathBuf,
    entries: HashMap<u32, (Process, u64)>,
    bytes: usize,
    capacity_bytes: usize,
    clock: u64,
    boot: Option<Timestamp>,
}

impl Processes {
    /// An empty table that looks at `proc_root` (`/proc`) for what it doesn't know.
    pub fn new(proc_root: impl Into<PathBuf>) -> Self {
        let proc_root = proc_root.into();
        let boot = read_bounded(&proc_root.join("stat")).as_deref().and_then(parse_boot_time);
        Self { proc_root, entries: HashMap::new(), bytes: 0, capacity_bytes: CAPACITY_BYTES, clock: 0, boot }
    }

    /// Takes in every process that runs now, as far as there is room.
    pub fn fill(&mut self) {
        let Ok(directory) = fs::read_dir(&self.proc_root) else { return };
        for pid in directory.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
            if self.bytes < self.capacity_bytes / 2 {
                self.look_up(pid);
            }
        }
    }

    /// Learns what an event says of its process.
    pub fn observe(&mut self, seen: Seen<'_>) {
        if let Some((known, _)) = self.entries.get(&seen.pid)
            && known.agrees(seen)
        {
            self.touch(seen.pid);
            return;
        }
        let known = self.entries.get(&seen.pid).map(|(process, _)| process.clone());
        let around = known.as_ref().or_else(|| self.entries.get(&seen.parent).map(|(parent, _)| parent));
        let whereabouts = around.map(|process| process.whereabouts.clone()).unwrap_or_default();
        let (title, start, executable) =
            known.map_or((None, None, None), |known| (known.title, known.start, known.executable));
        let process = Process {
            parent: seen.parent,
            executable: seen.executable.map(text).or(executable),
            name: text(seen.name),
            title: seen.title.map(text).or(title),
            start,
            whereabouts,
        };
        self.insert(seen.pid, process);
    }

    /// Learns that a process was made: it is its parent's image in all but its id.
    pub fn forked(&mut self, parent: u32, child: u32, at: Timestamp) {
        if let Some((process, _)) = self.entries.get(&parent) {
            let process = Process { parent, start: Some(at), ..process.clone() };
            self.insert(child, process);
        }
    }

    /// The processes above `parent`, it included, nearest first. `fresh` allows a look into `/proc`.
    pub fn ancestors(&mut self, parent: u32, fresh: bool) -> Vec<(u32, Process)> {
        let mut ancestors: Vec<(u32, Process)> = Vec::new();
        let mut pid = parent;
        while pid != 0 && ancestors.len() < MAX_ANCESTORS && ancestors.iter().all(|(seen, _)| *seen != pid) {
            let Some(process) = self.get(pid, fresh) else { break };
            let above = process.parent;
            ancestors.push((pid, process));
            pid = above;
        }
        ancestors
    }

    /// The container of a process. A process that is gone before it could be looked up is where its parent is:
    /// processes are moved to another cgroup by a container runtime only, before they run what they were made for.
    pub fn placement(&mut self, pid: u32, fresh: bool) -> Option<Arc<Placement>> {
        let mut current = pid;
        for _ in 0..MAX_ANCESTORS {
            let process = self.get(current, fresh)?;
            match process.whereabouts {
                Whereabouts::Container(placement) => return Some(placement),
                Whereabouts::Host => return None,
                Whereabouts::NotLookedUp => {}
            }
            if fresh && let Some(text) = self.read(current, "cgroup") {
                let found = cgroup::parse_proc_cgroup(&text).map(|placement| {
                    Arc::new(Placement {
                        container_id: placement.container_id.into(),
                        runtime: placement.runtime,
                        pod_uid: placement.pod_uid.map(String::into_boxed_str),
                    })
                });
                if let Some((process, _)) = self.entries.get_mut(&current) {
                    process.whereabouts = found.clone().map_or(Whereabouts::Host, Whereabouts::Container);
                }
                return found;
            }
            current = process.parent;
        }
        None
    }

    /// How many processes are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn get(&mut self, pid: u32, fresh: bool) -> Option<Process> {
        if !self.entries.contains_key(&pid) && fresh {
            self.look_up(pid);
        }
        self.touch(pid);
        self.entries.get(&pid).map(|(process, _)| process.clone())
    }

    fn look_up(&mut self, pid: u32) {
        let stat = self.read(pid, "stat");
        let Some(stat) = stat.as_deref().and_then(parse_stat) else { return };
        let link = self.proc_root.join(pid.to_string()).join("exe");
        let executable = fs::read_link(link).ok().and_then(|path| path.to_str().map(text));
        let title = self.read(pid, "cmdline").map(|line| line.trim_end_matches('\0').replace('\0', " "));
        let start = self
            .boot
            .map(|boot| Timestamp::from_micros(boot.as_micros() + stat.start_ticks * MICROS_PER_TICK));
        let process = Process {
            parent: stat.parent,
            executable,
            name: text(stat.name),
            title: title.filter(|title| !title.is_empty()).as_deref().map(text),
            start,
            whereabouts: Whereabouts::NotLookedUp,
        };
        self.insert(pid, process);
    }

    fn read(&self, pid: u32, file: &str) -> Option<String> {
        read_bounded(&self.proc_root.join(pid.to_string()).join(file))
    }

    fn touch(&mut self, pid: u32) {
        self.clock += 1;
        if let Some((_, touched)) = self.entries.get_mut(&pid) {
            *touched = self.clock;
        }
    }

    fn insert(&mut self, pid: u32, process: Process) {
        self.clock += 1;
        self.bytes += process.weight();
        if let Some((old, _)) = self.entries.insert(pid, (process, self.clock)) {
            self.bytes -= old.weight();
        }
        if self.bytes > self.capacity_bytes {
            self.evict();
        }
    }

    /// Lets go of the least recently used eighth at once, so that a full table isn't searched for every newcomer.
    fn evict(&mut self) {
        let mut touched: Vec<u64> = self.entries.values().map(|(_, touched)| *touched).collect();
        let eighth = (touched.len() / 8).min(touched.len().saturating_sub(1));
        let threshold = *touched.select_nth_unstable(eighth).1;
        self.entries.retain(|_, (_, touched)| *touched > threshold);
        self.bytes = self.entries.values().map(|(process, _)| process.weight()).sum();
    }
}

impl Process {
    fn agrees(&self, seen: Seen<'_>) -> bool {
        self.parent == seen.parent
            && *self.name == *seen.name
            && (seen.executable.is_none() || self.executable.as_deref() == seen.executable)
            && (seen.title.is_none() || self.title.as_deref() == seen.title)
    }

    /// Bytes of memory at most: texts are shared between a process and what it forked.
    fn weight(&self) -> usize {
        let length = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        2 * size_of::<Self>() + self.name.len() + length(&self.executable) + length(&self.title)
    }
}

struct Stat<'a> {
    name: &'a str,
    parent: u32,
    start_ticks: i64,
}

/// `pid (comm) state ppid …` of `proc_pid_stat(5)`, the start time being its 22nd field; `comm` may hold spaces and
/// parentheses.
fn parse_stat(text: &str) -> Option<Stat<'_>> {
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let name = text.get(open + 1..close)?;
    let mut fields = text.get(close + 1..)?.split_ascii_whitespace().skip(1);
    let parent = fields.next()?.parse().ok()?;
    let start_ticks = fields.nth(17)?.parse::<u32>().ok()?.into();
    Some(Stat { name, parent, start_ticks })
}

/// The `btime` line of `proc_stat(5)`: seconds since the epoch.
fn parse_boot_time(text: &str) -> Option<Timestamp> {
    let seconds: i64 = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Timestamp::from_micros(seconds.checked_mul(1_000_000)?))
}

fn read_bounded(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MAX_PROC_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn text(text: &str) -> Arc<str> {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].into()
}

#[cfg(test)]
mod tests;
