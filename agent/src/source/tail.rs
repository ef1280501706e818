//! Lines of a log file that grows, across rotation by rename and by truncation. Blocking, no clock, no task.
//!
//! Feeds `audit_log` and `kubernetes_audit`. Guarantees that each complete line is delivered once per run and in
//! order, that every line has a position in one stream that only grows (the files one after the other), and that a
//! position can be kept as a [`Place`] and found again after a restart, by what the file begins with and not by its
//! name. It does not guarantee lines that were rotated away or truncated while nobody read: that is reported as a
//! [`Note::Gap`].
//!
//! Files are told apart by inode and followed by it: after a rename the old file is read to its end, and only when
//! its successor has content (the writer has moved on) is that opened. After a truncation the copy that the rotation
//! made is looked for and read to its end first. Older files are ordered by when they were last written.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How much is read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// How much of a file's beginning identifies it. A log's first line has its first time stamp well within this.
const HEAD_BYTES: usize = 256;
/// More rotated files than this are not looked at.
const MAX_SIBLINGS: usize = 256;

/// A place in a file that can be found again after a restart, wherever the file has been moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    head: Head,
    offset: u64,
}

impl Place {
    /// The offset in its file, which is also where the stream of positions begins after a restart.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// A line, without its line break.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Its text.
    pub bytes: &'a [u8],
    /// The stream position of its first byte.
    pub start: u64,
    /// The stream position behind its line break.
    pub end: u64,
}

/// What befell the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// The place to go on from is gone: an unknown number of lines was not read.
    Gap,
    /// A line longer than the limit was passed over.
    LongLine,
    /// A line without an end, at the end of a file to which nothing is added any more, was passed over.
    CutLine,
}

/// What one [`Tail::read`] came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read; 0 means that there is nothing new.
    pub bytes: usize,
    /// What befell the file meanwhile.
    pub notes: Vec<Note>,
}

/// A log file that is followed.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    max_line_bytes: usize,
    /// Where to begin, until something is open.
    start: Option<Place>,
    current: Option<Open>,
    /// Files read before the current one in which a position may still be asked for.
    finished: Vec<Finished>,
    /// What was read and not yet delivered: the beginning of a line. Its first byte is at `buffered_from`.
    buffer: Vec<u8>,
    buffered_from: u64,
    skipping_long_line: bool,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: (u64, u64),
    head: Head,
    /// The next byte to read.
    offset: u64,
    /// The stream position of the file's first byte.
    base: u64,
}

#[derive(Debug)]
struct Finished {
    head: Head,
    base: u64,
    end: u64,
}

/// The digest of a file's first bytes, and of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    len: u16,
    digest: [u8; 16],
}

impl Tail {
    /// Follows `path` from `place`, or from the beginning of the oldest rotated file. Opens nothing yet.
    pub fn new(path: impl Into<PathBuf>, place: Option<Place>, max_line_bytes: usize) -> Self {
        Self {
            path: path.into(),
            max_line_bytes,
            start: place,
            current: None,
            finished: Vec::new(),
            buffer: Vec::new(),
            buffered_from: 0,
            skipping_long_line: false,
        }
    }

    /// Reads what is there, one chunk at most, and delivers the lines that it completes.
    pub fn read(&mut self, deliver: &mut dyn FnMut(Line<'_>)) -> io::Result<Progress> {
        let mut progress = Progress::default();
        if self.current.is_none() {
            self.open_start(&mut progress)?;
        }
        self.follow_truncation(&mut progress)?;
        progress.bytes = self.read_chunk(deliver, &mut progress.notes)?;
        if progress.bytes == 0 && self.move_on(&mut progress)? {
            progress.bytes = self.read_chunk(deliver, &mut progress.notes)?;
        }
        Ok(progress)
    }

    /// The stream position behind the last complete line.
    pub fn position(&self) -> u64 {
        self.buffered_from
    }

    /// The place of a stream position, if its file is still known; `None` before anything was opened.
    pub fn place(&mut self, position: u64) -> Option<Place> {
        self.finished.retain(|file| file.end > position);
        if let Some(file) = self.finished.first() {
            return Some(Place { head: file.head, offset: position.saturating_sub(file.base) });
        }
        let open = self.current.as_mut()?;
        // A file that was short when it was opened has grown: a longer head tells it apart more surely.
        if usize::from(open.head.len) < HEAD_BYTES
            && let Ok(head) = Head::of(&open.file, HEAD_BYTES)
        {
            open.head = head;
        }
        Some(Place { head: open.head, offset: position.saturating_sub(open.base) })
    }

    fn open_start(&mut self, progress: &mut Progress) -> io::Result<()> {
        let siblings = self.siblings()?;
        let oldest = siblings.first().map(|sibling| sibling.path.clone());
        // Without any file this is no gap yet: the log may come back.
        let oldest = oldest.ok_or(io::ErrorKind::NotFound)?;
        let found = self.start.as_ref().and_then(|place| find_place(&siblings, place));
        if found.is_none() && self.start.is_some() {
            progress.notes.push(Note::Gap);
        }
        let open = match found {
            Some(open) => open,
            None => open_at(&oldest, 0, 0)?,
        };
        self.buffered_from = open.offset;
        self.current = Some(open);
        self.start = None;
        Ok(())
    }

    fn read_chunk(&mut self, deliver: &mut dyn FnMut(Line<'_>), notes: &mut Vec<Note>) -> io::Result<usize> {
        let Some(open) = &mut self.current else { return Ok(0) };
        let kept = self.buffer.len();
        self.buffer.resize(kept + CHUNK_BYTES, 0);
        let read = open.file.read_at(&mut self.buffer[kept..], open.offset);
        self.buffer.truncate(kept + read.as_ref().unwrap_or(&0));
        let read = read?;
        open.offset += read as u64;
        self.deliver_lines(kept, deliver, notes);
        Ok(read)
    }

    fn deliver_lines(
        &mut self,
        mut scan_from: usize,
        deliver: &mut dyn FnMut(Line<'_>),
        notes: &mut Vec<Note>,
    ) {
        let mut from = 0;
        while let Some(found) = memchr::memchr(b'\n', &self.buffer[scan_from..]) {
            let at = scan_from + found;
            let (start, end) = (self.buffered_from + from as u64, self.buffered_from + at as u64 + 1);
            if std::mem::take(&mut self.skipping_long_line) || at - from > self.max_line_bytes {
                notes.push(Note::LongLine);
            } else if at > from {
                deliver(Line { bytes: &self.buffer[from..at], start, end });
            }
            from = at + 1;
            scan_from = from;
        }
        self.buffer.drain(..from);
        self.buffered_from += from as u64;
        if self.skipping_long_line || self.buffer.len() > self.max_line_bytes {
            self.skipping_long_line = true;
            self.buffered_from += self.buffer.len() as u64;
            self.buffer.clear();
        }
        // One long line must not keep its memory for good.
        self.buffer.shrink_to(2 * CHUNK_BYTES);
    }

    /// A file that has become shorter than what was read of it, or begins otherwise, has been truncated.
    fn follow_truncation(&mut self, progress: &mut Progress) -> io::Result<()> {
        let Some(open) = &self.current else { return Ok(()) };
        if open.file.metadata()?.len() >= open.offset && open.head.matches(&open.file) {
            return Ok(());
        }
        let (head, offset, base) = (open.head, open.offset, open.base);
        if let Some(copy) = find_place(&self.siblings()?, &Place { head, offset }) {
            // It is the same text as far as it was read, so positions and what is buffered stay as they are.
            self.current = Some(Open { base, ..copy });
            return Ok(());
        }
        progress.notes.push(Note::Gap);
        self.drop_unfinished_line(progress);
        self.current = Some(open_at(&self.path, 0, self.buffered_from)?);
        Ok(())
    }

    /// At the end of a file that is no longer the one at `path`: opens its successor, if it has one with content.
    fn move_on(&mut self, progress: &mut Progress) -> io::Result<bool> {
        let Some(open) = &self.current else { return Ok(false) };
        if identity_at(&self.path) == Some(open.identity) {
            return Ok(false);
        }
        let siblings = self.siblings()?;
        let own = siblings.iter().position(|sibling| sibling.identity == open.identity);
        // Looked at after the successors: what was written to this file before them is there by now.
        let metadata = open.file.metadata()?;
        if metadata.len() > open.offset {
            return Ok(true);
        }
        let newer = match own {
            Some(index) => &siblings[index + 1..],
            None => &siblings[siblings.partition_point(|sibling| is_older(sibling, &metadata))..],
        };
        let Some(next) = newer.iter().find(|next| next.len > 0) else { return Ok(false) };
        let next = open_at(&next.path, 0, 0)?;
        self.drop_unfinished_line(progress);
        if let Some(open) = self.current.take() {
            self.finished.push(Finished { head: open.head, base: open.base, end: self.buffered_from });
        }
        self.current = Some(Open { base: self.buffered_from, ..next });
        Ok(true)
    }

    fn drop_unfinished_line(&mut self, progress: &mut Progress) {
        if !self.buffer.is_empty() || self.skipping_long_line {
            progress.notes.push(Note::CutLine);
        }
        self.buffered_from += self.buffer.len() as u64;
        self.buffer.clear();
        self.skipping_long_line = false;
    }

    /// The log's files, oldest first, the one at `path` last.
    fn siblings(&self) -> io::Result<Vec<Sibling>> {
        let directory =
            self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut siblings: Vec<Sibling> = fs::read_dir(directory)?
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let age = rotation_age(&self.path, &name)?;
                let metadata = fs::metadata(entry.path()).ok()?;
                metadata.is_file().then(|| Sibling {
                    path: entry.path(),
                    identity: (metadata.dev(), metadata.ino()),
                    len: metadata.len(),
                    modified: modified(&metadata),
                    age,
                })
            })
            .take(MAX_SIBLINGS)
            .collect();
        siblings.sort_by(|a, b| {
            (a.age == Age::Current, a.modified)
                .cmp(&(b.age == Age::Current, b.modified))
                .then_with(|| b.age.cmp(&a.age))
                .then_with(|| a.path.cmp(&b.path))
        });
        Ok(siblings)
    }
}

#[derive(Debug)]
struct Sibling {
    path: PathBuf,
    identity: (u64, u64),
    len: u64,
    modified: (i64, i64),
    age: Age,
}

/// What a file's name says of its age; decides between files written in the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Current,
    Dated,
    Numbered(u32),
}

/// `audit.log`; auditd's and logrotate's `audit.log.1` and `audit.log-20260131`; the API server's
/// `audit-2026-01-31T10-00-00.000.log`. What is compressed can't be followed.
fn rotation_age(path: &Path, name: &str) -> Option<Age> {
    let own = path.file_name()?.to_str()?;
    if name == own {
        return Some(Age::Current);
    }
    if [".gz", ".xz", ".bz2", ".zst", ".lz4"].iter().any(|suffix| name.ends_with(suffix)) {
        return None;
    }
    if let Some(rest) = name.strip_prefix(own) {
        let rest = rest.strip_prefix(['.', '-'])?;
        // A date is a number too; it is too large for an age.
        let number = rest.parse().ok().filter(|number| *number < 10_000);
        return rest
            .starts_with(|c: char| c.is_ascii_digit())
            .then(|| number.map_or(Age::Dated, Age::Numbered));
    }
    let (stem, extension) = own.rsplit_once('.')?;
    let date = name.strip_prefix(stem)?.strip_prefix('-')?.strip_suffix(extension)?.strip_suffix('.')?;
    date.starts_with(|c: char| c.is_ascii_digit()).then_some(Age::Dated)
}

/// The sibling that begins as the place's file did and reaches to its offset, opened there.
fn find_place(siblings: &[Sibling], place: &Place) -> Option<Open> {
    siblings.iter().filter(|sibling| sibling.len >= place.offset).find_map(|sibling| {
        let open = open_at(&sibling.path, place.offset, 0).ok()?;
        place.head.matches(&open.file).then_some(open)
    })
}

fn is_older(sibling: &Sibling, than: &fs::Metadata) -> bool {
    sibling.age != Age::Current && sibling.modified < modified(than)
}

fn open_at(path: &Path, offset: u64, base: u64) -> io::Result<Open> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let head = Head::of(&file, HEAD_BYTES)?;
    let identity = (metadata.dev(), metadata.ino());
    Ok(Open { file, identity, head, offset, base })
}

fn identity_at(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn modified(metadata: &fs::Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

impl Head {
    fn of(file: &File, len: usize) -> io::Result<Self> {
        let mut bytes = [0; HEAD_BYTES];
        let mut filled = 0;
        while filled < len {
            match file.read_at(&mut bytes[filled..len], filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        let mut digest = [0; 16];
        digest.copy_from_slice(&blake3::hash(&bytes[..filled]).as_bytes()[..16]);
        Ok(Self { len: filled as u16, digest })
    }

    fn matches(&self, file: &File) -> bool {
        Self::of(file, usize::from(self.len).min(HEAD_BYTES)).is_ok_and(|head| head == *self)
    }
}

#[cfg(test)]
mod tests;
