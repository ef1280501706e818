//! Identities and positions: which epoch, which batch, which digest, which key.
//!
//! All are small copyable values that print as what an operator reads (hexadecimal, or a decimal number) and parse
//! back from exactly that.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::keys::Domain;

/// The operating system gave no random bytes.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes from the operating system: check that getrandom is allowed")]
pub struct RandomError(#[from] getrandom::Error);

/// Text that is not the identity it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {what}: give {digits} lowercase hexadecimal digits")]
pub struct ParseHexError {
    what: &'static str,
    digits: usize,
}

/// Declares a fixed-size byte string with its hexadecimal text form.
macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps bytes that came from storage or from a parsed message.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes as they travel.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                data_encoding::HEXLOWER.encode_display(&self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseHexError;

            fn from_str(text: &str) -> Result<Self, ParseHexError> {
                parse_hex(text).map(Self).ok_or(ParseHexError { what: $what, digits: $len * 2 })
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = ParseHexError;

            fn try_from(bytes: &[u8]) -> Result<Self, ParseHexError> {
                bytes.try_into().map(Self).map_err(|_| ParseHexError { what: $what, digits: $len * 2 })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

hex_id!(
    /// One run of one agent: a random id, new at every start and after every `fork` answer. Numbers count within it.
    EpochId, 16, "epoch id"
);
hex_id!(
    /// A BLAKE3 hash: of a domain and a header (the batch's digest), or of a payload.
    Digest, 32, "digest"
);
hex_id!(
    /// Which public key: the first eight bytes of its domain-separated BLAKE3. Finds a key, proves nothing.
    KeyId, 8, "key id"
);
hex_id!(
    /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`); all zero when it could not be read.
    BootId, 16, "boot id"
);
hex_id!(
    /// The version of the pre-filter rule set in force, a content hash; all zero when no rules were loaded.
    RuleSetVersion, 16, "rule set version"
);
hex_id!(
    /// Which compression dictionary: the first four bytes of its BLAKE3; all zero for none.
    DictionaryId, 4, "dictionary id"
);

hex_id!(
    /// Which certificate authority: the domain-separated BLAKE3 of its certificate in DER.
    CaHash, 32, "ca hash"
);

impl CaHash {
    /// The hash of a CA certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(*Domain("auditflow ca v1").digest(certificate).as_bytes())
    }
}

impl EpochId {
    /// A new random epoch.
    pub fn generate() -> Result<Self, RandomError> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

impl Digest {
    /// The plain BLAKE3 of `bytes`, as payloads are named in headers.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl RuleSetVersion {
    /// No rule set was in force.
    pub const NONE: Self = Self([0; 16]);
}

impl BootId {
    /// The boot id could not be read.
    pub const UNKNOWN: Self = Self([0; 16]);

    /// Reads the text of `/proc/sys/kernel/random/boot_id`, a UUID with or without its hyphens and line end.
    pub fn parse_uuid(text: &str) -> Option<Self> {
        let digits: String = text.trim_end().chars().filter(|c| *c != '-').take(33).collect();
        digits.parse().ok()
    }
}

impl DictionaryId {
    /// No dictionary.
    pub const NONE: Self = Self([0; 4]);
}

/// The number of a batch within its epoch: 1, 2, 3 … without gaps. At most `i64::MAX`, so that every store can
/// hold it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BatchSeq(NonZeroU64);

impl BatchSeq {
    /// The first batch of an epoch.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// `None` for zero and for what exceeds `i64::MAX`.
    pub fn new(number: u64) -> Option<Self> {
        i64::try_from(number).ok()?;
        NonZeroU64::new(number).map(Self)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }

    /// The number as databases hold it.
    pub const fn as_i64(self) -> i64 {
        self.get() as i64
    }

    /// The number after this one; `None` after the last, which no agent lives to reach.
    pub fn next(self) -> Option<Self> {
        Self::new(self.get() + 1)
    }

    /// The number before this one; `None` before the first.
    pub fn previous(self) -> Option<Self> {
        Self::new(self.get() - 1)
    }
}

impl Serialize for BatchSeq {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.get())
    }
}

impl<'de> Deserialize<'de> for BatchSeq {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| de::Error::custom("not a batch number: give 1 or more"))
    }
}

impl fmt::Display for BatchSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A batch's place and its digest: what heads, acknowledgements and links speak of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Head {
    /// The batch's number in its epoch.
    pub number: BatchSeq,
    /// The batch's digest.
    pub digest: Digest,
}

/// Consecutive batch numbers, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Span {
    first: BatchSeq,
    last: BatchSeq,
}

impl Span {
    /// `None` if `last` comes before `first`.
    pub fn new(first: BatchSeq, last: BatchSeq) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// Just this number.
    pub fn one(number: BatchSeq) -> Self {
        Self { first: number, last: number }
    }

    /// The lowest number.
    pub fn first(self) -> BatchSeq {
        self.first
    }

    /// The highest number.
    pub fn last(self) -> BatchSeq {
        self.last
    }

    /// How many numbers.
    pub fn count(self) -> u64 {
        self.last.get() - self.first.get() + 1
    }

    /// Whether `number` lies in the span.
    pub fn contains(self, number: BatchSeq) -> bool {
        self.first <= number && number <= self.last
    }

    /// The span between two bounds given as raw numbers; `None` if it is empty or out of range.
    pub(crate) fn between(first: u64, last: u64) -> Option<Self> {
        Self::new(BatchSeq::new(first)?, BatchSeq::new(last)?)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}–{}", self.first, self.last) }
    }
}

/// Exactly `N` bytes in lowercase hexadecimal, nothing else.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse_the_same_text() {
        let epoch = EpochId::from_bytes([0xAB; 16]);
        assert_eq!(epoch.to_string(), "ab".repeat(16));
        assert_eq!(epoch.to_string().parse::<EpochId>(), Ok(epoch));
        for bad in ["", "ab", &"AB".repeat(16), &"ab".repeat(17), "äääääääääääääääää"] {
            assert!(bad.parse::<EpochId>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn numbers_start_at_one_and_fit_a_signed_column() {
        assert_eq!(BatchSeq::new(0), None);
        assert_eq!(BatchSeq::new(1), Some(BatchSeq::FIRST));
        assert_eq!(BatchSeq::new(1 << 63), None);
        let last = BatchSeq::new(i64::MAX as u64).unwrap();
        assert_eq!((last.next(), last.as_i64()), (None, i64::MAX));
        assert_eq!(BatchSeq::FIRST.previous(), None);
    }

    #[test]
    fn boot_id_is_read_as_the_kernel_prints_it() {
        let boot = BootId::parse_uuid("c7aeb50a-9b5c-4c56-9f4f-b4c9e5f1e3a1\n").unwrap();
        assert_eq!(boot.to_string(), "c7aeb50a9b5c4c569f4fb4c9e5f1e3a1");
        assert_eq!(BootId::parse_uuid("no"), None);
    }
}
