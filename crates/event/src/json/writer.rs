//! JSON text, appended to a buffer. Knows nothing of events.
//!
//! Written out rather than left to a serializer because printing is most of what `decode` does: keys are known not to
//! need escaping, values are scanned eight bytes at a time, and an object that turns out empty is taken back.

/// Appends JSON to `out`. Commas follow from what stands before, so callers only say keys and values.
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

    /// `"key":{…}`, or nothing if `fill` wrote nothing.
    pub(super) fn object(&mut self, key: &'static str, fill: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.key(key);
        self.enclose(*b"{}", start, fill);
    }

    /// `"key":[…]`, or nothing if `fill` wrote nothing.
    pub(super) fn array(&mut self, key: &'static str, fill: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.key(key);
        self.enclose(*b"[]", start, fill);
    }

    /// `{…}`: the document itself, after whatever the buffer holds.
    pub(super) fn document(&mut self, fill: impl FnOnce(&mut Self)) {
        self.out.push(b'{');
        fill(self);
        self.out.push(b'}');
    }

    /// `{…}`: an array's item.
    pub(super) fn braces(&mut self, fill: impl FnOnce(&mut Self)) {
        self.separate();
        self.document(fill);
    }

    /// `"key":"value"`, or nothing.
    pub(super) fn text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.key(key);
            self.string(value);
        }
    }

    /// `"key":number`, or nothing.
    pub(super) fn number(&mut self, key: &'static str, value: Option<impl itoa::Integer>) {
        if let Some(value) = value {
            self.key(key);
            self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
    }

    /// `"key":["…",…]`, or nothing if there are none.
    pub(super) fn texts<'t>(&mut self, key: &'static str, values: impl IntoIterator<Item = &'t str>) {
        self.array(key, |array| {
            for value in values {
                array.separate();
                array.string(value);
            }
        });
    }

    /// `"key":` and the text of a JSON value.
    pub(super) fn raw(&mut self, key: &'static str, json: &str) {
        self.key(key);
        self.out.extend_from_slice(json.as_bytes());
    }

    /// `"name":"value"` with a name from outside.
    pub(super) fn named_text(&mut self, name: &str, value: &str) {
        self.separate();
        self.string(name);
        self.out.push(b':');
        self.string(value);
    }

    /// `"name":number` with a name from outside.
    pub(super) fn named_number(&mut self, name: &str, value: u64) {
        self.separate();
        self.string(name);
        self.out.push(b':');
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Brackets around what `fill` writes; if that is nothing, back to `start`.
    fn enclose(&mut self, [open, close]: [u8; 2], start: usize, fill: impl FnOnce(&mut Self)) {
        self.out.push(open);
        let inside = self.out.len();
        fill(self);
        if self.out.len() == inside {
            self.out.truncate(start);
        } else {
            self.out.push(close);
        }
    }

    fn key(&mut self, key: &'static str) {
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A comma, unless this is the first in its object or array, or follows its key. No value ends in these bytes.
    fn separate(&mut self) {
        if !matches!(self.out.last(), None | Some(b'{' | b'[' | b':')) {
            self.out.push(b',');
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push(b'"');
        let mut rest = text.as_bytes();
        loop {
            let plain = plain_prefix(rest);
            let (copied, special) = rest.split_at(plain);
            self.out.extend_from_slice(copied);
            let Some((byte, after)) = special.split_first() else { break };
            self.escape(*byte);
            rest = after;
        }
        self.out.push(b'"');
    }

    fn escape(&mut self, byte: u8) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\t' => b't',
            b'\r' => b'r',
            _ => {
                self.out.extend_from_slice(b"\\u00");
                self.out.push(DIGITS[usize::from(byte >> 4)]);
                self.out.push(DIGITS[usize::from(byte & 15)]);
                return;
            }
        };
        self.out.extend_from_slice(&[b'\\', short]);
    }
}

/// How many bytes at the start need no escape. Eight at a time, by the usual test for a byte that is zero, or below
/// a bound, in a word.
fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const TOPS: u64 = ONES * 0x80;
    let zero_byte = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    let mut plain = 0;
    for chunk in bytes.as_chunks::<8>().0 {
        let word = u64::from_ne_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
        let quote = zero_byte(word ^ (ONES * u64::from(b'"')));
        let backslash = zero_byte(word ^ (ONES * u64::from(b'\\')));
        if control | quote | backslash != 0 {
            break;
        }
        plain += 8;
    }
    let is_plain = |byte: &&u8| !matches!(**byte, 0..=0x1f | b'"' | b'\\');
    plain + bytes[plain..].iter().take_while(is_plain).count()
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
            w.text("a", None);
            w.object("b", |w| w.object("c", |w| w.number("d", None::<u32>)));
            w.texts("e", []);
            w.text("f", Some(""));
            w.object("g", |w| {
                w.number("h", Some(-1));
                w.array("i", |w| {
                    w.braces(|_| {});
                    w.braces(|w| w.raw("j", "{}"));
                });
            });
        });
        assert_eq!(json, r#"{"f":"","g":{"h":-1,"i":[{},{"j":{}}]}}"#);
    }

    #[test]
    fn values_that_end_like_openings_are_followed_by_commas() {
        let json = written(|w| {
            w.text("a", Some("{"));
            w.text("b", Some("x:"));
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
