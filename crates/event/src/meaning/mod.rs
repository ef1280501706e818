//! What an event means, derived from its verbatim origin and its context by pure functions: no look-ups on the
//! host, no clock. Fed by [`Event::meaning`]; feeds [`crate::EventJson`], rules, search and alerts.
//!
//! One table ([`table`]) decides type, category, action and severity; the modules beside it, one per origin, find
//! the row and fill in who, what and where. Text is borrowed wherever the origin holds it plainly.

mod audit;
mod call;
mod fields;
pub(crate) mod kubernetes;
mod loose;
mod path;
mod rows;
mod state;
pub(crate) mod synthetic;
pub mod table;

use std::borrow::Cow;

use auditflow_audit_record::{Path, SockAddr};
use serde_json::value::RawValue;

use crate::{Event, Origin};

pub use audit::SyscallFacts;
pub use fields::RecordFields;
pub(crate) use loose::{Loose, Pairs};

/// An event's meaning. Fields are absent (`None`, empty) when the event does not say; nothing is made up.
#[derive(Clone, Debug)]
pub struct Meaning<'e> {
    /// What kind of event it is.
    pub event_type: EventType,
    /// How bad it looks by itself: a hint, rules decide.
    pub severity: Severity,
    /// ECS `event.category`.
    pub category: &'static [&'static str],
    /// ECS `event.type`.
    pub kind: &'static [&'static str],
    /// ECS `event.action`: what was done, in the words of [`table`]; a verb for Kubernetes.
    pub action: Cow<'e, str>,
    /// Whether it succeeded.
    pub outcome: Option<Outcome>,
    /// The ancestor's word for the result: `FAILURE`, or what was achieved (`SUCCESS`, `MODIFIED`, `STARTED`,
    /// `STOPPED`, `CREATED`, `DELETED`).
    pub action_result: Option<Cow<'e, str>>,
    /// The ancestor's name for who reported it.
    pub source_service: Cow<'e, str>,
    /// The host that the event itself names; without it, the node's host name holds.
    pub hostname: Option<Cow<'e, str>>,
    /// The ancestor's `user_id`: the name, else the number, of who is answerable: the account of a login, otherwise
    /// the login user, otherwise the user.
    pub user_id: Option<Cow<'e, str>>,
    /// Who did it, in every role.
    pub user: Users<'e>,
    /// The groups it was done with.
    pub group: Groups<'e>,
    /// The process that did it.
    pub process: Process<'e>,
    /// The file it was done to.
    pub file: Option<Box<File<'e>>>,
    /// Where it came from.
    pub source: Option<Endpoint<'e>>,
    /// Where it went.
    pub destination: Option<Endpoint<'e>>,
    /// What it was done to, in one word: a path, a unit, an account, a Kubernetes object.
    pub resource: Option<Cow<'e, str>>,
    /// The command that sudo ran.
    pub command: Option<Cow<'e, str>>,
    /// What the reporting program called the operation (`op=` of user-space records, a reason).
    pub operation: Option<Cow<'e, str>>,
    /// The namespace and pod that a Kubernetes request was about.
    pub kubernetes: Option<KubernetesObject<'e>>,
    /// The system call, for kernel audit events that have one.
    pub syscall: Option<SyscallFacts<'e>>,
    /// The socket address of a kernel audit event.
    pub socket: Option<SockAddr>,
    /// The files of a kernel audit event, in the order of its records.
    pub paths: Vec<Path<'e>>,
    /// The fields of every record of a kernel audit event.
    pub fields: RecordFields<'e>,
    /// The `details` object of an event in the ancestor's shape, as it was written.
    pub details: Option<&'e RawValue>,
    /// The id that the producer of a synthetic event had given it.
    pub producer_id: Option<Cow<'e, str>>,
}

impl<'e> Meaning<'e> {
    /// The meaning of `event`.
    pub fn of(event: &'e Event) -> Self {
        match &event.origin {
            Origin::Audit(records) => audit::meaning(records, event.context.as_deref()),
            Origin::Kubernetes(text) => kubernetes::meaning(text),
            Origin::Synthetic(text) => synthetic::meaning(text),
            Origin::State(state) => state::meaning(state),
        }
    }

    fn from_row(row: &'static table::Row, source_service: &'e str) -> Self {
        Self {
            event_type: row.event_type,
            severity: row.severity,
            category: row.category,
            kind: row.kind,
            action: Cow::Borrowed(row.action),
            outcome: None,
            action_result: None,
            source_service: Cow::Borrowed(source_service),
            hostname: None,
            user_id: None,
            user: Users::default(),
            group: Groups::default(),
            process: Process::default(),
            file: None,
            source: None,
            destination: None,
            resource: None,
            command: None,
            operation: None,
            kubernetes: None,
            syscall: None,
            socket: None,
            paths: Vec::new(),
            fields: RecordFields::default(),
            details: None,
            producer_id: None,
        }
    }
}

/// The kinds of events, the ancestor's five first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventType {
    /// Somebody logs in or out, authenticates, opens or ends a session.
    UserLogin,
    /// A command run through sudo.
    SudoCommand,
    /// A file's content, name or attributes change.
    FileModified,
    /// A service starts or stops.
    ServiceStatusChange,
    /// Accounts, groups and passwords change.
    UserAccountManagement,
    /// A program is executed.
    ProcessExecution,
    /// A socket connects, listens, sends or receives.
    NetworkConnection,
    /// A file is opened for reading, or looked at.
    FileAccess,
    /// A process changes its identity, capabilities or isolation, or takes hold of another.
    PrivilegeChange,
    /// Code is loaded into the kernel, or removed.
    KernelModule,
    /// Auditing itself changes.
    AuditConfiguration,
    /// A request to the Kubernetes API.
    KubernetesApi,
    /// A security mechanism refused, or found something broken or odd.
    IntegrityViolation,
    /// The agent speaks of itself.
    AgentState,
    /// None of these.
    Other,
}

impl EventType {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::UserLogin,
        Self::SudoCommand,
        Self::FileModified,
        Self::ServiceStatusChange,
        Self::UserAccountManagement,
        Self::ProcessExecution,
        Self::NetworkConnection,
        Self::FileAccess,
        Self::PrivilegeChange,
        Self::KernelModule,
        Self::AuditConfiguration,
        Self::KubernetesApi,
        Self::IntegrityViolation,
        Self::AgentState,
        Self::Other,
    ];

    /// The name in JSON, rules and searches.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UserLogin => "user_login",
            Self::SudoCommand => "sudo_command",
            Self::FileModified => "file_modified",
            Self::ServiceStatusChange => "service_status_change",
            Self::UserAccountManagement => "user_account_management",
            Self::ProcessExecution => "process_execution",
            Self::NetworkConnection => "network_connection",
            Self::FileAccess => "file_access",
            Self::PrivilegeChange => "privilege_change",
            Self::KernelModule => "kernel_module",
            Self::AuditConfiguration => "audit_configuration",
            Self::KubernetesApi => "kubernetes_api",
            Self::IntegrityViolation => "integrity_violation",
            Self::AgentState => "agent_state",
            Self::Other => "other",
        }
    }

    /// The type of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// How bad an event looks by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Ordinary.
    #[default]
    Info,
    /// Worth a look.
    Warning,
    /// Should not happen on a healthy machine.
    Critical,
}

impl Severity {
    /// The ancestor's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }

    /// The severity of that name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Info, Self::Warning, Self::Critical]
            .into_iter()
            .find(|severity| severity.as_str().eq_ignore_ascii_case(name))
    }
}

/// Whether what was tried succeeded: ECS `event.outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did.
    Success,
    /// It did not, or was refused.
    Failure,
}

impl Outcome {
    /// The ECS word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// A user or a group: number and name, each where it is known. An unset id (4294967295) is no id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity<'e> {
    /// The number, as text (Kubernetes' ids are none).
    pub id: Option<Cow<'e, str>>,
    /// The name.
    pub name: Option<Cow<'e, str>>,
}

impl Identity<'_> {
    /// Whether nothing is known.
    pub const fn is_empty(&self) -> bool {
        self.id.is_none() && self.name.is_none()
    }
}

/// Who acted, by role.
#[derive(Clone, Debug, Default)]
pub struct Users<'e> {
    /// The (real) user; of a login, the account.
    pub real: Identity<'e>,
    /// The effective user.
    pub effective: Identity<'e>,
    /// The login user (`auid`), kept through su and sudo.
    pub audit: Identity<'e>,
    /// The saved user.
    pub saved: Identity<'e>,
    /// The user that file permissions are checked for.
    pub filesystem: Identity<'e>,
    /// The account that was acted upon.
    pub target: Identity<'e>,
}

/// The groups of who acted, by role.
#[derive(Clone, Debug, Default)]
pub struct Groups<'e> {
    /// The (real) group.
    pub real: Identity<'e>,
    /// The effective group.
    pub effective: Identity<'e>,
    /// The saved group.
    pub saved: Identity<'e>,
    /// The group that file permissions are checked for.
    pub filesystem: Identity<'e>,
}

/// The process that acted.
#[derive(Clone, Debug, Default)]
pub struct Process<'e> {
    /// Its id.
    pub pid: Option<u32>,
    /// Its parent's id.
    pub parent_pid: Option<u32>,
    /// The path of its executable; for an execution, of the new one.
    pub executable: Option<Cow<'e, str>>,
    /// Its command name (`comm`, at most 15 bytes, chosen by the process).
    pub name: Option<Cow<'e, str>>,
    /// The arguments that it was executed with.
    pub args: Vec<Cow<'e, str>>,
    /// Its working directory.
    pub working_directory: Option<Cow<'e, str>>,
    /// Its command line, cut by the kernel at 128 bytes by default.
    pub title: Option<Cow<'e, str>>,
    /// Its terminal.
    pub tty: Option<Cow<'e, str>>,
    /// Its login session.
    pub session: Option<u32>,
}

/// The file that was acted upon: of several (a rename has four), the one that the operation left or removed.
#[derive(Clone, Debug, Default)]
pub struct File<'e> {
    /// Its path, absolute where the working directory is known, `.` and `..` resolved by their text.
    pub path: Option<Cow<'e, str>>,
    /// Type and permission bits.
    pub mode: Option<u32>,
    /// Its owner.
    pub owner: Identity<'e>,
    /// Its group.
    pub group: Identity<'e>,
    /// Its inode.
    pub inode: Option<u64>,
    /// The device that holds it, `major:minor` in hexadecimal.
    pub device: Option<Cow<'e, str>>,
    /// SHA-256 of its content, if the origin says.
    pub sha256: Option<Cow<'e, str>>,
}

/// One end of a communication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint<'e> {
    /// The IP address.
    pub ip: Option<Cow<'e, str>>,
    /// The port.
    pub port: Option<u16>,
    /// The path of a Unix socket; an abstract one starts with `@`.
    pub path: Option<Cow<'e, str>>,
}

/// What a Kubernetes request was about.
#[derive(Clone, Debug, Default)]
pub struct KubernetesObject<'e> {
    /// Its namespace.
    pub namespace: Option<Cow<'e, str>>,
    /// The pod, if it is one.
    pub pod_name: Option<Cow<'e, str>>,
}
