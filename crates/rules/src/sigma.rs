//! One document's text to one parsed Sigma document, with what the parser lets pass but cannot be meant.

use rsigma_parser::{ConditionExpr, Detections, Quantifier, SigmaDocument, is_unsupported, parse_sigma_yaml};

/// Parses one document. The error names the top-level key that is wrong, and says what is.
pub(crate) fn parse(text: &str) -> Result<SigmaDocument, (&'static str, String)> {
    let mut collection = parse_sigma_yaml(text).map_err(|error| ("title", error.to_string()))?;
    if let Some(error) = collection.errors.first() {
        return Err((key_of(error), error.clone()));
    }
    let document = match (collection.rules.pop(), collection.correlations.pop(), collection.filters.pop()) {
        (Some(rule), None, None) => SigmaDocument::Rule(Box::new(rule)),
        (None, Some(correlation), None) => SigmaDocument::Correlation(correlation),
        (None, None, Some(filter)) => SigmaDocument::Filter(filter),
        _ => return Err(("title", "is neither a rule nor a correlation nor a filter".into())),
    };
    let (version, detections) = match &document {
        SigmaDocument::Rule(rule) => (rule.sigma_version, Some(&rule.detection)),
        SigmaDocument::Correlation(correlation) => (correlation.sigma_version, None),
        SigmaDocument::Filter(filter) => (filter.sigma_version, Some(&filter.detection)),
    };
    if is_unsupported(version) {
        return Err((
            "sigma-version",
            "is a version of Sigma that this program does not know; update it".into(),
        ));
    }
    if let Some(detections) = detections {
        check(detections).map_err(|reason| ("detection", reason))?;
    }
    Ok(document)
}

/// Refuses what would never match, or always, without a word.
fn check(detections: &Detections) -> Result<(), String> {
    if detections.timeframe.is_some() {
        return Err("timeframe is no longer part of a detection; write a correlation rule".into());
    }
    detections.conditions.iter().try_for_each(|condition| check_condition(condition, detections))
}

fn check_condition(condition: &ConditionExpr, detections: &Detections) -> Result<(), String> {
    match condition {
        ConditionExpr::And(parts) | ConditionExpr::Or(parts) => {
            parts.iter().try_for_each(|part| check_condition(part, detections))
        }
        ConditionExpr::Not(part) => check_condition(part, detections),
        ConditionExpr::Identifier(name) if detections.named.contains_key(name) => Ok(()),
        ConditionExpr::Identifier(name) => {
            Err(format!("condition names {name}, which is not a selection; add it"))
        }
        ConditionExpr::Selector { quantifier, pattern } => {
            let there =
                detections.named.keys().filter(|name| pattern.matches_detection_name(name)).count() as u64;
            let wanted = if let Quantifier::Count(n) = quantifier { (*n).max(1) } else { 1 };
            if there >= wanted {
                return Ok(());
            }
            Err(format!(
                "condition wants {quantifier} of {pattern}, but {there} selections are called so; correct the pattern"
            ))
        }
    }
}

/// The parser's messages name no place; the key that each is about is found by its words.
fn key_of(error: &str) -> &'static str {
    const KEYS: [&str; 9] = [
        "logsource",
        "correlation",
        "filter",
        "related",
        "status",
        "level",
        "sigma-version",
        "condition",
        "detection",
    ];
    match KEYS.into_iter().find(|key| error.to_ascii_lowercase().contains(key)) {
        Some("condition") | None => "detection",
        Some(key) => key,
    }
}
