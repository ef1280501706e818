//! Bringing a new rule set into use.
//!
//! A correlation that is new or counts otherwise than before starts with what the stored batches of its last window
//! hold: its base rules are run over them again. Alerts that its earlier form raised stay as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use auditflow_event::Timestamp;
use serde_json::{Map, Value};

use super::{Analyser, now};
use crate::correlate::definition::Definition;
use crate::correlate::row;
use crate::detect::{Rules, judge};
use crate::store::{BatchFindings, Pass, Result, StoreError};

/// Where the keys of the correlations that were in use are kept over a restart.
const SETTING: &str = "analysis.correlations";
/// Batches listed at a time.
const ROUND: usize = 256;

impl Analyser {
    /// Whether the rules in force are not those in use.
    pub(super) fn is_changing(&self) -> bool {
        let in_use = self.in_use.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        in_use.front().is_none_or(|rules| !Arc::ptr_eq(rules, &self.rules.get()))
    }

    /// Takes the rules in force into use. No batch is being judged meanwhile. If the store fails, the rules come into
    /// use all the same and priming is done again with the next ones, or after a restart.
    pub(super) async fn follow_rules(&self) {
        let rules = self.rules.get();
        if let Err(error) = self.prime(&rules, now()).await {
            self.report(&error, "correlations that are new could not be run over what is stored");
        }
        self.put_in_use(rules);
        self.marked.notify_one();
    }

    async fn prime(&self, rules: &Arc<Rules>, now: Timestamp) -> Result<()> {
        let known = self.store.setting(SETTING).await?.unwrap_or_default();
        let is_known = |definition: &&Arc<Definition>| {
            known.get(definition.id().as_str()).and_then(Value::as_str) == Some(&definition.key)
        };
        let fresh: BTreeMap<String, i64> = rules
            .definitions()
            .iter()
            .filter(|definition| !is_known(definition))
            .map(|definition| (definition.key.clone(), now.as_millis().saturating_sub(definition.timespan)))
            .collect();
        if let Some(from) = fresh.values().min() {
            self.prime_from(rules, Arc::new(fresh.clone()), row::start_of(*from), now).await?;
        }
        let keys: Map<String, Value> = rules
            .definitions()
            .iter()
            .map(|definition| (definition.id().as_str().to_owned(), definition.key.clone().into()))
            .collect();
        if known != Value::Object(keys.clone()) {
            self.store.set_setting(SETTING, Value::Object(keys), now).await?;
        }
        Ok(())
    }

    /// Runs the base rules of `fresh` (key → from when, in milliseconds) over the stored batches since `from`.
    async fn prime_from(
        &self,
        rules: &Arc<Rules>,
        fresh: Arc<BTreeMap<String, i64>>,
        from: Timestamp,
        now: Timestamp,
    ) -> Result<()> {
        let (mut after, mut batches) = (None, 0_u64);
        loop {
            let round = self.store.batches_between(from, Timestamp::MAX, after, ROUND).await?;
            let Some((last, _)) = round.last() else { break };
            after = Some(*last);
            for (_, key) in round {
                let Some((opened, analysed)) = self.opener.open(key).await? else { continue };
                // What is not judged yet will be, by these rules.
                if !analysed || opened.events.is_empty() {
                    continue;
                }
                let facts = self.facts(rules, &opened, now).await?;
                let (rules_of, fresh, events) =
                    (Arc::clone(rules), Arc::clone(&fresh), Arc::clone(&opened.events));
                let work = tokio::task::spawn_blocking(move || {
                    let wanted = |definition: &Definition, time: Timestamp| {
                        fresh.get(&definition.key).is_some_and(|from| time.as_millis() >= *from)
                    };
                    judge(&rules_of, &facts, &events, Some(&wanted))
                });
                let Ok(judged) = work.await else { continue };
                if judged.detections.is_empty() {
                    continue;
                }
                batches += 1;
                self.record_primed(rules, key, judged.detections).await?;
            }
        }
        if batches > 0 {
            tracing::info!(
                correlations = fresh.len(),
                batches,
                "new correlations were run over stored batches"
            );
        }
        Ok(())
    }

    async fn record_primed(
        &self,
        rules: &Rules,
        key: crate::store::BatchKey,
        detections: Vec<crate::store::DetectionRow>,
    ) -> Result<()> {
        let rule_set = rules.set().version().as_str().to_owned();
        let findings =
            BatchFindings { rule_set, pass: Pass::Prime, detections, alerts: Vec::new(), dirty: Vec::new() };
        // Ingest may keep the writer busy; priming is not urgent.
        loop {
            match self.record(rules, key, findings.clone()).await {
                Err(StoreError::Busy) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                other => return other.map(drop),
            }
        }
    }
}
