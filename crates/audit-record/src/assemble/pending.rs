//! One event that is being assembled.

use super::key::Key;
use super::order;
use crate::{Args, AuditEvent, Completion, FieldName, Record, RecordType, Stamp, syscalls};

/// How often an event that has ended is looked at for being whole: each look reads its records again, so an event of
/// thousands of records in disorder waits for the timer instead.
const MAX_LOOKS: u8 = 64;

/// As many records as most events have, so that the lists are made once.
const USUAL_RECORDS: usize = 6;

/// The records of one event so far.
#[derive(Debug)]
pub(super) struct Pending {
    /// Tells it from an earlier event of the same key.
    pub(super) number: u64,
    /// Its event was given out already: these are records that came afterwards.
    pub(super) late: bool,
    /// What it is counted as, see [`Pending::cost_of`].
    pub(super) bytes: usize,
    records: Vec<Record>,
    prints: Vec<u64>,
    /// What ended it.
    ended: Option<Completion>,
    looks: u8,
    paths: u64,
    last_rank: u8,
    disordered: bool,
}

/// What is to be done with an event after a record was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is whole.
    Whole(Completion),
    /// It has just ended, but something is missing: give the event of that number a short while.
    Settle(u64),
    /// More may come.
    Wait,
}

impl Pending {
    /// What an event occupies besides its records: itself in a map at most half full, and its queue entries.
    pub(super) const BASE: usize = 2 * (size_of::<Key>() + size_of::<Self>()) + 2 * 64;

    pub(super) fn new(number: u64, late: bool) -> Self {
        Self {
            number,
            late,
            bytes: Self::BASE,
            records: Vec::with_capacity(USUAL_RECORDS),
            prints: Vec::with_capacity(USUAL_RECORDS),
            ended: None,
            looks: 0,
            paths: 0,
            last_rank: 0,
            disordered: false,
        }
    }

    /// What a record occupies: its text, and itself and its print in lists that double when they are full.
    pub(super) fn cost_of(record: &Record) -> usize {
        record.size() + size_of::<Record>() + 2 * size_of::<u64>()
    }

    /// Whether that record is there already.
    pub(super) fn has(&self, print: u64, record: &Record) -> bool {
        self.prints.contains(&print) && self.records.contains(record)
    }

    pub(super) fn add(&mut self, record: Record, print: u64) -> Verdict {
        self.note_order(&record);
        self.bytes += Self::cost_of(&record);
        if record.kind == RecordType::PATH {
            self.paths += 1;
        }
        let ends = record.kind == RecordType::PROCTITLE;
        self.records.push(record);
        self.prints.push(print);
        if ends {
            return self.ended_by(Completion::Proctitle);
        }
        self.look()
    }

    /// The kernel's end mark was read.
    pub(super) fn end(&mut self) -> Verdict {
        self.ended_by(Completion::Eoe)
    }

    pub(super) fn finish(self, stamp: Stamp, reason: Completion) -> (Option<AuditEvent>, Vec<u64>) {
        let records = if self.disordered { order::restore(self.records) } else { self.records };
        let completion = if self.late { Completion::Late } else { reason };
        let node = records.first().map(|first| first.node.clone());
        (node.map(|node| AuditEvent { stamp, node, records, completion }), self.prints)
    }

    fn ended_by(&mut self, completion: Completion) -> Verdict {
        let first_end = self.ended.is_none();
        self.ended.get_or_insert(completion);
        match self.look() {
            Verdict::Wait if first_end && !self.late => Verdict::Settle(self.number),
            verdict => verdict,
        }
    }

    fn look(&mut self) -> Verdict {
        let Some(completion) = self.ended else { return Verdict::Wait };
        if self.late || self.looks >= MAX_LOOKS {
            return Verdict::Wait;
        }
        self.looks += 1;
        if self.is_whole() { Verdict::Whole(completion) } else { Verdict::Wait }
    }

    /// Whether everything is there that the kernel certainly wrote for such a call. (What else it may write can't be
    /// told: a socket address for `sendto`, say, is written only if the program passed one.)
    fn is_whole(&self) -> bool {
        let Some(syscall) = self.records.iter().find(|record| record.kind == RecordType::SYSCALL) else {
            return self.records.iter().any(|record| record.kind == RecordType::URINGOP);
        };
        let call = Call::of(syscall);
        if call.items != self.paths || (call.items > 0 && !self.holds(RecordType::CWD)) {
            return false;
        }
        match call.name {
            Some("execve" | "execveat") if call.succeeded => {
                let execs = self.records.iter().filter(|record| record.kind == RecordType::EXECVE);
                Args::from_records(execs).is_some_and(|args| args.is_complete())
            }
            Some("connect" | "bind") => self.holds(RecordType::SOCKADDR),
            Some("kill") if call.succeeded => self.holds(RecordType::OBJ_PID),
            _ => true,
        }
    }

    fn holds(&self, kind: RecordType) -> bool {
        self.records.iter().any(|record| record.kind == kind)
    }

    fn note_order(&mut self, record: &Record) {
        let rank = order::rank(record.kind).unwrap_or(self.last_rank);
        self.disordered |= rank < self.last_rank
            || match record.kind {
                RecordType::PATH => order::position(record) != self.paths,
                RecordType::EXECVE => self.last_rank == rank,
                _ => false,
            };
        self.last_rank = self.last_rank.max(rank);
    }
}

/// What a `SYSCALL` record says about the records to come.
struct Call {
    name: Option<&'static str>,
    succeeded: bool,
    items: u64,
}

impl Call {
    fn of(syscall: &Record) -> Self {
        let mut call = Self { name: None, succeeded: false, items: 0 };
        let mut arch = None;
        syscall.fields().visit_while(|field| {
            match field.known {
                Some(FieldName::Arch) => {
                    arch = field.value.as_hex_u64().and_then(|arch| u32::try_from(arch).ok());
                }
                Some(FieldName::Syscall) => {
                    let number = field.value.as_u64().and_then(|number| u32::try_from(number).ok());
                    call.name = arch.zip(number).and_then(|(arch, number)| syscalls::name(arch, number));
                }
                Some(FieldName::Success) => call.succeeded = field.value.raw() == b"yes",
                Some(FieldName::Items) => {
                    call.items = field.value.as_u64().unwrap_or(0);
                    return false;
                }
                _ => {}
            }
            true
        });
        call
    }
}
