//! System calls by number, per architecture.
//!
//! The tables are checked in, made from the kernel's own (each file names its source). Names are the kernel's, except
//! that 64-bit `pread64` and `pwrite64` are `pread` and `pwrite`, as libaudit, and so every enriched log, calls them.

mod aarch64;
mod arm;
mod i386;
mod riscv64;
mod x86_64;

use crate::arch;

/// In an x86-64 call's number: the caller is an x32 program.
const X32_BIT: u32 = 0x4000_0000;

/// The first number that means something else to an x32 program than to any other.
const X32_FIRST: u32 = 512;

/// The first of ARM's private calls.
const ARM_PRIVATE_FIRST: u32 = 0x000f_0001;

/// The call's name; `arch` and `number` as in the `SYSCALL` record's fields of those names (see [`arch`]).
pub fn name(arch: u32, number: u32) -> Option<&'static str> {
    let (names, index) = match arch {
        arch::X86_64 if number & X32_BIT != 0 => match number & !X32_BIT {
            number @ X32_FIRST.. => (x86_64::X32_NAMES, number - X32_FIRST),
            number => (x86_64::NAMES, number),
        },
        arch::ARM if number >= ARM_PRIVATE_FIRST => (arm::PRIVATE_NAMES, number - ARM_PRIVATE_FIRST),
        _ => (names(arch)?, number),
    };
    names.get(index as usize).copied().filter(|name| !name.is_empty())
}

/// The number of the call of that name, for rules that name calls; `pread64` and `pwrite64` are known as well.
pub fn number(arch: u32, name: &str) -> Option<u32> {
    let names = names(arch)?;
    let position = |name: &str| names.iter().position(|known| *known == name && !name.is_empty());
    let found = position(name).or_else(|| match name {
        "pread64" => position("pread"),
        "pwrite64" => position("pwrite"),
        _ => None,
    });
    found.and_then(|number| number.try_into().ok())
}

fn names(arch: u32) -> Option<&'static [&'static str]> {
    match arch {
        arch::X86_64 => Some(x86_64::NAMES),
        arch::I386 => Some(i386::NAMES),
        arch::AARCH64 => Some(aarch64::NAMES),
        arch::ARM => Some(arm::NAMES),
        arch::RISCV64 => Some(riscv64::NAMES),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_what_its_own_architecture_says() {
        for (arch, number, expected) in [
            (arch::X86_64, 59, "execve"),
            (arch::I386, 11, "execve"),
            (arch::AARCH64, 221, "execve"),
            (arch::ARM, 11, "execve"),
            (arch::RISCV64, 221, "execve"),
            (arch::X86_64, 322, "execveat"),
            (arch::X86_64, 17, "pread"),
            (arch::X86_64, 257, "openat"),
            (arch::I386, 295, "openat"),
            (arch::AARCH64, 56, "openat"),
            (arch::ARM, 322, "openat"),
            (arch::RISCV64, 56, "openat"),
            (arch::X86_64, 42, "connect"),
            (arch::I386, 102, "socketcall"),
            (arch::AARCH64, 203, "connect"),
            (arch::ARM, 283, "connect"),
            (arch::X86_64, 313, "finit_module"),
            (arch::ARM, 379, "finit_module"),
            (arch::AARCH64, 38, "renameat"),
            (arch::RISCV64, 259, "riscv_flush_icache"),
            (arch::X86_64, 452, "fchmodat2"),
            (arch::ARM, 452, "fchmodat2"),
            (arch::ARM, 0x000f_0005, "set_tls"),
            (arch::X86_64, X32_BIT + 1, "write"),
            (arch::X86_64, X32_BIT + 520, "execve"),
        ] {
            assert_eq!(name(arch, number), Some(expected), "{arch:x} {number}");
        }
    }

    #[test]
    fn what_is_no_call_has_no_name() {
        for (arch, number) in [
            (arch::X86_64, 400),
            (arch::X86_64, 100_000),
            (arch::X86_64, u32::MAX),
            (arch::X86_64, X32_BIT + 548),
            (arch::RISCV64, 38),
            (arch::ARM, 17),
            (arch::ARM, u32::MAX),
            (0, 59),
        ] {
            assert_eq!(name(arch, number), None, "{arch:x} {number}");
        }
    }

    #[test]
    fn every_name_leads_back_to_its_number() {
        for arch in [arch::X86_64, arch::I386, arch::AARCH64, arch::ARM, arch::RISCV64] {
            for call in 0..500 {
                if let Some(name) = name(arch, call) {
                    assert_eq!(number(arch, name), Some(call), "{arch:x} {name}");
                }
            }
        }
        assert_eq!(number(arch::X86_64, "pread64"), Some(17));
        assert_eq!(number(arch::X86_64, ""), None);
        assert_eq!(number(arch::X86_64, "no_such_call"), None);
    }
}
