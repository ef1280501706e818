//! One record: what it is, which event it belongs to, and its text.
//!
//! Fed with a line of `audit.log` or an audit plugin's input, or with a netlink message's payload; feeds the
//! assembler. The text is kept verbatim: fields are found in it when asked for ([`Record::fields`]), without copying.

use std::fmt;

use memchr::{memchr, memrchr};
use thiserror::Error;

use crate::value::digits;
use crate::{Fields, RecordType, Value};

/// Divides the kernel's text from the names that `auditd` appends with `log_format = ENRICHED`.
pub(crate) const ENRICHED: u8 = 0x1D;

/// Which event a record belongs to: the time of the event and its serial number on that kernel.
///
/// Serial numbers start again with every boot and wrap after 2³², so the order of two stamps only sorts lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch, by the kernel's coarse clock.
    pub millis: u64,
    /// The kernel's serial number of the event.
    pub serial: u32,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}:{}", self.millis / 1000, self.millis % 1000, self.serial)
    }
}

/// How far `to` lies after `from` among serial numbers that wrap: 1 for the next one, negative for an earlier one.
///
/// (A plain subtraction turns a late record into four billion lost ones.)
pub fn serial_distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// One record of the kernel's audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its kind.
    pub kind: RecordType,
    /// The event that it belongs to.
    pub stamp: Stamp,
    /// The machine's name as written by an aggregating `auditd` (`node=`).
    pub node: Option<Box<str>>,
    /// The text after `audit(…): `, verbatim, including what follows a byte 0x1D.
    pub body: Box<[u8]>,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// The line doesn't begin with `type=` (after an optional `node=`).
    #[error("audit record has no type")]
    NoType,
    /// The type is neither a known name nor a number.
    #[error("audit record has an unknown type")]
    UnknownType,
    /// The node's name is not UTF-8.
    #[error("audit record's node name is not valid text")]
    BadNode,
    /// There is no `audit(seconds.millis:serial):`, or its numbers are malformed or too large.
    #[error("audit record has no valid audit(time:serial) stamp")]
    BadStamp,
    /// The line is longer than the reader allows.
    #[error("audit record's line is too long")]
    TooLong,
}

impl Record {
    /// Reads one line of `audit.log` or of an audit plugin's input:
    /// `[node=NAME ]type=NAME msg=audit(SECONDS.MILLIS:SERIAL): TEXT`.
    ///
    /// Also the form in which the kernel prints records when nobody reads them (`audit: type=1400 audit(…): …`).
    /// What ends a line is not part of the record.
    pub fn from_line(line: &[u8]) -> Result<Self, ParseError> {
        let line = without_padding(line);
        let line = line.strip_prefix(b"audit: ").unwrap_or(line);
        let (node, line) = match line.strip_prefix(b"node=") {
            Some(rest) => {
                let (name, rest) = split_word(rest);
                let name = std::str::from_utf8(name).map_err(|_| ParseError::BadNode)?;
                (Some(name), rest)
            }
            None => (None, line),
        };
        let rest = line.strip_prefix(b"type=").ok_or(ParseError::NoType)?;
        let (name, rest) = split_word(rest);
        let kind = RecordType::from_bytes(name).ok_or(ParseError::UnknownType)?;
        let (stamp, body) =
            stamp_and_body(rest.strip_prefix(b"msg=").unwrap_or(rest)).ok_or(ParseError::BadStamp)?;
        Ok(Self { kind, stamp, node: node.map(Box::from), body: body.into() })
    }

    /// Reads the payload of a netlink message of that kind: `audit(SECONDS.MILLIS:SERIAL): TEXT`.
    ///
    /// NULs and line ends at the end are padding.
    pub fn from_netlink(kind: u16, payload: &[u8]) -> Result<Self, ParseError> {
        let (stamp, body) = stamp_and_body(without_padding(payload)).ok_or(ParseError::BadStamp)?;
        Ok(Self { kind: RecordType(kind), stamp, node: None, body: body.into() })
    }

    /// The fields that the kernel (or a program, inside `msg='…'`) wrote, in order.
    pub fn fields(&self) -> Fields<'_> {
        Fields::of_record(self.kind, self.halves().0)
    }

    /// The fields that `auditd` appended (`SYSCALL="openat" AUID="root" …`); none unless the line was enriched.
    pub fn enriched(&self) -> Fields<'_> {
        Fields::of_enrichment(self.kind, self.halves().1)
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<Value<'_>> {
        self.fields().find(|field| field.name == name).map(|field| field.value)
    }

    /// What a program sent, the text inside `msg='…'`.
    pub fn message(&self) -> Option<&[u8]> {
        self.fields().into_message()
    }

    /// The text without the enrichment.
    pub fn text(&self) -> &[u8] {
        self.halves().0
    }

    /// Bytes of memory that it occupies.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.body.len() + self.node.as_ref().map_or(0, |node| node.len())
    }

    /// The kernel's text and the enrichment.
    ///
    /// What a program sends may contain any byte, but the kernel closes it with an apostrophe, which no enrichment
    /// ends with: so a 0x1D inside such a message is never taken for the divider.
    fn halves(&self) -> (&[u8], &[u8]) {
        if self.body.trim_ascii_end().last() == Some(&b'\'') {
            return (&self.body, &[]);
        }
        match memrchr(ENRICHED, &self.body).and_then(|at| self.body.split_at_checked(at)) {
            Some((text, rest)) => (text, rest.get(1..).unwrap_or_default()),
            None => (&self.body, &[]),
        }
    }
}

/// Leaves out what programs and the kernel end a text with.
fn without_padding(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&b| !matches!(b, 0 | b'\n' | b'\r')).map_or(0, |last| last + 1);
    text.get(..end).unwrap_or(text)
}

/// Everything up to the first space, and everything after it.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    match memchr(b' ', text).and_then(|at| text.split_at_checked(at)) {
        Some((word, rest)) => (word, rest.get(1..).unwrap_or_default()),
        None => (text, &[]),
    }
}

/// Takes `audit(SECONDS.MILLIS:SERIAL):` off the front; one space after it is not part of the text.
fn stamp_and_body(text: &[u8]) -> Option<(Stamp, &[u8])> {
    let text = text.strip_prefix(b"audit(")?;
    let (seconds, rest) = leading_number(text)?;
    let rest = rest.strip_prefix(b".")?;
    let (millis, after) = leading_number(rest)?;
    if rest.len() - after.len() != 3 {
        return None;
    }
    let (serial, rest) = leading_number(after.strip_prefix(b":")?)?;
    let body = rest.strip_prefix(b"):")?;
    let millis = seconds.checked_mul(1000)?.checked_add(millis)?;
    let stamp = Stamp { millis, serial: serial.try_into().ok()? };
    Some((stamp, body.strip_prefix(b" ").unwrap_or(body)))
}

/// The decimal number at the front, at least one digit, and what follows it.
fn leading_number(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    let mut length = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
        length += 1;
    }
    let (number_text, rest) = text.split_at_checked(length)?;
    // So many digits can't have wrapped.
    let number = if length < 20 { number } else { digits(number_text, 10)? };
    (length > 0).then_some((number, rest))
}

#[cfg(test)]
mod tests;
