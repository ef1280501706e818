//! The kernel's order of the records of one event (`audit_log_exit`), for events whose records came in another.

use crate::{Record, RecordType};

/// Where a kind of record stands in its event: first what was logged during the call, then the call itself, then what
/// belongs to it. None for kinds that may stand anywhere: they stay behind the record that they came after.
pub(super) fn rank(kind: RecordType) -> Option<u8> {
    Some(match kind {
        RecordType::SYSCALL | RecordType::URINGOP => 1,
        RecordType::EXECVE => 3,
        RecordType::FD_PAIR => 4,
        RecordType::SOCKADDR => 5,
        RecordType::OBJ_PID => 6,
        RecordType::CWD => 7,
        RecordType::PATH => 8,
        RecordType::PROCTITLE => 9,
        // IPC, SOCKETCALL, IPC_SET_PERM, MQ_*, BPRM_FCAPS, CAPSET, MMAP, KERN_MODULE, TIME_*, OPENAT2.
        RecordType(1303 | 1304 | 1311..=1315 | 1321..=1323 | 1330 | 1332 | 1333 | 1337) => 2,
        // MAC_TASK_CONTEXTS and MAC_OBJ_CONTEXTS follow whichever record they explain.
        RecordType(1425 | 1426) => return None,
        kind if kind.known_name().is_some() => 0,
        _ => return None,
    })
}

/// Where a record stands among others of its kind: a `PATH` by its item, an `EXECVE` by its first argument.
pub(super) fn position(record: &Record) -> u64 {
    let Some(first) = record.fields().next() else { return 0 };
    match record.kind {
        RecordType::PATH => first.value.as_u64().unwrap_or(0),
        RecordType::EXECVE => crate::execve::position(first.name),
        _ => 0,
    }
}

/// Puts records into the kernel's order.
pub(super) fn restore(records: Vec<Record>) -> Vec<Record> {
    let mut last = 0;
    let mut ranked: Vec<_> = records
        .into_iter()
        .map(|record| {
            last = rank(record.kind).unwrap_or(last);
            ((last, position(&record)), record)
        })
        .collect();
    ranked.sort_by_key(|&(place, _)| place);
    ranked.into_iter().map(|(_, record)| record).collect()
}
