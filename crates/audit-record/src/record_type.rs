//! The kinds of record: numbers as netlink carries them, names as `auditd` writes them.
//!
//! Numbers and names are those of `linux/audit.h` and of libaudit's `audit-records.h` and `msg_typetab.h`.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;

use crate::value::digits;

/// The kind of a record, as the number that the kernel gives it in the netlink header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordType(pub u16);

impl RecordType {
    /// A login id was set.
    pub const LOGIN: Self = Self(1006);
    /// A user-space object manager's access decision.
    pub const USER_AVC: Self = Self(1107);
    /// Somebody logged in, or failed to.
    pub const USER_LOGIN: Self = Self(1112);
    /// A command run by sudo.
    pub const USER_CMD: Self = Self(1123);
    /// Keystrokes, sent by a program.
    pub const USER_TTY: Self = Self(1124);
    /// The system call that an event is about.
    pub const SYSCALL: Self = Self(1300);
    /// One file that the call touched.
    pub const PATH: Self = Self(1302);
    /// The audit configuration changed.
    pub const CONFIG_CHANGE: Self = Self(1305);
    /// The socket address passed to the call.
    pub const SOCKADDR: Self = Self(1306);
    /// The working directory at the call.
    pub const CWD: Self = Self(1307);
    /// The arguments of a program started.
    pub const EXECVE: Self = Self(1309);
    /// The descriptors of a pipe or socket pair.
    pub const FD_PAIR: Self = Self(1317);
    /// The process that a signal or trace was aimed at.
    pub const OBJ_PID: Self = Self(1318);
    /// The end of an event; live only, never in a file.
    pub const EOE: Self = Self(1320);
    /// The command line as `ps` shows it; the last record of an event in a file.
    pub const PROCTITLE: Self = Self(1327);
    /// The `io_uring` operation that an event is about.
    pub const URINGOP: Self = Self(1336);
    /// An access decision of a security module.
    pub const AVC: Self = Self(1400);
    /// The audit system's own start-up notice.
    pub const KERNEL: Self = Self(2000);

    /// The name that `auditd` writes for it; `UNKNOWN[1399]` for a number without a name, as `auditd` does.
    pub fn name(self) -> Cow<'static, str> {
        match self.known_name() {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(format!("UNKNOWN[{}]", self.0)),
        }
    }

    /// The name, if the number has one.
    pub fn known_name(self) -> Option<&'static str> {
        // As in `from_bytes`: searching for the same few again and again costs more than it seems, for no branch of a
        // search is foreseen.
        let common = match self {
            Self::SYSCALL => "SYSCALL",
            Self::PATH => "PATH",
            Self::PROCTITLE => "PROCTITLE",
            Self::CWD => "CWD",
            Self::EXECVE => "EXECVE",
            Self::SOCKADDR => "SOCKADDR",
            _ => return self.rare_name(),
        };
        Some(common)
    }

    fn rare_name(self) -> Option<&'static str> {
        let at = NAMES.binary_search_by_key(&self.0, |&(number, _)| number).ok()?;
        NAMES.get(at).map(|&(_, name)| name)
    }

    /// The kind of that name. A bracketed number (`UNKNOWN[1399]`) or a bare one (`1399`, which the kernel's own
    /// log uses) counts as that number.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_bytes(name.as_bytes())
    }

    pub(crate) fn from_bytes(name: &[u8]) -> Option<Self> {
        // The kinds that make up nearly all of a log come first: the rest is searched from one end.
        let kind = match name {
            b"SYSCALL" => Self::SYSCALL,
            b"PATH" => Self::PATH,
            b"PROCTITLE" => Self::PROCTITLE,
            b"CWD" => Self::CWD,
            b"EXECVE" => Self::EXECVE,
            b"SOCKADDR" => Self::SOCKADDR,
            b"EOE" => Self::EOE,
            _ => return Self::from_rare_name(name),
        };
        Some(kind)
    }

    /// Whether a program sent it rather than the kernel (1005, 1100–1199, 2100–2999), so that it carries its text in
    /// `msg='…'`.
    pub fn is_from_user_space(self) -> bool {
        matches!(self.0, 1005 | 1100..=1199 | 2100..=2999)
    }

    /// Whether a record of this kind is always an event of its own: what programs sent, what the audit daemon says of
    /// itself, and the kernel's start-up notice. Everything else may be joined by a `SYSCALL` record of the same
    /// stamp (also `LOGIN` and `CONFIG_CHANGE`, which come before it).
    pub fn is_whole_event(self) -> bool {
        self.is_from_user_space() || matches!(self.0, 1200..=1299) || self == Self::KERNEL
    }

    fn from_rare_name(name: &[u8]) -> Option<Self> {
        if let Some(&(number, _)) = NAMES.iter().find(|(_, known)| known.as_bytes() == name) {
            return Some(Self(number));
        }
        let number = match memchr(b'[', name).and_then(|at| name.get(at + 1..)) {
            Some(rest) => rest.strip_suffix(b"]")?,
            None => name,
        };
        digits(number, 10)?.try_into().ok().map(Self)
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known_name() {
            Some(name) => f.write_str(name),
            None => write!(f, "UNKNOWN[{}]", self.0),
        }
    }
}

impl fmt::Debug for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Every kind that has a name, by number.
#[rustfmt::skip]
const NAMES: &[(u16, &str)] = &[
    (1005, "USER"), (1006, "LOGIN"), (1100, "USER_AUTH"), (1101, "USER_ACCT"), (1102, "USER_MGMT"),
    (1103, "CRED_ACQ"), (1104, "CRED_DISP"), (1105, "USER_START"), (1106, "USER_END"), (1107, "USER_AVC"),
    (1108, "USER_CHAUTHTOK"), (1109, "USER_ERR"), (1110, "CRED_REFR"), (1111, "USYS_CONFIG"),
    (1112, "USER_LOGIN"), (1113, "USER_LOGOUT"), (1114, "ADD_USER"), (1115, "DEL_USER"),
    (1116, "ADD_GROUP"), (1117, "DEL_GROUP"), (1118, "DAC_CHECK"), (1119, "CHGRP_ID"), (1120, "TEST"),
    (1121, "TRUSTED_APP"), (1122, "USER_SELINUX_ERR"), (1123, "USER_CMD"), (1124, "USER_TTY"),
    (1125, "CHUSER_ID"), (1126, "GRP_AUTH"), (1127, "SYSTEM_BOOT"), (1128, "SYSTEM_SHUTDOWN"),
    (1129, "SYSTEM_RUNLEVEL"), (1130, "SERVICE_START"), (1131, "SERVICE_STOP"), (1132, "GRP_MGMT"),
    (1133, "GRP_CHAUTHTOK"), (1134, "MAC_CHECK"), (1135, "ACCT_LOCK"), (1136, "ACCT_UNLOCK"),
    (1137, "USER_DEVICE"), (1138, "SOFTWARE_UPDATE"), (1200, "DAEMON_START"), (1201, "DAEMON_END"),
    (1202, "DAEMON_ABORT"), (1203, "DAEMON_CONFIG"), (1204, "DAEMON_RECONFIG"), (1205, "DAEMON_ROTATE"),
    (1206, "DAEMON_RESUME"), (1207, "DAEMON_ACCEPT"), (1208, "DAEMON_CLOSE"), (1209, "DAEMON_ERR"),
    (1300, "SYSCALL"), (1302, "PATH"), (1303, "IPC"), (1304, "SOCKETCALL"), (1305, "CONFIG_CHANGE"),
    (1306, "SOCKADDR"), (1307, "CWD"), (1309, "EXECVE"), (1311, "IPC_SET_PERM"), (1312, "MQ_OPEN"),
    (1313, "MQ_SENDRECV"), (1314, "MQ_NOTIFY"), (1315, "MQ_GETSETATTR"), (1316, "KERNEL_OTHER"),
    (1317, "FD_PAIR"), (1318, "OBJ_PID"), (1319, "TTY"), (1320, "EOE"), (1321, "BPRM_FCAPS"),
    (1322, "CAPSET"), (1323, "MMAP"), (1324, "NETFILTER_PKT"), (1325, "NETFILTER_CFG"), (1326, "SECCOMP"),
    (1327, "PROCTITLE"), (1328, "FEATURE_CHANGE"), (1330, "KERN_MODULE"), (1331, "FANOTIFY"),
    (1332, "TIME_INJOFFSET"), (1333, "TIME_ADJNTPVAL"), (1334, "BPF"), (1335, "EVENT_LISTENER"),
    (1336, "URINGOP"), (1337, "OPENAT2"), (1338, "DM_CTRL"), (1339, "DM_EVENT"), (1400, "AVC"),
    (1401, "SELINUX_ERR"), (1402, "AVC_PATH"), (1403, "MAC_POLICY_LOAD"), (1404, "MAC_STATUS"),
    (1405, "MAC_CONFIG_CHANGE"), (1406, "MAC_UNLBL_ALLOW"), (1407, "MAC_CIPSOV4_ADD"),
    (1408, "MAC_CIPSOV4_DEL"), (1409, "MAC_MAP_ADD"), (1410, "MAC_MAP_DEL"), (1411, "MAC_IPSEC_ADDSA"),
    (1412, "MAC_IPSEC_DELSA"), (1413, "MAC_IPSEC_ADDSPD"), (1414, "MAC_IPSEC_DELSPD"),
    (1415, "MAC_IPSEC_EVENT"), (1416, "MAC_UNLBL_STCADD"), (1417, "MAC_UNLBL_STCDEL"),
    (1418, "MAC_CALIPSO_ADD"), (1419, "MAC_CALIPSO_DEL"), (1420, "IPE_ACCESS"), (1421, "IPE_CONFIG_CHANGE"),
    (1422, "IPE_POLICY_LOAD"), (1423, "LANDLOCK_ACCESS"), (1424, "LANDLOCK_DOMAIN"),
    (1425, "MAC_TASK_CONTEXTS"), (1426, "MAC_OBJ_CONTEXTS"), (1500, "APPARMOR"), (1501, "APPARMOR_AUDIT"),
    (1502, "APPARMOR_ALLOWED"), (1503, "APPARMOR_DENIED"), (1504, "APPARMOR_HINT"),
    (1505, "APPARMOR_STATUS"), (1506, "APPARMOR_ERROR"), (1507, "APPARMOR_KILL"),
    (1700, "ANOM_PROMISCUOUS"), (1701, "ANOM_ABEND"), (1702, "ANOM_LINK"), (1703, "ANOM_CREAT"),
    (1800, "INTEGRITY_DATA"), (1801, "INTEGRITY_METADATA"), (1802, "INTEGRITY_STATUS"),
    (1803, "INTEGRITY_HASH"), (1804, "INTEGRITY_PCR"), (1805, "INTEGRITY_RULE"),
    (1806, "INTEGRITY_EVM_XATTR"), (1807, "INTEGRITY_POLICY_RULE"), (2000, "KERNEL"),
    (2100, "ANOM_LOGIN_FAILURES"), (2101, "ANOM_LOGIN_TIME"), (2102, "ANOM_LOGIN_SESSIONS"),
    (2103, "ANOM_LOGIN_ACCT"), (2104, "ANOM_LOGIN_LOCATION"), (2105, "ANOM_MAX_DAC"),
    (2106, "ANOM_MAX_MAC"), (2107, "ANOM_AMTU_FAIL"), (2108, "ANOM_RBAC_FAIL"),
    (2109, "ANOM_RBAC_INTEGRITY_FAIL"), (2110, "ANOM_CRYPTO_FAIL"), (2111, "ANOM_ACCESS_FS"),
    (2112, "ANOM_EXEC"), (2113, "ANOM_MK_EXEC"), (2114, "ANOM_ADD_ACCT"), (2115, "ANOM_DEL_ACCT"),
    (2116, "ANOM_MOD_ACCT"), (2117, "ANOM_ROOT_TRANS"), (2118, "ANOM_LOGIN_SERVICE"),
    (2119, "ANOM_LOGIN_ROOT"), (2120, "ANOM_ORIGIN_FAILURES"), (2121, "ANOM_SESSION"),
    (2200, "RESP_ANOMALY"), (2201, "RESP_ALERT"), (2202, "RESP_KILL_PROC"), (2203, "RESP_TERM_ACCESS"),
    (2204, "RESP_ACCT_REMOTE"), (2205, "RESP_ACCT_LOCK_TIMED"), (2206, "RESP_ACCT_UNLOCK_TIMED"),
    (2207, "RESP_ACCT_LOCK"), (2208, "RESP_TERM_LOCK"), (2209, "RESP_SEBOOL"), (2210, "RESP_EXEC"),
    (2211, "RESP_SINGLE"), (2212, "RESP_HALT"), (2213, "RESP_ORIGIN_BLOCK"),
    (2214, "RESP_ORIGIN_BLOCK_TIMED"), (2215, "RESP_ORIGIN_UNBLOCK_TIMED"), (2300, "USER_ROLE_CHANGE"),
    (2301, "ROLE_ASSIGN"), (2302, "ROLE_REMOVE"), (2303, "LABEL_OVERRIDE"), (2304, "LABEL_LEVEL_CHANGE"),
    (2305, "USER_LABELED_EXPORT"), (2306, "USER_UNLABELED_EXPORT"), (2307, "DEV_ALLOC"),
    (2308, "DEV_DEALLOC"), (2309, "FS_RELABEL"), (2310, "USER_MAC_POLICY_LOAD"), (2311, "ROLE_MODIFY"),
    (2312, "USER_MAC_CONFIG_CHANGE"), (2313, "USER_MAC_STATUS"), (2400, "CRYPTO_TEST_USER"),
    (2401, "CRYPTO_PARAM_CHANGE_USER"), (2402, "CRYPTO_LOGIN"), (2403, "CRYPTO_LOGOUT"),
    (2404, "CRYPTO_KEY_USER"), (2405, "CRYPTO_FAILURE_USER"), (2406, "CRYPTO_REPLAY_USER"),
    (2407, "CRYPTO_SESSION"), (2408, "CRYPTO_IKE_SA"), (2409, "CRYPTO_IPSEC_SA"), (2500, "VIRT_CONTROL"),
    (2501, "VIRT_RESOURCE"), (2502, "VIRT_MACHINE_ID"), (2503, "VIRT_INTEGRITY_CHECK"),
    (2504, "VIRT_CREATE"), (2505, "VIRT_DESTROY"), (2506, "VIRT_MIGRATE_IN"), (2507, "VIRT_MIGRATE_OUT"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_number_and_numbers_ascend() {
        assert!(NAMES.is_sorted_by(|a, b| a.0 < b.0));
        for &(number, name) in NAMES {
            assert_eq!(RecordType::from_name(name), Some(RecordType(number)), "{name}");
            assert_eq!(RecordType(number).name(), name);
        }
    }

    #[test]
    fn a_number_without_a_name_is_written_as_auditd_does_and_read_back() {
        assert_eq!(RecordType(1399).name(), "UNKNOWN[1399]");
        assert_eq!(RecordType::from_name("UNKNOWN[1399]"), Some(RecordType(1399)));
        assert_eq!(RecordType::from_name("1400"), Some(RecordType::AVC));
    }

    #[test]
    fn what_is_no_kind_is_refused() {
        for name in [
            "",
            "syscall",
            "SYSCAL",
            "UNKNOWN[",
            "UNKNOWN[1399",
            "UNKNOWN[x]",
            "UNKNOWN[]",
            "70000",
            "+13",
            "UNKNOWN[1]]",
        ] {
            assert_eq!(RecordType::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn only_kinds_that_no_syscall_record_joins_are_whole_events() {
        for name in ["USER_LOGIN", "SERVICE_START", "DAEMON_START", "CRYPTO_KEY_USER", "KERNEL", "USER_AVC"] {
            assert!(RecordType::from_name(name).unwrap().is_whole_event(), "{name}");
        }
        for name in ["CONFIG_CHANGE", "LOGIN", "AVC", "NETFILTER_CFG", "SYSCALL", "BPF", "ANOM_PROMISCUOUS"] {
            assert!(!RecordType::from_name(name).unwrap().is_whole_event(), "{name}");
        }
    }
}
