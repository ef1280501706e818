//! The `auditd` object: the system call, and every record with its fields as the kernel wrote them.
//!
//! `records[].fields` holds each field once (of a repeated name the first), decoded: unquoted, from hex where the
//! kernel encodes that field, the NULs between a PROCTITLE's arguments as spaces. Bytes that are no UTF-8 are shown as
//! the hex digits that were logged, so nothing is lost. What auditd appended (byte 0x1D and after) is not repeated
//! here: the same event then reads the same live and from a file, and the names are in `user` and `group`.

use std::borrow::Cow;
use std::collections::HashSet;

use auditflow_audit_record::{AuditEvent, Path, Record, RecordType, SockAddr, Value};

use super::writer::Writer;
use crate::Meaning;

pub(super) fn auditd(event: &AuditEvent, meaning: &Meaning<'_>, w: &mut Writer<'_>) {
    w.number("serial", Some(event.stamp.serial));
    if let Some(syscall) = &meaning.syscall {
        w.text("syscall", syscall.name.as_deref());
        w.text("arch", syscall.arch);
        w.number("exit", syscall.exit);
        w.texts("keys", syscall.keys.iter().map(Cow::as_ref));
    }
    w.array("paths", |w| {
        for path in &meaning.paths {
            w.braces(|w| self::path(path, w));
        }
    });
    if let Some(socket) = &meaning.socket {
        w.object("socket", |w| self::socket(socket, w));
    }
    let mut seen = Seen::default();
    w.array("records", |w| {
        for record in &event.records {
            w.braces(|w| self::record(record, &mut seen, w));
        }
    });
}

fn path(path: &Path<'_>, w: &mut Writer<'_>) {
    w.number("item", path.item);
    w.text("name", path.name.as_deref());
    w.text("nametype", path.nametype.as_deref());
    w.number("inode", path.inode);
    w.text("dev", path.dev.as_deref());
    if let Some(mode) = path.mode {
        w.text("mode", Some(&format!("{mode:07o}")));
    }
    w.number("ouid", path.ouid);
    w.number("ogid", path.ogid);
}

fn socket(socket: &SockAddr, w: &mut Writer<'_>) {
    w.text("family", socket.family());
    if let Some((ip, port)) = socket.ip() {
        w.text("ip", Some(&ip.to_string()));
        w.number("port", Some(port));
    } else {
        w.text("address", Some(&socket.to_string()));
    }
}

fn record<'e>(record: &'e Record, seen: &mut Seen<'e>, w: &mut Writer<'_>) {
    w.text("type", Some(&record.kind.name()));
    seen.clear();
    w.object("fields", |w| {
        for field in record.fields() {
            if seen.is_new(field.name) {
                w.named_text(field.name, &shown(record.kind, field.value));
            }
        }
    });
}

fn shown(kind: RecordType, value: Value<'_>) -> Cow<'_, str> {
    match value.bytes() {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
        Cow::Owned(mut bytes) => {
            if kind == RecordType::PROCTITLE {
                bytes.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
            }
            String::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(value.raw()), Cow::Owned)
        }
    }
}

/// The field names of one record so far. A bit set answers nearly always; what it cannot, a short list does; what
/// is too long for a list (thousands of arguments), a set.
#[derive(Default)]
struct Seen<'e> {
    bits: u64,
    names: Vec<&'e str>,
    rest: HashSet<&'e str>,
}

impl<'e> Seen<'e> {
    const LIST: usize = 64;

    fn clear(&mut self) {
        self.bits = 0;
        self.names.clear();
        self.rest.clear();
    }

    fn is_new(&mut self, name: &'e str) -> bool {
        let hash = name.bytes().fold(0_u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let bit = 1 << (hash % 61);
        let seen = self.bits & bit != 0 && (self.names.contains(&name) || self.rest.contains(name));
        if !seen {
            self.bits |= bit;
            if self.names.len() < Self::LIST {
                self.names.push(name);
            } else {
                self.rest.insert(name);
            }
        }
        !seen
    }
}
