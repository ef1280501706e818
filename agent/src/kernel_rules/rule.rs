//! One filter rule and its encoding for the kernel, `struct audit_rule_data`.

use super::field::{self, EQUAL};

const MASK_WORDS: usize = 64;
const MAX_FIELDS: usize = 64;
const HEADER_BYTES: usize = 4 * (3 + MASK_WORDS + 3 * MAX_FIELDS + 1);

/// The list a rule is on (`AUDIT_FILTER_*`): at what moment the kernel looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Messages from user space.
    User = 0,
    /// Task creation.
    Task = 1,
    /// Syscall exit, where almost every rule belongs.
    Exit = 4,
    /// Record types to leave out.
    Exclude = 5,
    /// Accesses on a kind of filesystem.
    Filesystem = 6,
    /// Completion of an `io_uring` operation.
    IoUring = 7,
}

/// What happens on a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// No record.
    Never = 0,
    /// A record.
    Always = 2,
}

/// Which system calls a rule is for: a bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syscalls([u32; MASK_WORDS]);

impl Syscalls {
    /// None yet.
    pub const NONE: Self = Self([0; MASK_WORDS]);

    /// Every one, and with them the last word's bits, which mean whole classes: as auditctl writes it.
    pub fn all() -> Self {
        Self([u32::MAX; MASK_WORDS])
    }

    /// Adds one; `false` if no such number fits.
    #[must_use]
    pub fn insert(&mut self, number: u32) -> bool {
        match self.0[..MASK_WORDS - 1].get_mut(number as usize / 32) {
            Some(word) => {
                *word |= 1 << (number % 32);
                true
            }
            None => false,
        }
    }
}

/// What a field is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A number.
    Number(u32),
    /// A path, key or label.
    Text(Vec<u8>),
}

/// One comparison of a rule; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Test {
    /// The field's number (see [`field`]).
    pub field: u32,
    /// The operator's bits.
    pub operator: u32,
    /// What it is compared with.
    pub operand: Operand,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The list it is on.
    pub filter: Filter,
    /// Whether it goes to the front of the list.
    pub prepend: bool,
    /// What happens on a match.
    pub action: Action,
    /// The system calls it is for.
    pub syscalls: Syscalls,
    /// What must hold, at most 64.
    pub tests: Vec<Test>,
}

impl Rule {
    /// A file watch (`-w path -p perms -k key`).
    pub fn watch(path: &str, is_directory: bool, permissions: u32, keys: &[String]) -> Self {
        let place = if is_directory { field::DIR } else { field::PATH };
        let mut tests = vec![
            Test { field: place, operator: EQUAL, operand: Operand::Text(path.into()) },
            Test { field: field::PERM, operator: EQUAL, operand: Operand::Number(permissions) },
        ];
        tests.extend(key_test(keys));
        Self {
            filter: Filter::Exit,
            prepend: false,
            action: Action::Always,
            syscalls: Syscalls::all(),
            tests,
        }
    }

    /// The rule as the kernel takes it; `None` if it has more than 64 tests.
    pub fn encode(&self) -> Option<Vec<u8>> {
        if self.tests.len() > MAX_FIELDS {
            return None;
        }
        let mut fields = [0_u32; MAX_FIELDS];
        let mut values = [0_u32; MAX_FIELDS];
        let mut operators = [0_u32; MAX_FIELDS];
        let mut texts: Vec<u8> = Vec::new();
        for (place, test) in self.tests.iter().enumerate() {
            fields[place] = test.field;
            operators[place] = test.operator;
            values[place] = match &test.operand {
                Operand::Number(number) => *number,
                Operand::Text(text) => {
                    texts.extend_from_slice(text);
                    u32::try_from(text.len()).ok()?
                }
            };
        }
        let flags = self.filter as u32 | if self.prepend { 0x10 } else { 0 };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + texts.len());
        let header = [flags, self.action as u32, u32::try_from(self.tests.len()).ok()?];
        let length = [u32::try_from(texts.len()).ok()?];
        for word in header
            .iter()
            .chain(&self.syscalls.0)
            .chain(&fields)
            .chain(&values)
            .chain(&operators)
            .chain(&length)
        {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&texts);
        Some(bytes)
    }
}

/// The test that carries a rule's keys, which the kernel keeps as one text.
pub fn key_test(keys: &[String]) -> Option<Test> {
    const SEPARATOR: &str = "\x01";
    let text = keys.join(SEPARATOR).into_bytes();
    (!keys.is_empty()).then_some(Test { field: field::KEY, operator: EQUAL, operand: Operand::Text(text) })
}

/// A rule as the kernel lists it carries its place in the list as a flag; without it two listings compare.
pub fn without_place(mut encoded: Vec<u8>) -> Vec<u8> {
    const PREPEND: u32 = 0x10;
    if let Some(flags) = encoded.first_chunk_mut::<4>() {
        *flags = (u32::from_ne_bytes(*flags) & !PREPEND).to_ne_bytes();
    }
    encoded
}
