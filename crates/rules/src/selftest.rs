//! Runs the test cases that rules carry (`rsigma.exemplars`) before a set is accepted.
//!
//! An example event is one of
//! - `audit: |` with lines as in audit.log, made into real events and seen by the rule through its view;
//! - `kubernetes:` with an API server's audit record, `synthetic:` with an event in the ancestor's shape (each a
//!   mapping, or its JSON as text);
//! - otherwise a mapping of the fields that the rule's log source has, dotted names flat or nested.
//!
//! Rules are tested without exceptions: a local exception must not make a shipped rule fail its own test. A
//! correlation is tested by going through its timed events in order, with nothing but what this module has.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use auditflow_audit_record::{Assembler, Limits, Record};
use auditflow_event::Event;
use rsigma_parser::{
    CorrelationRule, Exemplar, ExemplarPayload, ExemplarRuleKind, ExemplarShapeError, Expect, SigmaRule,
    exemplars_from_attrs,
};
use yaml_serde::{Mapping, Value};

use crate::correlation::{Correlation, Member};
use crate::detect::Engines;
use crate::document::Document;
use crate::inputs::{CorrelationInput, input, read};
use crate::logsource::Family;
use crate::rule::{Problem, RuleId};
use crate::view::{self, Node, NormalisedView, View};

const KEY: &str = "rsigma.exemplars";

/// How many examples a rule carries.
pub(crate) fn count(attributes: &HashMap<String, Value>, kind: ExemplarRuleKind) -> usize {
    exemplars_from_attrs(attributes, kind).map_or(0, |examples| examples.len())
}

/// Tests every detection rule that carries examples.
pub(crate) fn rules(rules: &[(Document, SigmaRule)], problems: &mut Vec<Problem>) {
    for (document, rule) in rules {
        let found = exemplars_from_attrs(&rule.custom_attributes, ExemplarRuleKind::Detection);
        let Some(examples) = shaped(document, found, problems) else { continue };
        let Some(alone) = Alone::compile(rule) else { continue };
        for example in &examples {
            let ExemplarPayload::Event(event) = &example.payload else { continue };
            match Example::parse(event) {
                Ok(event) => {
                    let fired = alone.matches(&event);
                    judge(document, example, fired, problems);
                }
                Err(reason) => {
                    problems.push(document.problem(KEY, format!("example “{}”: {reason}", example.name)));
                }
            }
        }
    }
}

/// Tests every correlation that carries examples, over the rules that it counts.
pub(crate) fn correlations(
    rules: &[(Document, SigmaRule)],
    parsed: &[(Document, CorrelationRule)],
    correlations: &[Arc<Correlation>],
    problems: &mut Vec<Problem>,
) {
    for (document, rule) in parsed {
        let found = exemplars_from_attrs(&rule.custom_attributes, ExemplarRuleKind::Correlation);
        let Some(examples) = shaped(document, found, problems) else { continue };
        let Some(tested) = correlations.iter().find(|c| *c.id() == document.id) else { continue };
        for example in &examples {
            let ExemplarPayload::Sequence(timed) = &example.payload else { continue };
            let events: Result<Vec<_>, _> = timed
                .iter()
                .map(|timed| {
                    Ok::<_, String>((
                        Duration::from_secs(timed.offset.seconds),
                        Example::parse(&timed.event)?,
                    ))
                })
                .collect();
            match events {
                Ok(events) => {
                    let run = Run { rules, correlations, events: &events };
                    let fired = run.points(tested).iter().any(|point| *point);
                    judge(document, example, fired, problems);
                }
                Err(reason) => {
                    problems.push(document.problem(KEY, format!("example “{}”: {reason}", example.name)));
                }
            }
        }
    }
}

fn shaped(
    document: &Document,
    found: Result<Vec<Exemplar>, Vec<ExemplarShapeError>>,
    problems: &mut Vec<Problem>,
) -> Option<Vec<Exemplar>> {
    match found {
        Ok(examples) if examples.is_empty() => None,
        Ok(examples) => Some(examples),
        Err(errors) => {
            problems.extend(errors.iter().map(|error| document.problem(KEY, error.to_string())));
            None
        }
    }
}

fn judge(document: &Document, example: &Exemplar, fired: bool, problems: &mut Vec<Problem>) {
    let message = match (example.expect, fired) {
        (Expect::Match, false) => "should match and does not",
        (Expect::NoMatch, true) => "should not match and does",
        _ => return,
    };
    problems.push(
        document
            .problem(KEY, format!("example “{}” {message}; correct the rule or the example", example.name)),
    );
}

/// One rule compiled by itself.
struct Alone {
    engines: Engines,
    family: Family,
}

impl Alone {
    /// `None` if it does not compile, which is reported where the whole set is compiled.
    fn compile(rule: &SigmaRule) -> Option<Self> {
        // A rule without a source is tested all the same, by its fields alone.
        let family = Family::of(&rule.logsource).unwrap_or(Family::AuditFlow);
        let (engines, errors) = Engines::compile(std::iter::once((0, family, rule)));
        errors.is_empty().then_some(Self { engines, family })
    }

    fn matches(&self, example: &Example) -> bool {
        let mut fired = false;
        self.each_match(example, &mut |_, _| fired = true);
        fired
    }

    /// Calls `matched` with every view of the example that the rule matches, and the event that it is a view of.
    fn each_match(&self, example: &Example, matched: &mut dyn FnMut(&View<'_>, Option<&Event>)) {
        match example {
            Example::Fields(view) => {
                self.engines.evaluate(self.family, view, &mut |_, _| matched(view, None));
            }
            Example::Events(events) => {
                for event in events {
                    view::visit(event, None, None, self.engines.families(), &mut |family, _, view| {
                        self.engines.evaluate(family, view, &mut |_, _| matched(view, Some(event)));
                    });
                }
            }
        }
    }
}

/// An example event.
enum Example {
    Fields(View<'static>),
    Events(Vec<Event>),
}

impl Example {
    fn parse(value: &Value) -> Result<Self, String> {
        let map = value.as_mapping().ok_or("an event is a mapping")?;
        if let (1, Some((key, value))) = (map.len(), map.iter().next()) {
            match (key.as_str(), value) {
                (Some("audit"), Value::String(lines)) => return audit(lines).map(Self::Events),
                (Some("kubernetes"), Value::Mapping(_) | Value::String(_)) => {
                    let event =
                        Event::kubernetes(None, &json_text(value)?).map_err(|error| error.to_string())?;
                    return Ok(Self::Events(vec![event]));
                }
                (Some("synthetic"), Value::Mapping(_) | Value::String(_)) => {
                    let event = Event::synthetic(None, [0; 16], 0, &json_text(value)?)
                        .map_err(|error| error.to_string())?;
                    return Ok(Self::Events(vec![event]));
                }
                _ => {}
            }
        }
        Ok(Self::Fields(View::Example(mapping(map))))
    }
}

/// The events of lines as in audit.log.
fn audit(lines: &str) -> Result<Vec<Event>, String> {
    let mut assembler = Assembler::new(Limits::default());
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let record = Record::from_line(line.as_bytes()).map_err(|error| format!("{error}: {line}"))?;
        assembler.push(record, Duration::ZERO);
    }
    assembler.flush();
    let events: Vec<Event> =
        std::iter::from_fn(|| assembler.pop()).map(|event| Event::audit(None, event)).collect();
    if events.is_empty() { Err("audit holds no record".into()) } else { Ok(events) }
}

fn json_text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        value => serde_json::to_string(value).map_err(|error| error.to_string()),
    }
}

fn mapping(map: &Mapping) -> Node<'static> {
    let entries =
        map.iter().filter_map(|(key, value)| Some((Cow::Owned(key.as_str()?.to_owned()), node(value))));
    Node::Object(entries.collect())
}

fn node(value: &Value) -> Node<'static> {
    match value {
        Value::Null => Node::Null,
        Value::Bool(value) => Node::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Node::Int(number),
            None => Node::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Node::Str(Cow::Owned(text.clone())),
        Value::Sequence(items) => Node::Array(items.iter().map(node).collect()),
        Value::Mapping(map) => mapping(map),
        Value::Tagged(tagged) => node(&tagged.value),
    }
}

/// One example of a correlation.
struct Run<'r> {
    rules: &'r [(Document, SigmaRule)],
    correlations: &'r [Arc<Correlation>],
    events: &'r [(Duration, Example)],
}

impl Run<'_> {
    /// For each event, whether it is a match point of the correlation.
    fn points(&self, correlation: &Correlation) -> Vec<bool> {
        let mut entries: Vec<(usize, CorrelationInput)> = Vec::new();
        for base in &correlation.rules {
            let child = self.correlations.iter().find(|child| child.id() == base);
            let at = child.map(|child| self.points(child));
            for rule in self.rules_under(base) {
                self.collect(rule, correlation, base, at.as_deref(), &mut entries);
            }
        }
        entries.sort_by_key(|(index, _)| *index);
        let mut points = vec![false; self.events.len()];
        for (last, (index, entry)) in entries.iter().enumerate() {
            let oldest = self.events[*index].0.saturating_sub(correlation.timespan);
            let window = entries[..=last]
                .iter()
                .filter(|(i, e)| e.group == entry.group && self.events[*i].0 >= oldest);
            points[*index] |=
                correlation.holds(window.map(|(_, e)| Member { base: &e.base, value: e.value.as_deref() }));
        }
        points
    }

    /// The detection rules that a base comes down to.
    fn rules_under(&self, base: &RuleId) -> Vec<&SigmaRule> {
        match self.correlations.iter().find(|child| child.id() == base) {
            Some(child) => child.rules.iter().flat_map(|base| self.rules_under(base)).collect(),
            None => {
                self.rules.iter().filter(|(document, _)| document.id == *base).map(|(_, rule)| rule).collect()
            }
        }
    }

    fn collect(
        &self,
        rule: &SigmaRule,
        correlation: &Correlation,
        base: &RuleId,
        at: Option<&[bool]>,
        entries: &mut Vec<(usize, CorrelationInput)>,
    ) {
        let Some(alone) = Alone::compile(rule) else { return };
        for (index, (_, event)) in self.events.iter().enumerate() {
            if at.is_none_or(|at| at[index]) {
                alone.each_match(event, &mut |view, event| {
                    let meaning = event.map(Event::meaning);
                    let normalised =
                        event.zip(meaning.as_ref()).map(|(event, m)| NormalisedView::new(event, None, m));
                    let read = |field: &str| read(view, normalised.as_ref(), field);
                    let entry = input(correlation, base, &read).map(|input| (index, input));
                    // An event counts once, however many of its records a rule matches.
                    if let Ok(entry) = entry
                        && !entries.contains(&entry)
                    {
                        entries.push(entry);
                    }
                });
            }
        }
    }
}
