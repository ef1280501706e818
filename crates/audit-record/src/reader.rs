//! Records from a stream of bytes: a file, standard input, chunks of any origin, in constant memory.
//!
//! [`Lines`] cuts chunks into lines and never holds more than the longest allowed line; one that is longer is passed
//! over up to its end and reported once. [`Reader`] does the same over a [`BufRead`] and parses the lines.

use std::io::{self, BufRead, ErrorKind};

use memchr::memchr;

use crate::{ParseError, Record};

/// The longest line that the kernel and `auditd` can write stays well below this: a netlink message is at most 8970
/// bytes, enrichment adds a few names.
pub const MAX_LINE: usize = 64 * 1024;

/// Cuts chunks of bytes into lines.
#[derive(Debug)]
pub struct Lines {
    max: usize,
    /// The beginning of a line whose end has not been seen.
    carry: Vec<u8>,
    /// What `carry` holds was given out by the last call.
    given: bool,
    /// The current line was too long: drop what comes until it ends.
    skipping: bool,
}

/// What [`Lines::next_line`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its end.
    Whole(&'a [u8]),
    /// A line longer than allowed ended here.
    TooLong,
}

impl Lines {
    /// Lines of at most `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { max, carry: Vec::new(), given: false, skipping: false }
    }

    /// Takes the next line off the front of `chunk`, which may begin in earlier chunks. None when the chunk is used up.
    pub fn next_line<'a, 'c: 'a>(&'a mut self, chunk: &mut &'c [u8]) -> Option<Line<'a>> {
        self.forget_given();
        let Some(end) = memchr(b'\n', chunk) else {
            self.keep(chunk);
            *chunk = &[];
            return None;
        };
        let (line, rest) = chunk.split_at_checked(end)?;
        *chunk = rest.get(1..).unwrap_or_default();
        if self.carry.is_empty() && !self.skipping {
            return Some(if line.len() > self.max { Line::TooLong } else { Line::Whole(line) });
        }
        self.keep(line);
        Some(self.give())
    }

    /// What follows the last line end, once no more will come. None if nothing does.
    pub fn take_rest(&mut self) -> Option<Line<'_>> {
        self.forget_given();
        (self.skipping || !self.carry.is_empty()).then(|| self.give())
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.carry.len()
    }

    fn keep(&mut self, part: &[u8]) {
        if self.skipping || self.carry.len() + part.len() > self.max {
            self.skipping = true;
            self.carry.clear();
        } else {
            self.carry.extend_from_slice(part);
        }
    }

    fn give(&mut self) -> Line<'_> {
        if std::mem::take(&mut self.skipping) {
            return Line::TooLong;
        }
        self.given = true;
        Line::Whole(&self.carry)
    }

    fn forget_given(&mut self) {
        if std::mem::take(&mut self.given) {
            self.carry.clear();
        }
    }
}

/// Reads records from a [`BufRead`].
///
/// At the end of the input the beginning of a line is kept, so that a growing file can be read on; when no more will
/// come, [`Reader::take_rest`] gives what is left.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    lines: Lines,
    /// Bytes read, and how many of them belong to lines whose end was seen.
    read: u64,
    offset: u64,
}

impl<R: BufRead> Reader<R> {
    /// Reads lines of at most `max_line` bytes ([`MAX_LINE`] fits all that `auditd` writes).
    pub fn new(input: R, max_line: usize) -> Self {
        Self { input, lines: Lines::new(max_line), read: 0, offset: 0 }
    }

    /// The next record, or why the next line is none. Empty lines are passed over. None at the end of the input.
    pub fn next_record(&mut self) -> io::Result<Option<Result<Record, ParseError>>> {
        loop {
            let buffer = match self.input.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if buffer.is_empty() {
                return Ok(None);
            }
            let mut chunk = buffer;
            let line = self.lines.next_line(&mut chunk);
            let ended = line.is_some();
            let record = line.and_then(parse);
            let used = buffer.len() - chunk.len();
            self.input.consume(used);
            self.read += used as u64;
            if ended {
                self.offset = self.read;
            }
            if record.is_some() {
                return Ok(record);
            }
        }
    }

    /// What follows the last line end, once no more will come.
    pub fn take_rest(&mut self) -> Option<Result<Record, ParseError>> {
        self.lines.take_rest().and_then(parse)
    }

    /// How many bytes of the input the whole lines read so far make up: where to go on after a restart.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The input.
    pub fn into_inner(self) -> R {
        self.input
    }
}

fn parse(line: Line<'_>) -> Option<Result<Record, ParseError>> {
    match line {
        Line::TooLong => Some(Err(ParseError::TooLong)),
        Line::Whole(line) if line.trim_ascii().is_empty() => None,
        Line::Whole(line) => Some(Record::from_line(line)),
    }
}

#[cfg(test)]
mod tests;
