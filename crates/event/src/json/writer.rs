//! JSON text, appended to a buffer. Knows nothing of events.
//!
//! Written out rather than left to a serializer because printing is most of what `decode` does. Three things make it
//! cheap: keys are made ready at compile time and copied in one piece of fixed size, values are scanned eight bytes at
//! a time, and every value is followed by a comma that its object's end overwrites, so nobody asks what comes next.

/// A key as it stands in the text, with the quote that opens a string: `"key":"`. Made by [`key!`].
pub(super) struct Key {
    bytes: [u8; Self::SIZE],
    len: usize,
}

impl Key {
    /// One vector register: copied without a loop.
    const SIZE: usize = 32;

    pub(super) const fn new(name: &str) -> Self {
        let name = name.as_bytes();
        assert!(name.len() + 4 <= Self::SIZE, "a key is short");
        let mut bytes = [0; Self::SIZE];
        bytes[0] = b'"';
        let mut at = 0;
        while at < name.len() {
            assert!(name[at] >= b' ' && name[at] != b'"' && name[at] != b'\\', "a key is plain");
            bytes[at + 1] = name[at];
            at += 1;
        }
        bytes[at + 1] = b'"';
        bytes[at + 2] = b':';
        bytes[at + 3] = b'"';
        Self { bytes, len: at + 4 }
    }
}

/// A [`Key`] made at compile time.
macro_rules! key {
    ($name:literal) => {
        const { &$crate::json::writer::Key::new($name) }
    };
}
pub(super) use key;

/// JSON text in the making: what [`EventJson`](super::EventJson) is written to, one document after the other.
///
/// The buffer is kept longer than what is written, so that short values are written as whole words, with one look at
/// how much room there is.
#[derive(Debug, Default)]
pub struct JsonWriter {
    buffer: Vec<u8>,
    /// Where what is written ends. What follows in `buffer` has no meaning.
    end: usize,
}

/// By how much the buffer is made longer: more than most events need.
const ROOM: usize = 4096;

impl JsonWriter {
    /// What is written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.end]
    }

    /// How many bytes are written.
    pub fn len(&self) -> usize {
        self.end
    }

    /// Whether nothing is written.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Forgets what is written and keeps the buffer.
    pub fn clear(&mut self) {
        self.end = 0;
    }

    /// Ends a line.
    pub fn end_line(&mut self) {
        self.put(b"\n");
    }

    /// What is written, as a string.
    pub fn into_string(mut self) -> String {
        self.buffer.truncate(self.end);
        String::from_utf8(self.buffer).unwrap_or_default()
    }

    /// `{…}`: the document itself, after whatever was written before.
    pub(super) fn document(&mut self, fill: impl FnOnce(&mut Self)) {
        self.put(b"{");
        let inside = self.end;
        fill(self);
        self.close(inside, b'}');
    }

    /// `{…}`: an array's item.
    pub(super) fn braces(&mut self, fill: impl FnOnce(&mut Self)) {
        self.document(fill);
        self.put(b",");
    }

    /// `"key":{…}`, or nothing if `fill` wrote nothing.
    pub(super) fn object(&mut self, key: &Key, fill: impl FnOnce(&mut Self)) {
        self.enclose(key, *b"{}", fill);
    }

    /// `"key":[…]`, or nothing if `fill` wrote nothing.
    pub(super) fn array(&mut self, key: &Key, fill: impl FnOnce(&mut Self)) {
        self.enclose(key, *b"[]", fill);
    }

    /// `"key":"value"`, or nothing.
    pub(super) fn text(&mut self, key: &Key, value: Option<&str>) {
        if let Some(value) = value
            && !self.plain(key, value.as_bytes(), 0)
        {
            self.key(key, key.len);
            self.close_text(value);
        }
    }

    /// The same with bytes of which most are ASCII and need no escape; what is not UTF-8 becomes U+FFFD.
    #[inline]
    pub(super) fn bytes(&mut self, key: &Key, value: &[u8]) {
        if !self.plain(key, value, TOPS) {
            self.key(key, key.len);
            self.close_text(&String::from_utf8_lossy(value));
        }
    }

    /// `"key":number`, or nothing.
    pub(super) fn number(&mut self, key: &Key, value: Option<impl itoa::Integer>) {
        if let Some(value) = value {
            self.raw(key, itoa::Buffer::new().format(value));
        }
    }

    /// `"key":"octal"` with at least so many digits, or nothing.
    pub(super) fn octal(&mut self, key: &Key, value: Option<u32>, min_digits: usize) {
        if let Some(value) = value {
            let digits: [u8; 11] = std::array::from_fn(|at| b'0' + (value >> (30 - 3 * at) & 7) as u8);
            let zeroes = digits.iter().take_while(|digit| **digit == b'0').count();
            self.plain(key, &digits[zeroes.min(digits.len() - min_digits)..], 0);
        }
    }

    /// `"key":["…",…]`, or nothing if there are none.
    pub(super) fn texts<'t>(&mut self, key: &Key, values: impl IntoIterator<Item = &'t str>) {
        self.array(key, |array| {
            for value in values {
                array.put(b"\"");
                array.close_text(value);
            }
        });
    }

    /// `"key":` and the text of a JSON value.
    pub(super) fn raw(&mut self, key: &Key, json: &str) {
        self.key(key, key.len - 1);
        self.copy(json.as_bytes());
        self.put(b",");
    }

    /// `"name":"value"` with a name from outside.
    pub(super) fn named_text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.put(b"\"");
        self.close_text(value);
    }

    /// `"name":number` with a name from outside.
    pub(super) fn named_number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.copy(itoa::Buffer::new().format(value).as_bytes());
        self.put(b",");
    }

    /// `"key":"value",` if no byte of the value needs an escape (or has one of the `refused` bits). Most values fit
    /// into a word or two: these are tested and copied as such, nothing is done byte by byte.
    #[inline]
    fn plain(&mut self, key: &Key, value: &[u8], refused: u64) -> bool {
        let len = value.len();
        let room = self.room(Key::SIZE + len + size_of::<u64>() + 2);
        room[..Key::SIZE].copy_from_slice(&key.bytes);
        let room = &mut room[key.len..];
        // Tested and copied in one go. If it is not plain, what was written beyond the end has no meaning.
        let is_plain = match (value.first_chunk::<8>(), value.last_chunk::<8>()) {
            (Some(first), Some(last)) if len <= 16 => {
                room[..8].copy_from_slice(first);
                room[len - 8..len].copy_from_slice(last);
                is_plain_word(u64::from_le_bytes(*first), refused)
                    & is_plain_word(u64::from_le_bytes(*last), refused)
            }
            (Some(_), _) => {
                room[..len].copy_from_slice(value);
                is_plain(value, refused)
            }
            (None, _) => {
                let word = short_word(value);
                room[..8].copy_from_slice(&word.to_le_bytes());
                is_plain_word(word | SPACES << (8 * len), refused)
            }
        };
        if is_plain {
            room[len..len + 2].copy_from_slice(b"\",");
            self.end += key.len + len + 2;
        }
        is_plain
    }

    /// `value",`: the rest of a text.
    fn close_text(&mut self, value: &str) {
        if is_plain(value.as_bytes(), 0) {
            self.copy(value.as_bytes());
        } else {
            self.escaped(value.as_bytes());
        }
        self.put(b"\",");
    }

    fn key(&mut self, key: &Key, len: usize) {
        self.put(&key.bytes);
        self.end -= key.bytes.len() - len;
    }

    fn name(&mut self, name: &str) {
        self.put(b"\"");
        self.escaped(name.as_bytes());
        self.put(b"\":");
    }

    fn enclose(&mut self, key: &Key, [open, close]: [u8; 2], fill: impl FnOnce(&mut Self)) {
        let start = self.end;
        self.key(key, key.len - 1);
        self.put(&[open]);
        let inside = self.end;
        fill(self);
        if self.end == inside {
            self.end = start;
        } else {
            self.close(inside, close);
            self.put(b",");
        }
    }

    /// The closing bracket, in the place of the last value's comma if there was a value.
    fn close(&mut self, inside: usize, bracket: u8) {
        if self.end > inside {
            self.end -= 1;
        }
        self.put(&[bracket]);
    }

    fn escaped(&mut self, mut rest: &[u8]) {
        while let Some(at) = rest.iter().position(|byte| is_special(*byte)) {
            self.copy(&rest[..at]);
            self.escape(rest[at]);
            rest = &rest[at + 1..];
        }
        self.copy(rest);
    }

    fn escape(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\t' => b't',
            b'\r' => b'r',
            _ => {
                let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
                self.put(b"\\u00");
                self.put(&digits);
                return;
            }
        };
        self.put(&[b'\\', short]);
    }

    /// Appends so few bytes that they are copied in one piece.
    #[inline]
    fn put<const N: usize>(&mut self, bytes: &[u8; N]) {
        if let Some(room) = self.room(N).first_chunk_mut() {
            *room = *bytes;
            self.end += N;
        }
    }

    /// Appends any number of bytes, most often few.
    #[inline]
    fn copy(&mut self, bytes: &[u8]) {
        copy_to(self.room(bytes.len() + size_of::<u64>()), bytes);
        self.end += bytes.len();
    }

    /// At least so many bytes to be written to.
    #[inline]
    fn room(&mut self, size: usize) -> &mut [u8] {
        if self.buffer.len() < self.end + size {
            self.make_room(size);
        }
        &mut self.buffer[self.end..]
    }

    #[cold]
    fn make_room(&mut self, size: usize) {
        self.buffer.resize(self.end + size + ROOM, 0);
    }
}

/// Whether a byte must not stand for itself between quotes. (A part of a longer UTF-8 sequence may.)
fn is_special(byte: u8) -> bool {
    matches!(byte, 0..=0x1f | b'"' | b'\\')
}

const ONES: u64 = u64::MAX / 255;
const TOPS: u64 = ONES * 0x80;
/// A word of bytes that are plain.
const SPACES: u64 = ONES * 0x20;

/// Copies bytes to the front of `room`, which is at least eight bytes longer; those are overwritten at will.
#[inline]
fn copy_to(room: &mut [u8], bytes: &[u8]) {
    match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) if bytes.len() <= 16 => {
            room[..8].copy_from_slice(first);
            room[bytes.len() - 8..bytes.len()].copy_from_slice(last);
        }
        (Some(_), _) => room[..bytes.len()].copy_from_slice(bytes),
        (None, _) => room[..8].copy_from_slice(&short_word(bytes).to_le_bytes()),
    }
}

/// Fewer than eight bytes as a word, the first lowest, the rest NUL.
#[inline]
fn short_word(bytes: &[u8]) -> u64 {
    let bits = 8 * bytes.len();
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << (bits - 32)
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<2>(), bytes.last_chunk::<2>()) {
        u64::from(u16::from_le_bytes(*first)) | u64::from(u16::from_le_bytes(*last)) << (bits - 16)
    } else {
        bytes.first().copied().map_or(0, u64::from)
    }
}

/// Whether no byte needs an escape or has a refused bit.
#[inline]
fn is_plain(value: &[u8], refused: u64) -> bool {
    let is_plain = |word: &[u8; 8]| is_plain_word(u64::from_le_bytes(*word), refused);
    match (value.first_chunk(), value.last_chunk()) {
        (Some(first), Some(last)) if value.len() <= 16 => is_plain(first) & is_plain(last),
        (Some(_), Some(last)) => value.as_chunks().0.iter().all(is_plain) && is_plain(last),
        _ => is_plain_word(short_word(value) | SPACES << (8 * value.len()), refused),
    }
}

/// The same for eight bytes at once: the usual tests for a byte that is zero, or below a bound, in a word.
#[inline]
fn is_plain_word(word: u64, refused: u64) -> bool {
    let zero_byte = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(SPACES) & !word;
    let quote = zero_byte(word ^ (ONES * u64::from(b'"')));
    let backslash = zero_byte(word ^ (ONES * u64::from(b'\\')));
    (control | quote | backslash) & TOPS | word & refused == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(fill: impl FnOnce(&mut JsonWriter)) -> String {
        let mut text = JsonWriter::default();
        text.document(fill);
        text.into_string()
    }

    #[test]
    fn absent_and_empty_values_leave_no_trace() {
        let json = written(|w| {
            w.text(key!("a"), None);
            w.object(key!("b"), |w| w.object(key!("c"), |w| w.number(key!("d"), None::<u32>)));
            w.texts(key!("e"), []);
            w.text(key!("f"), Some(""));
            w.object(key!("g"), |w| {
                w.number(key!("h"), Some(-1));
                w.array(key!("i"), |w| {
                    w.braces(|_| {});
                    w.braces(|w| w.raw(key!("j"), "{}"));
                });
            });
        });
        assert_eq!(json, r#"{"f":"","g":{"h":-1,"i":[{},{"j":{}}]}}"#);
    }

    #[test]
    fn octal_numbers_have_their_least_length_or_more() {
        let json = written(|w| {
            for mode in [0, 0o755, 0o100_644, 0o1_234_567, u32::MAX] {
                w.octal(key!("m"), Some(mode), 4);
                w.octal(key!("m"), Some(mode), 7);
            }
            w.octal(key!("n"), None, 7);
        });
        let modes: Vec<_> = json.split('"').filter(|part| part.starts_with(char::is_numeric)).collect();
        let expected = "0000 0000000 0755 0000755 100644 0100644 1234567 1234567 37777777777 37777777777";
        assert_eq!(modes.join(" "), expected);
    }

    #[test]
    fn values_that_end_like_openings_are_followed_by_commas() {
        let json = written(|w| {
            w.text(key!("a"), Some("{"));
            w.text(key!("b"), Some("x:"));
            w.named_text("c[", "[");
            w.named_number("d", 1);
        });
        assert_eq!(json, r#"{"a":"{","b":"x:","c[":"[","d":1}"#);
    }

    proptest! {
        #[test]
        fn every_text_is_escaped_so_that_it_is_read_back(
            key in any::<String>(),
            value in proptest::collection::vec(any::<char>(), 0..40).prop_map(String::from_iter),
        ) {
            let json = written(|w| w.named_text(&key, &value));
            let back: std::collections::HashMap<String, String> = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(back.get(&key), Some(&value));
        }

        #[test]
        fn mostly_plain_ascii_is_escaped_too(value in "[ -~\\x00-\\x1f]{0,40}") {
            let json = written(|w| w.named_text("k", &value));
            let back: std::collections::HashMap<String, String> = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&back["k"], &value);
        }
    }
}
