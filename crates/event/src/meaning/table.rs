//! The one table from what was recorded to what it means. The docs print it ([`markdown`]), the code reads it; there
//! is no second place that says what a record or a system call is.
//!
//! Which row holds for a kernel audit event: that of a record type listed as `record` (a `CONFIG_CHANGE` is what the
//! event is about, the `sendto` beside it is only how it came in), the topmost row if there are several; otherwise
//! that of its system call; otherwise, if its SYSCALL record is missing, that of what is left. `AppArmor` writes
//! everything as AVC; unless it denied something, the row of its own record types holds.
//! A login, sudo command, account or service change that failed is a WARNING at least, and so is a Kubernetes request
//! answered 401 or 403. Words follow ECS 8 for category and type, and Elastic's auditd module for actions.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use auditflow_audit_record::RecordType;

use super::rows::ROWS;
use super::{EventType, Severity};
use crate::Condition;

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    /// What it applies to.
    pub when: When,
    /// The event type.
    pub event_type: EventType,
    /// ECS `event.category`.
    pub category: &'static [&'static str],
    /// ECS `event.type`.
    pub kind: &'static [&'static str],
    /// ECS `event.action`.
    pub action: &'static str,
    /// The severity hint.
    pub severity: Severity,
    /// The ancestor's `action_result` when it succeeded; `FAILURE` when it did not.
    pub achieved: &'static str,
}

/// What a row applies to.
#[derive(Debug)]
pub enum When {
    /// One of these record types is in the event.
    Record(&'static [&'static str]),
    /// One of these system calls.
    Syscall(&'static [&'static str]),
    /// One of these system calls, opening a file in this way.
    Open(&'static [&'static str], Access),
    /// One of these record types is left of an event without its SYSCALL record.
    Remnant(&'static [&'static str]),
    /// A Kubernetes request with one of these verbs; none: any other verb.
    Verb(&'static [&'static str]),
    /// The agent names this condition.
    State(Condition),
    /// An event in the ancestor's shape of the row's type, with one of these results; none: any other result.
    Produced(&'static [&'static str]),
    /// None of the others.
    Otherwise,
}

/// How a file was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading.
    Read,
    /// For writing: `O_WRONLY`, `O_RDWR`, `O_CREAT`, `O_TRUNC`.
    Write,
    /// And the file came into being by it (a PATH record with `nametype=CREATE`).
    Create,
}

/// The row of a record type that decides by itself what an event is.
pub fn record(kind: RecordType) -> Option<&'static Row> {
    row_at(&INDEX.records, kind)
}

/// The row of a record type for an event whose SYSCALL record is missing.
pub fn remnant(kind: RecordType) -> Option<&'static Row> {
    row_at(&INDEX.remnants, kind)
}

/// The row of a system call by its name; `access` counts for those that open files.
pub fn syscall(name: &str, access: Access) -> Option<&'static Row> {
    let first = usize::from(*INDEX.syscalls.get(name)?);
    match ROWS[first].when {
        // The three ways to open stand one below the other, in the order of `Access`.
        When::Open(..) => ROWS.get(first + access as usize),
        _ => ROWS.get(first),
    }
}

/// The row of a Kubernetes request.
pub fn verb(verb: &str) -> &'static Row {
    find(|row| matches!(row.when, When::Verb(verbs) if verbs.is_empty() || verbs.contains(&verb)))
}

/// The row of a condition of the agent.
pub fn state(condition: Condition) -> &'static Row {
    find(|row| matches!(row.when, When::State(named) if named == condition))
}

/// The row of an event in the ancestor's shape.
pub fn produced(event_type: EventType, result: &str) -> &'static Row {
    find(|row| {
        row.event_type == event_type
            && matches!(row.when, When::Produced(results) if results.is_empty() || results.contains(&result))
    })
}

/// The row for everything else.
pub fn otherwise() -> &'static Row {
    OTHERWISE
}

/// The table as Markdown, for the docs.
pub fn markdown() -> String {
    let mut text = String::from(
        "| on | event_type | category | type | action | severity | result |\n|---|---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let (on, what) = row.when.describe();
        let names = what.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            text,
            "| {on}{}{names} | `{}` | {} | {} | {} | {} | {} |",
            if names.is_empty() { "" } else { " " },
            row.event_type.as_str(),
            row.category.join(", "),
            row.kind.join(", "),
            row.action,
            row.severity.as_str(),
            row.achieved,
        );
    }
    text
}

impl When {
    fn describe(&self) -> (&'static str, Vec<&'static str>) {
        match self {
            Self::Record(names) => ("record", names.to_vec()),
            Self::Syscall(names) => ("syscall", names.to_vec()),
            Self::Open(names, Access::Read) => ("syscall, reading,", names.to_vec()),
            Self::Open(names, Access::Write) => ("syscall, writing,", names.to_vec()),
            Self::Open(names, Access::Create) => ("syscall, creating,", names.to_vec()),
            Self::Remnant(names) => ("without SYSCALL, record", names.to_vec()),
            Self::Verb([]) => ("Kubernetes, any other verb", Vec::new()),
            Self::Verb(names) => ("Kubernetes verb", names.to_vec()),
            Self::State(condition) => ("agent state", vec![condition.as_str()]),
            Self::Produced([]) => ("produced, any other result", Vec::new()),
            Self::Produced(names) => ("produced with result", names.to_vec()),
            Self::Otherwise => ("anything else", Vec::new()),
        }
    }
}

/// Rows by what is looked up for every event; the rest is scanned.
struct Index {
    /// Row number + 1 by record type, from [`FIRST_KIND`] on; 0: none.
    records: Vec<u8>,
    remnants: Vec<u8>,
    syscalls: HashMap<&'static str, u8>,
}

/// The audit system's record types lie between 1000 and 2999.
const FIRST_KIND: u16 = 1000;
const KINDS: usize = 2000;

static INDEX: LazyLock<Index> = LazyLock::new(|| {
    let mut index = Index { records: vec![0; KINDS], remnants: vec![0; KINDS], syscalls: HashMap::new() };
    for (number, row) in (0_u8..).zip(ROWS) {
        match row.when {
            When::Record(names) => put(&mut index.records, names, number),
            When::Remnant(names) => put(&mut index.remnants, names, number),
            When::Syscall(names) | When::Open(names, Access::Read) => {
                index.syscalls.extend(names.iter().map(|name| (*name, number)));
            }
            _ => {}
        }
    }
    index
});

fn row_at(rows: &[u8], kind: RecordType) -> Option<&'static Row> {
    let number = rows.get(usize::from(kind.0.checked_sub(FIRST_KIND)?))?;
    ROWS.get(usize::from(number.checked_sub(1)?))
}

fn put(rows: &mut [u8], names: &[&str], number: u8) {
    for name in names {
        if let Some(kind) = RecordType::from_name(name)
            && let Some(row) = rows.get_mut(usize::from(kind.0.saturating_sub(FIRST_KIND)))
        {
            *row = number + 1;
        }
    }
}

fn find(wanted: impl Fn(&Row) -> bool) -> &'static Row {
    ROWS.iter().find(|row| wanted(row)).unwrap_or(OTHERWISE)
}

static OTHERWISE: &Row = &Row {
    when: When::Otherwise,
    event_type: EventType::Other,
    category: &[],
    kind: &["info"],
    action: "recorded",
    severity: Severity::Info,
    achieved: "SUCCESS",
};
