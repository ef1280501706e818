//! `linux/auditd`: one view per record, under the record's own field names.
//!
//! `type` is the record type's name and `SYSCALL` the system call's, by the record's own architecture. The EXECVE
//! records of an event are one view, because the kernel splits long argument lists over several; its `a0`, `a1` … are
//! decoded. Values are the text that the kernel meant: unquoted, hex decoded.

use std::borrow::Cow;

use auditflow_audit_record::{AuditEvent, Record, RecordType, Value, syscalls};

use super::{View, Visitor};
use crate::logsource::{Families, Family};

const SYSCALL: RecordType = RecordType(1300);
const EXECVE: RecordType = RecordType(1309);

/// One record, its fields found once.
pub(crate) struct RecordView<'e> {
    kind: Cow<'static, str>,
    syscall: Option<&'static str>,
    fields: Vec<(Cow<'e, str>, Text<'e>)>,
}

/// A value whose decoding may wait until somebody asks.
enum Text<'e> {
    Value(Value<'e>),
    Decoded(Cow<'e, str>),
}

impl Text<'_> {
    fn get(&self) -> Cow<'_, str> {
        match self {
            Self::Value(value) => value.text(),
            Self::Decoded(text) => Cow::Borrowed(text),
        }
    }
}

/// Shows the records of `event`.
pub(super) fn visit(event: &AuditEvent, wanted: Families, visit: &mut Visitor<'_>) {
    if !wanted.contains(Family::Auditd) {
        return;
    }
    let mut arguments_seen = false;
    for (index, record) in event.records.iter().enumerate() {
        let view = match record.kind {
            EXECVE if arguments_seen => continue,
            EXECVE => {
                arguments_seen = true;
                RecordView::arguments(event)
            }
            _ => RecordView::new(record),
        };
        visit(Family::Auditd, index as u16, &View::Record(view));
    }
}

impl<'e> RecordView<'e> {
    fn new(record: &'e Record) -> Self {
        // A SYSCALL record has 28, the others fewer.
        let mut fields = Vec::with_capacity(if record.kind == SYSCALL { 28 } else { 12 });
        fields.extend(record.fields().map(|field| (Cow::Borrowed(field.name), Text::Value(field.value))));
        let syscall = (record.kind == SYSCALL).then(|| syscall_name(record)).flatten();
        Self { kind: record.kind.name(), syscall, fields }
    }

    fn arguments(event: &'e AuditEvent) -> Self {
        let mut fields = Vec::new();
        if let Some(arguments) = event.args() {
            let argc = arguments.argc();
            if arguments.is_complete() {
                fields.extend(
                    arguments
                        .into_texts()
                        .enumerate()
                        .map(|(i, text)| (argument_name(i), Text::Decoded(text))),
                );
            } else {
                // Some were lost: what is there keeps its number.
                let there = arguments.len();
                let numbered =
                    (0..argc.unwrap_or(u32::MAX)).filter_map(|i| Some((i, arguments.get(i)?))).take(there);
                fields.extend(numbered.map(|(i, bytes)| {
                    let text = String::from_utf8_lossy(bytes).into_owned();
                    (argument_name(i as usize), Text::Decoded(Cow::Owned(text)))
                }));
            }
        }
        Self { kind: EXECVE.name(), syscall: None, fields }
    }

    pub(crate) fn field(&self, path: &str) -> Option<Cow<'_, str>> {
        match path {
            "type" => Some(Cow::Borrowed(&self.kind)),
            "SYSCALL" => self.syscall.map(Cow::Borrowed),
            _ => self.fields.iter().find(|(name, _)| name == path).map(|(_, value)| value.get()),
        }
    }

    pub(crate) fn any_string(&self, pred: &dyn Fn(&str) -> bool) -> bool {
        pred(&self.kind)
            || self.syscall.is_some_and(pred)
            || self.fields.iter().any(|(_, value)| pred(&value.get()))
    }

    pub(crate) fn each_string(&self, visit: &mut dyn FnMut(&str)) {
        visit(&self.kind);
        self.syscall.into_iter().for_each(&mut *visit);
        self.fields.iter().for_each(|(_, value)| visit(&value.get()));
    }

    pub(crate) fn strings(&self) -> Vec<Cow<'_, str>> {
        let head = std::iter::once(&*self.kind).chain(self.syscall).map(Cow::Borrowed);
        head.chain(self.fields.iter().map(|(_, value)| value.get())).collect()
    }
}

/// The name of the system call of a SYSCALL record.
pub(super) fn syscall_name(record: &Record) -> Option<&'static str> {
    let arch = record.field("arch")?.as_hex_u64()?;
    let number = record.field("syscall")?.as_u64()?;
    syscalls::name(u32::try_from(arch).ok()?, u32::try_from(number).ok()?)
}

fn argument_name(index: usize) -> Cow<'static, str> {
    const NAMES: [&str; 16] = [
        "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "a8", "a9", "a10", "a11", "a12", "a13", "a14", "a15",
    ];
    NAMES.get(index).map_or_else(|| Cow::Owned(format!("a{index}")), |name| Cow::Borrowed(*name))
}
