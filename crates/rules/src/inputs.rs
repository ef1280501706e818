//! What a correlation needs of one match of a base rule: the values that group it and the value that it counts.

use auditflow_event::{Event, HostFacts};
use rsigma_eval::{Event as _, EventValue};
use serde::Serialize;

use crate::correlation::{Correlation, CorrelationKind};
use crate::detect::Detection;
use crate::load::RuleSet;
use crate::logsource::Families;
use crate::rule::RuleId;
use crate::view::{self, NormalisedView, View};

/// A match of a base rule as one correlation sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CorrelationInput {
    /// The correlation.
    pub correlation: RuleId,
    /// The base: the matched rule, or a correlation between the two (then this only counts at that one's match points).
    pub base: RuleId,
    /// The values of `group-by`, in its order.
    pub group: Vec<Box<str>>,
    /// The counted value, for value counts; several fields joined by U+001F.
    pub value: Option<Box<str>>,
}

/// A match that a correlation cannot use, because a field that it groups by or counts is not in the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingField {
    /// The correlation.
    pub correlation: RuleId,
    /// The base, as in [`CorrelationInput`].
    pub base: RuleId,
    /// The first missing field.
    pub field: Box<str>,
}

/// The longest group or counted value, in bytes; of a longer one the beginning and a digest of the whole are kept, so
/// that different values stay different.
pub const MAX_VALUE_BYTES: usize = 512;

impl RuleSet {
    /// What every correlation above the detected rule, near or far, needs of this detection. Empty for a rule that no
    /// correlation counts.
    ///
    /// A field is looked for in the view that matched, then among the names of the normalised event: so rules of
    /// different log sources can be grouped by `user.audit.name` or `host.id`.
    pub fn correlation_inputs(
        &self,
        event: &Event,
        host: Option<&HostFacts>,
        detection: &Detection,
    ) -> Vec<Result<CorrelationInput, MissingField>> {
        let above = self.above(detection.id());
        let mut inputs = Vec::new();
        if above.is_empty() {
            return inputs;
        }
        let meaning = event.meaning();
        let normalised = NormalisedView::new(event, host, &meaning);
        view::visit(event, Some(&meaning), host, Families::only(detection.family), &mut |_, index, view| {
            if index == detection.view {
                let read = |field: &str| read(view, Some(&normalised), field);
                inputs.extend(above.iter().map(|(correlation, base)| input(correlation, base, &read)));
            }
        });
        inputs
    }

    /// The correlations above a rule, each with the base by which it is reached.
    fn above(&self, rule: &RuleId) -> Vec<(&Correlation, RuleId)> {
        let mut above: Vec<(&Correlation, RuleId)> = Vec::new();
        let mut bases = vec![rule.clone()];
        while let Some(base) = bases.pop() {
            for correlation in self.parents(&base) {
                if !above.iter().any(|(known, by)| known.id() == correlation.id() && *by == base) {
                    above.push((correlation, base.clone()));
                    bases.push(correlation.id().clone());
                }
            }
        }
        above
    }
}

/// A field of the view, else of the normalised event.
pub(crate) fn read(view: &View<'_>, normalised: Option<&NormalisedView<'_>>, field: &str) -> Option<String> {
    let own = view.get_field(field).and_then(|value| text(&value));
    own.or_else(|| normalised?.field(field).and_then(|value| text(&value)))
}

/// What `correlation` needs of a match of `base` whose fields `read` reads.
pub(crate) fn input(
    correlation: &Correlation,
    base: &RuleId,
    read: &dyn Fn(&str) -> Option<String>,
) -> Result<CorrelationInput, MissingField> {
    let read = |field: &str| {
        read(field).ok_or_else(|| MissingField {
            correlation: correlation.id().clone(),
            base: base.clone(),
            field: field.into(),
        })
    };
    let names = correlation.group_by.iter();
    let group =
        names.map(|name| read(correlation.field(name, base)).map(bounded)).collect::<Result<_, _>>()?;
    let value = match &correlation.kind {
        CorrelationKind::ValueCount { fields } => {
            let values = fields.iter().map(|field| read(field)).collect::<Result<Vec<_>, _>>()?;
            Some(bounded(values.join("\u{1f}")))
        }
        _ => None,
    };
    Ok(CorrelationInput { correlation: correlation.id().clone(), base: base.clone(), group, value })
}

/// A value as text; nothing for null and for objects. The members of a list are joined by commas.
fn text(value: &EventValue<'_>) -> Option<String> {
    match value {
        EventValue::Array(values) => Some(values.iter().filter_map(text).collect::<Vec<_>>().join(",")),
        EventValue::Null | EventValue::Map(_) => None,
        scalar => scalar.as_str().map(std::borrow::Cow::into_owned),
    }
}

fn bounded(text: String) -> Box<str> {
    if text.len() <= MAX_VALUE_BYTES {
        return text.into();
    }
    let digest = blake3::hash(text.as_bytes()).to_hex();
    let kept = text.floor_char_boundary(MAX_VALUE_BYTES - 33);
    format!("{}…{}", &text[..kept], &digest[..30]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_and_stays_itself() {
        let long = |end: &str| bounded(format!("{}{end}", "é".repeat(MAX_VALUE_BYTES)));
        assert!(long("a").len() <= MAX_VALUE_BYTES);
        assert_ne!(long("a"), long("b"));
        assert_eq!(long("a"), long("a"));
        assert_eq!(&*bounded("x".repeat(MAX_VALUE_BYTES)), "x".repeat(MAX_VALUE_BYTES));
    }

    #[test]
    fn lists_are_joined_and_nothing_is_absent() {
        let list = EventValue::Array(vec![EventValue::Int(1), EventValue::Null, EventValue::Str("a".into())]);
        assert_eq!(text(&list).as_deref(), Some("1,a"));
        assert_eq!(text(&EventValue::Null), None);
        assert_eq!(text(&EventValue::Bool(true)).as_deref(), Some("true"));
    }
}
