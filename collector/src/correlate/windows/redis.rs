//! Windows in Redis: of each group that is being looked at, the last few timespans.
//!
//! Who computes a group and finds no window of its revision reads the store and leaves what it read; who then writes
//! findings adds them. One script does all of it, so that a window is always of one revision, and one key holds all of
//! it, so that eviction and expiry take the whole. A window is bounded in members and bytes and expires.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use auditflow_service::metrics::{Metrics, MetricsError};
use prometheus::{IntCounter, IntCounterVec};
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script};

use super::server::Server;
use super::{Asked, Stored, Windows};
use crate::store::{DetectionPoint, GroupKey, Regrouped, Result, Revision, Store};

/// What every key begins with. The number is the layout's: what another layout wrote is not read.
const PREFIX: &str = "auditflow:window:1:";
/// How many timespans a window reaches back: one computation reads four, and five behind a long episode's settled part.
const REACH: i64 = 8;
/// Members at most: beyond that the oldest go, and are read from the store.
const MEMBERS: usize = 1_000;
/// Bytes of a member at most: with a larger one there is no window.
const MEMBER_BYTES: usize = 4_096;
/// How long a window that nothing is added to outlives its reach, milliseconds.
const SPARE: i64 = 60_000;

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("window.lua")));

/// Windows in Redis, in front of a store.
pub struct InRedis {
    store: Stored,
    server: Arc<Server>,
    /// How long detections are kept at least, milliseconds.
    retention: i64,
    metrics: WindowMetrics,
}

/// What reading windows counts.
#[derive(Clone)]
pub struct WindowMetrics {
    reads: IntCounterVec,
    failures: IntCounter,
}

impl WindowMetrics {
    /// Registers them.
    pub fn register(metrics: &Metrics) -> std::result::Result<Self, MetricsError> {
        Ok(Self {
            reads: metrics.counter_vec(
                "auditflow_window_reads_total",
                "Windows of a correlated group that were read, by where: redis, or the store because it was not there.",
                &["from"],
            )?,
            failures: metrics.counter(
                "auditflow_window_failures_total",
                "Questions that Redis did not answer; the store answered them.",
            )?,
        })
    }
}

/// A revision of a window, and what it is to become.
struct Step<'a> {
    key: &'a GroupKey,
    /// None begins anew.
    before: Option<Revision>,
    after: Revision,
    /// From when on everything is there, when beginning anew.
    whole: i64,
    /// From when on it is kept.
    keep: i64,
    expires: i64,
    asked: (i64, i64),
    added: Vec<(i64, Vec<u8>)>,
}

impl InRedis {
    /// Nothing is connected yet; whoever runs the server does that.
    pub fn new(
        store: Arc<dyn Store>,
        server: Arc<Server>,
        retention: Duration,
        metrics: WindowMetrics,
    ) -> Self {
        let retention = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        Self { store: Stored(store), server, retention, metrics }
    }

    /// How far back a window reaches, milliseconds: detections that the store may have let expire are not in it.
    fn reach(&self, timespan: i64) -> i64 {
        timespan.saturating_mul(REACH).min(self.retention)
    }

    /// What Redis says; nothing if it has not got it, or does not answer.
    async fn run(&self, step: &Step<'_>) -> Option<Vec<Vec<u8>>> {
        let mut connection = self.server.connection()?;
        match step.run(&mut connection).await {
            Ok(members) => members,
            Err(error) => {
                self.metrics.failures.inc();
                self.server.failed(&error);
                None
            }
        }
    }

    async fn find(&self, asked: &Asked<'_>, revision: Revision, keep: i64) -> Option<Vec<DetectionPoint>> {
        let step =
            Step { asked: (asked.from, asked.to), ..Step::new(asked.key, Some(revision), revision, keep) };
        let members = self.run(&step).await?;
        // One that can't be read is none of ours: the store is asked.
        members.iter().map(|member| postcard::from_bytes(member).ok()).collect()
    }

    /// Leaves what the store had at `revision` or later, from `keep` on.
    async fn leave(&self, asked: &Asked<'_>, revision: Revision, keep: i64, points: &[DetectionPoint]) {
        let Some(mut added) = members(points) else { return };
        let mut whole = keep;
        if added.len() > MEMBERS {
            added.sort_unstable_by_key(|(time, _)| std::cmp::Reverse(*time));
            whole = added[MEMBERS].0 + 1;
            added.retain(|(time, _)| *time >= whole);
        }
        let expires = self.reach(asked.timespan) + SPARE;
        self.run(&Step { whole, expires, added, ..Step::new(asked.key, None, revision, keep) }).await;
    }
}

#[async_trait]
impl Windows for InRedis {
    async fn detections(&self, asked: Asked<'_>) -> Result<Vec<DetectionPoint>> {
        // By the collector's clock: an event from the future moves no window.
        let keep = now().saturating_sub(self.reach(asked.timespan));
        let revision = asked.revision.filter(|_| asked.from >= keep && self.server.connection().is_some());
        let Some(revision) = revision else {
            self.metrics.reads.with_label_values(&["store"]).inc();
            return self.store.detections(asked).await;
        };
        if let Some(points) = self.find(&asked, revision, keep).await {
            self.metrics.reads.with_label_values(&["redis"]).inc();
            return Ok(points);
        }
        self.metrics.reads.with_label_values(&["store"]).inc();
        let all = Asked { from: keep, to: auditflow_event::Timestamp::MAX.as_millis(), ..asked };
        let mut points = self.store.detections(all).await?;
        self.leave(&asked, revision, keep, &points).await;
        points.retain(|point| (asked.from..=asked.to).contains(&point.time.as_millis()));
        Ok(points)
    }

    async fn changed(&self, regrouped: &Regrouped, timespan: i64) {
        let Regrouped { key, before, after, added, removed } = regrouped;
        let Some(before) = *before else { return };
        let reach = self.reach(timespan);
        let keep = now().saturating_sub(reach);
        // A step to a revision from one that no window has: whatever there is goes.
        let (before, added) = match members(added).filter(|_| !removed) {
            Some(added) => (before, added),
            None => (Revision::nil(), Vec::new()),
        };
        self.run(&Step { expires: reach + SPARE, added, ..Step::new(key, Some(before), *after, keep) }).await;
    }
}

impl<'a> Step<'a> {
    fn new(key: &'a GroupKey, before: Option<Revision>, after: Revision, keep: i64) -> Self {
        Self { key, before, after, whole: keep, keep, expires: SPARE, asked: (0, 0), added: Vec::new() }
    }

    async fn run(&self, connection: &mut MultiplexedConnection) -> RedisResult<Option<Vec<Vec<u8>>>> {
        let mut script = SCRIPT.prepare_invoke();
        script.key(name(self.key));
        let before = self.before.map(|before| before.simple().to_string()).unwrap_or_default();
        script.arg(before).arg(self.after.simple().to_string());
        script.arg(self.whole).arg(self.keep).arg(MEMBERS).arg(self.expires);
        script.arg(self.asked.0).arg(self.asked.1);
        for (time, member) in &self.added {
            script.arg(time).arg(&member[..]);
        }
        script.invoke_async(connection).await
    }
}

/// The key of a group's window: of one length, whatever the group is called.
fn name(key: &GroupKey) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.correlation.len() as u64).to_le_bytes());
    hasher.update(key.correlation.as_bytes()).update(key.group.as_bytes());
    format!("{PREFIX}{}", &hasher.finalize().to_hex()[..32])
}

/// Time and bytes of each; nothing if one is too large.
fn members(points: &[DetectionPoint]) -> Option<Vec<(i64, Vec<u8>)>> {
    let member = |point: &DetectionPoint| {
        let bytes = postcard::to_stdvec(point).ok().filter(|bytes| bytes.len() <= MEMBER_BYTES)?;
        Some((point.time.as_millis(), bytes))
    };
    points.iter().map(member).collect()
}

fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Asks Redis all that windows ask of it, on a key of its own: whether it answers, and lets this user do it.
pub(super) async fn probe(connection: &mut MultiplexedConnection) -> RedisResult<()> {
    let key = GroupKey { correlation: String::new(), group: "probe".to_owned() };
    let (now, revision) = (now(), Revision::new_v4());
    let added = vec![(now, b"probe".to_vec())];
    Step { added, ..Step::new(&key, None, revision, now) }.run(connection).await?;
    // Two processes may probe at once: that the other's came in between is an answer too.
    Step { asked: (now, now), ..Step::new(&key, Some(revision), revision, now) }.run(connection).await?;
    Ok(())
}
