//! Judging batches: hinted ones at once, swept ones when there is room.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use auditflow_event::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::open::OpenBatch;
use super::{Analyser, HeldHint, claim, now};
use crate::detect::{BatchFacts, Judged, Rules, judge};
use crate::store::{BatchFindings, BatchKey, Change, NewAlert, Pass, Recorded, Result, StoreError};

/// How often the store is asked for batches that no hint told of.
const SWEEP: Duration = Duration::from_secs(5);
/// How soon it is asked when another process has stored something: many such are told at a time.
const SOON: Duration = Duration::from_millis(20);
/// Batches per sweep: as many as are judged well within a [`claim`].
const SWEPT: usize = 64;
/// How often the rules in force are compared with those in use while nothing else happens.
const GLANCE: Duration = Duration::from_millis(500);
/// How often expired detections are removed.
const EXPIRE: Duration = Duration::from_hours(1);
/// Failures after which a batch is not tried again before a restart; it stays unanalysed, and health says so.
const ATTEMPTS: u32 = 3;

/// What the judging loop remembers.
#[derive(Default)]
struct Desk {
    jobs: JoinSet<(BatchKey, Result<(), JobError>)>,
    under_way: HashSet<BatchKey>,
    backlog: VecDeque<BatchKey>,
    /// The last sweep found as many as it asked for: there are more.
    more: bool,
    /// Another process has stored something since the last sweep.
    told: bool,
    failures: HashMap<BatchKey, u32>,
}

impl Desk {
    /// Whether a change means that the next sweep is to come soon. Being told once more puts it off no further.
    fn hears(&mut self, change: &Result<Change, RecvError>) -> bool {
        let stored_elsewhere = matches!(
            change,
            Ok(Change::BatchStored { here: false, .. } | Change::Missed) | Err(RecvError::Lagged(_))
        );
        stored_elsewhere && !std::mem::replace(&mut self.told, true)
    }
}

pub(super) enum JobError {
    Store(StoreError),
    /// The judging code panicked: a defect. The batch waits for a release without it.
    Panicked,
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Analyser {
    /// Judges until stopped.
    pub(super) async fn judge_until(
        self: Arc<Self>,
        mut hints: mpsc::Receiver<HeldHint>,
        stop: CancellationToken,
    ) {
        let workers = std::thread::available_parallelism().map_or(2, usize::from).min(8);
        let mut desk = Desk::default();
        let [mut sweep, mut glance, mut expire] = [SWEEP, GLANCE, EXPIRE].map(tokio::time::interval);
        for timer in [&mut sweep, &mut glance, &mut expire] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut changes = self.store.changes();
        let mut hinting = true;
        loop {
            let changing = self.is_changing();
            if changing && desk.jobs.is_empty() {
                self.follow_rules().await;
            }
            let room = !changing && desk.jobs.len() < workers;
            if room && desk.more && desk.backlog.is_empty() {
                self.sweep(&mut desk).await;
            }
            // What has just happened comes before what is being caught up with.
            if room && let Ok(hint) = hints.try_recv() {
                self.begin(&mut desk, hint.batch.key, Some(hint));
                continue;
            }
            if room && let Some(key) = desk.backlog.pop_front() {
                self.begin(&mut desk, key, None);
                continue;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = desk.jobs.join_next() => self.done(&mut desk, done),
                hint = hints.recv(), if room && hinting => match hint {
                    Some(hint) => self.begin(&mut desk, hint.batch.key, Some(hint)),
                    None => hinting = false,
                },
                change = changes.recv() => if desk.hears(&change) {
                    sweep.reset_after(SOON);
                },
                _ = sweep.tick(), if room => self.sweep(&mut desk).await,
                _ = expire.tick() => self.expire().await,
                _ = glance.tick() => {}
            }
        }
        while let Some(done) = desk.jobs.join_next().await {
            self.done(&mut desk, done);
        }
    }

    fn begin(self: &Arc<Self>, desk: &mut Desk, key: BatchKey, hint: Option<HeldHint>) {
        if !desk.under_way.insert(key) {
            return;
        }
        let analyser = Arc::clone(self);
        let rules = self.rules_in_use();
        desk.jobs.spawn(async move { (key, analyser.job(&rules, key, hint).await) });
    }

    fn done(&self, desk: &mut Desk, done: Result<(BatchKey, Result<(), JobError>), tokio::task::JoinError>) {
        let Ok((key, outcome)) = done else { return };
        desk.under_way.remove(&key);
        match outcome {
            Ok(()) => {
                if desk.failures.remove(&key).is_none() && desk.failures.is_empty() {
                    self.health.up();
                }
            }
            Err(JobError::Store(error)) => {
                self.report(&error, "a batch could not be judged and is tried again");
            }
            Err(JobError::Panicked) => {
                let failures = desk.failures.entry(key).or_default();
                *failures += 1;
                self.metrics.failed.inc();
                let BatchKey { node, epoch, seq } = key;
                self.health.degraded(
                    &format!(
                        "batch {} of node {node}, epoch {epoch}, makes analysis fail: report it",
                        seq.get()
                    ),
                    &["its events raise no alerts"],
                );
            }
        }
    }

    async fn sweep(&self, desk: &mut Desk) {
        desk.told = false;
        let now = now();
        match self.store.take_unanalysed(now, claim(now), SWEPT).await {
            Ok(keys) => {
                desk.more = keys.len() == SWEPT;
                let due = |key: &BatchKey| {
                    !desk.under_way.contains(key)
                        && desk.failures.get(key).is_none_or(|failures| *failures < ATTEMPTS)
                };
                desk.backlog.extend(keys.into_iter().filter(due));
            }
            Err(error) => {
                desk.more = false;
                self.report(&error, "looking for unanalysed batches");
            }
        }
    }

    async fn expire(&self) {
        let before = self.horizon(&self.rules_in_use(), now());
        if let Err(error) = self.store.expire_detections(before).await {
            self.report(&error, "removing expired detections");
        }
    }

    pub(super) async fn job(
        &self,
        rules: &Arc<Rules>,
        key: BatchKey,
        hint: Option<HeldHint>,
    ) -> Result<(), JobError> {
        let (opened, _room) = match hint {
            Some(HeldHint { batch, room }) => (batch, Some(room)),
            None => match self.opener.open(key).await? {
                Some((opened, _)) => (opened, None),
                None => return Ok(()),
            },
        };
        self.judge_batch(rules, &opened).await
    }

    /// Judges a batch by `rules` and records what was found, unless somebody else has.
    async fn judge_batch(&self, rules: &Arc<Rules>, opened: &OpenBatch) -> Result<(), JobError> {
        let mut facts = self.facts(rules, opened, now()).await?;
        let mut pass = Pass::First;
        loop {
            let (recorded, judged, alerts) = self.judge_once(rules, opened, &facts, pass).await?;
            if !recorded.fresh {
                return Ok(());
            }
            if pass == Pass::First {
                self.count(opened, &judged, &recorded, &alerts);
            }
            if !judged.detections.is_empty() || pass == Pass::Rewrite {
                self.marked.notify_one();
            }
            // The clock's step may have become known in between; from now on the store itself asks for a rewrite.
            let shift = self.store.clock_shift(facts.key.node, opened.boot).await?;
            if shift == facts.shift {
                return Ok(());
            }
            facts.shift = shift;
            pass = Pass::Rewrite;
        }
    }

    async fn judge_once(
        &self,
        rules: &Arc<Rules>,
        opened: &OpenBatch,
        facts: &BatchFacts,
        pass: Pass,
    ) -> Result<(Recorded, Judged, Vec<(uuid::Uuid, String, Timestamp)>), JobError> {
        let (judging, facts_of, opened_of) = (Arc::clone(rules), facts.clone(), opened.clone());
        let work = tokio::task::spawn_blocking(move || match &opened_of.matched {
            Some(matched) if matched.is_by(&judging) => matched.judge(&facts_of, &opened_of.events),
            _ => judge(&judging, &facts_of, &opened_of.events, None),
        });
        let mut judged = work.await.map_err(|_| JobError::Panicked)?;
        let alerts: Vec<NewAlert> = std::mem::take(&mut judged.alerts);
        let named =
            alerts.iter().map(|alert| (alert.alert_id, alert.rule.id.clone(), alert.timestamp)).collect();
        let findings = BatchFindings {
            rule_set: rules.set().version().as_str().to_owned(),
            pass,
            detections: judged.detections.clone(),
            alerts,
            dirty: Vec::new(),
        };
        let recorded = self.record(rules, opened.key, findings).await?;
        Ok((recorded, judged, named))
    }

    /// Writes findings, and hands on how they changed groups.
    pub(super) async fn record(
        &self,
        rules: &Rules,
        key: BatchKey,
        findings: BatchFindings,
    ) -> Result<Recorded> {
        let recorded = self.store.record_detections(key, findings).await?;
        let changes = recorded.regrouped.iter().filter_map(|regrouped| {
            let definition = rules.definitions().by_key(&regrouped.key.correlation)?;
            Some(self.windows.changed(regrouped, definition.timespan))
        });
        futures_util::future::join_all(changes).await;
        Ok(recorded)
    }

    /// What is known of a batch besides its events.
    pub(super) async fn facts(
        &self,
        rules: &Rules,
        opened: &OpenBatch,
        now: Timestamp,
    ) -> Result<BatchFacts> {
        let node = opened.key.node;
        Ok(BatchFacts {
            key: opened.key,
            boot: opened.boot,
            host: Arc::clone(&opened.host),
            shift: self.store.clock_shift(node, opened.boot).await?,
            horizon: self.horizon(rules, now),
        })
    }

    fn count(
        &self,
        opened: &OpenBatch,
        judged: &Judged,
        recorded: &Recorded,
        alerts: &[(uuid::Uuid, String, Timestamp)],
    ) {
        let metrics = &self.metrics;
        metrics.batches.inc();
        metrics.events.inc_by(opened.events.len() as u64);
        metrics.too_late.inc_by(judged.too_late);
        for (rule, matches) in &judged.matched {
            metrics.matches.with_label_values(&[rule.as_str()]).inc_by(*matches);
        }
        for ((correlation, field), matches) in &judged.missing {
            metrics.missing.with_label_values(&[correlation.as_str(), field]).inc_by(*matches);
        }
        for (rule, beyond) in &recorded.beyond {
            metrics.suppressed.with_label_values(&[rule]).inc_by(*beyond);
        }
        let now = now();
        for (_, rule, time) in alerts.iter().filter(|(id, ..)| recorded.opened.contains(id)) {
            metrics.opened(rule, *time, Some(opened.received_at), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use auditflow_event::NodeId;

    use super::*;

    #[test]
    fn what_another_process_stored_is_looked_for_soon_and_once_and_one_s_own_is_not() {
        let stored = |here| Ok(Change::BatchStored { node: NodeId::from_bytes([1; 16]), events: 1, here });
        let mut desk = Desk::default();
        for nothing in [stored(true), Err(RecvError::Closed)] {
            assert!(!desk.hears(&nothing), "{nothing:?}");
        }
        for change in [stored(false), Ok(Change::Missed), Err(RecvError::Lagged(9))] {
            assert!(desk.hears(&change), "{change:?}");
            assert!(!desk.hears(&stored(false)), "the sweep is on its way");
            desk.told = false;
        }
    }
}
