//! The audit log of the Kubernetes API server, one JSON record per line.
//!
//! K3s writes none unless it is told to, and only servers have an API server: both show as the source's state, with
//! the settings that are missing, never as silence. A line is an event of its own, so the cursor is a place alone.

use std::io;
use std::path::Path;
use std::time::Duration;

use auditflow_event::{Event, OriginError};
use auditflow_service::lifecycle::Tasks;
use auditflow_wire::{Loss, LossReason, LossSource};

use super::follow::{Interpret, Surroundings, follow};
use super::tail::{Line, Note, Place, Tail};
use super::{CoverageState, Cursor, Outlet, Output, Reporter, SourceName, Station, loss};
use crate::config::KubernetesRole;

pub use crate::config::KubernetesAuditConfig as Config;

/// Its name.
pub const NAME: SourceName = SourceName("kubernetes_audit");
/// What the API server itself allows for a request is 3 MiB; an event is bounded at 1 MiB and the rest is counted.
const MAX_LINE_BYTES: usize = auditflow_event::JsonText::MAX_BYTES;
/// What only a K3s server has.
const K3S_SERVER: &str = "/var/lib/rancher/k3s/server";

/// Starts reading, from `start` where there is one; where no API server runs, it only says so.
pub fn spawn(
    config: &Config,
    station: Station,
    outlet: Outlet,
    reporter: Reporter,
    start: Option<&Cursor>,
    tasks: &Tasks,
) {
    if !is_server(config.role, Path::new(K3S_SERVER)) {
        let reason =
            format!("no API server runs here (there is no {K3S_SERVER}); if one does, set role = \"server\"");
        reporter.report(CoverageState::NotApplicable, reason);
        return;
    }
    let place = start.and_then(|cursor| match serde_json::from_slice::<Place>(&cursor.0) {
        Ok(place) => Some(place),
        Err(error) => {
            tracing::warn!(source.name = %NAME, "its cursor cannot be read, so the log is read from its beginning: {error}");
            None
        }
    });
    let tail = Tail::new(&config.path, place, MAX_LINE_BYTES);
    let lines = Lines::new(config, station);
    let around = Surroundings { outlet, reporter, stopping: tasks.stopping() };
    tasks.spawn("kubernetes_audit", follow(tail, lines, around));
}

fn is_server(role: KubernetesRole, k3s_server: &Path) -> bool {
    match role {
        KubernetesRole::Auto => k3s_server.is_dir(),
        KubernetesRole::Server => true,
        KubernetesRole::Agent => false,
    }
}

/// What K3s has to be told for it to write the log to `path`, and to keep it bounded.
fn missing_settings(path: &str) -> String {
    let settings = [
        format!("audit-log-path={path}"),
        "audit-policy-file=/etc/rancher/k3s/audit-policy.yaml".to_owned(),
        "audit-log-maxsize=50".to_owned(),
        "audit-log-maxbackup=3".to_owned(),
    ];
    let arguments = settings.map(|setting| format!("\"{setting}\"")).join(", ");
    format!("kube-apiserver-arg: [{arguments}]")
}

/// Lines on their way to events.
struct Lines {
    path: String,
    station: Station,
    events: Vec<Event>,
    losses: Vec<Loss>,
}

impl Lines {
    fn new(config: &Config, station: Station) -> Self {
        Self { path: config.path.display().to_string(), station, events: Vec::new(), losses: Vec::new() }
    }

    fn lost(&mut self, reason: LossReason, count: Option<u64>) {
        self.losses.push(loss(reason, LossSource::KubernetesAudit, count));
        if self.losses.len() > 8 {
            self.losses = Loss::merge(self.losses.drain(..));
        }
    }
}

impl Interpret for Lines {
    fn line(&mut self, line: Line<'_>) {
        let event = std::str::from_utf8(line.bytes).map_err(|_| LossReason::Undecodable).and_then(|text| {
            Event::kubernetes(Some(self.station.node), text).map_err(|error| reason_of(&error))
        });
        match event {
            Ok(event) => self.events.push(event),
            Err(reason) => self.lost(reason, Some(1)),
        }
    }

    fn note(&mut self, note: Note) {
        match note {
            Note::Gap => self.lost(LossReason::RotatedAway, None),
            Note::LongLine => self.lost(LossReason::TooLarge, Some(1)),
            Note::CutLine => self.lost(LossReason::Undecodable, Some(1)),
        }
    }

    fn take(&mut self, tail: &mut Tail, _: Duration) -> Option<Output> {
        if self.events.is_empty() && self.losses.is_empty() {
            return None;
        }
        let place = tail.place(tail.position())?;
        let (events, losses) = (std::mem::take(&mut self.events), std::mem::take(&mut self.losses));
        Some(Output { source: NAME, events, losses, cursor: serde_json::to_vec(&place).ok().map(Cursor) })
    }

    fn unreadable(&self, error: &io::Error) -> (CoverageState, String) {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => format!(
                "K3s writes no audit log to {}: write an audit policy, add to /etc/rancher/k3s/config.yaml `{}`, and restart k3s",
                self.path,
                missing_settings(&self.path)
            ),
            io::ErrorKind::PermissionDenied => {
                format!("{} may not be read: give the agent CAP_DAC_READ_SEARCH", self.path)
            }
            _ => format!("{} cannot be read: {error}", self.path),
        };
        (CoverageState::Unavailable, reason)
    }

    fn readable(&self) -> String {
        format!("reads {}", self.path)
    }
}

fn reason_of(error: &OriginError) -> LossReason {
    match error {
        OriginError::TooLong { .. } | OriginError::TooDeep => LossReason::TooLarge,
        _ => LossReason::Undecodable,
    }
}

#[cfg(test)]
mod tests;
