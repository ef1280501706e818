//! Writes an exception: a Sigma filter document that excepts given field values from one rule.

use rsigma_parser::{Modifier, parse_field_spec};
use yaml_serde::{Mapping, Value};

use crate::rule::Rule;

/// Why no exception could be written.
#[derive(Debug, thiserror::Error)]
pub enum ExcludeError {
    /// No field was given: the filter would except everything.
    #[error("no field given; name at least one as Field=value")]
    NoField,
    /// A field is not of the form `Field=value` or `Field|modifier=value`.
    #[error(
        "{0} is not Field=value; write for instance Image=/usr/bin/backup or CommandLine|contains=--nightly"
    )]
    NotAField(String),
    /// Filters apply to detection rules only.
    #[error("{0} is a correlation; exclude from the rules that it counts")]
    Correlation(String),
    /// The document could not be written as YAML.
    #[error("could not write the filter: {0}")]
    Yaml(#[from] yaml_serde::Error),
}

/// A filter document (YAML, one document) that excepts from `rule` the events in which all the given fields have the
/// given values. Each of `fields` is `Field=value`, or `Field|modifier=value` with any of Sigma's modifiers; without
/// one the value is literal, wildcards included. `reason` becomes the description.
///
/// ```yaml
/// title: Exclude Image=/usr/bin/backup from Shadow File Read
/// id: 0f3c…
/// filter:
///   rules: [the rule's id]
///   selection: { Image: /usr/bin/backup }
///   condition: not selection
/// ```
pub fn exclusion(rule: &Rule, fields: &[String], reason: &str) -> Result<String, ExcludeError> {
    if fields.is_empty() {
        return Err(ExcludeError::NoField);
    }
    if rule.logsource.is_empty() {
        return Err(ExcludeError::Correlation(rule.id.to_string()));
    }
    let mut selection = Mapping::new();
    for field in fields {
        let (key, value) = parse_field(field)?;
        selection.insert(Value::String(key), Value::String(value));
    }
    let mut filter = Mapping::new();
    filter.insert("rules".into(), Value::Sequence(vec![rule.id.as_str().into()]));
    filter.insert("selection".into(), Value::Mapping(selection));
    filter.insert("condition".into(), "not selection".into());
    let mut document = Mapping::new();
    let title = format!("Exclude {} from {}", fields.join(", "), rule.title);
    document.insert("id".into(), id(&rule.id, fields).into());
    document.insert("title".into(), title.into());
    if !reason.is_empty() {
        document.insert("description".into(), reason.into());
    }
    document.insert("filter".into(), Value::Mapping(filter));
    Ok(yaml_serde::to_string(&Value::Mapping(document))?)
}

fn parse_field(field: &str) -> Result<(String, String), ExcludeError> {
    let wrong = || ExcludeError::NotAField(field.to_owned());
    let (key, value) = field.split_once('=').ok_or_else(wrong)?;
    let spec = parse_field_spec(key).map_err(|_| wrong())?;
    if spec.name.as_deref().unwrap_or_default().is_empty() {
        return Err(wrong());
    }
    let pattern =
        spec.modifiers.iter().any(|m| matches!(m, Modifier::Re | Modifier::Cidr | Modifier::Expand));
    Ok((key.to_owned(), if pattern { value.to_owned() } else { literal(value) }))
}

/// Escapes what Sigma would read as a wildcard.
fn literal(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '*' | '?' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A UUID that is the same for the same exception, so that writing it twice makes one.
fn id(rule: &crate::RuleId, fields: &[String]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in std::iter::once(rule.as_str()).chain(fields.iter().map(String::as_str)) {
        hasher.update(part.as_bytes()).update(&[0]);
    }
    let hex = hasher.finalize().to_hex();
    // Version 8 (RFC 9562): the digits are ours.
    format!("{}-{}-8{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}
