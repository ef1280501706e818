//! Sigma filters: exceptions to rules, written in documents of their own.
//!
//! They are applied to the parsed rule before anything is compiled. The engine's own application is not used: it lets
//! `1 of selection_*` in a filter range over the rule's selections, refers to rules by id and title but not by name,
//! and takes a filter without rules for one that excepts everything from every rule.

use rsigma_parser::{
    ConditionExpr, FilterRule, FilterRuleTarget, LogSource, Quantifier, SelectorPattern, SigmaRule,
};

/// Checks what can be said about a filter before any rule is seen.
pub(crate) fn check(filter: &FilterRule) -> Result<(), String> {
    match &filter.rules {
        FilterRuleTarget::Specific(_) => {}
        FilterRuleTarget::Any if filter.logsource.is_some() => {}
        FilterRuleTarget::Any => {
            return Err("a filter for any rule needs a logsource; name its rules, or the source whose rules it is for".into());
        }
    }
    if filter.detection.conditions.len() != 1 {
        return Err("a filter has exactly one condition; join them with and, or".into());
    }
    if filter.detection.named.is_empty() {
        return Err("a filter needs a selection; add one".into());
    }
    Ok(())
}

/// Whether `filter` is an exception to `rule`.
pub(crate) fn concerns(filter: &FilterRule, rule: &SigmaRule) -> bool {
    let named = match &filter.rules {
        FilterRuleTarget::Any => true,
        FilterRuleTarget::Specific(rules) => rules.iter().any(|reference| {
            [rule.id.as_ref(), rule.name.as_ref(), Some(&rule.title)].contains(&Some(reference))
        }),
    };
    named && filter.logsource.as_ref().is_none_or(|source| within(source, &rule.logsource))
}

/// Joins the filter to the rule: every condition becomes `(condition) and (filter's condition)`. `number` tells the
/// selections of several filters apart.
pub(crate) fn apply(filter: &FilterRule, number: usize, rule: &mut SigmaRule) -> Result<(), String> {
    let prefix = format!("_filter{number}_");
    let own: Vec<&String> = sorted(filter.detection.named.keys());
    let host: Vec<String> = sorted(rule.detection.named.keys()).into_iter().cloned().collect();
    let condition = filter.detection.conditions.first().ok_or("a filter needs a condition; add one")?;
    let condition = resolve(condition, &own, &prefix)?;
    let host: Vec<&String> = host.iter().collect();
    for existing in &mut rule.detection.conditions {
        *existing = ConditionExpr::And(vec![resolve(existing, &host, "")?, condition.clone()]);
    }
    for (name, detection) in &filter.detection.named {
        rule.detection.named.insert(format!("{prefix}{name}"), detection.clone());
    }
    Ok(())
}

/// Whether every part that the filter's source names is the same in the rule's.
fn within(filter: &LogSource, rule: &LogSource) -> bool {
    let part = |filter: &Option<String>, rule: &Option<String>| match (filter, rule) {
        (None, _) => true,
        (Some(filter), Some(rule)) => filter.eq_ignore_ascii_case(rule),
        (Some(_), None) => false,
    };
    part(&filter.product, &rule.product)
        && part(&filter.category, &rule.category)
        && part(&filter.service, &rule.service)
}

/// Rewrites a condition so that it names its selections one by one: neither side's patterns may range over the other's.
fn resolve(condition: &ConditionExpr, names: &[&String], prefix: &str) -> Result<ConditionExpr, String> {
    let all = |parts: &[ConditionExpr]| {
        parts.iter().map(|part| resolve(part, names, prefix)).collect::<Result<Vec<_>, _>>()
    };
    Ok(match condition {
        ConditionExpr::And(parts) => ConditionExpr::And(all(parts)?),
        ConditionExpr::Or(parts) => ConditionExpr::Or(all(parts)?),
        ConditionExpr::Not(part) => ConditionExpr::Not(Box::new(resolve(part, names, prefix)?)),
        ConditionExpr::Identifier(name) => ConditionExpr::Identifier(format!("{prefix}{name}")),
        ConditionExpr::Selector { quantifier, pattern } => {
            let named: Vec<ConditionExpr> = names
                .iter()
                .filter(|name| pattern.matches_detection_name(name))
                .map(|name| ConditionExpr::Identifier(format!("{prefix}{name}")))
                .collect();
            match quantifier {
                Quantifier::Any => ConditionExpr::Or(named),
                Quantifier::All => ConditionExpr::And(named),
                // `_filter…` names are hidden from `them`, so this one may stay as it is on the rule's side.
                Quantifier::Count(_) if prefix.is_empty() && *pattern == SelectorPattern::Them => {
                    condition.clone()
                }
                Quantifier::Count(n) => at_least(&named, usize::try_from(*n).unwrap_or(usize::MAX))?,
            }
        }
    })
}

/// `n of` as an expression: every combination, which is bounded because rules have few selections.
fn at_least(named: &[ConditionExpr], n: usize) -> Result<ConditionExpr, String> {
    const MAX_SELECTIONS: usize = 12;
    if named.len() > MAX_SELECTIONS {
        return Err(format!(
            "a filter cannot be joined to “{n} of” more than {MAX_SELECTIONS} selections; write it out"
        ));
    }
    let combinations =
        (0_u32..1 << named.len()).filter(|chosen| chosen.count_ones() as usize == n).map(|chosen| {
            ConditionExpr::And(
                named
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| chosen & (1 << i) != 0)
                    .map(|(_, e)| e.clone())
                    .collect(),
            )
        });
    Ok(ConditionExpr::Or(combinations.collect()))
}

fn sorted<'k>(keys: impl Iterator<Item = &'k String>) -> Vec<&'k String> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys
}
