//! What a system call's name and arguments say beyond its name: which call `socketcall` and `io_uring` stand for, how
//! a file is opened, and what a relative name is relative to. Fed with a SYSCALL record's numbers; pure.

use super::table::Access;

/// `AT_FDCWD`: names are relative to the working directory (`linux/fcntl.h`).
const AT_FDCWD: u32 = (-100_i32).cast_unsigned();

// The same on every architecture that audit-record knows (`asm-generic/fcntl.h`).
const O_ACCMODE: u64 = 0o3;
const O_CREAT: u64 = 0o100;
const O_TRUNC: u64 = 0o1000;

/// The call that a `socketcall` multiplexes, by its first argument (`linux/net.h`).
pub(super) fn socketcall(number: u64) -> Option<&'static str> {
    const CALLS: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    CALLS.get(usize::try_from(number.checked_sub(1)?).ok()?).copied()
}

/// The call that an `io_uring` operation does the work of (`enum io_uring_op` of `linux/io_uring.h`).
pub(super) fn io_uring(operation: u64) -> Option<&'static str> {
    Some(match operation {
        9 => "sendmsg",
        10 => "recvmsg",
        13 => "accept",
        16 => "connect",
        17 => "fallocate",
        18 => "openat",
        21 => "statx",
        26 => "sendto",
        27 => "recvfrom",
        28 => "openat2",
        35 => "renameat",
        36 => "unlinkat",
        37 => "mkdirat",
        38 => "symlinkat",
        39 => "linkat",
        41 => "fsetxattr",
        42 => "setxattr",
        45 => "socket",
        55 => "ftruncate",
        56 => "bind",
        57 => "listen",
        _ => return None,
    })
}

/// The open flags among a call's arguments; absent for `openat2`, whose flags lie behind a pointer.
pub(super) fn open_flags(call: &str, args: [Option<u64>; 4]) -> Option<u64> {
    match call {
        "open" => args[1],
        "openat" | "open_by_handle_at" => args[2],
        "creat" => Some(O_CREAT | O_TRUNC | 1),
        _ => None,
    }
}

/// How these flags open a file. Unknown flags count as writing: a change that is taken for a look is the worse
/// mistake.
pub(super) fn access(flags: Option<u64>, created: bool) -> Access {
    match flags {
        _ if created => Access::Create,
        Some(flags) if flags & (O_ACCMODE | O_CREAT | O_TRUNC) == 0 => Access::Read,
        _ => Access::Write,
    }
}

/// Whether a relative name that the call was given is relative to the working directory; otherwise it is to a
/// descriptor, and nothing in the event says which directory that is. `created`: the name is the call's second one.
pub(super) fn is_relative_to_cwd(call: &str, args: [Option<u64>; 4], created: bool) -> bool {
    let descriptor = match call {
        "openat" | "openat2" | "unlinkat" | "mkdirat" | "mknodat" | "fchownat" | "fchmodat" | "fchmodat2"
        | "faccessat" | "faccessat2" | "readlinkat" | "newfstatat" | "fstatat64" | "statx" | "utimensat"
        | "utimensat_time64" | "futimesat" | "execveat" | "name_to_handle_at" | "setxattrat"
        | "removexattrat" => 0,
        "renameat" | "renameat2" | "linkat" => {
            if created {
                2
            } else {
                0
            }
        }
        "symlinkat" => 1,
        _ => return true,
    };
    // 32-bit programs and the C library differ in how they extend the sign: the low half decides.
    args[descriptor].is_none_or(|descriptor| descriptor as u32 == AT_FDCWD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_taken_from_the_argument_that_holds_them() {
        let args = [Some(0), Some(0o101), Some(0o2_000_000), Some(0)];
        assert_eq!(access(open_flags("open", args), false), Access::Write);
        assert_eq!(access(open_flags("openat", args), false), Access::Read);
        assert_eq!(access(open_flags("openat", args), true), Access::Create);
        assert_eq!(access(open_flags("creat", [None; 4]), false), Access::Write);
        assert_eq!(access(open_flags("openat2", args), false), Access::Write);
        for flags in [1, 2, 0o100, 0o1000] {
            assert_eq!(access(Some(flags), false), Access::Write, "{flags:o}");
        }
    }

    #[test]
    fn names_are_relative_to_the_working_directory_unless_a_descriptor_is_given() {
        let at_cwd = Some(0xffff_ff9c);
        let sign_extended = Some(0xffff_ffff_ffff_ff9c);
        assert!(is_relative_to_cwd("openat", [at_cwd, None, None, None], false));
        assert!(is_relative_to_cwd("openat", [sign_extended, None, None, None], false));
        assert!(!is_relative_to_cwd("openat", [Some(3), None, None, None], false));
        assert!(is_relative_to_cwd("open", [Some(3), None, None, None], false));
        assert!(!is_relative_to_cwd("renameat2", [at_cwd, None, Some(4), None], true));
        assert!(is_relative_to_cwd("renameat2", [at_cwd, None, Some(4), None], false));
        assert!(!is_relative_to_cwd("symlinkat", [at_cwd, Some(5), None, None], true));
    }
}
