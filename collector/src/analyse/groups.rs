//! Computing marked groups anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use auditflow_event::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::open::OpenBatch;
use super::{Analyser, now};
use crate::alert::copy;
use crate::alert::episode::{self, alert_id, copy_in, to_copy};
use crate::alert::facts::Facts;
use crate::alert::lineage::{self, Claim, Plan, Standing};
use crate::correlate::definition::Definition;
use crate::correlate::found::{FoundEpisode, Prefix};
use crate::correlate::group::{Recomputed, Task, recompute};
use crate::correlate::row;
use crate::store::{AlertChanges, AlertRow, BatchKey, NewAlert, Result};

/// Groups computed at once: their writes share syncs.
pub(super) const WORKERS: usize = 4;
/// How long a worker may take before another takes the group over.
const LOCK: Duration = Duration::from_mins(1);
/// How often marked groups are looked for unasked: another process may have marked them, or left them.
const LOOK: Duration = Duration::from_secs(1);

impl Analyser {
    /// Computes marked groups until stopped.
    pub(super) async fn recompute_until(self: Arc<Self>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            let worked = self.recompute_next(now()).await;
            match &worked {
                Err(error) => self.report(error, "a group could not be computed and is tried again"),
                Ok(_) if failing => self.health.up(),
                Ok(_) => {}
            }
            failing = worked.is_err();
            if stop.is_cancelled() {
                return;
            }
            if matches!(worked, Ok(true)) {
                // Where one is, there may be more: another worker looks too.
                self.marked.notify_one();
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.marked.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Takes one marked group and computes it. False: none is marked.
    pub(super) async fn recompute_next(&self, now: Timestamp) -> Result<bool> {
        if !self.has_rules() {
            return Ok(false);
        }
        let lock = i64::try_from(LOCK.as_micros()).unwrap_or(i64::MAX);
        let until = Timestamp::from_micros(now.as_micros().saturating_add(lock));
        let Some(dirty) = self.store.take_dirty(now, until).await? else { return Ok(false) };
        let Some((rules, definition)) = self.rules_of(&dirty.key.correlation) else {
            // The correlation changed or went; what its new form needs was primed.
            self.store.finish_group(dirty, AlertChanges::default()).await?;
            return Ok(true);
        };
        let rule = definition.id().as_str();
        let known = self.store.alerts_of_group(rule, &dirty.key.group).await?;
        let prefix = |row: &AlertRow| episode::prefix(row, &definition, self.bounds.ends);
        let prefixes: Vec<Prefix> = known.iter().filter_map(prefix).collect();
        let task = Task {
            definition: &definition,
            definitions: rules.definitions(),
            group: &dirty.key,
            revision: dirty.revision,
            touched: (dirty.from.as_millis(), dirty.to.as_millis()),
            prefixes: &prefixes,
            bounds: self.bounds,
        };
        let found = recompute(&*self.windows, &task).await?;
        self.metrics.groups.with_label_values::<&str>(&[]).observe(found.detections as f64);
        // Marked before this one is cleared: after a crash in between both are marked.
        for (above, (from, to)) in &found.above {
            self.store.mark_dirty(above.clone(), row::start_of(*from), row::end_of(*to)).await?;
        }
        let horizon = self.horizon(&rules, now).as_millis();
        let standing: Vec<Standing> =
            known.iter().filter_map(|row| episode::standing(row, &definition, horizon)).collect();
        let plan = plan(&definition, &dirty.key.group, &standing, &found);
        let group = dirty.key.group.clone();
        let mut opening = Opening {
            analyser: self,
            definition: &definition,
            group: &group,
            known: &known,
            opened: HashMap::new(),
        };
        let mut alerts = Vec::with_capacity(plan.stand.len());
        let mut received = HashMap::with_capacity(plan.stand.len());
        for found in plan.stand.iter().filter_map(|index| found.episodes.get(*index)) {
            let alert = opening.alert(found).await?;
            received.insert(alert.alert_id, (alert.timestamp, opening.received(found.trigger.batch())));
            alerts.push(alert);
        }
        let changes =
            AlertChanges { standing: alerts, superseded: plan.superseded, withdrawn: plan.withdrawn };
        let finished = self.store.finish_group(dirty, changes).await?;
        let now = super::now();
        for (happened, received) in finished.opened.iter().filter_map(|id| received.get(id)) {
            self.metrics.opened(rule, *happened, *received, now);
        }
        Ok(true)
    }
}

/// What becomes of the group's alerts. A correlation that only feeds others raises none.
fn plan(definition: &Definition, group: &str, standing: &[Standing], found: &Recomputed) -> Plan {
    let Some(zone) = found.zone.filter(|_| definition.correlation.rule.alerts) else {
        return Plan::default();
    };
    let claims: Vec<Claim<'_>> = found
        .episodes
        .iter()
        .map(|found| Claim {
            id: alert_id(definition, group, found),
            begin: found.begin,
            last: found.last,
            members: &found.members,
        })
        .collect();
    lineage::plan(standing, &claims, zone)
}

/// Makes alerts, opening what batches that takes.
struct Opening<'a> {
    analyser: &'a Analyser,
    definition: &'a Definition,
    group: &'a str,
    known: &'a [AlertRow],
    opened: HashMap<BatchKey, Option<OpenBatch>>,
}

impl Opening<'_> {
    /// The alert of an episode. What an alert of the same id or one of its group has already is used again.
    async fn alert(&mut self, found: &FoundEpisode) -> Result<NewAlert> {
        let id = alert_id(self.definition, self.group, found);
        let before = self.known.iter().map(|row| &row.alert).find(|alert| alert.alert_id == id);
        let mut events = Vec::new();
        for at in to_copy(found) {
            let kept = self.known.iter().find_map(|row| copy_in(&row.alert, at.event_id)).cloned();
            let copy: Option<Value> = match kept {
                Some(copy) => Some(copy),
                None => self.copy(at.batch(), at.index).await?,
            };
            events.extend(copy);
        }
        let facts = match before {
            Some(alert) => Facts::from_alert(alert),
            None => self.facts(found.trigger.batch(), found.trigger.index).await?,
        };
        Ok(episode::build(self.definition, self.group, found, facts, events))
    }

    fn received(&self, key: BatchKey) -> Option<Timestamp> {
        Some(self.opened.get(&key)?.as_ref()?.received_at)
    }

    async fn copy(&mut self, key: BatchKey, index: u32) -> Result<Option<Value>> {
        let Some(opened) = self.open(key).await?.cloned() else { return Ok(None) };
        Ok(opened.events.get(index as usize).map(|event| copy::of(event, &opened.host)))
    }

    /// Who, what and where; only the node if the event is gone.
    async fn facts(&mut self, key: BatchKey, index: u32) -> Result<Facts> {
        let opened = self.open(key).await?.cloned();
        let found =
            opened.as_ref().and_then(|opened| Some((opened.events.get(index as usize)?, &opened.host)));
        if let Some((event, host)) = found {
            return Ok(Facts::of(event, host));
        }
        let name = opened.and_then(|opened| opened.host.name.as_deref().map(str::to_owned));
        let server_hostname = match name {
            Some(name) => name,
            None => self.analyser.store.node(key.node).await?.map(|row| row.hostname).unwrap_or_default(),
        };
        Ok(Facts { server_hostname, ..Facts::default() })
    }

    async fn open(&mut self, key: BatchKey) -> Result<Option<&OpenBatch>> {
        if !self.opened.contains_key(&key) {
            let opened = self.analyser.opener.open(key).await?.map(|(opened, _)| opened);
            self.opened.insert(key, opened);
        }
        Ok(self.opened.get(&key).and_then(Option::as_ref))
    }
}
