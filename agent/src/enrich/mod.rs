//! What only the node knows about an event, put beside it while it is still known: names of users and groups, the
//! ancestry of the process, the container and pod it ran in.
//!
//! Fed by the pipeline with each audit event, feeds the pre-filter. Looks only at the node's own files, never asks a
//! name service or the API server, never changes what was seen, and is bounded in memory and in what it reads.

pub mod cgroup;
pub mod names;
pub mod pods;
pub mod processes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use auditflow_audit_record::{AuditEvent, Record, RecordType, Value, syscalls};
use auditflow_event::{Ancestor, Container, Context, Event, Origin, Timestamp};

use names::Names;
use pods::Pods;
use processes::{Placement, Processes, Seen};

/// What happened longer ago than this says nothing about the processes of now.
const FRESH: Duration = Duration::from_secs(10);
/// `(uid_t) -1`: not set.
const UNSET: u32 = u32::MAX;
/// No more names than this are put beside one event (an event may carry thousands of records).
const MAX_NAMES: usize = 32;

const USER_FIELDS: [&str; 9] = ["uid", "auid", "euid", "suid", "fsuid", "ouid", "id", "oauid", "old-auid"];
const GROUP_FIELDS: [&str; 5] = ["gid", "egid", "sgid", "fsgid", "ogid"];

/// The node's knowledge; one per pipeline.
#[derive(Debug)]
pub struct Enricher {
    users: Names,
    groups: Names,
    processes: Processes,
    pods: Pods,
}

/// The moment of enrichment, by two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// The wall clock.
    pub wall: Timestamp,
    /// Monotonic time since any fixed start.
    pub monotonic: Duration,
}

impl Enricher {
    /// Knowledge of the machine whose root directory is `root` (`/`). The process table is read now.
    pub fn new(root: &Path) -> Self {
        let at = |path: &str| -> PathBuf { root.join(path) };
        let mut processes = Processes::new(at("proc"));
        processes.fill();
        Self {
            users: Names::new(at("etc/passwd")),
            groups: Names::new(at("etc/group")),
            processes,
            pods: Pods::new(at("var/log")),
        }
    }

    /// Puts beside the event what is known; events that aren't the kernel's have no process and stay as they are.
    pub fn enrich(&mut self, event: &mut Event, now: Moment) {
        let Origin::Audit(audit) = &event.origin else { return };
        let mut context = Context::default();
        self.add_names(audit, now.monotonic, &mut context);
        let age = now.wall.as_micros().abs_diff(event.time.as_micros());
        self.add_process(
            audit,
            event.time,
            u128::from(age) <= FRESH.as_micros(),
            now.monotonic,
            &mut context,
        );
        if context != Context::default() {
            event.context = Some(Box::new(context));
        }
    }

    fn add_names(&mut self, audit: &AuditEvent, now: Duration, context: &mut Context) {
        // Where auditd has appended the names they are in the event already.
        for record in audit.records.iter().filter(|record| record.enriched().next().is_none()) {
            for field in record.fields() {
                if USER_FIELDS.contains(&field.name) {
                    add_name(&mut self.users, field.value, now, &mut context.users);
                } else if GROUP_FIELDS.contains(&field.name) {
                    add_name(&mut self.groups, field.value, now, &mut context.groups);
                }
            }
        }
    }

    fn add_process(
        &mut self,
        audit: &AuditEvent,
        time: Timestamp,
        fresh: bool,
        now: Duration,
        context: &mut Context,
    ) {
        let Some(process) =
            audit.record(RecordType::SYSCALL).or(audit.records.first()).map(ProcessFields::of)
        else {
            return;
        };
        let Some(pid) = process.pid else { return };
        if let (Some(parent), Some(name)) = (process.parent, process.name) {
            let (executable, name) = (process.executable.map(|path| path.text()), name.text());
            let title = audit.args().map(|args| args.command_line());
            let executable = executable.as_deref();
            self.processes.observe(Seen { pid, parent, executable, name: &name, title: title.as_deref() });
        }
        if let Some(child) = process.child() {
            self.processes.forked(pid, child, time);
        }
        if let Some(parent) = process.parent {
            context.ancestors = self.processes.ancestors(parent, fresh).into_iter().map(ancestor).collect();
        }
        if let Some(placement) = self.processes.placement(pid, fresh) {
            context.container = Some(self.container(&placement, now));
        }
    }

    fn container(&mut self, placement: &Placement, now: Duration) -> Container {
        let pod = placement.pod_uid.as_deref().and_then(|uid| self.pods.pod(uid, now)).cloned();
        let name = self.pods.container_name(&placement.container_id, now).map(Into::into);
        let (pod_name, namespace) = pod.map_or((None, None), |pod| (Some(pod.name), Some(pod.namespace)));
        Container {
            id: placement.container_id.clone(),
            runtime: placement.runtime.map(Into::into),
            name,
            image: None,
            pod_uid: placement.pod_uid.clone(),
            pod_name,
            namespace,
        }
    }
}

/// What a record says of its process.
#[derive(Default)]
struct ProcessFields<'a> {
    pid: Option<u32>,
    parent: Option<u32>,
    executable: Option<Value<'a>>,
    name: Option<Value<'a>>,
    arch: Option<u32>,
    syscall: Option<u32>,
    exit: Option<u32>,
}

impl<'a> ProcessFields<'a> {
    fn of(record: &'a Record) -> Self {
        let mut found = Self::default();
        let number = |value: Value<'_>| value.as_u64().and_then(|number| number.try_into().ok());
        for field in record.fields() {
            match field.name {
                "pid" if found.pid.is_none() => found.pid = number(field.value),
                "ppid" => found.parent = number(field.value),
                "exe" if !field.value.is_null() => found.executable = Some(field.value),
                "comm" => found.name = Some(field.value),
                "arch" => found.arch = field.value.as_hex_u64().and_then(|arch| arch.try_into().ok()),
                "syscall" => found.syscall = number(field.value),
                "exit" => found.exit = number(field.value),
                _ => {}
            }
        }
        found
    }

    /// The process that it made, if that is what the system call did.
    fn child(&self) -> Option<u32> {
        let name = syscalls::name(self.arch?, self.syscall?)?;
        matches!(name, "fork" | "vfork" | "clone" | "clone3").then_some(self.exit?).filter(|child| *child > 0)
    }
}

fn add_name(names: &mut Names, value: Value<'_>, now: Duration, known: &mut Vec<(u32, Box<str>)>) {
    let Some(id) = value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| *id != UNSET) else {
        return;
    };
    if known.len() < MAX_NAMES
        && known.iter().all(|(seen, _)| *seen != id)
        && let Some(name) = names.name(id, now)
    {
        known.push((id, name.into()));
    }
}

fn ancestor((pid, process): (u32, processes::Process)) -> Ancestor {
    Ancestor {
        pid,
        executable: process.executable.as_deref().map(Into::into),
        name: Some((&*process.name).into()),
        title: process.title.as_deref().map(Into::into),
        start: process.start,
    }
}

#[cfg(test)]
mod tests;
