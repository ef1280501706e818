//! The value of a field: its bytes as written, and what they stand for.
//!
//! The kernel writes an untrusted string between double quotes if it is printable ASCII without spaces and quotes,
//! else as upper-case hex without quotes (`audit_log_untrustedstring`); libaudit does the same for what programs send.
//! Which fields are such strings is known by name ([`crate::Fields`] decides), since `a0=10` is a number in a
//! `SYSCALL` record and a byte in an `EXECVE` record.

use std::borrow::Cow;

/// How a value was written, and so what its bytes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Bare, in a field that is never hex-encoded.
    Bare,
    /// Between quotes: literal.
    Quoted,
    /// Bare, in a field that the kernel hex-encodes: all hex digits mean hex.
    Hex,
    /// Bare, in a field that programs hex-encode. Some programs write these without quotes and without encoding, so
    /// only what libaudit would have produced, upper-case hex, is decoded.
    UpperHex,
}

/// A field's value: a slice of the record, and how it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    raw: &'a [u8],
    form: Form,
}

impl<'a> Value<'a> {
    pub(crate) fn new(raw: &'a [u8], form: Form) -> Self {
        Self { raw, form }
    }

    /// The bytes as written, without the quotes around them.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Whether it stood between quotes.
    pub fn is_quoted(&self) -> bool {
        self.form == Form::Quoted
    }

    /// What the bytes stand for: hex-decoded where the field is one that is hex-encoded, else as written.
    #[inline]
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        match self.decoded() {
            Some(bytes) => Cow::Owned(bytes),
            None => Cow::Borrowed(self.raw),
        }
    }

    /// [`Value::bytes`] as text; what is not UTF-8 becomes U+FFFD.
    pub fn text(&self) -> Cow<'a, str> {
        lossy(self.bytes())
    }

    /// Whether it stands for nothing: `(null)`, `(none)`, `?` or no bytes at all, unquoted. (Quoted, the same bytes
    /// are a string like any other: a file may be called `?`.)
    pub fn is_null(&self) -> bool {
        self.form != Form::Quoted && matches!(self.raw, b"" | b"?" | b"(null)" | b"(none)")
    }

    /// [`Value::text`], absent if [`Value::is_null`].
    pub fn known(&self) -> Option<Cow<'a, str>> {
        (!self.is_null()).then(|| self.text())
    }

    /// As a process title: the NULs between its arguments are shown as spaces, those after them are left out. Absent
    /// if nothing remains.
    pub fn title(&self) -> Option<Cow<'a, str>> {
        if self.is_null() {
            return None;
        }
        let mut bytes = self.bytes();
        if let Cow::Owned(bytes) = &mut bytes {
            bytes.truncate(bytes.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1));
            for byte in bytes.iter_mut().filter(|byte| **byte == 0) {
                *byte = b' ';
            }
        }
        Some(lossy(bytes)).filter(|title| !title.is_empty())
    }

    /// As an unsigned decimal number.
    pub fn as_u64(&self) -> Option<u64> {
        digits(self.raw, 10)
    }

    /// As a decimal number with an optional minus sign.
    pub fn as_i64(&self) -> Option<i64> {
        match self.raw.strip_prefix(b"-") {
            Some(magnitude) => 0i64.checked_sub_unsigned(digits(magnitude, 10)?),
            None => digits(self.raw, 10)?.try_into().ok(),
        }
    }

    /// As a hexadecimal number, with or without `0x`.
    pub fn as_hex_u64(&self) -> Option<u64> {
        digits(self.raw.strip_prefix(b"0x").unwrap_or(self.raw), 16)
    }

    /// As an octal number (file modes).
    pub fn as_octal_u32(&self) -> Option<u32> {
        digits(self.raw, 8)?.try_into().ok()
    }

    /// As a user, group, login or session id; the unset id (4294967295, also written -1) is absent.
    pub fn as_id(&self) -> Option<u32> {
        let id = u32::try_from(self.as_u64()?).ok()?;
        (id != u32::MAX).then_some(id)
    }

    /// The parts of an audit key: a rule may have several, which the kernel joins by a byte 0x01.
    pub fn keys(&self) -> Vec<Cow<'a, str>> {
        if self.is_null() {
            return Vec::new();
        }
        match self.bytes() {
            Cow::Borrowed(bytes) => split_keys(bytes).map(String::from_utf8_lossy).collect(),
            Cow::Owned(bytes) => {
                split_keys(&bytes).map(|key| Cow::Owned(String::from_utf8_lossy(key).into_owned())).collect()
            }
        }
    }

    #[inline]
    fn decoded(&self) -> Option<Vec<u8>> {
        match self.form {
            Form::Bare | Form::Quoted => None,
            Form::UpperHex if self.raw.iter().any(u8::is_ascii_lowercase) => None,
            Form::Hex | Form::UpperHex => decode_hex(self.raw),
        }
    }
}

/// Bytes as text, without a copy where they are UTF-8 already.
pub(crate) fn lossy(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => String::from_utf8_lossy(bytes),
        },
        Cow::Owned(bytes) => Cow::Owned(
            String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()),
        ),
    }
}

/// Whole pairs of hex digits, at least one; anything else is not hex.
pub(crate) fn decode_hex(hex: &[u8]) -> Option<Vec<u8>> {
    if hex.is_empty() || !hex.len().is_multiple_of(2) {
        return None;
    }
    // Written so that nothing in the loop depends on what came before: what is no digit shows at the end.
    let mut bad = 0;
    let bytes = hex
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&[high, low]| {
            let (high, low) = (NIBBLES[usize::from(high)], NIBBLES[usize::from(low)]);
            bad |= high | low;
            high << 4 | low & 0xf
        })
        .collect();
    (bad & NO_NIBBLE == 0).then_some(bytes)
}

/// What a byte that is no hex digit has in [`NIBBLES`].
const NO_NIBBLE: u8 = 0x80;

/// The values of hex digits.
const NIBBLES: [u8; 256] = {
    let mut nibbles = [NO_NIBBLE; 256];
    let mut digit = 0;
    while digit < 16 {
        nibbles[b"0123456789abcdef"[digit] as usize] = digit as u8;
        nibbles[b"0123456789ABCDEF"[digit] as usize] = digit as u8;
        digit += 1;
    }
    nibbles
};

fn split_keys(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|&b| b == 1).filter(|key| !key.is_empty())
}

/// A number of nothing but digits that fits into 64 bits; `radix` is at most 16.
#[inline]
pub(crate) fn digits(text: &[u8], radix: u32) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    let mut number = 0u64;
    if text.len() <= 16 {
        // So many digits fit, whatever they are, so only whether they are digits is asked.
        let mut greatest = 0;
        for &byte in text {
            let digit = NIBBLES[usize::from(byte)];
            greatest = greatest.max(digit);
            number = number.wrapping_mul(u64::from(radix)).wrapping_add(u64::from(digit));
        }
        return (u32::from(greatest) < radix).then_some(number);
    }
    for &byte in text {
        let digit = NIBBLES[usize::from(byte)];
        if u32::from(digit) >= radix {
            return None;
        }
        number = number.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(raw: &str) -> Value<'_> {
        Value::new(raw.as_bytes(), Form::Bare)
    }

    fn hex(raw: &str) -> Value<'_> {
        Value::new(raw.as_bytes(), Form::Hex)
    }

    #[test]
    fn only_whole_hex_in_an_encoded_field_is_decoded() {
        assert_eq!(hex("2F746D702F6120620A").text(), "/tmp/a b\n");
        assert_eq!(hex("2f62").text(), "/b");
        assert_eq!(hex("2F6").text(), "2F6");
        assert_eq!(hex("2F6G").text(), "2F6G");
        assert_eq!(hex("FF41").text(), "\u{fffd}A");
        assert_eq!(hex("FF41").bytes().as_ref(), b"\xffA");
        assert_eq!(bare("2F62").text(), "2F62");
        assert_eq!(Value::new(b"2F62", Form::Quoted).text(), "2F62");
        assert_eq!(Value::new(b"cafe", Form::UpperHex).text(), "cafe");
        assert_eq!(Value::new(b"62C3B6", Form::UpperHex).text(), "bö");
    }

    #[test]
    fn what_stands_for_nothing_is_null_only_without_quotes() {
        for raw in ["(null)", "(none)", "?", ""] {
            assert!(bare(raw).is_null(), "{raw}");
            assert_eq!(bare(raw).known(), None);
            assert!(!Value::new(raw.as_bytes(), Form::Quoted).is_null(), "{raw}");
        }
        assert!(!bare("0").is_null());
    }

    #[test]
    fn numbers_are_whole_or_absent() {
        assert_eq!(bare("18446744073709551615").as_u64(), Some(u64::MAX));
        assert_eq!(bare("18446744073709551616").as_u64(), None);
        assert_eq!(bare("-2").as_u64(), None);
        assert_eq!(bare("+2").as_u64(), None);
        assert_eq!(bare("12x").as_u64(), None);
        assert_eq!(bare("").as_u64(), None);
        assert_eq!(bare("-9223372036854775808").as_i64(), Some(i64::MIN));
        assert_eq!(bare("-9223372036854775809").as_i64(), None);
        assert_eq!(bare("9223372036854775808").as_i64(), None);
        assert_eq!(bare("--1").as_i64(), None);
        assert_eq!(bare("7ffc2bed60f0").as_hex_u64(), Some(0x7ffc_2bed_60f0));
        assert_eq!(bare("0x80000000").as_hex_u64(), Some(0x8000_0000));
        assert_eq!(bare("0x").as_hex_u64(), None);
        assert_eq!(bare("0100755").as_octal_u32(), Some(0o100_755));
        assert_eq!(bare("0800").as_octal_u32(), None);
    }

    #[test]
    fn the_unset_id_is_absent() {
        assert_eq!(bare("4294967295").as_id(), None);
        assert_eq!(bare("-1").as_id(), None);
        assert_eq!(bare("18446744073709551615").as_id(), None);
        assert_eq!(bare("4294967294").as_id(), Some(4_294_967_294));
        assert_eq!(bare("0").as_id(), Some(0));
    }

    #[test]
    fn several_keys_are_told_apart() {
        assert_eq!(hex("657865630163726F6E").keys(), ["exec", "cron"]);
        assert_eq!(Value::new(b"exec", Form::Quoted).keys(), ["exec"]);
        assert!(hex("(null)").keys().is_empty());
    }
}
