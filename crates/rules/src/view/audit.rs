//! `process_creation`, `file_event` and `network_connection`: what an event means, under the names that Sysmon for
//! Linux made common.
//!
//! Offered by whatever source says so: kernel audit events, and events in the ancestor's shape.

use auditflow_event::{Context, EventType, Meaning, Outcome};

use super::normalised::{command_line, parent};
use super::{FieldsView, View, Visitor};
use crate::logsource::{Families, Family};

/// `EINPROGRESS`: a connection that was begun without waiting for it.
const IN_PROGRESS: i64 = -115;

/// What changes a file without changing what is in it, and what makes something that is no file.
const NOT_WRITTEN: [&str; 5] = [
    "changed-file-permissions",
    "changed-file-ownership",
    "changed-file-attributes",
    "changed-file-times",
    "created-directory",
];

/// The field names of these families; `coverage` compares rules with them.
pub(crate) fn fields(family: Family) -> &'static [&'static str] {
    match family {
        Family::ProcessCreation => &[
            "Image",
            "CommandLine",
            "ParentImage",
            "ParentCommandLine",
            "User",
            "CurrentDirectory",
            "LogonId",
            "ProcessId",
            "ParentProcessId",
            "TerminalSessionId",
        ],
        Family::FileEvent => &["TargetFilename", "Image", "User", "ProcessId", "CommandLine"],
        Family::NetworkConnection => &[
            "Image",
            "User",
            "ProcessId",
            "CommandLine",
            "Initiated",
            "DestinationIp",
            "DestinationPort",
            "SourceIp",
            "SourcePort",
        ],
        _ => &[],
    }
}

/// Shows what `meaning` offers.
pub(super) fn visit(
    meaning: &Meaning<'_>,
    context: Option<&Context>,
    wanted: Families,
    visit: &mut Visitor<'_>,
) {
    match meaning.event_type {
        EventType::ProcessExecution if wanted.contains(Family::ProcessCreation) && created(meaning) => {
            visit(Family::ProcessCreation, 0, &View::Fields(process(meaning, context)));
        }
        EventType::FileModified if wanted.contains(Family::FileEvent) && written(meaning) => {
            visit(Family::FileEvent, 0, &View::Fields(file(meaning)));
        }
        EventType::NetworkConnection if wanted.contains(Family::NetworkConnection) => {
            if let Some(initiated) = initiated(meaning) {
                visit(Family::NetworkConnection, 0, &View::Fields(connection(meaning, initiated)));
            }
        }
        _ => {}
    }
}

/// Shells look for a program in every directory of PATH; only the attempt that found it created a process.
fn created(meaning: &Meaning<'_>) -> bool {
    meaning.outcome != Some(Outcome::Failure)
}

/// Files that came to be or whose content may have changed; not those removed or given other attributes.
fn written(meaning: &Meaning<'_>) -> bool {
    meaning.outcome != Some(Outcome::Failure)
        && meaning.kind.iter().any(|kind| matches!(*kind, "creation" | "change"))
        && !NOT_WRITTEN.contains(&&*meaning.action)
}

fn process<'v>(meaning: &'v Meaning<'_>, context: Option<&'v Context>) -> FieldsView<'v> {
    let process = &meaning.process;
    let parent = parent(meaning, context);
    let user = &meaning.user;
    let mut view = FieldsView::default();
    view.text("Image", process.executable.as_deref());
    view.text("CommandLine", command_line(meaning));
    view.text("ParentImage", parent.and_then(|parent| parent.executable.as_deref()));
    view.text("ParentCommandLine", parent.and_then(|parent| parent.title.as_deref()));
    view.text("User", user_name(meaning));
    view.text("CurrentDirectory", process.working_directory.as_deref());
    // Sysmon gives the user's number, and that of the login where there was one.
    view.text("LogonId", user.audit.id.as_deref().or(user.real.id.as_deref()));
    view.number("ProcessId", process.pid.map(u64::from));
    view.number("ParentProcessId", process.parent_pid.map(u64::from));
    view.number("TerminalSessionId", process.session.map(u64::from));
    view
}

fn file<'v>(meaning: &'v Meaning<'_>) -> FieldsView<'v> {
    let mut view = FieldsView::default();
    view.text("TargetFilename", meaning.file.as_ref().and_then(|file| file.path.as_deref()));
    view.text("Image", meaning.process.executable.as_deref());
    view.text("User", user_name(meaning));
    view.text("CommandLine", command_line(meaning));
    view.number("ProcessId", meaning.process.pid.map(u64::from));
    view
}

fn connection<'v>(meaning: &'v Meaning<'_>, initiated: bool) -> FieldsView<'v> {
    let mut view = FieldsView::default();
    view.text("Image", meaning.process.executable.as_deref());
    view.text("User", user_name(meaning));
    view.text("CommandLine", command_line(meaning));
    view.number("ProcessId", meaning.process.pid.map(u64::from));
    view.text("Initiated", Some(if initiated { "true" } else { "false" }));
    if let Some(end) = &meaning.destination {
        view.text("DestinationIp", end.ip.as_deref());
        view.number("DestinationPort", end.port.map(u64::from));
    }
    if let Some(end) = &meaning.source {
        view.text("SourceIp", end.ip.as_deref());
        view.number("SourcePort", end.port.map(u64::from));
    }
    view
}

fn user_name<'v>(meaning: &'v Meaning<'_>) -> Option<&'v str> {
    let user = &meaning.user.real;
    // Number 0 is root by definition; other names only the node knows.
    user.name.as_deref().or(if user.id.as_deref() == Some("0") { Some("root") } else { None })
}

/// Whether the process began the connection (`Some(true)`), accepted it (`Some(false)`), or there is none.
fn initiated(meaning: &Meaning<'_>) -> Option<bool> {
    let syscall = meaning.syscall.as_ref()?;
    let made = meaning.outcome == Some(Outcome::Success) || syscall.exit == Some(IN_PROGRESS);
    let remote =
        |end: Option<&auditflow_event::meaning::Endpoint<'_>>| end.is_some_and(|end| end.ip.is_some());
    match syscall.name.as_deref()? {
        "connect" | "sendto" | "sendmsg" | "sendmmsg" if made && remote(meaning.destination.as_ref()) => {
            Some(true)
        }
        "accept" | "accept4" if made && remote(meaning.source.as_ref()) => Some(false),
        _ => None,
    }
}
