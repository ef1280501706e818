//! The socket's drop column in `/proc/net/netlink`: messages that did not fit its receive buffer.

use std::fs;

/// `NETLINK_AUDIT`, as the `Eth` column names it.
const AUDIT_PROTOCOL: &str = "9";

/// How many messages the kernel dropped for the audit socket with this port since it was opened; `None` where it cannot
/// be read.
pub(super) fn of_socket(port: u32) -> Option<u64> {
    parse(&fs::read_to_string("/proc/net/netlink").ok()?, port)
}

/// Columns: `sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode`.
fn parse(table: &str, port: u32) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let protocol = columns.next()?;
        let owner: u32 = columns.next()?.parse().ok()?;
        let drops = columns.nth(5)?;
        (protocol == AUDIT_PROTOCOL && owner == port).then(|| drops.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
000000008edbeb8c 9   0          00000000 0        0        0     2        0        6
00000000c61ef1d6 0   4242       00000551 0        0        0     2        7        20518
00000000a2d15c5f 9   4242       00000001 213248   0        0     2        19       20519
";

    #[test]
    fn the_drops_are_those_of_the_audit_socket_with_the_port() {
        assert_eq!(parse(TABLE, 4242), Some(19));
        assert_eq!(parse(TABLE, 0), Some(0));
        assert_eq!(parse(TABLE, 1), None);
        assert_eq!(parse("", 1), None);
    }
}
