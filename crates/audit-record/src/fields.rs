//! The fields of a record, found one after the other in its text without copying.
//!
//! The kernel's text is words between spaces, `name=value` or not. A value is `"…"` (which never contains a quote: an
//! untrusted string with one is hex-encoded), or reaches to the next space. What a program sends stands in `msg='…'`,
//! closed by the record's last apostrophe; it is words of the same form. Words without `=` are no fields, except that
//! an access decision (`avc:  denied  { read write } for …`) yields `seresult` and `seperms`, as ausearch names them.

use memchr::{memchr, memchr2, memrchr};

use crate::name::{Entry, first_of};
use crate::value::Form;
use crate::{FieldName, RecordType, Value};

/// One field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name as written.
    pub name: &'a str,
    /// The same, if it is one of the known names.
    pub known: Option<FieldName>,
    /// Its value.
    pub value: Value<'a>,
    /// Whether a program wrote it, inside `msg='…'`, rather than the kernel.
    pub inner: bool,
}

/// The fields of a record, in order: the kernel's, then those inside `msg='…'`.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
    kind: RecordType,
    part: Part,
    /// The word `avc:` was seen: what follows is a decision.
    decision: bool,
}

/// Who wrote the words being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Kernel,
    Message,
    Enrichment,
}

/// A word that ends with `=`, or a field already.
struct Word<'a> {
    name: &'a [u8],
    /// Whether nothing but characters of names stands before the `=`.
    is_name: bool,
    value: Option<Value<'a>>,
}

impl<'a> Word<'a> {
    fn decided(name: &'static [u8], value: &'a [u8]) -> Self {
        Self { name, is_name: true, value: Some(Value::new(value, Form::Bare)) }
    }
}

/// The characters that all names in use are made of.
const IN_NAMES: [bool; 256] = {
    let mut in_names = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        in_names[byte] = matches!(byte as u8, b'_' | b'-' | b'.' | b'[' | b']' | b':' | b'/')
            || (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    in_names
};

impl<'a> Fields<'a> {
    pub(crate) fn of_record(kind: RecordType, text: &'a [u8]) -> Self {
        Self { rest: text, kind, part: Part::Kernel, decision: false }
    }

    pub(crate) fn of_enrichment(kind: RecordType, text: &'a [u8]) -> Self {
        Self { rest: text, kind, part: Part::Enrichment, decision: false }
    }

    /// The text inside `msg='…'`, if there is such a field.
    pub(crate) fn into_message(mut self) -> Option<&'a [u8]> {
        while self.part == Part::Kernel {
            if let Some(known) = self.known_name() {
                self.value(known.text.as_bytes(), Some(known));
                continue;
            }
            match self.word()? {
                Word { name: b"msg", value: None, .. } if self.enter_message() => return Some(self.rest),
                Word { name, value: None, .. } => {
                    self.value(name, Entry::named(name));
                }
                Word { .. } => {}
            }
        }
        None
    }

    /// Reads a `name=` that comes next and is a known name: nearly always the case, and much quicker than any word.
    #[inline]
    fn known_name(&mut self) -> Option<&'static Entry> {
        let text = self.rest.strip_prefix(b" ").unwrap_or(self.rest);
        let (known, end) = Entry::at_start_of(text)?;
        self.rest = text.get(end + 1..)?;
        Some(known)
    }

    /// Reads words up to and including the next `name=`; a decision's words are given back as a field at once.
    fn word(&mut self) -> Option<Word<'a>> {
        loop {
            let start = self.rest.iter().position(|&b| b != b' ')?;
            let text = self.rest.get(start..)?;
            if self.decision && text.first() == Some(&b'{') {
                self.decision = false;
                let (permissions, rest) = braced(text, memchr(b'}', text));
                self.rest = rest;
                return Some(Word::decided(b"seperms", permissions));
            }
            let Some((end, is_name)) = end_of_name(text) else {
                self.rest = &[];
                return None;
            };
            let (word, rest) = text.split_at_checked(end)?;
            self.rest = rest.get(1..)?;
            if rest.first() == Some(&b'=') {
                return Some(Word { name: word, is_name: is_name && end > 0, value: None });
            }
            if self.decision && matches!(word, b"denied" | b"granted") {
                return Some(Word::decided(b"seresult", word));
            }
            self.decision |= word == b"avc:";
        }
    }

    /// Goes on inside `msg='…'` if that is what comes next.
    fn enter_message(&mut self) -> bool {
        let Some(text) = self.rest.strip_prefix(b"'") else { return false };
        // A program's text may contain apostrophes; the one that closes it is the kernel's, the last.
        self.rest = memrchr(b'\'', text).and_then(|end| text.get(..end)).unwrap_or(text);
        self.part = Part::Message;
        true
    }

    /// The value that comes next.
    #[expect(clippy::inline_always, reason = "its parts then stay in registers until they are a field's")]
    #[inline(always)]
    fn value(&mut self, name: &[u8], known: Option<&'static Entry>) -> Value<'a> {
        let (raw, form) = match self.rest.first() {
            Some(&quote @ (b'"' | b'\'')) => (self.quoted(quote), Form::Quoted),
            Some(b'{') if self.part == Part::Enrichment => {
                // A socket's path may contain braces; the enrichment ends with its own.
                let (inside, rest) = braced(self.rest, memrchr(b'}', self.rest));
                self.rest = rest;
                (inside, Form::Bare)
            }
            _ => self.bare(name, known),
        };
        Value::new(raw, form)
    }

    /// A value between quotes. The closing quote is the first that a space or the end follows; a value that is never
    /// closed reaches to the end.
    fn quoted(&mut self, quote: u8) -> &'a [u8] {
        let text = self.rest.get(1..).unwrap_or_default();
        let mut from = 0;
        while let Some(found) = text.get(from..).and_then(|text| find(quote, text)) {
            let end = from + found;
            if matches!(text.get(end + 1), None | Some(b' ' | b',' | b')')) {
                self.rest = text.get(end + 1..).unwrap_or_default();
                return text.get(..end).unwrap_or_default();
            }
            from = end + 1;
        }
        self.rest = &[];
        text
    }

    #[expect(clippy::inline_always, reason = "as for `value`")]
    #[inline(always)]
    fn bare(&mut self, name: &[u8], known: Option<&'static Entry>) -> (&'a [u8], Form) {
        let mut end = find(b' ', self.rest).unwrap_or(self.rest.len());
        if self.part == Part::Message && name == b"op" {
            end = self.end_of_phrase(end);
        }
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
        self.rest = rest;
        let word = if self.part == Part::Message { trim_list_marks(word) } else { word };
        let form = match self.part {
            Part::Enrichment => Form::Bare,
            _ if !self.is_encoded(name, known) || !could_be_hex(word) => Form::Bare,
            Part::Kernel => Form::Hex,
            Part::Message => Form::UpperHex,
        };
        (word, form)
    }

    /// Whether such a field is hex-encoded when it isn't quoted. A `SYSCALL` record's `a0` is a number, an `EXECVE`
    /// record's is a string.
    fn is_encoded(&self, name: &[u8], known: Option<&'static Entry>) -> bool {
        if self.kind == RecordType::EXECVE {
            return matches!(name, [b'a', digit, ..] if digit.is_ascii_digit()) && !name.ends_with(b"_len");
        }
        known.is_some_and(|known| known.is_encoded)
    }

    /// Old programs write `op=adding user to group acct="x"`: words without `=` still belong to `op`.
    fn end_of_phrase(&self, first: usize) -> usize {
        let mut end = first;
        while let Some(next) = self.rest.get(end + 1..) {
            let length = memchr(b' ', next).unwrap_or(next.len());
            let word = next.get(..length).unwrap_or(next);
            if word.is_empty() || !word.iter().all(|b| b.is_ascii_alphabetic() || matches!(b, b'-' | b'_')) {
                break;
            }
            end += 1 + length;
        }
        end
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    #[inline]
    fn next(&mut self) -> Option<Field<'a>> {
        self.next_of_known_name().or_else(|| self.next_of_any_name())
    }

    /// The way for all fields of a record: nothing that is kept between two of them leaves the registers.
    #[inline]
    fn fold<B, F: FnMut(B, Field<'a>) -> B>(mut self, first: B, mut join: F) -> B {
        let mut joined = first;
        loop {
            while let Some(field) = self.next_of_known_name() {
                joined = join(joined, field);
            }
            match self.next_of_any_name() {
                Some(field) => joined = join(joined, field),
                None => return joined,
            }
        }
    }
}

impl<'a> Fields<'a> {
    /// Shows the fields in order for as long as `wants_more` says so; as quick as `fold`.
    #[inline]
    pub(crate) fn visit_while(mut self, mut wants_more: impl FnMut(Field<'a>) -> bool) {
        loop {
            while let Some(field) = self.next_of_known_name() {
                if !wants_more(field) {
                    return;
                }
            }
            match self.next_of_any_name() {
                Some(field) if wants_more(field) => {}
                _ => return,
            }
        }
    }

    #[expect(
        clippy::inline_always,
        reason = "called for every field of every record; twice as slow otherwise"
    )]
    #[inline(always)]
    fn next_of_known_name(&mut self) -> Option<Field<'a>> {
        let known = self.known_name()?;
        let value = self.value(known.text.as_bytes(), Some(known));
        Some(Field { name: known.text, known: Some(known.name), value, inner: self.part == Part::Message })
    }

    #[cold]
    fn next_of_any_name(&mut self) -> Option<Field<'a>> {
        loop {
            let Word { name, is_name, value } = self.word()?;
            let known = Entry::named(name);
            let value = match value {
                Some(value) => value,
                None if name == b"msg" && self.part == Part::Kernel && self.enter_message() => continue,
                None => self.value(name, known),
            };
            let name = if is_name { name } else { name_in_list(name) };
            if let Ok(name) = std::str::from_utf8(name)
                && !name.is_empty()
            {
                let known = FieldName::from_bytes(name.as_bytes());
                return Some(Field { name, known, value, inner: self.part == Part::Message });
            }
        }
    }
}

/// Where the byte is first found. Most values are so short that the first words of the text answer.
#[inline]
fn find(byte: u8, text: &[u8]) -> Option<usize> {
    let Some((first, rest)) = text.split_first_chunk::<8>() else {
        return text.iter().position(|&b| b == byte);
    };
    match first_of(byte, u64::from_le_bytes(*first)) {
        64 => {}
        bits => return Some((bits / 8) as usize),
    }
    let second = rest.first_chunk::<8>().map_or(64, |second| first_of(byte, u64::from_le_bytes(*second)));
    match second {
        64 => memchr(byte, rest).map(|found| 8 + found),
        bits => Some(8 + (bits / 8) as usize),
    }
}

/// Where the name or word at the front ends, and whether it consists of characters of names.
fn end_of_name(text: &[u8]) -> Option<(usize, bool)> {
    let end = text.iter().position(|&byte| !IN_NAMES[usize::from(byte)])?;
    match text.get(end)? {
        b'=' | b' ' => Some((end, true)),
        _ => memchr2(b'=', b' ', text.get(end..)?).map(|more| (end + more, false)),
    }
}

/// The name in `(name`, which old programs begin a list with; empty if it is none.
fn name_in_list(word: &[u8]) -> &[u8] {
    match word.strip_prefix(b"(") {
        Some(name) if name.iter().all(|&byte| IN_NAMES[usize::from(byte)]) => name,
        _ => &[],
    }
}

/// The words inside `{ … }`, closed at `end`, and what follows.
fn braced(text: &[u8], end: Option<usize>) -> (&[u8], &[u8]) {
    let (inside, rest) = end.and_then(|end| text.split_at_checked(end)).unwrap_or((text, &[]));
    (inside.get(1..).unwrap_or_default().trim_ascii(), rest.get(1..).unwrap_or_default())
}

/// Old programs write `(hostname=?, addr=?, terminal=ssh res=success)`.
fn trim_list_marks(word: &[u8]) -> &[u8] {
    let word = word.strip_suffix(b",").unwrap_or(word);
    match word.strip_suffix(b")") {
        Some(open) if !word.contains(&b'(') => open,
        _ => word,
    }
}

/// Spares values that are plainly something else an attempt at decoding.
fn could_be_hex(word: &[u8]) -> bool {
    word.len().is_multiple_of(2) && word.first().is_some_and(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests;
