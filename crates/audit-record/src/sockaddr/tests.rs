use super::*;

fn parsed(hex: &str) -> Option<SockAddr> {
    SockAddr::from_hex(hex.as_bytes())
}

#[test]
fn each_family_is_read() {
    for (hex, expected, shown, family) in [
        (
            "02000035080808080000000000000000",
            SockAddr::Inet { ip: Ipv4Addr::new(8, 8, 8, 8), port: 53 },
            "8.8.8.8:53",
            "inet",
        ),
        (
            "0A0001BB0000000020010DB800000000000000000000000100000000",
            SockAddr::Inet6 { ip: "2001:db8::1".parse().unwrap(), port: 443, scope: 0 },
            "[2001:db8::1]:443",
            "inet6",
        ),
        (
            "0A0001BB00000000FE80000000000000000000000000000102000000",
            SockAddr::Inet6 { ip: "fe80::1".parse().unwrap(), port: 443, scope: 2 },
            "[fe80::1%2]:443",
            "inet6",
        ),
        ("01002F72756E2F6100", SockAddr::Unix(b"/run/a".as_slice().into()), "/run/a", "local"),
        ("01002F72756E2F61006A756E6B", SockAddr::Unix(b"/run/a".as_slice().into()), "/run/a", "local"),
        (
            "0100002F746D702F78006100",
            SockAddr::UnixAbstract(b"/tmp/x\0a\0".as_slice().into()),
            "@/tmp/x@a",
            "local",
        ),
        ("0100", SockAddr::UnixUnnamed, "unnamed", "local"),
        ("100000002A00000001000000", SockAddr::Netlink { pid: 42, groups: 1 }, "netlink:42", "netlink"),
        ("00000000", SockAddr::Unspecified, "unspecified", "unspec"),
        ("11000003", SockAddr::Other { family: 17, data: [0, 3].as_slice().into() }, "family:17", "packet"),
        ("02000035", SockAddr::Other { family: 2, data: [0, 53].as_slice().into() }, "family:2", ""),
    ] {
        let address = parsed(hex).unwrap();
        assert_eq!(address, expected, "{hex}");
        assert_eq!(address.to_string(), shown, "{hex}");
        assert_eq!(address.family().unwrap_or(""), family, "{hex}");
    }
}

#[test]
fn what_is_no_address_is_absent() {
    for hex in ["", "02", "0", "zz", "(null)", "020"] {
        assert_eq!(parsed(hex), None, "{hex}");
    }
}
