//! The kernel's audit records, live from netlink.
//!
//! Fed by the kernel; feeds the pipeline. One thread of its own, because the kernel must never wait: it reads, assembles
//! and hands over with `try_send`, and counts what did not fit. It resumes at now, and says what it missed: its cursor is
//! the boot and the last serial, so that a restart in the same boot declares the gap as `not_running`.
//!
//! Losses are told by four witnesses: a read that says ENOBUFS, the socket's drop column, the kernel's `lost` counter
//! (which never moves on multicast), and serials that never came. Counters explain gaps; a gap is declared by itself
//! only where no counter moved.

mod attach;
mod drift;
mod drops;
mod gaps;
mod listening;
mod stream;

use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use auditflow_wire::BootId;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::attach::Attachment;
use self::stream::{Ended, Stream};
use super::{CoverageState, Cursor, Outlet, Reporter, SourceName, Station};
use crate::netlink::NetlinkError;

/// This source's name.
pub const NAME: SourceName = SourceName("kernel_audit");

/// As what drift of the kernel's rules is reported.
pub const RULES: SourceName = drift::NAME;

/// How long until attaching is tried again after it failed.
const RETRY: Duration = Duration::from_secs(30);

/// How to attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Register as the audit daemon where there is none and the configuration is not locked, else listen beside it.
    #[default]
    Auto,
    /// Register as the audit daemon.
    Unicast,
    /// Listen on the multicast group.
    Multicast,
}

/// What the source needs of the agent.
#[derive(Debug)]
pub struct Parts {
    /// Where events go.
    pub outlet: Outlet,
    /// Where coverage is told.
    pub reporter: Reporter,
    /// Where drift of the kernel's rules is told.
    pub rules_reporter: Reporter,
    /// What `load-rules` wrote down.
    pub rules_state: PathBuf,
    /// Whose events these are.
    pub station: Station,
    /// The boot that this is.
    pub boot: BootId,
    /// Where the last run ended, if there was one.
    pub cursor: Option<Cursor>,
    /// Ends the source.
    pub stop: CancellationToken,
}

/// Where a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    boot: [u8; 16],
    serial: u32,
}

/// Starts the thread.
pub fn spawn(mode: Mode, parts: Parts) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("kernel-audit".to_owned()).spawn(move || run(mode, &parts))
}

fn run(mode: Mode, parts: &Parts) {
    let mut stream = Stream::new(parts);
    while !parts.stop.is_cancelled() {
        match Attachment::make(mode) {
            Ok(attachment) => {
                let (state, detail) = described(&attachment);
                parts.reporter.report(state, detail);
                match stream.read(attachment) {
                    Ended::Stopped => break,
                    Ended::Lost(reason) => {
                        parts.reporter.report(CoverageState::Degraded, format!("{reason}; attaching again"));
                        continue;
                    }
                }
            }
            Err(error) => parts.reporter.report(CoverageState::Unavailable, remedy(&error)),
        }
        wait(&parts.stop, RETRY);
    }
    parts.reporter.report(CoverageState::Stopped, "the agent is stopping");
    parts.rules_reporter.report(CoverageState::Stopped, "the agent is stopping");
}

fn described(attachment: &Attachment) -> (CoverageState, String) {
    let how = format!("{} ({})", attachment.mode.as_str(), attachment.reason);
    if in_own_network_namespace() == Some(true) {
        let remedy = "this process is in a network namespace of its own, where the kernel delivers nothing: \
                      remove PrivateNetwork= from its unit";
        return (CoverageState::Unavailable, format!("{how}; {remedy}"));
    }
    (CoverageState::Active, how)
}

fn remedy(error: &NetlinkError) -> String {
    match error {
        NetlinkError::NoAudit => format!("{error}; journald and file integrity remain"),
        error => error_chain(error),
    }
}

fn error_chain(error: &NetlinkError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}; trying again every {} s", RETRY.as_secs())
}

/// Multicast reaches the first network namespace only. `None` where init's cannot be seen.
fn in_own_network_namespace() -> Option<bool> {
    let own = std::fs::read_link("/proc/self/ns/net").ok()?;
    let first = std::fs::read_link("/proc/1/ns/net").ok()?;
    Some(own != first)
}

/// Sleeps, but wakes when the source is to end.
fn wait(stop: &CancellationToken, time: Duration) {
    const STEP: Duration = Duration::from_millis(200);
    let mut left = time;
    while !left.is_zero() && !stop.is_cancelled() {
        thread::sleep(left.min(STEP));
        left = left.saturating_sub(STEP);
    }
}
