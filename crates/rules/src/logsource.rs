//! Which view of an event a rule's `logsource` means.
//!
//! A rule that names a source which AuditFlow has not (Windows, a cloud's audit log) still loads, and is reported as
//! having no source.

use std::fmt;

use rsigma_parser::LogSource;

/// One family of views: every family has its own engine and its own field names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// `linux/auditd`: one view per kernel audit record.
    Auditd,
    /// `process_creation`: one view per program that was executed.
    ProcessCreation,
    /// `file_event`: one view per file created or written.
    FileEvent,
    /// `network_connection`: one view per connection made or accepted.
    NetworkConnection,
    /// `kubernetes/audit`: the API server's audit record.
    KubernetesAudit,
    /// `product: auditflow`: the normalised event, under the names of its JSON.
    AuditFlow,
    /// `product: linux` alone: the message of whatever service.
    Message,
    /// The message of OpenSSH's daemon.
    Sshd,
    /// The message of sudo.
    Sudo,
    /// The message of whatever authenticates or manages accounts.
    Auth,
    /// The message of any service, as a syslog file holds it.
    Syslog,
    /// The message of a cron daemon.
    Cron,
    /// The message of `ClamAV`.
    Clamav,
    /// The message of vsftpd.
    Vsftpd,
    /// The message of Guacamole.
    Guacamole,
}

impl Family {
    /// Every family, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Auditd,
        Self::ProcessCreation,
        Self::FileEvent,
        Self::NetworkConnection,
        Self::KubernetesAudit,
        Self::AuditFlow,
        Self::Message,
        Self::Sshd,
        Self::Sudo,
        Self::Auth,
        Self::Syslog,
        Self::Cron,
        Self::Clamav,
        Self::Vsftpd,
        Self::Guacamole,
    ];

    /// How the log source is written in a rule.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auditd => "linux/auditd",
            Self::ProcessCreation => "linux/process_creation",
            Self::FileEvent => "linux/file_event",
            Self::NetworkConnection => "linux/network_connection",
            Self::KubernetesAudit => "kubernetes/audit",
            Self::AuditFlow => "auditflow",
            Self::Message => "linux",
            Self::Sshd => "linux/sshd",
            Self::Sudo => "linux/sudo",
            Self::Auth => "linux/auth",
            Self::Syslog => "linux/syslog",
            Self::Cron => "linux/cron",
            Self::Clamav => "linux/clamav",
            Self::Vsftpd => "linux/vsftpd",
            Self::Guacamole => "linux/guacamole",
        }
    }

    /// The family that a rule's log source means, `None` where AuditFlow has no such source.
    pub(crate) fn of(source: &LogSource) -> Option<Self> {
        if !source.custom.is_empty() {
            return None;
        }
        let lower = |part: &Option<String>| part.as_deref().map(str::to_ascii_lowercase);
        let (product, category, service) =
            (lower(&source.product), lower(&source.category), lower(&source.service));
        match (product.as_deref(), category.as_deref(), service.as_deref()) {
            (Some("linux"), None, Some("auditd")) => Some(Self::Auditd),
            (Some("linux") | None, Some("process_creation"), None) => Some(Self::ProcessCreation),
            (Some("linux") | None, Some("file_event"), None) => Some(Self::FileEvent),
            (Some("linux") | None, Some("network_connection"), None) => Some(Self::NetworkConnection),
            (Some("kubernetes"), None | Some("application"), Some("audit")) => Some(Self::KubernetesAudit),
            (Some("auditflow"), None, None) => Some(Self::AuditFlow),
            (Some("linux"), None, None) => Some(Self::Message),
            (Some("linux") | None, None, Some(service)) => Self::of_service(service),
            _ => None,
        }
    }

    fn of_service(service: &str) -> Option<Self> {
        Some(match service {
            "sshd" => Self::Sshd,
            "sudo" => Self::Sudo,
            "auth" => Self::Auth,
            "syslog" => Self::Syslog,
            "cron" => Self::Cron,
            "clamav" => Self::Clamav,
            "vsftpd" => Self::Vsftpd,
            "guacamole" => Self::Guacamole,
            _ => return None,
        })
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The log source as `product/category/service`, absent parts left out.
pub(crate) fn written(source: &LogSource) -> String {
    [&source.product, &source.category, &source.service]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join("/")
}

/// A set of families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families(u32);

impl Families {
    pub(crate) fn insert(&mut self, family: Family) {
        self.0 |= 1 << family.index();
    }

    pub(crate) fn only(family: Family) -> Self {
        Self(1 << family.index())
    }

    /// Whether the set holds `family`.
    pub fn contains(self, family: Family) -> bool {
        self.0 & (1 << family.index()) != 0
    }

    /// Whether the set holds any of `families`.
    pub fn any(self, families: &[Family]) -> bool {
        families.iter().any(|family| self.contains(*family))
    }
}
