//! Services by keywords: the message that a service wrote, as far as a kernel audit record carries one (`msg='…'` of
//! user-space records). Which service it was is told by the program that sent it.

use auditflow_audit_record::{AuditEvent, RecordType};

use super::{View, Visitor};
use crate::logsource::{Families, Family};

/// The families that see messages.
pub(super) const MESSAGES: [Family; 9] = [
    Family::Message,
    Family::Syslog,
    Family::Auth,
    Family::Sshd,
    Family::Sudo,
    Family::Cron,
    Family::Clamav,
    Family::Vsftpd,
    Family::Guacamole,
];

/// Shows the messages of `event`.
pub(super) fn visit(event: &AuditEvent, wanted: Families, visit: &mut Visitor<'_>) {
    if !wanted.any(&MESSAGES) {
        return;
    }
    for (index, record) in event.records.iter().enumerate().filter(|(_, record)| from_a_program(record.kind))
    {
        let Some(message) = record.message() else { continue };
        let program = record.field("exe").map(|exe| exe.text().into_owned()).unwrap_or_default();
        let view = View::Message(String::from_utf8_lossy(message));
        for family in families(program.rsplit('/').next().unwrap_or_default()) {
            if wanted.contains(*family) {
                visit(*family, index as u16, &view);
            }
        }
    }
}

/// Record types that programs send (`linux/audit.h`); what the kernel writes is not searched for a message.
fn from_a_program(kind: RecordType) -> bool {
    matches!(kind.0, 1000..=1299 | 2100..=2999)
}

/// The log files in which a program's messages would be found.
fn families(program: &str) -> &'static [Family] {
    match program {
        "sshd" | "sshd-session" | "sshd-auth" => {
            &[Family::Message, Family::Syslog, Family::Auth, Family::Sshd]
        }
        "sudo" => &[Family::Message, Family::Syslog, Family::Auth, Family::Sudo],
        "su" | "login" | "passwd" | "chage" | "useradd" | "usermod" | "userdel" | "groupadd" | "groupmod"
        | "groupdel" | "gpasswd" | "chsh" | "chfn" | "systemd-logind" | "polkitd" | "pkexec" => {
            &[Family::Message, Family::Syslog, Family::Auth]
        }
        "cron" | "crond" | "crontab" | "atd" => &[Family::Message, Family::Syslog, Family::Cron],
        "clamd" | "clamscan" | "freshclam" => &[Family::Message, Family::Syslog, Family::Clamav],
        "vsftpd" => &[Family::Message, Family::Syslog, Family::Vsftpd],
        "guacd" => &[Family::Message, Family::Syslog, Family::Guacamole],
        _ => &[Family::Message, Family::Syslog],
    }
}
