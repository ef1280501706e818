//! The arguments of a program, as `EXECVE` records carry them.
//!
//! The kernel (`audit_log_execve_info`) writes `argc=3 a0="ls" a1=2D6C20 a2="x"`, each argument quoted or in hex. One
//! that doesn't fit is announced with `a1_len=9000` and written in pieces `a1[0]=… a1[1]=…`, which go on in further
//! `EXECVE` records of the same event; each piece is quoted or in hex by itself. `a1_len` counts the characters written
//! (in hex two for each byte) for arguments shorter than 7500 bytes, the bytes themselves for longer ones.

use std::borrow::Cow;

use crate::value::{digits, lossy};
use crate::{Record, Value};

/// A program's arguments, the first being the name it was called by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args<'a> {
    args: Vec<Arg<'a>>,
    argc: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Arg<'a> {
    index: u32,
    bytes: Cow<'a, [u8]>,
    /// As announced by `aN_len`.
    length: Option<u64>,
    /// Characters seen in its pieces, without quotes.
    written: u64,
}

/// What an `EXECVE` field says.
enum Part {
    Argc,
    Length(u32),
    Whole(u32),
    Piece(u32, u32),
}

impl<'a> Args<'a> {
    /// Joins the arguments over `EXECVE` records in any order; absent if there is none.
    pub fn from_records(records: impl Iterator<Item = &'a Record>) -> Option<Self> {
        let mut any = false;
        let mut argc = None;
        let mut lengths = Vec::new();
        let mut pieces = Vec::new();
        for record in records {
            any = true;
            for field in record.fields() {
                match part(field.name) {
                    Some(Part::Argc) => argc = field.value.as_u64().and_then(|argc| argc.try_into().ok()),
                    Some(Part::Length(index)) => {
                        lengths.extend(field.value.as_u64().map(|length| (index, length)));
                    }
                    Some(Part::Whole(index)) => pieces.push((index, 0, field.value)),
                    Some(Part::Piece(index, piece)) => pieces.push((index, piece, field.value)),
                    None => {}
                }
            }
        }
        // In order already, unless records were read out of order.
        pieces.sort_by_key(|&(index, piece, _)| (index, piece));
        any.then(|| Self { args: join(&pieces, &lengths), argc })
    }

    /// How many arguments are there.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    /// The argument at that index as the kernel counts them; absent if its record was lost.
    pub fn get(&self, index: u32) -> Option<&[u8]> {
        let at = self.args.binary_search_by_key(&index, |arg| arg.index).ok()?;
        self.args.get(at).map(|arg| arg.bytes.as_ref())
    }

    /// The arguments that are there, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.args.iter().map(|arg| arg.bytes.as_ref())
    }

    /// The arguments that are there, in order, as text; what is not UTF-8 becomes U+FFFD.
    pub fn texts(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.iter().map(String::from_utf8_lossy)
    }

    /// The same, without borrowing from this.
    pub fn into_texts(self) -> impl Iterator<Item = Cow<'a, str>> {
        self.args.into_iter().map(|arg| lossy(arg.bytes))
    }

    /// The arguments that are there, divided by single spaces, as Sigma's `CommandLine`.
    pub fn command_line(&self) -> String {
        let mut line = String::with_capacity(self.args.iter().map(|arg| arg.bytes.len() + 1).sum());
        for (position, text) in self.texts().enumerate() {
            if position > 0 {
                line.push(' ');
            }
            line.push_str(&text);
        }
        line
    }

    /// How many arguments the kernel announced.
    pub fn argc(&self) -> Option<u32> {
        self.argc
    }

    /// Whether every announced argument is there in full.
    pub fn is_complete(&self) -> bool {
        self.argc.is_some_and(|argc| argc as usize == self.args.len())
            && self.args.iter().all(Arg::is_complete)
    }
}

impl Arg<'_> {
    fn is_complete(&self) -> bool {
        self.length.is_none_or(|length| length == self.written || length <= self.bytes.len() as u64)
    }
}

fn join<'a>(pieces: &[(u32, u32, Value<'a>)], lengths: &[(u32, u64)]) -> Vec<Arg<'a>> {
    let mut args: Vec<Arg<'a>> = Vec::with_capacity(pieces.len());
    let mut last_piece = None;
    for &(index, piece, value) in pieces {
        // A piece that was read twice counts once.
        if last_piece == Some((index, piece)) {
            continue;
        }
        last_piece = Some((index, piece));
        let written = value.raw().len() as u64;
        match args.last_mut() {
            Some(arg) if arg.index == index => {
                arg.bytes.to_mut().extend_from_slice(&value.bytes());
                arg.written += written;
            }
            _ => args.push(Arg { index, bytes: value.bytes(), length: None, written }),
        }
    }
    for &(index, length) in lengths {
        if let Ok(at) = args.binary_search_by_key(&index, |arg| arg.index)
            && let Some(arg) = args.get_mut(at)
        {
            arg.length = Some(length);
        }
    }
    args
}

/// `argc`, `aN`, `aN_len` or `aN[i]`.
fn part(name: &str) -> Option<Part> {
    if name == "argc" {
        return Some(Part::Argc);
    }
    let rest = name.strip_prefix('a')?.as_bytes();
    let length = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (index, suffix) = rest.split_at_checked(length)?;
    let index = number(index)?;
    match suffix {
        b"" => Some(Part::Whole(index)),
        b"_len" => Some(Part::Length(index)),
        _ => number(suffix.strip_prefix(b"[")?.strip_suffix(b"]")?).map(|piece| Part::Piece(index, piece)),
    }
}

/// Where the record that begins with that field stands among an event's `EXECVE` records.
pub(crate) fn position(first: &str) -> u64 {
    match part(first) {
        Some(Part::Length(index) | Part::Whole(index)) => u64::from(index) << 32,
        Some(Part::Piece(index, piece)) => u64::from(index) << 32 | u64::from(piece),
        Some(Part::Argc) | None => 0,
    }
}

fn number(text: &[u8]) -> Option<u32> {
    digits(text, 10)?.try_into().ok()
}

#[cfg(test)]
mod tests;
