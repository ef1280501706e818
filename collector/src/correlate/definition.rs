//! A correlation rule made ready: its condition, its window, and the key under which its detections are kept.
//!
//! The key holds a digest of everything that decides what is counted. So a correlation that changes is another one to
//! the store: what it found before stays as it was under the old key, and it starts anew (primed) under the new one. A
//! change of words (title, description, level) changes nothing here.

use std::collections::HashMap;
use std::sync::Arc;

use auditflow_rules::{Correlation, CorrelationKind, RuleId, RuleSet};

use super::episodes::Condition;

/// One correlation of a rule set.
#[derive(Debug)]
pub struct Definition {
    /// As loaded.
    pub correlation: Arc<Correlation>,
    /// The key of its detections and groups: its id and a digest of what it counts.
    pub key: String,
    /// What must hold in a window.
    pub condition: Condition,
    /// The window, in milliseconds.
    pub timespan: i64,
    /// Its base rules, each once; a detection's rule is an index into this.
    bases: Vec<RuleId>,
    /// Those of its base rules that are correlations, with their keys.
    children: Vec<(RuleId, String)>,
}

/// All correlations of a rule set.
#[derive(Debug, Default)]
pub struct Definitions {
    by_id: HashMap<RuleId, Arc<Definition>>,
    by_key: HashMap<String, Arc<Definition>>,
}

impl Definitions {
    /// Those of `set`.
    pub fn of(set: &RuleSet) -> Self {
        let mut all = Self::default();
        for correlation in set.correlations() {
            all.add(correlation, set);
        }
        all
    }

    /// By the rule's id.
    pub fn by_id(&self, id: &RuleId) -> Option<&Arc<Definition>> {
        self.by_id.get(id)
    }

    /// By the key that detections are kept under.
    pub fn by_key(&self, key: &str) -> Option<&Arc<Definition>> {
        self.by_key.get(key)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Definition>> {
        self.by_id.values()
    }

    /// The longest window, in milliseconds.
    pub fn longest_timespan(&self) -> i64 {
        self.iter().map(|definition| definition.timespan).max().unwrap_or(0)
    }

    fn add(&mut self, correlation: &Arc<Correlation>, set: &RuleSet) -> Arc<Definition> {
        if let Some(known) = self.by_id.get(correlation.id()) {
            return Arc::clone(known);
        }
        // Loading refused circles, so this ends.
        let mut children = Vec::new();
        for base in &correlation.rules {
            if let Some(child) = set.correlations().iter().find(|child| child.id() == base) {
                children.push((base.clone(), self.add(child, set).key.clone()));
            }
        }
        let definition = Arc::new(Definition::new(Arc::clone(correlation), children));
        self.by_id.insert(correlation.id().clone(), Arc::clone(&definition));
        self.by_key.insert(definition.key.clone(), Arc::clone(&definition));
        definition
    }
}

impl Definition {
    fn new(correlation: Arc<Correlation>, children: Vec<(RuleId, String)>) -> Self {
        let mut bases: Vec<RuleId> = Vec::new();
        for rule in &correlation.rules {
            if !bases.contains(rule) {
                bases.push(rule.clone());
            }
        }
        let at_least = usize::try_from(correlation.at_least).unwrap_or(usize::MAX);
        let index = |rule: &RuleId| bases.iter().position(|base| base == rule).unwrap_or(0);
        let condition = match correlation.kind {
            CorrelationKind::EventCount => Condition::EventCount { at_least },
            CorrelationKind::ValueCount { .. } => Condition::ValueCount { at_least },
            CorrelationKind::Temporal => Condition::Temporal { rules: bases.len(), at_least },
            CorrelationKind::TemporalOrdered => {
                Condition::TemporalOrdered { sequence: correlation.rules.iter().map(index).collect() }
            }
        };
        let timespan = i64::try_from(correlation.timespan.as_millis()).unwrap_or(i64::MAX / 8);
        let key = format!("{}@{}", correlation.id(), digest(&correlation, &children));
        Self { correlation, key, condition, timespan: timespan.min(i64::MAX / 8), bases, children }
    }

    /// Its rule's id.
    pub fn id(&self) -> &RuleId {
        self.correlation.id()
    }

    /// Which of its base rules this is.
    pub fn base(&self, rule: &str) -> Option<usize> {
        self.bases.iter().position(|base| base.as_str() == rule)
    }

    /// The key of the child correlation that is this base rule; none for a detection rule.
    pub fn child(&self, rule: &str) -> Option<&str> {
        self.children.iter().find(|(base, _)| base.as_str() == rule).map(|(_, key)| key.as_str())
    }
}

/// Twelve hex digits over everything that decides what is counted; every part behind its length.
fn digest(correlation: &Correlation, children: &[(RuleId, String)]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut put = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    put(match &correlation.kind {
        CorrelationKind::EventCount => "event_count",
        CorrelationKind::ValueCount { .. } => "value_count",
        CorrelationKind::Temporal => "temporal",
        CorrelationKind::TemporalOrdered => "temporal_ordered",
    });
    put(&correlation.at_least.to_string());
    put(&correlation.timespan.as_millis().to_string());
    if let CorrelationKind::ValueCount { fields } = &correlation.kind {
        for field in fields {
            put(field);
        }
    }
    put("rules");
    for rule in &correlation.rules {
        put(rule.as_str());
    }
    put("group");
    for field in &correlation.group_by {
        put(field);
    }
    put("aliases");
    for alias in &correlation.aliases {
        put(&alias.name);
        for (rule, field) in &alias.fields {
            put(rule.as_str());
            put(field);
        }
    }
    put("children");
    for (_, key) in children {
        put(key);
    }
    hasher.finalize().to_hex()[..12].to_owned()
}
