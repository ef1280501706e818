//! What works and what doesn't, by named part.
//!
//! Every part of a program (a source, the spool, a connection) holds a [`Part`] and says on it how it is; `/healthz`,
//! `/readyz`, `status` and the watchdog read it. A part that is down never ends the process: it says what it takes
//! away and heals.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartState {
    /// Switched off by configuration, or not applicable on this machine.
    Off,
    /// Works.
    Up,
    /// Works in part.
    Degraded,
    /// Doesn't work; it is being retried.
    Down,
}

/// One part, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartReport {
    /// How it is.
    pub state: PartState,
    /// Since when it has been so (RFC 3339, UTC).
    pub since: String,
    /// Why it isn't up, or why it is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went wrong last, also after it healed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// What the program can't do meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features_lost: Vec<String>,
}

/// Where the program is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Its parts are being built.
    Starting,
    /// It does its work.
    Running,
    /// It drains.
    Stopping,
}

/// The whole program, as `/healthz` and `status` report it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// The worst state of any part; `up` if there is none.
    pub status: PartState,
    /// Whether it takes work, which is what `/readyz` answers.
    pub ready: bool,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its parts by name.
    pub parts: BTreeMap<String, PartReport>,
}

type ReadyWhen = dyn Fn(&BTreeMap<String, PartReport>) -> bool + Send + Sync;

/// The registry of parts. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Mutex<Inner>>,
    ready_when: Arc<ReadyWhen>,
    begin: Instant,
}

struct Inner {
    phase: Phase,
    parts: BTreeMap<String, PartReport>,
    /// By name: when it beat last, and how long it may be silent.
    beats: BTreeMap<String, (Duration, Duration)>,
}

impl Health {
    /// A registry whose program is ready, once running, when `ready_when` says so of its parts. It is called with the
    /// registry locked, so it must look at nothing but its argument.
    pub fn new(ready_when: impl Fn(&BTreeMap<String, PartReport>) -> bool + Send + Sync + 'static) -> Self {
        let inner = Inner { phase: Phase::Starting, parts: BTreeMap::new(), beats: BTreeMap::new() };
        Self { inner: Arc::new(Mutex::new(inner)), ready_when: Arc::new(ready_when), begin: Instant::now() }
    }

    /// A registry whose program is ready, once running, when none of the `required` parts is down or missing.
    pub fn requiring(required: &'static [&'static str]) -> Self {
        Self::new(move |parts| {
            required.iter().all(|name| parts.get(*name).is_some_and(|part| part.state != PartState::Down))
        })
    }

    /// Adds a part, down until it says otherwise. The same name twice is the same part.
    pub fn part(&self, name: &str) -> Part {
        self.lock().parts.entry(name.to_owned()).or_insert_with(|| PartReport {
            state: PartState::Down,
            since: rfc3339(SystemTime::now()),
            reason: Some("not started yet".to_owned()),
            last_error: None,
            features_lost: Vec::new(),
        });
        Part { health: self.clone(), name: name.into() }
    }

    /// Adds a heartbeat: unless it beats at least every `silence`, the program counts as hung.
    pub fn heartbeat(&self, name: &str, silence: Duration) -> Heartbeat {
        let heartbeat = Heartbeat { health: self.clone(), name: name.into(), silence };
        heartbeat.beat();
        heartbeat
    }

    /// Says where the program is in its life.
    pub fn enter(&self, phase: Phase) {
        self.lock().phase = phase;
    }

    /// Whether no heartbeat is overdue; the watchdog and `/healthz` ask this.
    pub fn alive(&self) -> bool {
        self.overdue(self.begin.elapsed()).is_empty()
    }

    /// Whether the program takes work.
    pub fn ready(&self) -> bool {
        let inner = self.lock();
        inner.phase == Phase::Running && (self.ready_when)(&inner.parts)
    }

    /// Everything at this moment. An overdue heartbeat shows as a part that is down.
    pub fn report(&self) -> HealthReport {
        let overdue = self.overdue(self.begin.elapsed());
        let inner = self.lock();
        let mut parts = inner.parts.clone();
        for (name, silent) in overdue {
            let reason = format!("no sign of life for {} s", silent.as_secs());
            let since = SystemTime::now().checked_sub(silent).unwrap_or(SystemTime::UNIX_EPOCH);
            let report = PartReport {
                state: PartState::Down,
                since: rfc3339(since),
                reason: Some(reason.clone()),
                last_error: Some(reason),
                features_lost: Vec::new(),
            };
            parts.insert(name, report);
        }
        let worst = parts.values().map(|part| part.state).max().unwrap_or(PartState::Up);
        HealthReport {
            status: worst.max(PartState::Up),
            ready: inner.phase == Phase::Running && (self.ready_when)(&parts),
            phase: inner.phase,
            parts,
        }
    }

    /// Names and silences of the heartbeats that are overdue at `now` after the beginning.
    fn overdue(&self, now: Duration) -> Vec<(String, Duration)> {
        let inner = self.lock();
        let silences =
            inner.beats.iter().map(|(name, (last, allowed))| (name, now.saturating_sub(*last), allowed));
        silences
            .filter(|(_, silent, allowed)| silent > *allowed)
            .map(|(name, silent, _)| (name.clone(), silent))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A report is written in one assignment: what a panicking thread left behind is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part's own handle to say how it is. Cheap to clone. A change of state or reason is logged here, so keep out of
/// the reason what changes with every attempt.
#[derive(Clone)]
pub struct Part {
    health: Health,
    name: Arc<str>,
}

impl Part {
    /// It works.
    pub fn up(&self) {
        self.set(PartState::Up, None, &[]);
    }

    /// It works in part: why, and what the program can't do meanwhile.
    pub fn degraded(&self, error: &str, features_lost: &[&str]) {
        self.set(PartState::Degraded, Some(error), features_lost);
    }

    /// It doesn't work and is being retried: why, and what the program can't do meanwhile.
    pub fn down(&self, error: &str, features_lost: &[&str]) {
        self.set(PartState::Down, Some(error), features_lost);
    }

    /// It isn't wanted or not applicable here: why.
    pub fn off(&self, reason: &str) {
        self.set(PartState::Off, Some(reason), &[]);
    }

    /// Its state as last said.
    pub fn state(&self) -> PartState {
        self.health.lock().parts.get(&*self.name).map_or(PartState::Down, |part| part.state)
    }

    fn set(&self, state: PartState, reason: Option<&str>, lost: &[&str]) {
        let changed = {
            let mut inner = self.health.lock();
            let old = inner.parts.get(&*self.name);
            let new = next_report(old, state, reason, lost, SystemTime::now());
            let changed = old.is_none_or(|old| (old.state, old.reason.as_deref()) != (state, reason));
            inner.parts.insert(self.name.to_string(), new);
            changed
        };
        if !changed {
            return;
        }
        let (part, reason, lost) = (&*self.name, reason.unwrap_or_default(), lost.join(", "));
        match state {
            PartState::Up => tracing::info!(part.name = part, "{part} is up"),
            PartState::Off => tracing::info!(part.name = part, "{part} is off: {reason}"),
            PartState::Degraded => {
                tracing::warn!(part.name = part, part.lost = lost, "{part} is degraded: {reason}");
            }
            PartState::Down => tracing::warn!(part.name = part, part.lost = lost, "{part} is down: {reason}"),
        }
    }
}

/// A loop's sign of life.
#[derive(Clone)]
pub struct Heartbeat {
    health: Health,
    name: Arc<str>,
    silence: Duration,
}

impl Heartbeat {
    /// Alive now.
    pub fn beat(&self) {
        let now = self.health.begin.elapsed();
        self.health.lock().beats.insert(self.name.to_string(), (now, self.silence));
    }

    /// The loop ended as it should: nothing is expected of it any more.
    pub fn end(self) {
        self.health.lock().beats.remove(&*self.name);
    }
}

/// What a part's report becomes: `since` moves only with the state, the last error outlives healing.
fn next_report(
    old: Option<&PartReport>,
    state: PartState,
    reason: Option<&str>,
    lost: &[&str],
    now: SystemTime,
) -> PartReport {
    let since = match old {
        Some(old) if old.state == state => old.since.clone(),
        _ => rfc3339(now),
    };
    let failed = matches!(state, PartState::Degraded | PartState::Down);
    PartReport {
        state,
        since,
        reason: reason.map(str::to_owned),
        last_error: if failed {
            reason.map(str::to_owned)
        } else {
            old.and_then(|old| old.last_error.clone())
        },
        features_lost: lost.iter().map(|feature| (*feature).to_owned()).collect(),
    }
}

fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn since_moves_with_the_state_and_the_last_error_stays_after_healing() {
        let down = next_report(None, PartState::Down, Some("refused"), &["delivery"], at(10));
        assert_eq!(down.since, "1970-01-01T00:00:10.000Z");
        let still = next_report(Some(&down), PartState::Down, Some("timed out"), &["delivery"], at(20));
        assert_eq!(
            (still.since.as_str(), still.last_error.as_deref()),
            (down.since.as_str(), Some("timed out"))
        );
        let up = next_report(Some(&still), PartState::Up, None, &[], at(30));
        assert_eq!(
            (up.since.as_str(), up.reason, up.last_error.as_deref()),
            ("1970-01-01T00:00:30.000Z", None, Some("timed out"))
        );
        assert!(up.features_lost.is_empty());
    }

    #[test]
    fn ready_only_while_running_with_its_required_parts() {
        let health = Health::requiring(&["spool"]);
        let (spool, collector) = (health.part("spool"), health.part("collector"));
        spool.up();
        assert!(!health.ready(), "starting");
        health.enter(Phase::Running);
        assert!(health.ready(), "a part that isn't required may be down");
        collector.down("refused", &["delivery"]);
        assert!(health.ready());
        spool.down("disk full", &["everything"]);
        assert!(!health.ready());
        spool.degraded("slow", &[]);
        assert!(health.ready());
        health.enter(Phase::Stopping);
        assert!(!health.ready());
    }

    #[test]
    fn status_is_the_worst_state_and_off_is_no_fault() {
        let health = Health::requiring(&[]);
        assert_eq!(health.report().status, PartState::Up);
        health.part("kubernetes_audit").off("not a server node");
        assert_eq!(health.report().status, PartState::Up);
        let spool = health.part("spool");
        assert_eq!(health.report().status, PartState::Down, "a part is down until it says otherwise");
        spool.up();
        health.part("collector").degraded("slow", &["urgent delivery"]);
        let report = health.report();
        assert_eq!(report.status, PartState::Degraded);
        assert_eq!(report.parts["collector"].features_lost, ["urgent delivery"]);
    }

    #[test]
    fn silent_heartbeat_makes_the_program_count_as_hung_until_it_ends() {
        let health = Health::requiring(&[]);
        let heart = health.heartbeat("pipeline", Duration::from_secs(10));
        assert!(health.alive());
        let later = health.begin.elapsed() + Duration::from_secs(11);
        assert_eq!(health.overdue(later).len(), 1);
        heart.end();
        assert!(health.overdue(later).is_empty());
        health.heartbeat("pipeline", Duration::ZERO);
        while health.alive() {
            std::thread::yield_now();
        }
        assert_eq!(health.report().parts["pipeline"].state, PartState::Down);
    }

    #[test]
    fn report_reads_back_from_its_json() {
        let health = Health::requiring(&[]);
        health.part("collector").down("refused", &["delivery"]);
        let report = health.report();
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["parts"]["collector"]["state"], "down");
        assert_eq!(serde_json::from_value::<HealthReport>(json).unwrap(), report);
    }
}
