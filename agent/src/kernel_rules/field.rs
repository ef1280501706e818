//! The fields, operators and lists that a rule may name, and how their values are written (`linux/audit.h`,
//! audit.rules(7), auditctl(8)).

use auditflow_audit_record::{RecordType, errno};

/// How a field's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A decimal, octal or `0x` number, possibly negative.
    Number,
    /// A user name or number; `unset` is 4294967295.
    User,
    /// A group name or number.
    Group,
    /// A number or `unset`.
    Session,
    /// A return value, or the negated name of an error (`-EACCES`).
    Exit,
    /// `0`, `1`, `yes` or `no`.
    Success,
    /// `b32`, `b64`, or an architecture's name.
    Arch,
    /// A record type's name or number.
    RecordType,
    /// Some of `r`, `w`, `x`, `a`.
    Permissions,
    /// `file`, `dir`, `socket`, `symlink`, `char`, `block` or `fifo`.
    FileType,
    /// The name of an in-kernel filesystem, or its magic number.
    Filesystem,
    /// A path, key or label.
    Text,
}

/// A field that a rule can test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name in rule files.
    pub name: &'static str,
    /// Its number for the kernel.
    pub number: u32,
    /// How its values are written.
    pub kind: Kind,
}

/// The field of that name.
pub fn by_name(name: &str) -> Option<Field> {
    FIELDS.iter().copied().find(|field| field.name == name)
}

/// `AUDIT_WATCH`: one path.
pub const PATH: u32 = 105;
/// `AUDIT_PERM`: kinds of access.
pub const PERM: u32 = 106;
/// `AUDIT_DIR`: a path and everything below.
pub const DIR: u32 = 107;
/// `AUDIT_ARCH`.
pub const ARCH: u32 = 11;
/// `AUDIT_FIELD_COMPARE`: two fields with each other.
pub const FIELD_COMPARE: u32 = 111;
/// `AUDIT_FILTERKEY`.
pub const KEY: u32 = 210;

/// The kernel's largest error number (`MAX_ERRNO`).
const MAX_ERRNO: i32 = 4095;

const fn field(name: &'static str, number: u32, kind: Kind) -> Field {
    Field { name, number, kind }
}

const FIELDS: &[Field] = &[
    field("pid", 0, Kind::Number),
    field("uid", 1, Kind::User),
    field("euid", 2, Kind::User),
    field("suid", 3, Kind::User),
    field("fsuid", 4, Kind::User),
    field("gid", 5, Kind::Group),
    field("egid", 6, Kind::Group),
    field("sgid", 7, Kind::Group),
    field("fsgid", 8, Kind::Group),
    field("auid", 9, Kind::User),
    field("loginuid", 9, Kind::User),
    field("pers", 10, Kind::Number),
    field("arch", ARCH, Kind::Arch),
    field("msgtype", 12, Kind::RecordType),
    field("subj_user", 13, Kind::Text),
    field("subj_role", 14, Kind::Text),
    field("subj_type", 15, Kind::Text),
    field("subj_sen", 16, Kind::Text),
    field("subj_clr", 17, Kind::Text),
    field("ppid", 18, Kind::Number),
    field("obj_user", 19, Kind::Text),
    field("obj_role", 20, Kind::Text),
    field("obj_type", 21, Kind::Text),
    field("obj_lev_low", 22, Kind::Text),
    field("obj_lev_high", 23, Kind::Text),
    field("sessionid", 25, Kind::Session),
    field("fstype", 26, Kind::Filesystem),
    field("devmajor", 100, Kind::Number),
    field("devminor", 101, Kind::Number),
    field("inode", 102, Kind::Number),
    field("exit", 103, Kind::Exit),
    field("success", 104, Kind::Success),
    field("path", PATH, Kind::Text),
    field("perm", PERM, Kind::Permissions),
    field("dir", DIR, Kind::Text),
    field("filetype", 108, Kind::FileType),
    field("obj_uid", 109, Kind::User),
    field("obj_gid", 110, Kind::Group),
    field("exe", 112, Kind::Text),
    field("saddr_fam", 113, Kind::Number),
    field("a0", 200, Kind::Number),
    field("a1", 201, Kind::Number),
    field("a2", 202, Kind::Number),
    field("a3", 203, Kind::Number),
    field("key", KEY, Kind::Text),
];

/// Operators, the longer before those they begin with.
pub const OPERATORS: &[(&str, u32)] = &[
    ("!=", 0x3000_0000),
    ("<=", 0x5000_0000),
    (">=", 0x6000_0000),
    ("&=", 0x4800_0000),
    ("=", EQUAL),
    ("<", 0x1000_0000),
    (">", 0x2000_0000),
    ("&", 0x0800_0000),
];

/// `AUDIT_EQUAL`.
pub const EQUAL: u32 = 0x4000_0000;
/// `AUDIT_NOT_EQUAL`.
pub const NOT_EQUAL: u32 = 0x3000_0000;

/// Pairs of fields that `-C` compares (`AUDIT_COMPARE_*`); either may stand first.
const COMPARISONS: &[(&str, &str, u32)] = &[
    ("uid", "obj_uid", 1),
    ("gid", "obj_gid", 2),
    ("euid", "obj_uid", 3),
    ("egid", "obj_gid", 4),
    ("auid", "obj_uid", 5),
    ("suid", "obj_uid", 6),
    ("sgid", "obj_gid", 7),
    ("fsuid", "obj_uid", 8),
    ("fsgid", "obj_gid", 9),
    ("uid", "auid", 10),
    ("uid", "euid", 11),
    ("uid", "fsuid", 12),
    ("uid", "suid", 13),
    ("auid", "fsuid", 14),
    ("auid", "suid", 15),
    ("auid", "euid", 16),
    ("euid", "suid", 17),
    ("euid", "fsuid", 18),
    ("suid", "fsuid", 19),
    ("gid", "egid", 20),
    ("gid", "fsgid", 21),
    ("gid", "sgid", 22),
    ("egid", "fsgid", 23),
    ("egid", "sgid", 24),
    ("sgid", "fsgid", 25),
];

/// The kernel's number for comparing these two fields.
pub fn comparison(left: &str, right: &str) -> Option<u32> {
    let matches = |a: &str, b: &str| (a == left && b == right) || (a == right && b == left);
    COMPARISONS.iter().find(|(a, b, _)| matches(a, b)).map(|&(_, _, number)| number)
}

/// `AUDIT_ARCH_*` of an architecture's name, or of this machine's 32 and 64 bit one.
pub fn arch(name: &str) -> Option<u32> {
    const X86_64: u32 = 0xC000_003E;
    const I386: u32 = 0x4000_0003;
    const AARCH64: u32 = 0xC000_00B7;
    const ARM: u32 = 0x4000_0028;
    const RISCV64: u32 = 0xC000_00F3;
    let (wide, narrow) = match std::env::consts::ARCH {
        "x86_64" => (Some(X86_64), Some(I386)),
        "aarch64" => (Some(AARCH64), Some(ARM)),
        "arm" => (None, Some(ARM)),
        "riscv64" => (Some(RISCV64), None),
        _ => (None, None),
    };
    match name {
        "b64" => wide,
        "b32" => narrow,
        "x86_64" => Some(X86_64),
        "i386" | "i486" | "i586" | "i686" => Some(I386),
        "aarch64" => Some(AARCH64),
        "arm" | "armeb" | "armv5tejl" | "armv6l" | "armv7l" => Some(ARM),
        "riscv64" => Some(RISCV64),
        _ => None,
    }
}

/// Reads a value of a field that is not text. `who` finds the number of a user or group by name.
pub fn number(kind: Kind, text: &str, who: &dyn Fn(Kind, &str) -> Option<u32>) -> Option<u32> {
    match kind {
        Kind::Number => integer(text),
        Kind::User | Kind::Group => match text {
            "unset" => Some(u32::MAX),
            text => integer(text).or_else(|| who(kind, text)),
        },
        Kind::Session => {
            if text == "unset" {
                Some(u32::MAX)
            } else {
                integer(text)
            }
        }
        Kind::Exit => integer(text).or_else(|| {
            let (negative, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
            let number = (1..=MAX_ERRNO).find(|&number| errno::name(number as u32) == Some(name))?;
            Some(if negative { -number } else { number } as u32)
        }),
        Kind::Success => match text {
            "1" | "yes" => Some(1),
            "0" | "no" => Some(0),
            _ => None,
        },
        Kind::Arch => arch(text).or_else(|| integer(text)),
        Kind::RecordType => {
            integer(text).or_else(|| RecordType::from_name(text).map(|kind| u32::from(kind.0)))
        }
        Kind::Permissions => permissions(text),
        Kind::FileType => match text {
            "socket" => Some(0o140_000),
            "symlink" => Some(0o120_000),
            "file" => Some(0o100_000),
            "block" => Some(0o060_000),
            "dir" => Some(0o040_000),
            "char" | "character" => Some(0o020_000),
            "fifo" => Some(0o010_000),
            _ => integer(text),
        },
        Kind::Filesystem => match text {
            "debugfs" => Some(0x6462_6720),
            "tracefs" => Some(0x7472_6163),
            _ => integer(text),
        },
        Kind::Text => None,
    }
}

/// `AUDIT_PERM_*` of letters; each at most once.
pub fn permissions(letters: &str) -> Option<u32> {
    let mut bits = 0;
    for letter in letters.chars() {
        let bit = match letter.to_ascii_lowercase() {
            'x' => 1,
            'w' => 2,
            'r' => 4,
            'a' => 8,
            _ => return None,
        };
        if bits & bit != 0 {
            return None;
        }
        bits |= bit;
    }
    (bits != 0).then_some(bits)
}

fn integer(text: &str) -> Option<u32> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).ok();
    }
    if let Some(octal) = text.strip_prefix('0').filter(|octal| !octal.is_empty()) {
        return u32::from_str_radix(octal, 8).ok();
    }
    match text.parse::<i64>().ok()? {
        negative @ -2_147_483_648..0 => Some(negative as i32 as u32),
        positive => u32::try_from(positive).ok(),
    }
}
