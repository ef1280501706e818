//! One assembled event: the records of one stamp, and what they say together.
//!
//! Made by the assembler; read by whoever gives events a meaning. Everything here is derived from the records when
//! asked for.

use std::borrow::Cow;

use crate::execve::Args;
use crate::sockaddr::SockAddr;
use crate::{Path, Record, RecordType, Stamp};

/// The records of one stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// What its records have in common.
    pub stamp: Stamp,
    /// The machine's name, if the records carried one.
    pub node: Option<Box<str>>,
    /// Its records in the order in which the kernel wrote them, without `EOE`.
    pub records: Vec<Record>,
    /// Why it was given out when it was.
    pub completion: Completion,
}

/// Why an event was given out when it was, and so whether it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Completion {
    /// The kernel's end mark was read.
    Eoe,
    /// Its last record, the process title, was read.
    Proctitle,
    /// It is of a kind that is always one record.
    Single,
    /// No end was seen in time (or the input ended): some records may be missing.
    TimedOut,
    /// It was given out early so that memory stays bounded: records are missing.
    Evicted,
    /// Records that came after their event had been given out: the rest of an event, not one of its own.
    Late,
}

impl AuditEvent {
    /// The first record of that kind.
    pub fn record(&self, kind: RecordType) -> Option<&Record> {
        self.records_of(kind).next()
    }

    /// All records of that kind.
    pub fn records_of(&self, kind: RecordType) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.kind == kind)
    }

    /// The arguments of the program started, joined over all `EXECVE` records.
    pub fn args(&self) -> Option<Args<'_>> {
        Args::from_records(self.records_of(RecordType::EXECVE))
    }

    /// The command line as `ps` shows it, its arguments divided by spaces. The kernel cuts it at 128 bytes, and the
    /// process may have rewritten it.
    pub fn title(&self) -> Option<Cow<'_, str>> {
        self.record(RecordType::PROCTITLE)?.field("proctitle")?.title()
    }

    /// The socket address passed to the call.
    pub fn socket(&self) -> Option<SockAddr> {
        SockAddr::from_hex(self.record(RecordType::SOCKADDR)?.field("saddr")?.raw())
    }

    /// The files that the call touched, in the order of the records.
    pub fn paths(&self) -> impl Iterator<Item = Path<'_>> {
        self.records_of(RecordType::PATH).map(Path::from_record)
    }

    /// The working directory at the call.
    pub fn cwd(&self) -> Option<Cow<'_, str>> {
        self.record(RecordType::CWD)?.field("cwd")?.known()
    }

    /// The keys of the audit rules that caused it, of the first record that has any.
    pub fn keys(&self) -> Vec<Cow<'_, str>> {
        self.records
            .iter()
            .filter_map(|record| record.field("key"))
            .map(|key| key.keys())
            .find(|keys| !keys.is_empty())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
