//! The fixed little-endian layouts' alphabet: what all formats of this crate but the payload are written with.
//!
//! Integers are little-endian. A varint is LEB128 of at most 64 bits in its shortest form. Whatever has two encodings is refused, so parsing and writing again gives the same bytes.

use crate::ids::{BatchSeq, Digest, EpochId, Head, KeyId, Span};
use auditflow_event::{NodeId, Timestamp};

/// Bytes from outside that are not what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The bytes end inside a field.
    #[error("{0} ends early")]
    Truncated(&'static str),
    /// The first bytes are not those of the format.
    #[error("not a {0}")]
    WrongMagic(&'static str),
    /// A format version that this program does not know and that cannot be handled unknown.
    #[error("{what} has format version {version}, which this program does not know: upgrade it")]
    UnknownVersion {
        /// Which format.
        what: &'static str,
        /// The version found.
        version: u16,
    },
    /// A length or count above its bound, found before anything was allocated for it.
    #[error("{what} has {found} of {field}, more than the {bound} allowed")]
    OutOfBounds {
        /// Which format.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// What the bytes claim.
        found: u64,
        /// The most that is allowed.
        bound: u64,
    },
    /// A field's value contradicts the format or another field.
    #[error("{what} has an impossible {field}")]
    Invalid {
        /// Which format.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// Bytes follow after the end.
    #[error("{0} is followed by bytes that don't belong to it")]
    Trailing(&'static str),
}

/// Takes fields off the front of bytes; `what` names the format in errors.
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, what }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], ParseError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(ParseError::Truncated(self.what))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(ParseError::Truncated(self.what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn magic(&mut self, magic: [u8; 4]) -> Result<(), ParseError> {
        if self.array()? == magic { Ok(()) } else { Err(ParseError::WrongMagic(self.what)) }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ParseError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ParseError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ParseError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ParseError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, ParseError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub(crate) fn varint(&mut self) -> Result<u64, ParseError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7F);
            let overflows = shift == 63 && bits > 1;
            let padded = byte == 0 && shift > 0;
            if overflows || padded {
                return Err(self.invalid("varint"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.invalid("varint"))
    }

    /// A varint that must not exceed `bound`.
    pub(crate) fn bounded(&mut self, field: &'static str, bound: u64) -> Result<u64, ParseError> {
        let found = self.varint()?;
        if found > bound {
            return Err(ParseError::OutOfBounds { what: self.what, field, found, bound });
        }
        Ok(found)
    }

    pub(crate) fn number(&mut self, field: &'static str) -> Result<BatchSeq, ParseError> {
        let number = self.u64()?;
        BatchSeq::new(number).ok_or_else(|| self.invalid(field))
    }

    pub(crate) fn time(&mut self, field: &'static str) -> Result<Timestamp, ParseError> {
        let micros = self.i64()?;
        self.time_of(micros, field)
    }

    /// A time that cannot be held exactly would not be written back as it was read.
    pub(crate) fn time_of(&self, micros: i64, field: &'static str) -> Result<Timestamp, ParseError> {
        let time = Timestamp::from_micros(micros);
        if time.as_micros() == micros { Ok(time) } else { Err(self.invalid(field)) }
    }

    pub(crate) fn digest(&mut self) -> Result<Digest, ParseError> {
        self.array().map(Digest::from_bytes)
    }

    pub(crate) fn epoch(&mut self) -> Result<EpochId, ParseError> {
        self.array().map(EpochId::from_bytes)
    }

    pub(crate) fn node(&mut self) -> Result<NodeId, ParseError> {
        self.array().map(NodeId::from_bytes)
    }

    pub(crate) fn key(&mut self) -> Result<KeyId, ParseError> {
        self.array().map(KeyId::from_bytes)
    }

    pub(crate) fn head(&mut self) -> Result<Head, ParseError> {
        Ok(Head { number: self.number("number")?, digest: self.digest()? })
    }

    pub(crate) fn span(&mut self) -> Result<Span, ParseError> {
        let (first, last) = (self.number("span")?, self.number("span")?);
        Span::new(first, last).ok_or_else(|| self.invalid("span"))
    }

    pub(crate) fn invalid(&self, field: &'static str) -> ParseError {
        ParseError::Invalid { what: self.what, field }
    }

    pub(crate) fn finish(&self) -> Result<(), ParseError> {
        if self.rest.is_empty() { Ok(()) } else { Err(ParseError::Trailing(self.what)) }
    }
}

/// Appends fields to a buffer, the mirror of [`Reader`].
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    pub(crate) fn u16(&mut self, value: u16) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn time(&mut self, time: Timestamp) {
        self.raw(&time.as_micros().to_le_bytes());
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    pub(crate) fn number(&mut self, number: BatchSeq) {
        self.u64(number.get());
    }

    pub(crate) fn head(&mut self, head: &Head) {
        self.number(head.number);
        self.raw(head.digest.as_bytes());
    }

    pub(crate) fn span(&mut self, span: Span) {
        self.number(span.first());
        self.number(span.last());
    }

    /// Overwrites the two bytes at `at` with the whole length so far.
    pub(crate) fn patch_len_u16(&mut self, at: usize) {
        let len = (self.bytes.len() as u16).to_le_bytes();
        if let Some(field) = self.bytes.get_mut(at..at + 2) {
            field.copy_from_slice(&len);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_varint_is_read_back(value: u64) {
            let mut out = Writer::default();
            out.varint(value);
            let mut reader = Reader::new("test", out.as_bytes());
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn a_varint_that_parses_is_in_its_only_form(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader::new("test", &bytes);
            if let Ok(value) = reader.varint() {
                let mut out = Writer::default();
                out.varint(value);
                prop_assert_eq!(out.as_bytes(), &bytes[..bytes.len() - reader.rest().len()]);
            }
        }
    }

    #[test]
    fn padded_and_overlong_varints_are_refused() {
        for bytes in [&[0x80, 0x00][..], &[0xFF; 10], &[0x80; 11]] {
            assert_eq!(
                Reader::new("test", bytes).varint(),
                Err(ParseError::Invalid { what: "test", field: "varint" })
            );
        }
        assert_eq!(Reader::new("test", &[0x80]).varint(), Err(ParseError::Truncated("test")));
    }
}
