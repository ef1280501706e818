//! The meaning of a kernel audit event: finds its row in [`super::table`], then says who, what and where.

use std::borrow::Cow;
use std::net::IpAddr;

use auditflow_audit_record::{
    AuditEvent, FieldName, Path, Record, RecordType, SockAddr, Value, arch, syscalls,
};

use super::fields::{Facts, Names, RecordFields, identity, number, numbered, text};
use super::table::{self, Access, Row};
use super::{
    Endpoint, EventType, File, Groups, Identity, Meaning, Outcome, Process, Severity, Users, call, path,
};
use crate::Context;

/// What a SYSCALL record (or an `io_uring` operation's) says of the call itself.
#[derive(Clone, Debug, Default)]
pub struct SyscallFacts<'e> {
    /// The call's name by the record's own architecture, else as auditd named it.
    pub name: Option<Cow<'e, str>>,
    /// The architecture's name.
    pub arch: Option<&'static str>,
    /// What the call returned: negative is an error number.
    pub exit: Option<i64>,
    /// The keys of the audit rules that caught it.
    pub keys: Vec<Cow<'e, str>>,
}

pub(super) fn meaning<'e>(event: &'e AuditEvent, context: Option<&'e Context>) -> Meaning<'e> {
    let view = View::of(event, context);
    let (row, leading) = view.row();
    let mut meaning = Meaning::from_row(row, "kernel_audit");
    meaning.hostname = event.node.as_deref().map(Cow::Borrowed);
    meaning.outcome = view.outcome(leading);
    meaning.operation = text(view.facts.op);
    meaning.user = view.users();
    meaning.group = view.groups();
    meaning.process = view.process();
    view.place_account(&mut meaning);
    view.place_endpoints(&mut meaning);
    meaning.file = view.file().map(Box::new);
    meaning.resource = view.resource(&meaning);
    meaning.command = text(view.facts.command);
    place_result(row, &mut meaning);
    meaning.syscall = view.syscall;
    meaning.paths = view.paths;
    meaning.fields = view.fields;
    meaning
}

/// An event's records, read once.
struct View<'e> {
    event: &'e AuditEvent,
    context: Option<&'e Context>,
    fields: RecordFields<'e>,
    facts: Facts<'e>,
    names: Names<'e>,
    paths: Vec<Path<'e>>,
    cwd: Option<Cow<'e, str>>,
    syscall: Option<SyscallFacts<'e>>,
    /// The call's first four arguments.
    args: [Option<u64>; 4],
}

impl<'e> View<'e> {
    fn of(event: &'e AuditEvent, context: Option<&'e Context>) -> Self {
        let fields = RecordFields::read(event);
        let mut facts = Facts::default();
        let mut names = Names::default();
        let records = || event.records.iter().enumerate();
        // The SYSCALL record comes first, whatever the order of records: who acted is best said there.
        let call = records().find(|(_, record)| is_call(record.kind));
        for (index, record) in call.into_iter().chain(records().filter(|(_, record)| is_telling(record.kind)))
        {
            facts.read(fields.of(index));
            names.read(record);
        }
        let paths = records()
            .filter(|(_, record)| record.kind == RecordType::PATH)
            .map(|(index, _)| Path::from_fields(fields.of(index).iter().copied()))
            .collect();
        let args = [facts.a0, facts.a1, facts.a2, facts.a3].map(|arg| arg.and_then(|arg| arg.as_hex_u64()));
        let mut view = Self { event, context, fields, facts, names, paths, cwd: None, syscall: None, args };
        view.cwd = view.field(RecordType::CWD, FieldName::Cwd).as_ref().and_then(Value::known);
        view.syscall = view.syscall_facts();
        view
    }

    /// The first such field of the first such record.
    fn field(&self, kind: RecordType, name: FieldName) -> Option<Value<'e>> {
        let index = self.event.records.iter().position(|record| record.kind == kind)?;
        self.fields.of(index).iter().find(|field| field.known == Some(name)).map(|field| field.value)
    }

    fn syscall_facts(&self) -> Option<SyscallFacts<'e>> {
        let facts = &self.facts;
        if facts.syscall.is_none() && facts.uring_op.is_none() {
            return None;
        }
        let arch = facts.arch.and_then(|arch| arch.as_hex_u64()).and_then(|arch| u32::try_from(arch).ok());
        let known = match (facts.uring_op, arch, number(facts.syscall)) {
            (Some(operation), _, _) => operation.as_u64().and_then(call::io_uring),
            (None, Some(arch), Some(number)) => syscalls::name(arch, number),
            _ => None,
        };
        let known = match known {
            Some("socketcall") => self.args[0].and_then(call::socketcall).or(known),
            known => known,
        };
        let appended = || text(self.names.syscall).filter(|name| !name.starts_with("unknown"));
        Some(SyscallFacts {
            name: known.map(Cow::Borrowed).or_else(appended),
            arch: arch.and_then(arch::name),
            exit: facts.exit.and_then(|exit| exit.as_i64()),
            keys: facts.key.map(|key| key.keys()).unwrap_or_default(),
        })
    }

    /// The row, and whether a record rather than the system call led to it.
    fn row(&self) -> (&'static Row, bool) {
        let records = &self.event.records;
        let leading = records.iter().filter_map(|record| table::record(self.kind_by_content(record)));
        // Rows lie in one slice: the topmost is the one at the lowest address.
        if let Some(row) = leading.min_by_key(|row| std::ptr::from_ref::<Row>(row)) {
            return (row, true);
        }
        let row = match &self.syscall {
            Some(SyscallFacts { name: Some(name), .. }) => table::syscall(name, self.access(name)),
            Some(_) => None,
            None => records
                .iter()
                .filter_map(|record| table::remnant(record.kind))
                .min_by_key(|row| std::ptr::from_ref::<Row>(row)),
        };
        (row.unwrap_or(table::otherwise()), false)
    }

    /// `AppArmor` reports everything as AVC; only what it denied is a violation.
    fn kind_by_content(&self, record: &Record) -> RecordType {
        const APPARMOR: RecordType = RecordType(1500);
        match self.facts.apparmor {
            Some(verdict) if record.kind == RecordType::AVC && verdict.raw() != b"DENIED" => APPARMOR,
            _ => record.kind,
        }
    }

    fn access(&self, call: &str) -> Access {
        const OPENAT2: RecordType = RecordType(1337);
        let created = self.paths.iter().any(|path| path.nametype.as_deref() == Some("CREATE"));
        let flags = call::open_flags(call, self.args)
            .or_else(|| self.field(OPENAT2, FieldName::Oflag)?.as_octal_u32().map(u64::from));
        call::access(flags, created)
    }

    fn outcome(&self, leading: bool) -> Option<Outcome> {
        // The kernel writes res=1 on every crash.
        const ANOM_ABEND: RecordType = RecordType(1701);
        let of = |value: Option<Value<'_>>| match value?.raw() {
            b"yes" | b"success" | b"1" | b"granted" | b"ALLOWED" => Some(Outcome::Success),
            b"no" | b"failed" | b"0" | b"denied" | b"DENIED" => Some(Outcome::Failure),
            _ => None,
        };
        let said = if self.event.record(ANOM_ABEND).is_some() { None } else { of(self.facts.res) };
        let decided = of(self.facts.decision).or_else(|| of(self.facts.apparmor));
        let returned = of(self.facts.success);
        if leading { decided.or(said).or(returned) } else { returned.or(said) }
    }

    fn users(&self) -> Users<'e> {
        let user = |id, name| identity(id, name, |id| self.context?.user(id));
        let (facts, names) = (&self.facts, &self.names);
        let real = user(facts.uid, names.uid);
        // A process nearly always has one identity in all its roles: the first is then copied.
        let role = |id, name| {
            if id == facts.uid && name == names.uid { real.clone() } else { user(id, name) }
        };
        Users {
            effective: role(facts.euid, names.euid),
            audit: user(facts.auid, names.auid),
            saved: role(facts.suid, names.suid),
            filesystem: role(facts.fsuid, names.fsuid),
            target: Identity::default(),
            real,
        }
    }

    fn groups(&self) -> Groups<'e> {
        let (facts, names) = (&self.facts, &self.names);
        let real = self.group(facts.gid, names.gid);
        let role = |id, name| {
            if id == facts.gid && name == names.gid { real.clone() } else { self.group(id, name) }
        };
        Groups {
            effective: role(facts.egid, names.egid),
            saved: role(facts.sgid, names.sgid),
            filesystem: role(facts.fsgid, names.fsgid),
            real,
        }
    }

    fn group(&self, id: Option<Value<'e>>, name: Option<Value<'e>>) -> Identity<'e> {
        identity(id, name, |id| self.context?.group(id))
    }

    fn process(&self) -> Process<'e> {
        let facts = &self.facts;
        let executed = self.event.args();
        Process {
            pid: number(facts.pid),
            parent_pid: number(facts.ppid),
            executable: text(facts.exe),
            name: text(facts.comm),
            args: executed.map(|args| args.into_texts().collect()).unwrap_or_default(),
            working_directory: self.cwd.clone().or_else(|| text(facts.cwd)),
            title: self.field(RecordType::PROCTITLE, FieldName::Proctitle).as_ref().and_then(Value::title),
            tty: text(facts.tty),
            session: facts.ses.and_then(|session| session.as_id()),
        }
    }

    /// The account that a user-space record speaks of: who logs in, or who is changed.
    fn place_account(&self, meaning: &mut Meaning<'e>) {
        let by_id = identity(self.facts.id, self.names.id, |id| self.context?.user(id));
        // `?`, `(unknown)`, `(unknown user)`: the program knows no such account.
        let name = text(self.facts.acct).filter(|name| name != "?" && !name.starts_with('('));
        let account = Identity { name: name.or(by_id.name), ..by_id };
        if meaning.event_type == EventType::UserLogin {
            // LOGIN names no account but the login id that it sets. Whoever logs in unknown is nobody, not sshd's root.
            let is_login = account.is_empty() && self.event.record(RecordType::LOGIN).is_some();
            let account = if is_login { meaning.user.audit.clone() } else { account };
            let program = std::mem::replace(&mut meaning.user.real, account);
            if meaning.user.effective.is_empty() {
                meaning.user.effective = program;
            }
        } else if !is_about_group(meaning) {
            meaning.user.target = account;
        }
        let Users { real, audit, .. } = &meaning.user;
        let answerable =
            if meaning.event_type == EventType::UserLogin { [real, audit] } else { [audit, real] };
        meaning.user_id =
            answerable.into_iter().find_map(|user| user.name.clone().or_else(|| user.id.clone()));
    }

    fn place_endpoints(&self, meaning: &mut Meaning<'e>) {
        let address = self.field(RecordType::SOCKADDR, FieldName::Saddr);
        if let Some(socket) = address.and_then(|address| SockAddr::from_hex(address.raw())) {
            let call = self.syscall.as_ref().and_then(|call| call.name.as_deref()).unwrap_or_default();
            let incoming = matches!(
                call,
                "accept" | "accept4" | "bind" | "listen" | "recvfrom" | "recvmsg" | "recvmmsg"
            );
            let end = if incoming { &mut meaning.source } else { &mut meaning.destination };
            *end = endpoint(&socket);
            meaning.socket = Some(socket);
        }
        // `addr=` of a user-space record is the peer, an address or (old programs) a host's name.
        let peer = text(self.facts.addr).filter(|addr| addr.parse::<IpAddr>().is_ok());
        if meaning.source.is_none() && peer.is_some() {
            let port = self.facts.port.and_then(|port| u16::try_from(port.as_u64()?).ok());
            meaning.source = Some(Endpoint { ip: peer, port, path: None });
        }
    }

    /// Of several files the one that the call made, else removed, else used; of equals the kernel's first.
    fn file(&self) -> Option<File<'e>> {
        let rank = |path: &Path<'_>| match path.nametype.as_deref() {
            Some("CREATE") => 0,
            Some("DELETE") => 1,
            Some("PARENT") => 4,
            Some("UNKNOWN") => 3,
            _ => 2,
        };
        let (record, path) = self
            .event
            .records_of(RecordType::PATH)
            .zip(&self.paths)
            .filter(|(_, path)| rank(path) < 4)
            .min_by_key(|(_, path)| (rank(path), path.item))?;
        let mut names = Names::default();
        names.read(record);
        Some(File {
            path: path.name.clone().map(|name| self.absolute(name, rank(path) == 0)),
            mode: path.mode,
            owner: numbered(path.ouid, names.ouid, |id| self.context?.user(id)),
            group: numbered(path.ogid, names.ogid, |id| self.context?.group(id)),
            inode: path.inode,
            device: path.dev.clone(),
            sha256: None,
        })
    }

    fn absolute(&self, name: Cow<'e, str>, created: bool) -> Cow<'e, str> {
        let call = self.syscall.as_ref().and_then(|call| call.name.as_deref()).unwrap_or_default();
        let base = self.cwd.as_deref().filter(|_| call::is_relative_to_cwd(call, self.args, created));
        path::resolve(name, base)
    }

    fn resource(&self, meaning: &Meaning<'e>) -> Option<Cow<'e, str>> {
        match meaning.event_type {
            EventType::FileModified | EventType::FileAccess => meaning.file.as_ref()?.path.clone(),
            EventType::ServiceStatusChange => text(self.facts.unit),
            EventType::UserAccountManagement if is_about_group(meaning) => {
                let by_id = self.group(self.facts.id, self.names.id);
                text(self.facts.group).or_else(|| text(self.facts.acct)).or(by_id.name).or(by_id.id)
            }
            EventType::UserAccountManagement => {
                let target = &meaning.user.target;
                target.name.clone().or_else(|| text(self.facts.group)).or_else(|| target.id.clone())
            }
            EventType::KernelModule => text(self.facts.name),
            EventType::IntegrityViolation => text(self.facts.name).or_else(|| text(self.facts.path)),
            _ => None,
        }
    }
}

fn place_result(row: &'static Row, meaning: &mut Meaning<'_>) {
    meaning.action_result = meaning.outcome.map(|outcome| match outcome {
        Outcome::Success => Cow::Borrowed(row.achieved),
        Outcome::Failure => Cow::Borrowed("FAILURE"),
    });
    let watched = matches!(
        meaning.event_type,
        EventType::UserLogin
            | EventType::SudoCommand
            | EventType::UserAccountManagement
            | EventType::ServiceStatusChange
    );
    if watched && meaning.outcome == Some(Outcome::Failure) {
        meaning.severity = meaning.severity.max(Severity::Warning);
    }
}

/// Whether the record describes the operation that the whole event is about.
fn is_call(kind: RecordType) -> bool {
    matches!(kind, RecordType::SYSCALL | RecordType::URINGOP)
}

/// Whether the record's fields are read for who did what. The others (PATH, EXECVE …) have readers of their own, and
/// fields that mean something else: EXECVE's `a0` is no register.
fn is_telling(kind: RecordType) -> bool {
    table::record(kind).is_some()
}

/// Whether the account that changes is a group: `id=` and `acct=` then are the group's.
fn is_about_group(meaning: &Meaning<'_>) -> bool {
    meaning.kind.first() == Some(&"group")
}

fn endpoint<'e>(socket: &SockAddr) -> Option<Endpoint<'e>> {
    if let Some((ip, port)) = socket.ip() {
        return Some(Endpoint { ip: Some(ip.to_string().into()), port: Some(port), path: None });
    }
    match socket {
        SockAddr::Unix(_) | SockAddr::UnixAbstract(_) => {
            Some(Endpoint { path: Some(socket.to_string().into()), ..Endpoint::default() })
        }
        _ => None,
    }
}
