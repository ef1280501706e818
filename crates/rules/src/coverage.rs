//! Which rules can never match, and why: nothing is silently blind.

use std::collections::BTreeSet;
use std::sync::Arc;

use rsigma_parser::{Detection, DetectionItem, Detections, Modifier, SigmaRule};
use serde::Serialize;

use crate::logsource::Family;
use crate::rule::{Rule, RuleId};
use crate::view;

/// What a rule asks for that no event has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// The rule.
    pub rule: RuleId,
    /// What is missing.
    pub missing: Missing,
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// No source of AuditFlow's feeds this log source.
    Source(Box<str>),
    /// The log source's events never have these fields.
    Fields(Vec<Box<str>>),
    /// This selection wants several whole values at once of one value (`'|all'` over keywords): the engine compares
    /// each keyword with a whole value, and all of them with the same one.
    OneValue(Box<str>),
}

/// What `rule` asks for in vain.
pub(crate) fn gap(sigma: &SigmaRule, rule: &Arc<Rule>) -> Option<Gap> {
    let missing = match rule.family {
        None => Missing::Source(rule.logsource.clone()),
        Some(family) => {
            let never = unserved(&sigma.detection, family);
            if never.is_empty() {
                let contradictory =
                    sigma.detection.named.iter().filter(|(_, detection)| contradicts(detection));
                Missing::OneValue(contradictory.map(|(selection, _)| selection.as_str()).min()?.into())
            } else {
                Missing::Fields(never)
            }
        }
    };
    Some(Gap { rule: rule.id.clone(), missing })
}

/// The fields of a rule or an exception that events of the family never have.
pub(crate) fn unserved(detections: &Detections, family: Family) -> Vec<Box<str>> {
    let mut fields = BTreeSet::new();
    detections.named.values().for_each(|detection| collect(detection, &mut fields));
    fields.into_iter().filter(|field| !served(family, field)).map(Into::into).collect()
}

/// Whether events of the family may have the field. Records' own fields are not listed anywhere: any may be there.
fn served(family: Family, field: &str) -> bool {
    match family {
        Family::Auditd | Family::KubernetesAudit => true,
        Family::ProcessCreation | Family::FileEvent | Family::NetworkConnection => {
            view::meant_fields(family).contains(&field)
        }
        Family::AuditFlow => {
            view::NORMALISED_FIELDS.contains(&field)
                || ["details.", "kubernetes_audit."].iter().any(|prefix| field.starts_with(prefix))
        }
        _ => field == "message",
    }
}

/// Whether a detection has keywords that no one value can satisfy.
fn contradicts(detection: &Detection) -> bool {
    const PARTIAL: [Modifier; 4] =
        [Modifier::Contains, Modifier::StartsWith, Modifier::EndsWith, Modifier::Re];
    let whole = |item: &DetectionItem| {
        let unnamed = item.field.name.as_deref().unwrap_or_default().is_empty();
        unnamed
            && item.field.has_modifier(Modifier::All)
            && !PARTIAL.iter().any(|m| item.field.has_modifier(*m))
    };
    match detection {
        Detection::AllOf(items) => {
            items.iter().any(|item| whole(item) && item.values.windows(2).any(|v| v[0] != v[1]))
        }
        Detection::And(parts) => parts.iter().any(contradicts),
        _ => false,
    }
}

fn collect<'d>(detection: &'d Detection, fields: &mut BTreeSet<&'d str>) {
    match detection {
        Detection::AllOf(items) => fields.extend(items.iter().filter_map(|item| item.field.name.as_deref())),
        Detection::AnyOf(parts) | Detection::And(parts) => {
            for part in parts {
                collect(part, fields);
            }
        }
        Detection::ArrayMatch { field, .. } => {
            fields.insert(field);
        }
        Detection::Conditional { named, .. } => named.values().for_each(|part| collect(part, fields)),
        Detection::Keywords(_) => {}
    }
}
