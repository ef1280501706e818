//! The names of fields that somebody asks for, or that most records have, as numbers: found once while a record is
//! read, so that nobody compares text afterwards.
//!
//! A name is recognised by its first 16 bytes as one integer and a table whose slots are computed at compile time.

/// How many bytes a known name can have.
const SIZE: usize = 16;

/// Slots of the table: so many that some multiplier soon gives every name one of its own.
const SLOTS: usize = 2048;

/// Declares [`FieldName`] and its texts, so that each name stands in one place.
macro_rules! names {
    ($($name:ident = $text:literal),+ $(,)?) => {
        /// The name of a field that is known by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each is the name of a field of the kernel's or auditd's, given beside it")]
        pub enum FieldName { $($name),+ }

        impl FieldName {
            /// All, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The name as it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

names! {
    // SYSCALL, and what other records of the kernel share with it.
    Arch = "arch", Syscall = "syscall", Success = "success", Exit = "exit", A0 = "a0", A1 = "a1", A2 = "a2", A3 = "a3",
    Items = "items", Ppid = "ppid", Pid = "pid", Auid = "auid", Uid = "uid", Gid = "gid", Euid = "euid", Suid = "suid",
    Fsuid = "fsuid", Egid = "egid", Sgid = "sgid", Fsgid = "fsgid", Tty = "tty", Ses = "ses", Comm = "comm",
    Exe = "exe", Subj = "subj", Key = "key", UringOp = "uring_op",
    // PATH.
    Item = "item", Name = "name", Inode = "inode", Dev = "dev", Mode = "mode", Ouid = "ouid", Ogid = "ogid",
    Rdev = "rdev", Nametype = "nametype", CapFp = "cap_fp", CapFi = "cap_fi", CapFe = "cap_fe", CapFver = "cap_fver",
    CapFrootid = "cap_frootid",
    // The other records of a system call.
    Argc = "argc", A4 = "a4", A5 = "a5", A6 = "a6", A7 = "a7", A8 = "a8", A9 = "a9", Cwd = "cwd",
    Proctitle = "proctitle", Saddr = "saddr", Opid = "opid", Oauid = "oauid", Oses = "oses", Ocomm = "ocomm",
    Oflag = "oflag",
    // Programs and the rest of the kernel.
    Op = "op", Operation = "operation", Res = "res", Result = "result", Id = "id", Acct = "acct", Addr = "addr",
    Hostname = "hostname", Terminal = "terminal", Rport = "rport", Unit = "unit", Cmd = "cmd", Grp = "grp",
    NewGroup = "new_group", Path = "path", Apparmor = "apparmor", Seresult = "seresult", Seperms = "seperms",
    // Untrusted strings of rarer records.
    Data = "data", Dir = "dir", File = "file", Watch = "watch", Tree = "tree", Device = "device", Cgroup = "cgroup",
    Vm = "vm", Sw = "sw", RootDir = "root_dir", OldDisk = "old-disk", NewDisk = "new-disk", OldFs = "old-fs",
    NewFs = "new-fs", OldChardev = "old-chardev", NewChardev = "new-chardev", Profile = "profile", Peer = "peer",
    Target = "target", Srcname = "srcname", PeerAddr = "peer_addr", Srawcon = "srawcon", Trawcon = "trawcon",
    InvalidContext = "invalid_context",
    // What auditd appends.
    ArchName = "ARCH", SyscallName = "SYSCALL", AuidName = "AUID", UidName = "UID", GidName = "GID", EuidName = "EUID",
    SuidName = "SUID", FsuidName = "FSUID", EgidName = "EGID", SgidName = "SGID", FsgidName = "FSGID",
    OuidName = "OUID", OgidName = "OGID", OauidName = "OAUID", IdName = "ID", SaddrName = "SADDR",
}

impl FieldName {
    /// The known name of that text.
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Some(Entry::named(name)?.name)
    }

    /// Whether it holds an untrusted string, which is hex-encoded when it isn't quoted: the callers of
    /// `audit_log_untrustedstring` and `audit_log_d_path` in the kernel, of `audit_encode_nv_string` among programs
    /// (auparse's `typetab.h` lists both).
    const fn is_encoded(self) -> bool {
        matches!(
            self,
            Self::Comm
                | Self::Exe
                | Self::Name
                | Self::Cwd
                | Self::Key
                | Self::Proctitle
                | Self::Path
                | Self::Acct
                | Self::Cmd
                | Self::Data
                | Self::Ocomm
                | Self::Dir
                | Self::File
                | Self::Watch
                | Self::Tree
                | Self::Device
                | Self::Cgroup
                | Self::Vm
                | Self::Grp
                | Self::NewGroup
                | Self::Sw
                | Self::RootDir
                | Self::OldDisk
                | Self::NewDisk
                | Self::OldFs
                | Self::NewFs
                | Self::OldChardev
                | Self::NewChardev
                | Self::Profile
                | Self::Peer
                | Self::Target
                | Self::Srcname
                | Self::PeerAddr
                | Self::Srawcon
                | Self::Trawcon
                | Self::InvalidContext
        )
    }
}

/// A known name with what a reader of fields wants to know of it.
pub(crate) struct Entry {
    /// The text padded with NULs to two integers, the first byte lowest.
    key: [u64; 2],
    pub(crate) name: FieldName,
    pub(crate) text: &'static str,
    /// [`FieldName::is_encoded`].
    pub(crate) is_encoded: bool,
}

impl Entry {
    /// The known name that `text` begins with, if a `=` follows it, and where that is.
    ///
    /// The place comes from the text rather than from the name found, so that reading can go on while the name is still
    /// being looked up.
    #[inline]
    pub(crate) fn at_start_of(text: &[u8]) -> Option<(&'static Self, usize)> {
        let [first, second] = match text.first_chunk() {
            Some(chunk) => words(*chunk),
            None => words_of_short(text),
        };
        let (end, key) = match first_of(b'=', first) {
            64 => match first_of(b'=', second) {
                64 => return None,
                end => (64 + end, [first, second & !(u64::MAX << end)]),
            },
            end => (end, [first & !(u64::MAX << end), 0]),
        };
        let end = (end / 8) as usize;
        // A NUL before the `=` is no padding.
        Self::of(key).filter(|entry| entry.text.len() == end).map(|entry| (entry, end))
    }

    /// The known name of that text.
    pub(crate) fn named(name: &[u8]) -> Option<&'static Self> {
        // One that is too long, or ends with a NUL, is not like any once it is padded.
        (name.len() < SIZE && name.last() != Some(&0)).then(|| Self::of(words_of_short(name)))?
    }

    #[inline]
    fn of(key: [u64; 2]) -> Option<&'static Self> {
        let entry = ENTRIES.get(usize::from(TABLE.slots[slot(key, TABLE.multiplier)]))?;
        (entry.key == key).then_some(entry)
    }
}

#[inline]
fn words(padded: [u8; SIZE]) -> [u64; 2] {
    let both = u128::from_le_bytes(padded);
    [both as u64, (both >> 64) as u64]
}

/// The last field of a record may be shorter than the words that names are looked for in.
fn words_of_short(text: &[u8]) -> [u64; 2] {
    let mut padded = [0; SIZE];
    for (to, from) in padded.iter_mut().zip(text) {
        *to = *from;
    }
    words(padded)
}

/// The place in bits, counted from the first byte's, of the first such byte in a word; 64 if there is none.
#[inline]
pub(crate) fn first_of(byte: u8, word: u64) -> u32 {
    const ONES: u64 = u64::MAX / 255;
    // The usual test for a byte that is zero: its lowest hit is exact.
    let zero_where_equal = word ^ (ONES * u64::from(byte));
    let hits = zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & (ONES << 7);
    hits.trailing_zeros() & !7
}

/// All known names by number.
static ENTRIES: [Entry; FieldName::ALL.len()] = {
    const NONE: Entry = Entry { key: [0; 2], name: FieldName::Arch, text: "", is_encoded: false };
    let mut entries = [NONE; FieldName::ALL.len()];
    let mut at = 0;
    while at < entries.len() {
        let name = FieldName::ALL[at];
        let text = name.as_str();
        assert!(text.len() < SIZE, "a known name and its `=` fit into a key");
        let mut key = [0; 2];
        let mut byte = 0;
        while byte < text.len() {
            key[byte / 8] |= (text.as_bytes()[byte] as u64) << (8 * (byte % 8));
            byte += 1;
        }
        entries[at] = Entry { key, name, text, is_encoded: name.is_encoded() };
        at += 1;
    }
    entries
};

/// Numbers of names by slot, and what leads to the slots.
struct Table {
    multiplier: u64,
    slots: [u8; SLOTS],
}

#[inline]
const fn slot(key: [u64; 2], multiplier: u64) -> usize {
    let mixed = (key[0] ^ key[1].rotate_left(29)).wrapping_mul(multiplier);
    (mixed >> (64 - SLOTS.trailing_zeros())) as usize
}

static TABLE: Table = {
    const EMPTY: u8 = u8::MAX;
    assert!(FieldName::ALL.len() < EMPTY as usize, "a slot holds any name's number");
    let mut multiplier = 0x9e37_79b9_7f4a_7c15_u64;
    'multipliers: loop {
        let mut slots = [EMPTY; SLOTS];
        let mut at = 0;
        while at < ENTRIES.len() {
            let slot = slot(ENTRIES[at].key, multiplier);
            if slots[slot] != EMPTY {
                multiplier = multiplier.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(2) | 1;
                continue 'multipliers;
            }
            slots[slot] = at as u8;
            at += 1;
        }
        break Table { multiplier, slots };
    }
};

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Option<FieldName> {
        Entry::at_start_of(text.as_bytes()).map(|(entry, _)| entry.name)
    }

    #[test]
    fn every_known_name_is_found_alone_and_before_its_value() {
        for &name in FieldName::ALL {
            let text = name.as_str();
            assert_eq!(FieldName::from_bytes(text.as_bytes()), Some(name), "{text}");
            for value in ["=", "=\"x\" y=1", "==", "=a value that is long enough"] {
                assert_eq!(found(&format!("{text}{value}")), Some(name), "{text}{value}");
            }
            for no_value in ["", " =", "\0=", "\0", " "] {
                assert_eq!(found(&format!("{text}{no_value}")), None, "{text}{no_value:?}");
            }
        }
    }

    #[test]
    fn what_is_no_known_name_is_none() {
        for name in ["", "=", "a", "a00", "Arch", "msg", "cap_frootid_", "\0", "arch\0", "0123456789abcdef0"]
        {
            assert_eq!(FieldName::from_bytes(name.as_bytes()), None, "{name:?}");
            assert_eq!(found(&format!("{name}=x")), None, "{name:?}");
        }
    }
}
