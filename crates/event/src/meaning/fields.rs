//! The fields that carry meaning, gathered from an event's telling records in one pass each.

use std::borrow::Cow;
use std::cell::Cell;

use auditflow_audit_record::{AuditEvent, Field, FieldName, Record, Value};

use super::Identity;

/// The fields of all records of an event, found in their text once for everybody.
#[derive(Clone, Debug, Default)]
pub struct RecordFields<'e> {
    fields: Vec<Field<'e>>,
    /// Where each record's fields end.
    ends: Vec<usize>,
}

thread_local! {
    /// The memory of a list that is not used any more: that of the next one, which would otherwise be the largest piece
    /// that is asked of the allocator for every event.
    static SPARE: Cell<Vec<Field<'static>>> = const { Cell::new(Vec::new()) };
}

/// The most fields that memory is kept for.
const SPARE_FIELDS: usize = 1024;

/// The list, emptied, for fields of another event. (An empty list is collected into its own memory.)
fn emptied<'to>(mut fields: Vec<Field<'_>>) -> Vec<Field<'to>> {
    fields.clear();
    fields.into_iter().map_while(|_| None).collect()
}

impl Drop for RecordFields<'_> {
    fn drop(&mut self) {
        let fields = std::mem::take(&mut self.fields);
        if (1..=SPARE_FIELDS).contains(&fields.capacity()) {
            // A thread that is ending needs no spare.
            let _ = SPARE.try_with(|spare| spare.set(emptied(fields)));
        }
    }
}

impl<'e> RecordFields<'e> {
    pub(super) fn read(event: &'e AuditEvent) -> Self {
        let mut fields = emptied(SPARE.try_with(Cell::take).unwrap_or_default());
        // More than most events have, so that the list is made once.
        fields.reserve(64);
        let mut ends = Vec::with_capacity(event.records.len());
        for record in &event.records {
            record.fields().for_each(|field| fields.push(field));
            ends.push(fields.len());
        }
        Self { fields, ends }
    }

    /// The fields of the event's record at `index`, in order; none if there is no such record.
    pub fn of(&self, index: usize) -> &[Field<'e>] {
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(index).copied().unwrap_or(start);
        self.fields.get(start..end).unwrap_or_default()
    }
}

/// Declares the struct and its `take`, so that a field's name stands in one place.
macro_rules! gather {
    ($(#[$doc:meta])* $name:ident { $($field:ident = $($known:ident)|+),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub(super) struct $name<'e> {
            $(pub(super) $field: Option<Value<'e>>,)+
        }

        impl<'e> $name<'e> {
            /// Keeps the value if it is wanted and nothing was there before: the first record asked wins.
            #[inline]
            fn take(&mut self, name: FieldName, value: Value<'e>) {
                match name {
                    $($(FieldName::$known)|+ => {
                        self.$field.get_or_insert(value);
                    })+
                    _ => {}
                }
            }
        }
    };
}

gather! {
    /// What the kernel, or a program through it, wrote.
    Facts {
        arch = Arch, syscall = Syscall, success = Success, exit = Exit, a0 = A0, a1 = A1, a2 = A2, a3 = A3,
        uring_op = UringOp, ppid = Ppid, pid = Pid, auid = Auid, uid = Uid, gid = Gid, euid = Euid, suid = Suid,
        fsuid = Fsuid, egid = Egid, sgid = Sgid, fsgid = Fsgid, tty = Tty | Terminal, ses = Ses, comm = Comm,
        exe = Exe, key = Key, subj = Subj, res = Res | Result, op = Op | Operation, id = Id, acct = Acct, addr = Addr,
        port = Rport, unit = Unit, command = Cmd, cwd = Cwd, group = Grp | NewGroup, name = Name, path = Path,
        apparmor = Apparmor, decision = Seresult,
    }
}

gather! {
    /// What auditd appended: the names of ids.
    Names {
        auid = AuidName, uid = UidName, gid = GidName, euid = EuidName, suid = SuidName, fsuid = FsuidName,
        egid = EgidName, sgid = SgidName, fsgid = FsgidName, id = IdName, ouid = OuidName, ogid = OgidName,
        syscall = SyscallName,
    }
}

impl<'e> Facts<'e> {
    pub(super) fn read(&mut self, fields: &[Field<'e>]) {
        for field in fields {
            if let Some(name) = field.known
                && (!field.inner || is_for_programs_to_say(name))
            {
                self.take(name, field.value);
            }
        }
    }
}

impl<'e> Names<'e> {
    pub(super) fn read(&mut self, record: &'e Record) {
        record.enriched().for_each(|field| {
            if let Some(name) = field.known {
                self.take(name, field.value);
            }
        });
    }
}

/// Whether a program may say it inside `msg='…'`. The rest is the kernel's to say: a message that holds `euid=0` is not
/// evidence of it.
fn is_for_programs_to_say(name: FieldName) -> bool {
    use FieldName::{
        A0, A1, A2, A3, Arch, Auid, Egid, Euid, Exit, Fsgid, Fsuid, Gid, Key, Pid, Ppid, Ses, Sgid, Subj,
        Success, Suid, Syscall, Uid, UringOp,
    };
    !matches!(
        name,
        Arch | Syscall
            | Success
            | Exit
            | A0
            | A1
            | A2
            | A3
            | UringOp
            | Ppid
            | Pid
            | Auid
            | Uid
            | Gid
            | Euid
            | Suid
            | Fsuid
            | Egid
            | Sgid
            | Fsgid
            | Ses
            | Key
            | Subj
    )
}

/// The value's text, if it stands for something.
pub(super) fn text(value: Option<Value<'_>>) -> Option<Cow<'_, str>> {
    value.as_ref().and_then(Value::known)
}

/// The value as a number that fits 32 bits.
pub(super) fn number(value: Option<Value<'_>>) -> Option<u32> {
    u32::try_from(value?.as_u64()?).ok()
}

/// Number and name of a user or group: the name from auditd's half, else by `known`, the node's own knowledge.
pub(super) fn identity<'e>(
    id: Option<Value<'e>>,
    name: Option<Value<'e>>,
    known: impl FnOnce(u32) -> Option<&'e str>,
) -> Identity<'e> {
    let Some((value, id)) = id.and_then(|value| Some((value, value.as_id()?))) else {
        return Identity::default();
    };
    // What was read as a number is digits.
    let digits = std::str::from_utf8(value.raw()).ok().map(Cow::Borrowed);
    Identity { id: digits, name: name_of(id, name, known) }
}

/// The same for a number that was read before.
pub(super) fn numbered<'e>(
    id: Option<u32>,
    name: Option<Value<'e>>,
    known: impl FnOnce(u32) -> Option<&'e str>,
) -> Identity<'e> {
    let Some(id) = id else { return Identity::default() };
    let digits = itoa::Buffer::new().format(id).to_owned();
    Identity { id: Some(Cow::Owned(digits)), name: name_of(id, name, known) }
}

fn name_of<'e>(
    id: u32,
    appended: Option<Value<'e>>,
    known: impl FnOnce(u32) -> Option<&'e str>,
) -> Option<Cow<'e, str>> {
    // auditd writes `unknown(12345)` for an id that has no name.
    let appended = text(appended).filter(|name| !name.starts_with("unknown("));
    appended.or_else(|| known(id).map(Cow::Borrowed))
}

#[cfg(test)]
mod tests {
    use auditflow_audit_record::Record;

    use super::*;

    #[test]
    fn the_list_of_one_event_is_made_in_the_memory_of_the_one_before() {
        let line = |text: &str| Record::from_line(text.as_bytes()).unwrap();
        let first = line("type=CWD msg=audit(1.000:1): cwd=\"/\" a=1 b=2");
        let fields: Vec<Field<'_>> = first.fields().collect();
        let (memory, capacity) = (fields.as_ptr().addr(), fields.capacity());
        let again = emptied(fields);
        assert!(again.is_empty());
        assert_eq!((again.as_ptr().addr(), again.capacity()), (memory, capacity));
    }
}
