//! Events as Sigma rules see them: per family of log sources a view with that family's field names, without JSON in
//! between.
//!
//! Fed by [`Event`]; feeds the engines in `detect` and `prefilter`. Guarantees: looking at an event never fails; a
//! view offers only what its log source would have; one event always offers the same views in the same order.

mod audit;
mod json;
mod kubernetes;
mod message;
mod normalised;
mod record;

use std::borrow::Cow;

use auditflow_event::{Event, HostFacts, Meaning, Origin};
use rsigma_eval::EventValue;

use crate::logsource::{Families, Family};
pub(crate) use audit::fields as meant_fields;
pub(crate) use json::Node;
use kubernetes::KubernetesView;
pub(crate) use normalised::{FIELDS as NORMALISED_FIELDS, NormalisedView};
use record::RecordView;

/// The families whose views are made from what an event means.
const MEANT: [Family; 4] =
    [Family::ProcessCreation, Family::FileEvent, Family::NetworkConnection, Family::AuditFlow];

/// One view of one event.
pub(crate) enum View<'e> {
    Record(RecordView<'e>),
    Fields(FieldsView<'e>),
    Kubernetes(KubernetesView<'e>),
    Normalised(Box<NormalisedView<'e>>),
    Message(Cow<'e, str>),
    Example(Node<'e>),
}

/// What [`visit`] hands over: the family, the view's index within it, the view.
pub(crate) type Visitor<'v> = dyn FnMut(Family, u16, &View<'_>) + 'v;

/// Shows every view of `event` whose family is in `wanted`; views of other families are not made. `host` is what the
/// event itself does not say of where it happened, `meaning` its meaning if that is known already.
pub(crate) fn visit(
    event: &Event,
    meaning: Option<&Meaning<'_>>,
    host: Option<&HostFacts>,
    wanted: Families,
    visit: &mut Visitor<'_>,
) {
    match &event.origin {
        Origin::Audit(audit) => {
            record::visit(audit, wanted, visit);
            message::visit(audit, wanted, visit);
        }
        Origin::Kubernetes(text) => {
            if wanted.contains(Family::KubernetesAudit) {
                visit(Family::KubernetesAudit, 0, &View::Kubernetes(KubernetesView::new(text.as_str())));
            }
        }
        Origin::Synthetic(_) | Origin::State(_) => {}
    }
    if !wanted.any(&MEANT) {
        return;
    }
    let computed;
    let meaning = if let Some(known) = meaning {
        known
    } else {
        computed = event.meaning();
        &computed
    };
    audit::visit(meaning, event.context.as_deref(), wanted, visit);
    if wanted.contains(Family::AuditFlow) {
        visit(Family::AuditFlow, 0, &View::Normalised(Box::new(NormalisedView::new(event, host, meaning))));
    }
}

/// A handful of named values: what the families have that are made from several records.
#[derive(Debug, Default)]
pub(crate) struct FieldsView<'e>(Vec<(&'static str, EventValue<'e>)>);

impl<'e> FieldsView<'e> {
    pub(crate) fn text(&mut self, name: &'static str, value: Option<impl Into<Cow<'e, str>>>) {
        if let Some(value) = value {
            self.0.push((name, EventValue::Str(value.into())));
        }
    }

    /// Borrowed again: a clone would copy a command line for every rule that asks for it.
    fn field(&self, path: &str) -> Option<EventValue<'_>> {
        let (_, value) = self.0.iter().find(|(name, _)| *name == path)?;
        Some(match value {
            EventValue::Str(text) => EventValue::Str(Cow::Borrowed(text)),
            other => other.clone(),
        })
    }

    pub(crate) fn number(&mut self, name: &'static str, value: Option<u64>) {
        if let Some(value) = value.and_then(|value| i64::try_from(value).ok()) {
            self.0.push((name, EventValue::Int(value)));
        }
    }
}

impl View<'_> {
    /// The record type's name, of what is a kernel audit record or an example of one.
    pub(crate) fn record_type(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Record(view) => view.field("type"),
            Self::Example(node) => match node.field("type")? {
                EventValue::Str(name) => Some(name),
                _ => None,
            },
            _ => None,
        }
    }
}

impl rsigma_eval::Event for View<'_> {
    fn get_field(&self, path: &str) -> Option<EventValue<'_>> {
        match self {
            Self::Record(view) => view.field(path).map(EventValue::Str),
            Self::Fields(view) => view.field(path),
            Self::Kubernetes(view) => view.field(path),
            Self::Normalised(view) => view.field(path),
            Self::Message(text) => (path == "message").then(|| EventValue::Str(Cow::Borrowed(text))),
            Self::Example(node) => node.field(path),
        }
    }

    fn any_string_value(&self, pred: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Self::Record(view) => view.any_string(pred),
            Self::Fields(view) => {
                view.0.iter().any(|(_, value)| matches!(value, EventValue::Str(text) if pred(text)))
            }
            Self::Kubernetes(view) => view.root().any_string(pred),
            Self::Normalised(view) => view.strings().iter().any(|text| pred(text)),
            Self::Message(text) => pred(text),
            Self::Example(node) => node.any_string(pred),
        }
    }

    fn all_string_values(&self) -> Vec<Cow<'_, str>> {
        match self {
            Self::Record(view) => view.strings(),
            Self::Fields(view) => view
                .0
                .iter()
                .filter_map(|(_, value)| match value {
                    EventValue::Str(text) => Some(Cow::Borrowed(&**text)),
                    _ => None,
                })
                .collect(),
            Self::Kubernetes(view) => strings(view.root()),
            Self::Normalised(view) => view.strings(),
            Self::Message(text) => vec![Cow::Borrowed(text)],
            Self::Example(node) => strings(node),
        }
    }

    fn visit_string_values(&self, visit: &mut dyn FnMut(&str)) {
        match self {
            Self::Record(view) => view.each_string(visit),
            Self::Message(text) => visit(text),
            _ => self.all_string_values().iter().for_each(|text| visit(text)),
        }
    }

    /// Never needed: nothing of ours asks the engine to include events.
    fn to_json(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

fn strings<'n>(node: &'n Node<'_>) -> Vec<Cow<'n, str>> {
    let mut out = Vec::new();
    node.each_string(&mut |text| out.push(Cow::Borrowed(text)));
    out
}
