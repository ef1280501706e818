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

/// Appends JSON to `out`.
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> Writer<'o> {
    pub(super) fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Bytes in the buffer.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// `{…}`: the document itself, after whatever the buffer holds.
    pub(super) fn document(&mut self, fill: impl FnOnce(&mut Self)) {
        self.out.push(b'{');
        let inside = self.out.len();
        fill(self);
        self.close(inside, b'}');
    }

    /// `{…}`: an array's item.
    pub(super) fn braces(&mut self, fill: impl FnOnce(&mut Self)) {
        self.document(fill);
        self.out.push(b',');
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
        if let Some(value) = value {
            self.key(key, key.len);
            self.escaped(value);
            self.out.extend_from_slice(b"\",");
        }
    }

    /// `"key":number`, or nothing.
    pub(super) fn number(&mut self, key: &Key, value: Option<impl itoa::Integer>) {
        if let Some(value) = value {
            self.raw(key, itoa::Buffer::new().format(value));
        }
    }

    /// `"key":["…",…]`, or nothing if there are none.
    pub(super) fn texts<'t>(&mut self, key: &Key, values: impl IntoIterator<Item = &'t str>) {
        self.array(key, |array| {
            for value in values {
                array.out.push(b'"');
                array.escaped(value);
                array.out.extend_from_slice(b"\",");
            }
        });
    }

    /// `"key":` and the text of a JSON value.
    pub(super) fn raw(&mut self, key: &Key, json: &str) {
        self.key(key, key.len - 1);
        self.out.extend_from_slice(json.as_bytes());
        self.out.push(b',');
    }

    /// `"name":"value"` with a name from outside.
    pub(super) fn named_text(&mut self, name: &str, value: &str) {
        self.name(name);
        self.out.push(b'"');
        self.escaped(value);
        self.out.extend_from_slice(b"\",");
    }

    /// The same with bytes of which most are ASCII and need no escape; what is not UTF-8 becomes U+FFFD.
    pub(super) fn named_bytes(&mut self, name: &str, value: &[u8]) {
        if plain_prefix(value, true) < value.len() {
            return self.named_text(name, &String::from_utf8_lossy(value));
        }
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\",");
    }

    /// `"name":number` with a name from outside.
    pub(super) fn named_number(&mut self, name: &str, value: u64) {
        self.name(name);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.push(b',');
    }

    fn key(&mut self, key: &Key, len: usize) {
        let end = self.out.len() + len;
        self.out.extend_from_slice(&key.bytes);
        self.out.truncate(end);
    }

    fn name(&mut self, name: &str) {
        self.out.push(b'"');
        self.escaped(name);
        self.out.extend_from_slice(b"\":");
    }

    fn enclose(&mut self, key: &Key, [open, close]: [u8; 2], fill: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.key(key, key.len - 1);
        self.out.push(open);
        let inside = self.out.len();
        fill(self);
        if self.out.len() == inside {
            self.out.truncate(start);
        } else {
            self.close(inside, close);
            self.out.push(b',');
        }
    }

    /// The closing bracket, in the place of the last value's comma if there was a value.
    fn close(&mut self, inside: usize, bracket: u8) {
        if self.out.len() > inside {
            self.out.pop();
        }
        self.out.push(bracket);
    }

    fn escaped(&mut self, text: &str) {
        let mut rest = text.as_bytes();
        loop {
            let plain = plain_prefix(rest, false);
            let (copied, special) = rest.split_at(plain);
            self.out.extend_from_slice(copied);
            let Some((byte, after)) = special.split_first() else { break };
            self.escape(*byte);
            rest = after;
        }
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
                self.out.extend_from_slice(b"\\u00");
                self.out.extend_from_slice(&digits);
                return;
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }
}

/// What stands for itself between quotes.
const PLAIN: u8 = 0;
/// A part of a longer UTF-8 sequence, which stands for itself if the sequence is whole.
const PART: u8 = 1;
const SPECIAL: u8 = 2;

const CLASSES: [u8; 256] = {
    let mut classes = [PLAIN; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            0..=0x1f | b'"' | b'\\' => SPECIAL,
            0x80.. => PART,
            _ => PLAIN,
        };
        byte += 1;
    }
    classes
};

/// How many bytes at the start need no escape (and are ASCII, if only that is wanted). Long values are passed eight
/// bytes at a time, by the usual test for a byte that is zero, or below a bound, in a word.
fn plain_prefix(bytes: &[u8], ascii_only: bool) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES * 0x80;
    let (refused, allowed) = if ascii_only { (TOPS, PLAIN) } else { (0, PART) };
    let zero_byte = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    let mut plain = 0;
    for chunk in bytes.as_chunks::<8>().0 {
        let word = u64::from_ne_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
        let quote = zero_byte(word ^ (ONES * u64::from(b'"')));
        let backslash = zero_byte(word ^ (ONES * u64::from(b'\\')));
        if control | quote | backslash | (word & refused) != 0 {
            break;
        }
        plain += 8;
    }
    plain + bytes[plain..].iter().take_while(|byte| CLASSES[usize::from(**byte)] <= allowed).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(fill: impl FnOnce(&mut Writer<'_>)) -> String {
        let mut out = Vec::new();
        Writer::new(&mut out).document(fill);
        String::from_utf8(out).unwrap()
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
