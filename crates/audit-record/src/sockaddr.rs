//! Socket addresses, as `SOCKADDR` records carry them: the bytes of a `struct sockaddr_*` in hex.
//!
//! The family is in the machine's byte order, which is little-endian on every architecture that AuditFlow runs on;
//! ports and IP addresses are in network order (`linux/socket.h`, `linux/in.h`, `linux/in6.h`, `linux/un.h`,
//! `linux/netlink.h`).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::value::decode_hex;

/// A socket address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SockAddr {
    /// An IPv4 address (family 2).
    Inet {
        /// The address.
        ip: Ipv4Addr,
        /// The port.
        port: u16,
    },
    /// An IPv6 address (family 10).
    Inet6 {
        /// The address.
        ip: Ipv6Addr,
        /// The port.
        port: u16,
        /// The interface's index for a link-local address, else 0.
        scope: u32,
    },
    /// A Unix socket bound to a file (family 1): its path.
    Unix(Box<[u8]>),
    /// A Unix socket in the abstract namespace: its name without the leading NUL.
    UnixAbstract(Box<[u8]>),
    /// A Unix socket without a name.
    UnixUnnamed,
    /// A netlink address (family 16).
    Netlink {
        /// The port id, 0 for the kernel.
        pid: u32,
        /// The multicast groups, one bit each.
        groups: u32,
    },
    /// `AF_UNSPEC` (family 0): dissolves an association.
    Unspecified,
    /// Any other family, or one of the above cut short.
    Other {
        /// The family's number.
        family: u16,
        /// What follows the family.
        data: Box<[u8]>,
    },
}

impl SockAddr {
    /// Reads a `saddr` field; absent unless it is hex of at least a family.
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        Self::from_bytes(&decode_hex(hex)?)
    }

    /// Reads the bytes of a `struct sockaddr_*`; absent if they are too few for a family.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (family, data) = bytes.split_first_chunk::<2>()?;
        let family = u16::from_le_bytes(*family);
        let known = match family {
            0 => Some(Self::Unspecified),
            1 => Some(unix(data)),
            2 => inet(data),
            10 => inet6(data),
            16 => netlink(data),
            _ => None,
        };
        Some(known.unwrap_or_else(|| Self::Other { family, data: data.into() }))
    }

    /// The IP address and port, if it has any.
    pub fn ip(&self) -> Option<(IpAddr, u16)> {
        match *self {
            Self::Inet { ip, port } => Some((ip.into(), port)),
            Self::Inet6 { ip, port, .. } => Some((ip.into(), port)),
            _ => None,
        }
    }

    /// The family's name as ausearch writes it (`inet`, `inet6`, `local`, `netlink`, …), if it is a known one.
    pub fn family(&self) -> Option<&'static str> {
        match self {
            Self::Inet { .. } => Some("inet"),
            Self::Inet6 { .. } => Some("inet6"),
            Self::Unix(_) | Self::UnixAbstract(_) | Self::UnixUnnamed => Some("local"),
            Self::Netlink { .. } => Some("netlink"),
            Self::Unspecified => Some("unspec"),
            Self::Other { family, .. } => {
                FAMILIES.iter().find(|(number, _)| number == family).map(|&(_, name)| name)
            }
        }
    }
}

/// The address alone, for people: `192.0.2.1:53`, `[2001:db8::1]:53`, `/run/x`, `@abstract`, `netlink:0`.
impl fmt::Display for SockAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { ip, port } => write!(f, "{ip}:{port}"),
            Self::Inet6 { ip, port, scope: 0 } => write!(f, "[{ip}]:{port}"),
            Self::Inet6 { ip, port, scope } => write!(f, "[{ip}%{scope}]:{port}"),
            Self::Unix(path) => f.write_str(&String::from_utf8_lossy(path)),
            Self::UnixAbstract(name) => {
                let end = name.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
                let name = String::from_utf8_lossy(name.get(..end).unwrap_or(name));
                write!(f, "@{}", name.replace('\0', "@"))
            }
            Self::UnixUnnamed => f.write_str("unnamed"),
            Self::Netlink { pid, .. } => write!(f, "netlink:{pid}"),
            Self::Unspecified => f.write_str("unspecified"),
            Self::Other { family, .. } => write!(f, "family:{family}"),
        }
    }
}

fn inet(data: &[u8]) -> Option<SockAddr> {
    let (port, data) = data.split_first_chunk::<2>()?;
    let (ip, _) = data.split_first_chunk::<4>()?;
    Some(SockAddr::Inet { ip: Ipv4Addr::from(*ip), port: u16::from_be_bytes(*port) })
}

fn inet6(data: &[u8]) -> Option<SockAddr> {
    let (port, data) = data.split_first_chunk::<2>()?;
    let (_flow, data) = data.split_first_chunk::<4>()?;
    let (ip, data) = data.split_first_chunk::<16>()?;
    // The oldest form of the structure ends before the scope.
    let scope = data.first_chunk::<4>().map_or(0, |scope| u32::from_le_bytes(*scope));
    Some(SockAddr::Inet6 { ip: Ipv6Addr::from(*ip), port: u16::from_be_bytes(*port), scope })
}

fn unix(data: &[u8]) -> SockAddr {
    match data.split_first() {
        None => SockAddr::UnixUnnamed,
        Some((0, name)) => SockAddr::UnixAbstract(name.into()),
        // What follows the path's NUL is whatever the caller's buffer held.
        Some(_) => SockAddr::Unix(data.split(|&b| b == 0).next().unwrap_or(data).into()),
    }
}

fn netlink(data: &[u8]) -> Option<SockAddr> {
    let (_padding, data) = data.split_first_chunk::<2>()?;
    let (pid, data) = data.split_first_chunk::<4>()?;
    let (groups, _) = data.split_first_chunk::<4>()?;
    Some(SockAddr::Netlink { pid: u32::from_le_bytes(*pid), groups: u32::from_le_bytes(*groups) })
}

/// Families without a form of their own here, by the names that ausearch gives them.
const FAMILIES: &[(u16, &str)] = &[
    (3, "ax25"),
    (4, "ipx"),
    (5, "appletalk"),
    (9, "x25"),
    (15, "pf_key"),
    (17, "packet"),
    (24, "pppox"),
    (29, "can"),
    (30, "tipc"),
    (31, "bluetooth"),
    (38, "alg"),
    (39, "nfc"),
    (40, "vsock"),
    (42, "qipcrtr"),
    (43, "smc"),
    (44, "xdp"),
];

#[cfg(test)]
mod tests;
