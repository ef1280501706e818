//! The rows of [`super::table`], most telling first: of two record types in one event the upper row holds.

use super::table::{Access, Row, When};
use super::{EventType, Severity};
use crate::Condition;

use Access::{Create, Read, Write};
use EventType::{
    AgentState, AuditConfiguration, FileAccess, FileModified, IntegrityViolation, KernelModule,
    KubernetesApi, NetworkConnection, Other, PrivilegeChange, ProcessExecution, ServiceStatusChange,
    SudoCommand, UserAccountManagement, UserLogin,
};
use When::{Open, Produced, Record, Remnant, State, Syscall, Verb};

const AUTH: &[&str] = &["authentication"];
const SESSION: &[&str] = &["authentication", "session"];
const IAM: &[&str] = &["iam"];
const CONFIG: &[&str] = &["configuration"];
const PROCESS: &[&str] = &["process"];
const FILE: &[&str] = &["file"];
const NETWORK: &[&str] = &["network"];
const DRIVER: &[&str] = &["driver"];
const HOST: &[&str] = &["host"];
const API: &[&str] = &["api"];
const INTRUSION: &[&str] = &["intrusion_detection"];

const START: &[&str] = &["start"];
const END: &[&str] = &["end"];
const INFO: &[&str] = &["info"];
const CHANGE: &[&str] = &["change"];
const ACCESS: &[&str] = &["access"];
const CREATION: &[&str] = &["creation"];
const DELETION: &[&str] = &["deletion"];
const DENIED: &[&str] = &["denied"];
const ERROR: &[&str] = &["error"];

/// System calls that open a file, with flags that say for what.
const OPENS: &[&str] = &["open", "openat", "openat2", "open_by_handle_at", "creat"];

/// The table.
pub(super) static ROWS: &[Row] = &[
    // Logins and sessions.
    row(Record(&["USER_LOGIN"]), UserLogin, AUTH, START, "logged-in"),
    row(Record(&["USER_LOGOUT"]), UserLogin, AUTH, END, "logged-out"),
    row(Record(&["USER_AUTH"]), UserLogin, AUTH, START, "authenticated"),
    row(Record(&["USER_ERR"]), UserLogin, AUTH, INFO, "caused-authentication-error").warning(),
    row(Record(&["USER_ACCT"]), UserLogin, AUTH, INFO, "was-authorized"),
    row(Record(&["USER_START"]), UserLogin, SESSION, START, "started-session"),
    row(Record(&["USER_END"]), UserLogin, SESSION, END, "ended-session"),
    row(Record(&["CRED_ACQ"]), UserLogin, AUTH, INFO, "acquired-credentials"),
    row(Record(&["CRED_DISP"]), UserLogin, AUTH, INFO, "disposed-credentials"),
    row(Record(&["CRED_REFR"]), UserLogin, AUTH, INFO, "refreshed-credentials"),
    row(Record(&["LOGIN"]), UserLogin, SESSION, START, "changed-login-id-to"),
    row(Record(&["GRP_AUTH"]), UserLogin, AUTH, START, "authenticated-to-group"),
    row(Record(&["USER_CMD"]), SudoCommand, PROCESS, START, "ran-command"),
    // Accounts and groups.
    row(Record(&["ADD_USER"]), UserAccountManagement, IAM, &["user", "creation"], "added-user-account")
        .warning()
        .achieving("CREATED"),
    row(Record(&["DEL_USER"]), UserAccountManagement, IAM, &["user", "deletion"], "deleted-user-account")
        .warning()
        .achieving("DELETED"),
    row(Record(&["ADD_GROUP"]), UserAccountManagement, IAM, &["group", "creation"], "added-group-account")
        .achieving("CREATED"),
    row(Record(&["DEL_GROUP"]), UserAccountManagement, IAM, &["group", "deletion"], "deleted-group-account")
        .achieving("DELETED"),
    row(Record(&["USER_MGMT"]), UserAccountManagement, IAM, &["user", "change"], "modified-user-account")
        .achieving("MODIFIED"),
    row(Record(&["GRP_MGMT"]), UserAccountManagement, IAM, &["group", "change"], "modified-group-account")
        .achieving("MODIFIED"),
    row(Record(&["USER_CHAUTHTOK"]), UserAccountManagement, IAM, &["user", "change"], "changed-password")
        .achieving("MODIFIED"),
    row(
        Record(&["GRP_CHAUTHTOK"]),
        UserAccountManagement,
        IAM,
        &["group", "change"],
        "changed-group-password",
    )
    .achieving("MODIFIED"),
    row(Record(&["ACCT_LOCK"]), UserAccountManagement, IAM, &["user", "change"], "locked-account")
        .warning()
        .achieving("MODIFIED"),
    row(Record(&["ACCT_UNLOCK"]), UserAccountManagement, IAM, &["user", "change"], "unlocked-account")
        .achieving("MODIFIED"),
    row(Record(&["CHGRP_ID"]), UserAccountManagement, IAM, &["user", "change"], "changed-group-id")
        .achieving("MODIFIED"),
    row(Record(&["CHUSER_ID"]), UserAccountManagement, IAM, &["user", "change"], "changed-user-id")
        .achieving("MODIFIED"),
    row(
        Record(&["ROLE_ASSIGN", "ROLE_REMOVE", "ROLE_MODIFY"]),
        UserAccountManagement,
        IAM,
        &["user", "change"],
        "changed-role",
    )
    .achieving("MODIFIED"),
    row(Record(&["USER_ROLE_CHANGE"]), PrivilegeChange, IAM, &["user", "change"], "changed-selinux-role"),
    // Services and the machine.
    row(Record(&["SERVICE_START"]), ServiceStatusChange, PROCESS, START, "started-service")
        .achieving("STARTED"),
    row(Record(&["SERVICE_STOP"]), ServiceStatusChange, PROCESS, END, "stopped-service").achieving("STOPPED"),
    row(Record(&["SYSTEM_BOOT"]), Other, HOST, START, "booted-system"),
    row(Record(&["SYSTEM_SHUTDOWN"]), Other, HOST, END, "shut-down-system"),
    row(Record(&["SYSTEM_RUNLEVEL"]), Other, HOST, CHANGE, "changed-runlevel"),
    row(Record(&["SOFTWARE_UPDATE"]), Other, &["package"], &["installation"], "updated-software"),
    row(Record(&["USER_DEVICE"]), Other, HOST, CHANGE, "changed-device"),
    row(Record(&["USYS_CONFIG"]), Other, CONFIG, CHANGE, "changed-system-configuration"),
    // Auditing itself.
    row(Record(&["CONFIG_CHANGE"]), AuditConfiguration, CONFIG, CHANGE, "changed-audit-configuration")
        .warning(),
    row(Record(&["FEATURE_CHANGE"]), AuditConfiguration, CONFIG, CHANGE, "changed-audit-feature").warning(),
    row(Record(&["DAEMON_START"]), AuditConfiguration, PROCESS, START, "started-audit"),
    row(Record(&["DAEMON_END"]), AuditConfiguration, PROCESS, END, "shut-down-audit").warning(),
    row(Record(&["DAEMON_ABORT"]), AuditConfiguration, PROCESS, ERROR, "aborted-auditd-startup").warning(),
    row(
        Record(&["DAEMON_CONFIG", "DAEMON_RECONFIG"]),
        AuditConfiguration,
        CONFIG,
        CHANGE,
        "reconfigured-auditd",
    ),
    row(
        Record(&["DAEMON_ROTATE", "DAEMON_RESUME", "DAEMON_ACCEPT", "DAEMON_CLOSE", "EVENT_LISTENER"]),
        AuditConfiguration,
        PROCESS,
        INFO,
        "served-audit-log",
    ),
    row(Record(&["DAEMON_ERR"]), AuditConfiguration, PROCESS, ERROR, "audit-error").warning(),
    // Refusals, anomalies and broken integrity.
    row(
        Record(&[
            "ANOM_PROMISCUOUS",
            "ANOM_LINK",
            "ANOM_CREAT",
            "ANOM_LOGIN_FAILURES",
            "ANOM_LOGIN_TIME",
            "ANOM_LOGIN_SESSIONS",
            "ANOM_LOGIN_ACCT",
            "ANOM_LOGIN_LOCATION",
            "ANOM_MAX_DAC",
            "ANOM_MAX_MAC",
            "ANOM_AMTU_FAIL",
            "ANOM_RBAC_FAIL",
            "ANOM_RBAC_INTEGRITY_FAIL",
            "ANOM_CRYPTO_FAIL",
            "ANOM_ACCESS_FS",
            "ANOM_EXEC",
            "ANOM_MK_EXEC",
            "ANOM_ADD_ACCT",
            "ANOM_DEL_ACCT",
            "ANOM_MOD_ACCT",
            "ANOM_ROOT_TRANS",
        ]),
        IntegrityViolation,
        INTRUSION,
        INFO,
        "noticed-anomaly",
    )
    .warning(),
    row(Record(&["ANOM_ABEND"]), IntegrityViolation, PROCESS, END, "crashed-program").warning(),
    row(Record(&["SECCOMP"]), IntegrityViolation, PROCESS, DENIED, "violated-seccomp-policy").warning(),
    row(
        Record(&[
            "INTEGRITY_DATA",
            "INTEGRITY_METADATA",
            "INTEGRITY_STATUS",
            "INTEGRITY_HASH",
            "INTEGRITY_PCR",
            "INTEGRITY_EVM_XATTR",
        ]),
        IntegrityViolation,
        FILE,
        ERROR,
        "failed-integrity-check",
    )
    .critical(),
    row(
        Record(&["INTEGRITY_RULE", "INTEGRITY_POLICY_RULE"]),
        AuditConfiguration,
        CONFIG,
        CHANGE,
        "changed-integrity-policy",
    ),
    row(
        Record(&["AVC", "USER_AVC", "SELINUX_ERR", "USER_SELINUX_ERR", "APPARMOR_DENIED", "APPARMOR_ERROR"]),
        IntegrityViolation,
        PROCESS,
        DENIED,
        "violated-access-policy",
    )
    .warning(),
    row(
        Record(&["APPARMOR", "APPARMOR_AUDIT", "APPARMOR_ALLOWED", "APPARMOR_HINT", "APPARMOR_STATUS"]),
        Other,
        PROCESS,
        INFO,
        "reported-apparmor",
    ),
    row(
        Record(&[
            "MAC_POLICY_LOAD",
            "MAC_STATUS",
            "MAC_CONFIG_CHANGE",
            "USER_MAC_POLICY_LOAD",
            "USER_MAC_CONFIG_CHANGE",
        ]),
        Other,
        CONFIG,
        CHANGE,
        "changed-mandatory-access-policy",
    )
    .warning(),
    // The kernel.
    row(Record(&["KERN_MODULE"]), KernelModule, DRIVER, START, "loaded-kernel-module").warning(),
    row(Record(&["NETFILTER_CFG"]), Other, &["network", "configuration"], CHANGE, "changed-firewall"),
    row(Record(&["NETFILTER_PKT"]), Other, NETWORK, INFO, "matched-packet"),
    row(Record(&["TIME_INJOFFSET", "TIME_ADJNTPVAL"]), Other, HOST, CHANGE, "changed-system-time"),
    row(Record(&["BPF"]), Other, DRIVER, CHANGE, "changed-bpf-program"),
    row(Record(&["TTY", "USER_TTY"]), Other, PROCESS, INFO, "typed"),
    row(
        Record(&[
            "CRYPTO_KEY_USER",
            "CRYPTO_SESSION",
            "CRYPTO_LOGIN",
            "CRYPTO_LOGOUT",
            "CRYPTO_IKE_SA",
            "CRYPTO_IPSEC_SA",
            "CRYPTO_TEST_USER",
            "CRYPTO_PARAM_CHANGE_USER",
        ]),
        Other,
        NETWORK,
        &["protocol"],
        "used-cryptography",
    ),
    row(
        Record(&["CRYPTO_FAILURE_USER", "CRYPTO_REPLAY_USER"]),
        IntegrityViolation,
        NETWORK,
        ERROR,
        "failed-cryptography",
    )
    .warning(),
    row(
        Record(&["VIRT_CONTROL", "VIRT_RESOURCE", "VIRT_MACHINE_ID"]),
        Other,
        HOST,
        CHANGE,
        "changed-machine",
    ),
    // Processes.
    row(Syscall(&["execve", "execveat"]), ProcessExecution, PROCESS, START, "executed"),
    row(
        Syscall(&["kill", "tkill", "tgkill", "pidfd_send_signal"]),
        Other,
        PROCESS,
        INFO,
        "signalled-process",
    ),
    row(Syscall(&["fork", "vfork", "clone", "clone3"]), Other, PROCESS, START, "created-process"),
    row(Syscall(&["exit", "exit_group"]), Other, PROCESS, END, "ended-process"),
    row(Syscall(&["prctl", "arch_prctl"]), Other, PROCESS, CHANGE, "changed-process-settings"),
    // Privileges.
    row(
        Syscall(&[
            "setuid",
            "setreuid",
            "setresuid",
            "setfsuid",
            "setuid32",
            "setreuid32",
            "setresuid32",
            "setfsuid32",
            "setgid",
            "setregid",
            "setresgid",
            "setfsgid",
            "setgid32",
            "setregid32",
            "setresgid32",
            "setfsgid32",
            "setgroups",
            "setgroups32",
        ]),
        PrivilegeChange,
        PROCESS,
        CHANGE,
        "changed-identity",
    ),
    row(Syscall(&["capset"]), PrivilegeChange, PROCESS, CHANGE, "changed-capabilities"),
    row(Syscall(&["unshare", "setns"]), PrivilegeChange, PROCESS, CHANGE, "changed-namespace"),
    row(Syscall(&["chroot", "pivot_root"]), PrivilegeChange, PROCESS, CHANGE, "changed-root-directory"),
    row(
        Syscall(&["ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd"]),
        PrivilegeChange,
        PROCESS,
        ACCESS,
        "accessed-process",
    )
    .warning(),
    row(
        Syscall(&[
            "mount",
            "umount",
            "umount2",
            "move_mount",
            "fsmount",
            "fsopen",
            "fsconfig",
            "open_tree",
            "mount_setattr",
        ]),
        Other,
        HOST,
        CHANGE,
        "changed-mounts",
    ),
    // The kernel and the host.
    row(Syscall(&["init_module", "finit_module"]), KernelModule, DRIVER, START, "loaded-kernel-module")
        .warning(),
    row(Syscall(&["delete_module"]), KernelModule, DRIVER, END, "unloaded-kernel-module").warning(),
    row(Syscall(&["kexec_load", "kexec_file_load"]), KernelModule, DRIVER, START, "loaded-kernel").critical(),
    row(Syscall(&["bpf"]), Other, DRIVER, CHANGE, "changed-bpf-program"),
    row(
        Syscall(&[
            "adjtimex",
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "stime",
            "clock_settime64",
            "clock_adjtime64",
        ]),
        Other,
        HOST,
        CHANGE,
        "changed-system-time",
    ),
    row(Syscall(&["sethostname", "setdomainname"]), Other, HOST, CHANGE, "changed-system-name"),
    row(Syscall(&["reboot"]), Other, HOST, END, "rebooted-system").warning(),
    // Files. The three ways to open stand in the order of `Access`.
    row(Open(OPENS, Read), FileAccess, FILE, ACCESS, "opened-file"),
    row(Open(OPENS, Write), FileModified, FILE, CHANGE, "opened-file-for-writing").achieving("MODIFIED"),
    row(Open(OPENS, Create), FileModified, FILE, CREATION, "created-file").achieving("CREATED"),
    row(
        Syscall(&[
            "write",
            "writev",
            "pwrite64",
            "pwritev",
            "pwritev2",
            "fallocate",
            "copy_file_range",
            "sendfile",
        ]),
        FileModified,
        FILE,
        CHANGE,
        "wrote-file",
    )
    .achieving("MODIFIED"),
    row(Syscall(&["rename", "renameat", "renameat2"]), FileModified, FILE, CHANGE, "renamed")
        .achieving("MODIFIED"),
    row(Syscall(&["unlink", "unlinkat"]), FileModified, FILE, DELETION, "deleted").achieving("DELETED"),
    row(Syscall(&["rmdir"]), FileModified, FILE, DELETION, "deleted-directory").achieving("DELETED"),
    row(Syscall(&["link", "linkat"]), FileModified, FILE, CREATION, "linked").achieving("CREATED"),
    row(Syscall(&["symlink", "symlinkat"]), FileModified, FILE, CREATION, "symlinked").achieving("CREATED"),
    row(Syscall(&["mkdir", "mkdirat"]), FileModified, FILE, CREATION, "created-directory")
        .achieving("CREATED"),
    row(Syscall(&["mknod", "mknodat"]), FileModified, FILE, CREATION, "created-node").achieving("CREATED"),
    row(
        Syscall(&["truncate", "ftruncate", "truncate64", "ftruncate64"]),
        FileModified,
        FILE,
        CHANGE,
        "truncated-file",
    )
    .achieving("MODIFIED"),
    row(
        Syscall(&["chmod", "fchmod", "fchmodat", "fchmodat2"]),
        FileModified,
        FILE,
        CHANGE,
        "changed-file-permissions",
    )
    .achieving("MODIFIED"),
    row(
        Syscall(&["chown", "fchown", "lchown", "fchownat", "chown32", "fchown32", "lchown32"]),
        FileModified,
        FILE,
        CHANGE,
        "changed-file-ownership",
    )
    .achieving("MODIFIED"),
    row(
        Syscall(&[
            "setxattr",
            "lsetxattr",
            "fsetxattr",
            "setxattrat",
            "removexattr",
            "lremovexattr",
            "fremovexattr",
            "removexattrat",
            "file_setattr",
        ]),
        FileModified,
        FILE,
        CHANGE,
        "changed-file-attributes",
    )
    .achieving("MODIFIED"),
    row(
        Syscall(&["utime", "utimes", "futimesat", "utimensat", "utimensat_time64"]),
        FileModified,
        FILE,
        CHANGE,
        "changed-file-times",
    )
    .achieving("MODIFIED"),
    row(
        Syscall(&["read", "readv", "pread64", "preadv", "preadv2", "mmap", "name_to_handle_at"]),
        FileAccess,
        FILE,
        ACCESS,
        "read-file",
    ),
    row(
        Syscall(&[
            "stat",
            "lstat",
            "fstat",
            "newfstatat",
            "fstatat64",
            "stat64",
            "lstat64",
            "fstat64",
            "statx",
            "access",
            "faccessat",
            "faccessat2",
            "readlink",
            "readlinkat",
            "getxattr",
            "lgetxattr",
            "fgetxattr",
            "listxattr",
            "llistxattr",
            "flistxattr",
            "getdents",
            "getdents64",
            "statfs",
            "statfs64",
        ]),
        FileAccess,
        FILE,
        INFO,
        "checked-file",
    ),
    // Sockets.
    row(Syscall(&["connect"]), NetworkConnection, NETWORK, &["connection", "start"], "connected-to"),
    row(
        Syscall(&["accept", "accept4"]),
        NetworkConnection,
        NETWORK,
        &["connection", "start"],
        "accepted-connection-from",
    ),
    row(Syscall(&["bind"]), NetworkConnection, NETWORK, START, "bound-socket"),
    row(Syscall(&["listen"]), NetworkConnection, NETWORK, START, "listened-for-connections"),
    row(Syscall(&["sendto", "sendmsg", "sendmmsg"]), NetworkConnection, NETWORK, &["connection"], "sent-to"),
    row(
        Syscall(&["recvfrom", "recvmsg", "recvmmsg"]),
        NetworkConnection,
        NETWORK,
        &["connection"],
        "received-from",
    ),
    row(Syscall(&["socket"]), NetworkConnection, NETWORK, INFO, "created-socket"),
    // What is left when a SYSCALL record was lost.
    row(Remnant(&["EXECVE", "BPRM_FCAPS"]), ProcessExecution, PROCESS, START, "executed"),
    row(Remnant(&["CAPSET"]), PrivilegeChange, PROCESS, CHANGE, "changed-capabilities"),
    row(Remnant(&["SOCKADDR", "SOCKETCALL"]), NetworkConnection, NETWORK, INFO, "used-socket"),
    row(Remnant(&["PATH"]), FileAccess, FILE, INFO, "touched-file"),
    // Kubernetes.
    row(Verb(&["get", "list", "watch"]), KubernetesApi, API, ACCESS, "requested"),
    row(Verb(&["create"]), KubernetesApi, API, CREATION, "requested"),
    row(Verb(&["update", "patch"]), KubernetesApi, API, CHANGE, "requested"),
    row(Verb(&["delete", "deletecollection"]), KubernetesApi, API, DELETION, "requested"),
    row(Verb(&[]), KubernetesApi, API, INFO, "requested"),
    // The agent.
    row(State(Condition::Running), AgentState, HOST, INFO, "running"),
    row(State(Condition::Degraded), AgentState, HOST, INFO, "degraded").warning(),
    row(State(Condition::Unavailable), AgentState, HOST, ERROR, "unavailable").warning(),
    row(State(Condition::NotApplicable), AgentState, HOST, INFO, "not_applicable"),
    row(State(Condition::NotRunning), AgentState, HOST, ERROR, "not_running").warning(),
    row(State(Condition::TestAlert), AgentState, HOST, INFO, "test_alert"),
    // Events in the ancestor's shape: its five types, then ours.
    row(Produced(&[]), UserLogin, AUTH, START, "logged-in"),
    row(Produced(&[]), SudoCommand, PROCESS, START, "ran-command"),
    row(Produced(&["CREATED"]), FileModified, FILE, CREATION, "created-file"),
    row(Produced(&["DELETED"]), FileModified, FILE, DELETION, "deleted"),
    row(Produced(&[]), FileModified, FILE, CHANGE, "modified-file"),
    row(Produced(&["STARTED"]), ServiceStatusChange, PROCESS, START, "started-service"),
    row(Produced(&["STOPPED"]), ServiceStatusChange, PROCESS, END, "stopped-service"),
    row(Produced(&[]), ServiceStatusChange, PROCESS, CHANGE, "changed-service"),
    row(Produced(&["CREATED"]), UserAccountManagement, IAM, &["user", "creation"], "added-user-account"),
    row(Produced(&["DELETED"]), UserAccountManagement, IAM, &["user", "deletion"], "deleted-user-account"),
    row(Produced(&[]), UserAccountManagement, IAM, &["user", "change"], "modified-user-account"),
    row(Produced(&[]), ProcessExecution, PROCESS, START, "executed"),
    row(Produced(&[]), NetworkConnection, NETWORK, &["connection"], "connected-to"),
    row(Produced(&[]), FileAccess, FILE, ACCESS, "opened-file"),
    row(Produced(&[]), PrivilegeChange, PROCESS, CHANGE, "changed-identity"),
    row(Produced(&[]), KernelModule, DRIVER, CHANGE, "changed-kernel-modules"),
    row(Produced(&[]), AuditConfiguration, CONFIG, CHANGE, "changed-audit-configuration"),
    row(Produced(&[]), KubernetesApi, API, INFO, "requested"),
    row(Produced(&[]), IntegrityViolation, INTRUSION, INFO, "noticed-anomaly"),
];

const fn row(
    when: When,
    event_type: EventType,
    category: &'static [&'static str],
    kind: &'static [&'static str],
    action: &'static str,
) -> Row {
    Row { when, event_type, category, kind, action, severity: Severity::Info, achieved: "SUCCESS" }
}

impl Row {
    const fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    const fn critical(mut self) -> Self {
        self.severity = Severity::Critical;
        self
    }

    const fn achieving(mut self, result: &'static str) -> Self {
        self.achieved = result;
        self
    }
}
