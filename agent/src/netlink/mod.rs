//! The kernel's audit netlink socket: requests and their answers, and the stream of records.
//!
//! Used by `source::kernel_audit`, which reads the stream, and by `kernel_rules`, which lists and changes rules.
//! Formats are those of `linux/netlink.h` and `linux/audit.h`: native byte order, messages of a 16-byte header and a
//! payload. `nlmsg_len` counts the header on unicast answers and does not on records: the received length is trusted
//! instead.

pub mod message;
pub mod status;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sockopt,
};

pub use message::Message;
pub use status::{Status, StatusChange};

/// The longest message the kernel sends: `MAX_AUDIT_MESSAGE_LENGTH` (8,970) with its header, and a rule with long
/// paths fits as well.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;

/// How long the kernel may take to answer a request; it answers at once unless something is wrong.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The multicast group of records (`AUDIT_NLGRP_READLOG`), as a bit.
const READ_LOG_GROUP: u32 = 1;

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel has no audit subsystem.
    #[error("this kernel has no audit: it was built without CONFIG_AUDIT or booted with audit=0")]
    NoAudit,
    /// The process may not do what it asked.
    #[error("the kernel refused to {attempt}: give the process {capability}")]
    NotPermitted {
        /// What was attempted.
        attempt: &'static str,
        /// The capability that allows it.
        capability: &'static str,
    },
    /// The kernel refused for another reason.
    #[error("cannot {attempt}")]
    Refused {
        /// What was attempted.
        attempt: &'static str,
        /// The kernel's reason.
        #[source]
        errno: Errno,
    },
    /// The kernel did not answer.
    #[error("the kernel did not answer a request to {attempt} within {} s", ANSWER_TIMEOUT.as_secs())]
    NoAnswer {
        /// What was attempted.
        attempt: &'static str,
    },
}

impl NetlinkError {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::NotPermitted { .. } => Some(Errno::EPERM),
            Self::NoAudit | Self::NoAnswer { .. } => None,
        }
    }

    fn from_errno(attempt: &'static str, capability: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT | Errno::ECONNREFUSED => Self::NoAudit,
            Errno::EPERM | Errno::EACCES => Self::NotPermitted { attempt, capability },
            errno => Self::Refused { attempt, errno },
        }
    }
}

/// What a wait on the stream brought.
#[derive(Debug)]
pub enum Received<'b> {
    /// One message.
    Message(Message<'b>),
    /// The socket's buffer overflowed: records were lost since the last message (`ENOBUFS`).
    Overflow,
    /// Nothing within the time.
    Nothing,
}

/// An audit netlink socket.
#[derive(Debug)]
pub struct AuditSocket {
    descriptor: OwnedFd,
    buffer: Box<[u8]>,
    sequence: u32,
}

impl AuditSocket {
    /// A socket for requests, and for the stream once it is registered as the audit daemon's.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::bind(0, "open an audit socket", "CAP_AUDIT_CONTROL")
    }

    /// A socket that is subscribed to the read-log multicast group. Needs `CAP_AUDIT_READ`.
    pub fn subscribe() -> Result<Self, NetlinkError> {
        Self::bind(READ_LOG_GROUP, "join the audit multicast group", "CAP_AUDIT_READ")
    }

    fn bind(groups: u32, attempt: &'static str, capability: &'static str) -> Result<Self, NetlinkError> {
        let error = |errno| NetlinkError::from_errno(attempt, capability, errno);
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkAudit;
        let descriptor =
            socket::socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(error)?;
        socket::bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(error)?;
        Ok(Self { descriptor, buffer: vec![0; MAX_MESSAGE_BYTES].into_boxed_slice(), sequence: 0 })
    }

    /// Asks for a receive buffer of so many bytes and says how many it became. Beyond `net.core.rmem_max` only with
    /// `CAP_NET_ADMIN`, so the wish may be granted in part.
    pub fn set_receive_buffer(&self, bytes: usize) -> usize {
        if socket::setsockopt(&self.descriptor, sockopt::RcvBufForce, &bytes).is_err() {
            // What the system allows everybody is better than the default; failing that, the default stays.
            let _ = socket::setsockopt(&self.descriptor, sockopt::RcvBuf, &bytes);
        }
        socket::getsockopt(&self.descriptor, sockopt::RcvBuf).unwrap_or(0)
    }

    /// This socket's port id, by which `/proc/net/netlink` names it.
    pub fn port(&self) -> Option<u32> {
        socket::getsockname::<NetlinkAddr>(self.descriptor.as_raw_fd()).ok().map(|address| address.pid())
    }

    /// Sends a request and waits until the kernel says that it did it, handing every other message that arrives in
    /// between (answers, and records where this is the daemon's socket) to `other`.
    pub fn request(
        &mut self,
        kind: u16,
        payload: &[u8],
        attempt: &'static str,
        mut other: impl FnMut(Message<'_>),
    ) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let error = |errno| NetlinkError::from_errno(attempt, "CAP_AUDIT_CONTROL", errno);
        let request = message::request(kind, sequence, payload);
        let kernel = NetlinkAddr::new(0, 0);
        socket::sendto(self.descriptor.as_raw_fd(), &request, &kernel, MsgFlags::empty()).map_err(error)?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Also where records keep coming: the answer may have been dropped among them.
                return Err(NetlinkError::NoAnswer { attempt });
            }
            match self
                .receive(left)
                .map_err(|error| NetlinkError::Refused { attempt, errno: errno_of(&error) })?
            {
                Received::Message(message) => match message.acknowledges(sequence) {
                    Some(Ok(())) => return Ok(()),
                    Some(Err(errno)) => return Err(error(errno)),
                    None => other(message),
                },
                Received::Overflow | Received::Nothing => {}
            }
        }
    }

    /// Waits up to `timeout` for the next message.
    pub fn receive(&mut self, timeout: Duration) -> io::Result<Received<'_>> {
        let mut received = self.read();
        if matches!(received, Err(Errno::EAGAIN)) && !timeout.is_zero() {
            let mut wait = [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)];
            match nix::poll::poll(&mut wait, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => return Ok(Received::Nothing),
                Ok(_) => received = self.read(),
                Err(errno) => return Err(errno.into()),
            }
        }
        match received {
            Ok(length) => Ok(Message::parse(self.buffer.get(..length).unwrap_or_default())
                .map_or(Received::Nothing, Received::Message)),
            Err(Errno::ENOBUFS) => Ok(Received::Overflow),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(Received::Nothing),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read(&mut self) -> nix::Result<usize> {
        socket::recv(self.descriptor.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT)
    }

    /// The state of the audit subsystem.
    pub fn status(&mut self) -> Result<Status, NetlinkError> {
        let mut status = None;
        self.request(message::AUDIT_GET, &[], "read the audit status", |message| {
            if message.kind == message::AUDIT_GET {
                status = Status::parse(message.payload);
            }
        })?;
        // The kernel acknowledges before it answers, so the answer may be still to come.
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while status.is_none() && Instant::now() < deadline {
            if let Ok(Received::Message(message)) =
                self.receive(deadline.saturating_duration_since(Instant::now()))
            {
                status =
                    (message.kind == message::AUDIT_GET).then(|| Status::parse(message.payload)).flatten();
            }
        }
        status.ok_or(NetlinkError::NoAnswer { attempt: "read the audit status" })
    }

    /// Changes what the change names of the audit subsystem's state.
    pub fn change(&mut self, change: StatusChange, attempt: &'static str) -> Result<(), NetlinkError> {
        self.request(message::AUDIT_SET, &change.encode(), attempt, |_| {})
    }

    /// Every rule that is loaded, as the kernel encodes it (`struct audit_rule_data`).
    pub fn rules(&mut self) -> Result<Vec<Vec<u8>>, NetlinkError> {
        const ATTEMPT: &str = "list the audit rules";
        let mut rules = Vec::new();
        let mut done = false;
        let mut take = |message: Message<'_>| match message.kind {
            message::AUDIT_LIST_RULES => rules.push(message.payload.to_vec()),
            message::NLMSG_DONE => done = true,
            _ => {}
        };
        self.request(message::AUDIT_LIST_RULES, &[], ATTEMPT, &mut take)?;
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while !done {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(NetlinkError::NoAnswer { attempt: ATTEMPT });
            }
            let received = self
                .receive(left)
                .map_err(|error| NetlinkError::Refused { attempt: ATTEMPT, errno: errno_of(&error) })?;
            match received {
                Received::Message(message) => match message.kind {
                    message::AUDIT_LIST_RULES => rules.push(message.payload.to_vec()),
                    message::NLMSG_DONE => done = true,
                    _ => {}
                },
                Received::Overflow | Received::Nothing => {}
            }
        }
        Ok(rules)
    }

    /// Loads one rule; `EEXIST` if it is loaded already.
    pub fn add_rule(&mut self, rule: &[u8]) -> Result<(), NetlinkError> {
        self.request(message::AUDIT_ADD_RULE, rule, "load an audit rule", |_| {})
    }

    /// Removes one rule; `ENOENT` if it is not loaded.
    pub fn delete_rule(&mut self, rule: &[u8]) -> Result<(), NetlinkError> {
        self.request(message::AUDIT_DEL_RULE, rule, "remove an audit rule", |_| {})
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
