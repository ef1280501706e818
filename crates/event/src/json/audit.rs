//! The `auditd` object: the system call, and every record with its fields as the kernel wrote them.
//!
//! `records[].fields` holds each field once (of a repeated name the first), decoded: unquoted, from hex where the
//! kernel encodes that field, the NULs between a PROCTITLE's arguments as spaces. Bytes that are no UTF-8 are shown as
//! the hex digits that were logged, so nothing is lost. What auditd appended (byte 0x1D and after) is not repeated
//! here: the same event then reads the same live and from a file, and the names are in `user` and `group`.

use std::borrow::Cow;
use std::collections::HashSet;

use auditflow_audit_record::{AuditEvent, Field, FieldName, Path, RecordType, SockAddr, Value};

use super::writer::{JsonWriter, Key, key};
use crate::Meaning;

pub(super) fn auditd(event: &AuditEvent, meaning: &Meaning<'_>, w: &mut JsonWriter) {
    w.number(key!("serial"), Some(event.stamp.serial));
    if let Some(syscall) = &meaning.syscall {
        w.text(key!("syscall"), syscall.name.as_deref());
        w.text(key!("arch"), syscall.arch);
        w.number(key!("exit"), syscall.exit);
        w.texts(key!("keys"), syscall.keys.iter().map(Cow::as_ref));
    }
    w.array(key!("paths"), |w| {
        for path in &meaning.paths {
            w.braces(|w| self::path(path, w));
        }
    });
    if let Some(socket) = &meaning.socket {
        w.object(key!("socket"), |w| self::socket(socket, w));
    }
    let mut seen = Seen::default();
    w.array(key!("records"), |w| {
        for (index, record) in event.records.iter().enumerate() {
            w.braces(|w| self::record(record.kind, meaning.fields.of(index), &mut seen, w));
        }
    });
}

fn path(path: &Path<'_>, w: &mut JsonWriter) {
    w.number(key!("item"), path.item);
    w.text(key!("name"), path.name.as_deref());
    w.text(key!("nametype"), path.nametype.as_deref());
    w.number(key!("inode"), path.inode);
    w.text(key!("dev"), path.dev.as_deref());
    w.octal(key!("mode"), path.mode, 7);
    w.number(key!("ouid"), path.ouid);
    w.number(key!("ogid"), path.ogid);
}

fn socket(socket: &SockAddr, w: &mut JsonWriter) {
    w.text(key!("family"), socket.family());
    if let Some((ip, port)) = socket.ip() {
        w.text(key!("ip"), Some(&ip.to_string()));
        w.number(key!("port"), Some(port));
    } else {
        w.text(key!("address"), Some(&socket.to_string()));
    }
}

fn record<'e>(kind: RecordType, fields: &[Field<'e>], seen: &mut Seen<'e>, w: &mut JsonWriter) {
    w.text(key!("type"), Some(&kind.name()));
    seen.clear();
    w.object(key!("fields"), |w| {
        for field in fields {
            if !seen.is_new(field) {
                continue;
            }
            let value = field.value.bytes();
            match (field.known, value) {
                (Some(name), Cow::Borrowed(bytes)) => w.bytes(&NAMES[name as usize], bytes),
                (Some(name), Cow::Owned(bytes)) => {
                    w.text(&NAMES[name as usize], Some(&decoded(kind, bytes, field.value)));
                }
                (None, Cow::Borrowed(bytes)) => w.named_text(field.name, &String::from_utf8_lossy(bytes)),
                (None, Cow::Owned(bytes)) => w.named_text(field.name, &decoded(kind, bytes, field.value)),
            }
        }
    });
}

/// The known names as keys.
static NAMES: [Key; FieldName::ALL.len()] = {
    let mut names = [const { Key::new("") }; FieldName::ALL.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = Key::new(FieldName::ALL[at].as_str());
        at += 1;
    }
    names
};

fn decoded(kind: RecordType, mut bytes: Vec<u8>, value: Value<'_>) -> Cow<'_, str> {
    if kind == RecordType::PROCTITLE {
        bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
    }
    String::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(value.raw()), Cow::Owned)
}

/// The field names of one record so far: a bit for each known name, a set of the others.
#[derive(Default)]
struct Seen<'e> {
    known: u128,
    others: HashSet<&'e str>,
}

impl<'e> Seen<'e> {
    fn clear(&mut self) {
        self.known = 0;
        if !self.others.is_empty() {
            self.others.clear();
        }
    }

    fn is_new(&mut self, field: &Field<'e>) -> bool {
        const { assert!(FieldName::ALL.len() <= 128, "a known name has a bit") }
        let Some(name) = field.known else { return self.others.insert(field.name) };
        let bit = 1 << name as u8;
        let is_new = self.known & bit == 0;
        self.known |= bit;
        is_new
    }
}
