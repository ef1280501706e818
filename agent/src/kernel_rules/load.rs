//! Loads a list of lines into the kernel, all or nothing, and puts back what was found.
//!
//! Audit rules are machine-wide state that others may have set. So before anything is changed, the settings and rules
//! that stand are written down; a line that fails puts them back at once, `load-rules --restore` puts them back later.

use std::path::Path;

use auditflow_service::file;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::rule::{Rule, without_place};
use super::syntax::{Line, Located};
use crate::netlink::{AuditSocket, NetlinkError, Status, StatusChange};

/// Where what was found and what was left is kept, unless another place is named.
pub const STATE: &str = "/var/lib/auditflow-audit-rules/found.json";

/// The largest state file that is read back: thousands of rules.
const MAX_STATE_BYTES: u64 = 64 << 20;

/// Why rules were not loaded or not put back.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A request outside any line failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel takes no changes until it is rebooted.
    #[error("the audit configuration is locked (-e 2); it can be changed after a reboot")]
    Locked,
    /// The kernel refused a line; what stood before stands again.
    #[error("{file}:{line}: the kernel refused `{text}`; the rules that stood before stand again")]
    Line {
        /// The rule file.
        file: String,
        /// The line's number.
        line: usize,
        /// The line.
        text: String,
        /// The kernel's reason.
        #[source]
        source: NetlinkError,
    },
    /// What was found could not be written down or read back.
    #[error("cannot keep what was found in {path}")]
    State {
        /// The state file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// There is nothing to put back.
    #[error("nothing to restore: {path} does not exist, so no rules of ours are loaded")]
    NothingFound {
        /// The state file.
        path: String,
    },
}

/// The audit configuration as it stood before ours, and as it stood after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// What stood before.
    pub found: Configuration,
    /// What stood when our rules were loaded; a difference later is drift.
    pub left: Configuration,
}

/// The machine's audit settings and rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Its settings.
    pub status: Status,
    /// Its rules as the kernel encodes them, in order.
    pub rules: Vec<Vec<u8>>,
}

impl Configuration {
    /// Reads what stands now.
    pub fn read(socket: &mut AuditSocket) -> Result<Self, NetlinkError> {
        let status = socket.status()?;
        Ok(Self { status, rules: standing(socket)? })
    }

    /// Makes it stand again: removes every rule, loads these, sets the settings.
    fn restore(&self, socket: &mut AuditSocket) -> Result<(), NetlinkError> {
        for rule in socket.rules()? {
            socket.delete_rule(&rule)?;
        }
        for rule in &self.rules {
            socket.add_rule(rule)?;
        }
        let status = &self.status;
        let change = StatusChange {
            enabled: Some(status.enabled),
            failure: Some(status.failure),
            pid: None,
            rate_limit: Some(status.rate_limit),
            backlog_limit: Some(status.backlog_limit),
            backlog_wait_time: Some(status.backlog_wait_time),
        };
        socket.change(change, "restore the audit settings")
    }
}

/// The rules that stand now, as [`Configuration`] has them.
pub fn standing(socket: &mut AuditSocket) -> Result<Vec<Vec<u8>>, NetlinkError> {
    Ok(socket.rules()?.into_iter().map(without_place).collect())
}

/// What loading a list of lines would do, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Plan {
    /// Rules to load.
    pub add: usize,
    /// Rules to remove by name.
    pub delete: usize,
    /// Whether every rule is removed first.
    pub clear: bool,
    /// Settings to change.
    pub set: usize,
}

impl Plan {
    /// Counts what the lines ask for.
    pub fn of(lines: &[Located]) -> Self {
        lines.iter().fold(Self::default(), |mut plan, line| {
            match line.what {
                Line::Add(_) => plan.add += 1,
                Line::Delete(_) => plan.delete += 1,
                Line::DeleteAll => plan.clear = true,
                Line::Set(_) => plan.set += 1,
                Line::ContinueOnError => {}
            }
            plan
        })
    }
}

/// Loads the lines. What stood before is kept in `state` unless an earlier load has kept it there already, so that
/// loading twice still restores the original. Lines that fail after a `-c` or `-i` are returned, not errors.
pub fn load(
    socket: &mut AuditSocket,
    lines: &[Located],
    state: &Path,
) -> Result<Vec<(Located, NetlinkError)>, LoadError> {
    let standing = Configuration::read(socket)?;
    if standing.status.is_locked() {
        return Err(LoadError::Locked);
    }
    let found = read_state(state)?.map_or_else(|| standing.clone(), |earlier| earlier.found);
    write_state(state, &Loaded { found: found.clone(), left: standing.clone() })?;
    let mut refused = Vec::new();
    let mut go_on = false;
    for line in lines {
        go_on |= line.what == Line::ContinueOnError;
        let Err(source) = apply(socket, &line.what) else { continue };
        if go_on {
            refused.push((line.clone(), source));
            continue;
        }
        standing.restore(socket)?;
        let Located { file, line, text, .. } = line.clone();
        return Err(LoadError::Line { file, line, text, source });
    }
    let left = Configuration::read(socket)?;
    write_state(state, &Loaded { found, left })?;
    Ok(refused)
}

/// Puts back what the first load found, and forgets it.
pub fn restore(socket: &mut AuditSocket, state: &Path) -> Result<(), LoadError> {
    let path = state.display().to_string();
    let loaded = read_state(state)?.ok_or_else(|| LoadError::NothingFound { path: path.clone() })?;
    if socket.status()?.is_locked() {
        return Err(LoadError::Locked);
    }
    loaded.found.restore(socket)?;
    std::fs::remove_file(state).map_err(|source| LoadError::State { path, source })
}

/// What an earlier load wrote down; `None` if there was none.
pub fn read_state(path: &Path) -> Result<Option<Loaded>, LoadError> {
    let error = |source| LoadError::State { path: path.display().to_string(), source };
    match file::read_bounded(path, MAX_STATE_BYTES) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| error(source.into())),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(error(source)),
    }
}

fn write_state(path: &Path, loaded: &Loaded) -> Result<(), LoadError> {
    let error = |source| LoadError::State { path: path.display().to_string(), source };
    let bytes = serde_json::to_vec(loaded).map_err(|source| error(source.into()))?;
    file::write_atomic(path, &bytes, 0o600).map_err(error)
}

fn apply(socket: &mut AuditSocket, line: &Line) -> Result<(), NetlinkError> {
    match line {
        Line::Add(rule) => match socket.add_rule(&encoded(rule)) {
            // Loaded already, by us or by another: what was asked for stands.
            Err(NetlinkError::Refused { errno: Errno::EEXIST, .. }) => Ok(()),
            outcome => outcome,
        },
        Line::Delete(rule) => socket.delete_rule(&encoded(rule)),
        Line::DeleteAll => socket.rules()?.iter().try_for_each(|rule| socket.delete_rule(rule)),
        Line::Set(change) => socket.change(*change, "change an audit setting"),
        Line::ContinueOnError => Ok(()),
    }
}

/// A parsed rule has at most 64 tests, so it always encodes; an empty request would be refused by the kernel.
fn encoded(rule: &Rule) -> Vec<u8> {
    rule.encode().unwrap_or_default()
}
