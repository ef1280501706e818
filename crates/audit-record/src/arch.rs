//! Architectures, as the `arch` field of a record names them: ELF machine number, word size and byte order
//! (`AUDIT_ARCH_*` in `linux/audit.h`).

/// 64-bit x86 (also x32 programs, told apart by a bit of the call's number).
pub const X86_64: u32 = 0xC000_003E;
/// 32-bit x86.
pub const I386: u32 = 0x4000_0003;
/// 64-bit ARM.
pub const AARCH64: u32 = 0xC000_00B7;
/// 32-bit ARM (EABI).
pub const ARM: u32 = 0x4000_0028;
/// 64-bit RISC-V.
pub const RISCV64: u32 = 0xC000_00F3;

/// The architecture's usual name; also of some whose system calls have no table here.
pub fn name(arch: u32) -> Option<&'static str> {
    Some(match arch {
        X86_64 => "x86_64",
        I386 => "i386",
        AARCH64 => "aarch64",
        ARM => "arm",
        RISCV64 => "riscv64",
        0x0000_0028 => "armeb",
        0x4000_00F3 => "riscv32",
        0x8000_0015 => "ppc64",
        0xC000_0015 => "ppc64le",
        0x0000_0014 => "ppc",
        0x8000_0016 => "s390x",
        0x0000_0016 => "s390",
        0xC000_0102 => "loongarch64",
        0xC000_0008 => "mips64el",
        0x4000_0008 => "mipsel",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_architectures_have_their_usual_names() {
        for (arch, expected) in [
            (0xc000_003e, "x86_64"),
            (0x4000_0003, "i386"),
            (0xc000_00b7, "aarch64"),
            (0x4000_0028, "arm"),
            (0xc000_00f3, "riscv64"),
        ] {
            assert_eq!(name(arch), Some(expected));
        }
        assert_eq!(name(0), None);
    }
}
