//! How to hear the kernel: as the registered audit daemon (unicast) or as a listener beside it (multicast).
//!
//! Unicast is preferred: the kernel queues records for its daemon, holds them over a restart, and counts in `lost` what
//! it dropped. It needs `CAP_AUDIT_CONTROL`, there is one daemon at most, and a locked configuration is left alone. See
//! ADR 4.

use nix::errno::Errno;
use nix::sys::signal;
use nix::unistd::Pid;

use super::Mode;
use crate::netlink::message::AUDIT_SET;
use crate::netlink::{AuditSocket, NetlinkError, Status, StatusChange};

/// Records wait in the socket while the agent is busy: this many bytes of them, if the kernel grants it.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// The way that was chosen.
#[derive(Debug)]
pub(super) struct Attachment {
    /// Where records come from.
    pub(super) stream: AuditSocket,
    /// Where the audit status is asked for; `None` without `CAP_AUDIT_CONTROL`.
    pub(super) control: Option<AuditSocket>,
    /// Which way it is.
    pub(super) mode: Attached,
    /// Why, in words for the operator.
    pub(super) reason: String,
    /// Records that came while it registered: what the kernel held for its next daemon.
    pub(super) early: Vec<EarlyRecord>,
}

/// A record's type and payload, as it came.
type EarlyRecord = (u16, Vec<u8>);

/// The two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attached {
    /// As the audit daemon.
    Unicast,
    /// As a member of the read-log group.
    Multicast,
}

impl Attached {
    /// Its name.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Multicast => "multicast",
        }
    }
}

impl Attachment {
    /// Attaches in the way that is wished and possible.
    pub(super) fn make(mode: Mode) -> Result<Self, NetlinkError> {
        let mut control = AuditSocket::open()?;
        let status = control.status().map(without_dead_daemon);
        if let Err(NetlinkError::NoAudit) = status {
            return Err(NetlinkError::NoAudit);
        }
        match choose(mode, status.as_ref()) {
            Choice::Unicast(reason) => match register(status.ok()) {
                Ok((stream, early)) => {
                    Ok(Self { stream, control: Some(control), mode: Attached::Unicast, reason, early })
                }
                Err(error) if mode == Mode::Unicast => Err(error),
                Err(error) => Self::subscribe(
                    Some(control),
                    format!("registering as the audit daemon failed ({error})"),
                ),
            },
            Choice::Multicast(reason) => Self::subscribe(status.is_ok().then_some(control), reason),
        }
    }

    fn subscribe(control: Option<AuditSocket>, reason: String) -> Result<Self, NetlinkError> {
        let stream = AuditSocket::subscribe()?;
        stream.set_receive_buffer(RECEIVE_BUFFER_BYTES);
        Ok(Self { stream, control, mode: Attached::Multicast, reason, early: Vec::new() })
    }

    /// Whether the kernel still takes this process for its daemon, as far as can be told.
    pub(super) fn is_current(&self, status: &Status) -> bool {
        self.mode == Attached::Multicast || status.pid == own_pid()
    }
}

impl Drop for Attachment {
    /// A daemon that leaves says so: the kernel then holds records for the next one instead of finding out by an error.
    fn drop(&mut self) {
        if self.mode == Attached::Unicast {
            let leave = StatusChange { pid: Some(0), ..StatusChange::default() };
            if let Err(error) = self.stream.change(leave, "unregister as the audit daemon") {
                tracing::debug!(error = %error, "the kernel will notice by itself that its daemon is gone");
            }
        }
    }
}

/// The kernel finds out that its daemon has died only when it next has a record for it; until then it names the dead
/// one, which may be this agent's own last run.
fn without_dead_daemon(status: Status) -> Status {
    let pid = Pid::from_raw(status.pid.cast_signed());
    let is_dead = status.pid != 0 && signal::kill(pid, None) == Err(Errno::ESRCH);
    Status { pid: if is_dead { 0 } else { status.pid }, ..status }
}

enum Choice {
    Unicast(String),
    Multicast(String),
}

fn choose(mode: Mode, status: Result<&Status, &NetlinkError>) -> Choice {
    let own = own_pid();
    match (mode, status) {
        (Mode::Unicast, _) => Choice::Unicast("configured".to_owned()),
        (Mode::Multicast, _) => Choice::Multicast("configured".to_owned()),
        (Mode::Auto, Err(_)) => Choice::Multicast("no CAP_AUDIT_CONTROL".to_owned()),
        (Mode::Auto, Ok(status)) if status.pid != 0 && status.pid != own => {
            Choice::Multicast(format!("process {} is the audit daemon", status.pid))
        }
        (Mode::Auto, Ok(status)) if status.is_locked() => {
            Choice::Multicast("the audit configuration is locked until reboot".to_owned())
        }
        (Mode::Auto, Ok(_)) => Choice::Unicast("no other audit daemon".to_owned()),
    }
}

/// Registers and, as audit daemons do, switches auditing on. It stays on when the agent stops: the kernel then holds
/// records until the agent is back.
fn register(status: Option<Status>) -> Result<(AuditSocket, Vec<EarlyRecord>), NetlinkError> {
    let mut stream = AuditSocket::open()?;
    stream.set_receive_buffer(RECEIVE_BUFFER_BYTES);
    let is_off = status.is_some_and(|status| status.enabled == 0);
    let change =
        StatusChange { pid: Some(own_pid()), enabled: is_off.then_some(1), ..StatusChange::default() };
    let mut early = Vec::new();
    stream.request(AUDIT_SET, &change.encode(), "register as the audit daemon", |message| {
        if message.is_record() {
            early.push((message.kind, message.payload.to_vec()));
        }
    })?;
    Ok((stream, early))
}

fn own_pid() -> u32 {
    Pid::this().as_raw().unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(mode: Mode, status: Result<&Status, &NetlinkError>) -> &'static str {
        match choose(mode, status) {
            Choice::Unicast(_) => "unicast",
            Choice::Multicast(_) => "multicast",
        }
    }

    #[test]
    fn a_daemon_that_has_died_holds_no_place() {
        let daemon = |pid| without_dead_daemon(Status { pid, ..Status::default() }).pid;
        assert_eq!(daemon(own_pid()), own_pid());
        assert_eq!(daemon(1), 1);
        // Beyond the largest process id there can be.
        assert_eq!(daemon(1 << 30), 0);
        assert_eq!(daemon(0), 0);
    }

    #[test]
    fn auto_registers_where_it_may_and_listens_where_another_reigns() {
        let free = Status { enabled: 1, ..Status::default() };
        let taken = Status { pid: u32::MAX, ..free };
        let locked = Status { enabled: 2, ..free };
        let refused = NetlinkError::NotPermitted { attempt: "read", capability: "CAP_AUDIT_CONTROL" };
        assert_eq!(chosen(Mode::Auto, Ok(&free)), "unicast");
        assert_eq!(chosen(Mode::Auto, Ok(&taken)), "multicast");
        assert_eq!(chosen(Mode::Auto, Ok(&locked)), "multicast");
        assert_eq!(chosen(Mode::Auto, Err(&refused)), "multicast");
        assert_eq!(chosen(Mode::Unicast, Ok(&taken)), "unicast");
        assert_eq!(chosen(Mode::Multicast, Ok(&free)), "multicast");
    }
}
