//! Correlation rules as AuditFlow understands them: what is parsed here is evaluated by the collector.
//!
//! Only conditions that a late event cannot make untrue are accepted, because alerts are a function of the events and
//! not of when they arrived: `gt` and `gte`. Sliding windows only, inclusive of `timespan`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rsigma_parser::{ConditionOperator, CorrelationCondition, CorrelationRule, CorrelationType, WindowMode};

use crate::rule::{Rule, RuleId};

/// What is counted within the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorrelationKind {
    /// Matches.
    EventCount,
    /// Different values of the fields, as a tuple where there are several.
    ValueCount {
        /// The fields, by the names that the base rules' views have.
        fields: Vec<Box<str>>,
    },
    /// Different base rules that matched, in any order.
    Temporal,
    /// Base rules that matched in the order in which they are listed.
    TemporalOrdered,
}

/// A `group-by` name that stands for differently named fields of different base rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The name used in `group-by`.
    pub name: Box<str>,
    /// The field that it stands for, per base rule.
    pub fields: Vec<(RuleId, Box<str>)>,
}

/// A correlation rule, its references resolved.
#[derive(Clone, Debug)]
pub struct Correlation {
    /// Title, level, tags and so on.
    pub rule: Arc<Rule>,
    /// What is counted.
    pub kind: CorrelationKind,
    /// The base rules in the order listed: detection rules, or correlations whose match points it counts.
    pub rules: Vec<RuleId>,
    /// Fields that must be equal for matches to belong together; empty: all belong together.
    pub group_by: Vec<Box<str>>,
    /// Aliases among `group_by`.
    pub aliases: Vec<Alias>,
    /// The window: two matches exactly this far apart are within it.
    pub timespan: Duration,
    /// The count that satisfies the condition (`gt: n` is held as n + 1).
    pub at_least: u64,
    /// Whether the base rules also raise alerts of their own.
    pub generate: bool,
}

/// One match of a base rule within a window, for [`Correlation::holds`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'m> {
    /// The base rule.
    pub base: &'m RuleId,
    /// The counted value, for value counts.
    pub value: Option<&'m str>,
}

impl Correlation {
    /// The id that alerts derive from.
    pub fn id(&self) -> &RuleId {
        &self.rule.id
    }

    /// The field that a `group-by` name means in the events of base rule `base`.
    pub fn field<'c>(&'c self, name: &'c str, base: &RuleId) -> &'c str {
        self.aliases
            .iter()
            .find(|alias| &*alias.name == name)
            .and_then(|alias| alias.fields.iter().find(|(rule, _)| rule == base))
            .map_or(name, |(_, field)| field)
    }

    /// Whether the matches of one group within one window, in time order, satisfy the condition. Adding a match never
    /// makes it untrue.
    pub fn holds<'m>(&self, window: impl IntoIterator<Item = Member<'m>>) -> bool {
        let window = window.into_iter();
        match &self.kind {
            CorrelationKind::EventCount => window.count() as u64 >= self.at_least,
            CorrelationKind::ValueCount { .. } => {
                window.filter_map(|m| m.value).collect::<HashSet<_>>().len() as u64 >= self.at_least
            }
            CorrelationKind::Temporal => {
                window.map(|m| m.base).collect::<HashSet<_>>().len() as u64 >= self.at_least
            }
            CorrelationKind::TemporalOrdered => {
                let mut next = self.rules.iter();
                let mut wanted = next.next();
                for member in window {
                    if wanted == Some(member.base) {
                        wanted = next.next();
                    }
                }
                wanted.is_none()
            }
        }
    }
}

/// Takes over a parsed correlation, `resolve` turning a reference (id or name) into an id. `stated` tells whether the
/// document states a condition: without one, a temporal correlation wants all its rules (the parser's own default, any
/// one of them, is not what the specification says).
pub(crate) fn compile(
    parsed: &CorrelationRule,
    rule: Arc<Rule>,
    stated: bool,
    resolve: &dyn Fn(&str) -> Option<RuleId>,
) -> Result<Correlation, String> {
    let find = |reference: &String| {
        resolve(reference).ok_or_else(|| format!("refers to {reference}, which no loaded rule has as its id or name; add the rule, or disable this one"))
    };
    let rules = parsed.rules.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    if rules.is_empty() {
        return Err("correlates no rules; list them under correlation.rules".into());
    }
    if parsed.window != WindowMode::Sliding {
        return Err(format!("window {} is not supported; use a sliding window", parsed.window.as_str()));
    }
    if parsed.timespan.seconds == 0 {
        return Err("timespan is zero; give the window a length".into());
    }
    let aliases = parsed
        .aliases
        .iter()
        .map(|alias| {
            let mut fields = alias
                .mapping
                .iter()
                .map(|(r, field)| Ok((find(r)?, field.as_str().into())))
                .collect::<Result<Vec<_>, String>>()?;
            fields.sort();
            Ok(Alias { name: alias.alias.as_str().into(), fields })
        })
        .collect::<Result<Vec<_>, String>>()?;
    let (kind, at_least) = condition(parsed, stated, rules.len() as u64)?;
    Ok(Correlation {
        rule,
        kind,
        rules,
        group_by: parsed.group_by.iter().map(|field| field.as_str().into()).collect(),
        aliases,
        timespan: Duration::from_secs(parsed.timespan.seconds),
        at_least,
        generate: parsed.generate,
    })
}

fn condition(parsed: &CorrelationRule, stated: bool, rules: u64) -> Result<(CorrelationKind, u64), String> {
    let CorrelationCondition::Threshold { predicates, field, .. } = &parsed.condition else {
        return Err("a condition over rule names is not supported; use a temporal correlation of the rules that must all match".into());
    };
    let at_least = match predicates.as_slice() {
        [(ConditionOperator::Gte, n)] => *n,
        [(ConditionOperator::Gt, n)] => n.saturating_add(1),
        _ => {
            return Err("only one of gt and gte is supported: with lt, lte, eq or neq an event that arrives late would \
                        make an alert untrue that people were already told of; count the opposite, or rewrite it with gte"
                .into());
        }
    };
    if at_least == 0 {
        return Err("a count of at least 0 is always true; raise it".into());
    }
    let fields = || field.iter().flatten().map(|f| f.as_str().into()).collect::<Vec<Box<str>>>();
    match parsed.correlation_type {
        CorrelationType::EventCount => Ok((CorrelationKind::EventCount, at_least)),
        CorrelationType::ValueCount if field.is_some() => {
            Ok((CorrelationKind::ValueCount { fields: fields() }, at_least))
        }
        CorrelationType::ValueCount => {
            Err("value_count needs the field whose values it counts; add condition.field".into())
        }
        CorrelationType::Temporal if stated && at_least > rules => {
            Err(format!("wants {at_least} of {rules} rules; lower the count"))
        }
        CorrelationType::Temporal => Ok((CorrelationKind::Temporal, if stated { at_least } else { rules })),
        CorrelationType::TemporalOrdered if stated => {
            Err("temporal_ordered wants all its rules in order and takes no condition; remove it".into())
        }
        CorrelationType::TemporalOrdered => Ok((CorrelationKind::TemporalOrdered, rules)),
        other => Err(format!(
            "correlation type {} is not supported; use event_count, value_count, temporal or temporal_ordered",
            other.as_str()
        )),
    }
}

/// A cycle among correlations, if there is one: the id at which it was noticed.
pub(crate) fn cycle(correlations: &[Arc<Correlation>]) -> Option<RuleId> {
    fn visit<'c>(
        at: &'c Correlation,
        all: &'c [Arc<Correlation>],
        path: &mut Vec<&'c RuleId>,
        done: &mut HashSet<&'c RuleId>,
    ) -> Option<RuleId> {
        if path.contains(&at.id()) {
            return Some(at.id().clone());
        }
        if done.contains(at.id()) {
            return None;
        }
        path.push(at.id());
        for child in all.iter().filter(|child| at.rules.contains(child.id())) {
            if let Some(found) = visit(child, all, path, done) {
                return Some(found);
            }
        }
        path.pop();
        done.insert(at.id());
        None
    }
    let mut done = HashSet::new();
    correlations.iter().find_map(|correlation| visit(correlation, correlations, &mut Vec::new(), &mut done))
}
