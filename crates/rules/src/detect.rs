//! Which rules an event matches.
//!
//! Fed by `load`, which compiles the engines; feeds the collector's detections and, through `prefilter`, the agent.
//! One engine per family of log sources: keyword rules of a service never run on executions. The engines are
//! stateless; nothing here depends on earlier events.

use std::collections::HashSet;
use std::sync::Arc;

use auditflow_event::{Event, HostFacts, Meaning};
use rsigma_eval::{Engine, EvaluationResult, MatchDetailLevel};
use rsigma_parser::SigmaRule;
use serde::Serialize;

use crate::logsource::{Families, Family};
use crate::rule::{Rule, RuleId};
use crate::specialise::{specialise, types};
use crate::view::{self, View};

/// One rule that one view of an event matched.
#[derive(Clone, Debug)]
pub struct Detection {
    /// The rule.
    pub rule: Arc<Rule>,
    /// The kind of view.
    pub family: Family,
    /// Which of the event's views of that kind: for `linux/auditd` the index of the record, otherwise 0.
    pub view: u16,
    /// The values that made it match, for “why it fired”.
    pub matched: Vec<MatchedField>,
}

impl Detection {
    /// The rule's id.
    pub fn id(&self) -> &RuleId {
        &self.rule.id
    }

    /// Whether it raises an alert by itself, rather than only feeding correlations.
    pub fn alerts(&self) -> bool {
        self.rule.alerts
    }
}

/// A field and its value that made a rule match.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MatchedField {
    /// The field as the rule names it; `keyword` for a keyword.
    pub field: Box<str>,
    /// The event's value, at most [`MatchedField::MAX_BYTES`] of a text.
    pub value: serde_json::Value,
    /// The selection of the rule that it satisfied.
    pub selection: Box<str>,
}

impl MatchedField {
    /// The longest text kept as a value, in bytes.
    pub const MAX_BYTES: usize = 2048;
}

/// Compiled rules of all families. Rules are known by their number in the order of adding.
pub(crate) struct Engines {
    /// By family. For `linux/auditd` the rules for record types that no rule names.
    families: Vec<Option<Engine>>,
    /// For `linux/auditd`, by record type.
    records: Vec<(Box<str>, Engine)>,
    wanted: Families,
}

impl Engines {
    /// Compiles the rules; gives back the number and reason of each that cannot be.
    pub(crate) fn compile<'r>(
        rules: impl Iterator<Item = (usize, Family, &'r SigmaRule)>,
    ) -> (Self, Vec<(usize, String)>) {
        let mut by_family: Vec<Vec<(usize, SigmaRule)>> = vec![Vec::new(); Family::ALL.len()];
        let mut wanted = Families::default();
        for (number, family, rule) in rules {
            wanted.insert(family);
            by_family[family.index()].push((number, bare(rule, number)));
        }
        let mut errors = Vec::new();
        let records = per_record_type(&mut by_family[Family::Auditd.index()], &mut errors);
        let families =
            by_family.iter().map(|rules| (!rules.is_empty()).then(|| engine(rules, &mut errors))).collect();
        errors.sort();
        errors.dedup();
        (Self { families, records, wanted }, errors)
    }

    /// The families that any rule is for.
    pub(crate) fn families(&self) -> Families {
        self.wanted
    }

    /// How many rules are compiled.
    pub(crate) fn len(&self) -> usize {
        let engines = self.families.iter().flatten().chain(self.records.iter().map(|(_, engine)| engine));
        engines.flat_map(Engine::rules).filter_map(|rule| rule.id.as_deref()).collect::<HashSet<_>>().len()
    }

    /// The rules that a view matches, by number.
    pub(crate) fn evaluate(
        &self,
        family: Family,
        view: &View<'_>,
        matched: &mut dyn FnMut(usize, EvaluationResult),
    ) {
        let own = view.record_type().filter(|_| family == Family::Auditd);
        let own = own.and_then(|own| self.records.iter().find(|(kind, _)| kind.eq_ignore_ascii_case(&own)));
        let engine = own.map(|(_, engine)| engine).or(self.families[family.index()].as_ref());
        for result in engine.map(|engine| engine.evaluate(view)).unwrap_or_default() {
            if let Some(number) = result.header.rule_id.as_deref().and_then(|id| id.parse().ok()) {
                matched(number, result);
            }
        }
    }

    /// Calls `matched` with the family, the view's index, the rule's number and the engine's account of it, for every
    /// rule that `event` matches.
    pub(crate) fn detect(
        &self,
        event: &Event,
        meaning: Option<&Meaning<'_>>,
        host: Option<&HostFacts>,
        matched: &mut dyn FnMut(Family, u16, usize, EvaluationResult),
    ) {
        view::visit(event, meaning, host, self.wanted, &mut |family, index, view| {
            self.evaluate(family, view, &mut |number, result| matched(family, index, number, result));
        });
    }
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engines({} rules)", self.len())
    }
}

/// Engines for the record types that rules name; what is left in `rules` is for all other types.
fn per_record_type(
    rules: &mut Vec<(usize, SigmaRule)>,
    errors: &mut Vec<(usize, String)>,
) -> Vec<(Box<str>, Engine)> {
    let left_for = |kind: Option<&str>| {
        let left = rules.iter().filter_map(|(number, rule)| Some((*number, specialise(rule, kind)?)));
        left.collect::<Vec<_>>()
    };
    let mut others = left_for(None);
    let mut placed: HashSet<usize> = others.iter().map(|(number, _)| *number).collect();
    let mut engines = Vec::new();
    for kind in types(rules.iter().map(|(_, rule)| rule)) {
        let left = left_for(Some(&kind));
        placed.extend(left.iter().map(|(number, _)| *number));
        engines.push((kind.as_str().into(), engine(&left, errors)));
    }
    // A rule that contradicts itself matches nowhere, but it is compiled like any other, so that its errors show.
    others.extend(rules.iter().filter(|(number, _)| !placed.contains(number)).cloned());
    *rules = others;
    engines
}

fn engine(rules: &[(usize, SigmaRule)], errors: &mut Vec<(usize, String)>) -> Engine {
    let mut engine = Engine::new();
    engine.set_match_detail(MatchDetailLevel::Summary);
    let failed = engine.add_rules(rules.iter().map(|(_, rule)| rule));
    errors.extend(failed.into_iter().map(|(index, error)| (rules[index].0, error.to_string())));
    engine
}

/// The rule without what a match would only copy, its number as its id.
fn bare(rule: &SigmaRule, number: usize) -> SigmaRule {
    SigmaRule {
        title: String::new(),
        id: Some(number.to_string()),
        logsource: rule.logsource.clone(),
        detection: rule.detection.clone(),
        sigma_version: rule.sigma_version,
        name: None,
        related: Vec::new(),
        taxonomy: None,
        status: None,
        description: None,
        license: None,
        author: None,
        references: Vec::new(),
        date: None,
        modified: None,
        fields: Vec::new(),
        falsepositives: Vec::new(),
        level: None,
        tags: Vec::new(),
        scope: Vec::new(),
        custom_attributes: std::collections::HashMap::default(),
    }
}

/// The engine's account of a match in our words, bounded.
pub(crate) fn matched_fields(result: EvaluationResult) -> Vec<MatchedField> {
    let rsigma_eval::ResultBody::Detection(body) = result.body else { return Vec::new() };
    let mut fields: Vec<MatchedField> = body
        .matched_fields
        .into_iter()
        .map(|found| MatchedField {
            field: found.field.into(),
            value: bounded(found.value),
            selection: found.selection.unwrap_or_default().into(),
        })
        .collect();
    // The engine goes through selections in no fixed order; people and tests want one.
    fields.sort_by(|a, b| (&a.selection, &a.field).cmp(&(&b.selection, &b.field)));
    fields
}

fn bounded(value: serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::String(mut text) if text.len() > MatchedField::MAX_BYTES => {
            text.truncate(text.floor_char_boundary(MatchedField::MAX_BYTES));
            serde_json::Value::String(text)
        }
        serde_json::Value::Array(mut values) => {
            values.truncate(32);
            serde_json::Value::Array(values.into_iter().map(bounded).collect())
        }
        other => other,
    }
}
