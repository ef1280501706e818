//! One batch through the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use auditflow_event::{Event, HostFacts, Timestamp};
use auditflow_rules::{CorrelationInput, Detection, MissingField, RuleId};
use auditflow_wire::BootId;

use super::Rules;
use crate::alert::single::{self, Occurrence};
use crate::correlate::definition::Definition;
use crate::correlate::row::{self, Fields};
use crate::store::{BatchKey, ClockShift, DetectionRow, EventRef, GroupKey, Match, NewAlert};

/// What is known of a batch besides its events.
#[derive(Clone, Debug)]
pub struct BatchFacts {
    /// Which.
    pub key: BatchKey,
    /// The boot during which it was sealed.
    pub boot: BootId,
    /// The node, as rules and copies of events see it.
    pub host: Arc<HostFacts>,
    /// By how much that boot's early times are shifted.
    pub shift: Option<ClockShift>,
    /// Events before this are too late to be correlated: detections of their time are gone already.
    pub horizon: Timestamp,
}

/// What judging a batch gave.
#[derive(Debug, Default)]
pub struct Judged {
    /// Rows for correlations, in a fixed order.
    pub detections: Vec<DetectionRow>,
    /// Alerts of single events, in the order of the events.
    pub alerts: Vec<NewAlert>,
    /// How many events each rule matched.
    pub matched: BTreeMap<RuleId, u64>,
    /// Matches that a correlation could not use, by correlation and missing field.
    pub missing: BTreeMap<(RuleId, Box<str>), u64>,
    /// Events that came too late to be correlated.
    pub too_late: u64,
}

/// Decides whether rows of a correlation are wanted for a detection of that time.
pub type Wanted<'w> = dyn Fn(&Definition, Timestamp) -> bool + 'w;

/// Judges a batch. With `only`, just the rows of the correlations that it accepts for an event's time are made, and no
/// alerts: that is priming.
pub fn judge(rules: &Rules, facts: &BatchFacts, events: &[Event], only: Option<&Wanted<'_>>) -> Judged {
    let mut judging = Judging::new(rules, facts, only);
    let mut found = Vec::new();
    for (event, index) in events.iter().zip(0_u32..) {
        found.clear();
        rules.set().detect(event, Some(&facts.host), &mut found);
        judging.event(event, index, &found);
    }
    judging.finish()
}

/// Key, group and base rule of a row.
type RowKey = (String, String, RuleId);

pub(super) struct Judging<'a> {
    rules: &'a Rules,
    facts: &'a BatchFacts,
    only: Option<&'a Wanted<'a>>,
    rows: BTreeMap<RowKey, Vec<Match>>,
    judged: Judged,
}

impl<'a> Judging<'a> {
    pub(super) fn new(rules: &'a Rules, facts: &'a BatchFacts, only: Option<&'a Wanted<'a>>) -> Self {
        Self { rules, facts, only, rows: BTreeMap::new(), judged: Judged::default() }
    }

    /// Takes in what an event matches.
    pub(super) fn event(&mut self, event: &Event, index: u32, found: &[Detection]) {
        let time = self.facts.shift.map_or(event.time, |shift| shift.apply(event.time));
        let too_late = time < self.facts.horizon;
        self.judged.too_late += u64::from(too_late);
        let mut seen: BTreeSet<&RuleId> = BTreeSet::new();
        for detection in found {
            // Several records of one event may match: it is one match of the rule all the same.
            if seen.insert(detection.id()) {
                *self.judged.matched.entry(detection.id().clone()).or_default() += 1;
                if detection.alerts() && self.only.is_none() {
                    let alert = self.alert(event, index, time, too_late, detection);
                    self.judged.alerts.push(alert);
                }
            }
            if !too_late {
                self.correlate(event, index, time, detection);
            }
        }
    }

    fn alert(
        &self,
        event: &Event,
        index: u32,
        time: Timestamp,
        too_late: bool,
        detection: &Detection,
    ) -> NewAlert {
        let BatchKey { node, epoch, seq } = self.facts.key;
        single::build(&Occurrence {
            event,
            host: &self.facts.host,
            at: EventRef { node, epoch, seq, index, event_id: event.id },
            time,
            too_late,
            detection,
            version: self.rules.set().version(),
        })
    }

    fn correlate(&mut self, event: &Event, index: u32, time: Timestamp, detection: &Detection) {
        let inputs = self.rules.set().correlation_inputs(event, Some(&self.facts.host), detection);
        let mut usable: Vec<(Arc<Definition>, CorrelationInput)> = Vec::new();
        for input in inputs {
            match input {
                Ok(input) => {
                    if let Some(definition) = self.rules.definitions().by_id(&input.correlation) {
                        usable.push((Arc::clone(definition), input));
                    }
                }
                Err(MissingField { correlation, field, .. }) => {
                    *self.judged.missing.entry((correlation, field)).or_default() += 1;
                }
            }
        }
        for (definition, input) in &usable {
            if self.only.is_some_and(|only| !only(definition, time)) {
                continue;
            }
            let value = input.value.as_deref().map(str::to_owned);
            let parents = groups(&usable, |above| above.base == input.correlation);
            for child in children(&usable, definition, input) {
                let fields = Fields { value: value.clone(), child, parents: parents.clone() };
                let order = row::order(event, self.facts.boot);
                let found = Match { time, order, index, event_id: event.id, fields: fields.to_pairs() };
                let key = (definition.key.clone(), row::group(&input.group), input.base.clone());
                let matches = self.rows.entry(key).or_default();
                let repeated = matches
                    .iter()
                    .rev()
                    .take_while(|known| known.index == index)
                    .any(|known| *known == found);
                if !repeated {
                    matches.push(found);
                }
            }
        }
    }

    pub(super) fn finish(self) -> Judged {
        let row = |((correlation, group, rule), matches): (RowKey, Vec<Match>)| DetectionRow {
            group: GroupKey { correlation, group },
            rule: rule.as_str().to_owned(),
            matches,
        };
        Judged { detections: self.rows.into_iter().map(row).collect(), ..self.judged }
    }
}

/// The child groups through which an input is reached: one `None` for a plain base rule; none at all if the child can't
/// use this event.
fn children(
    usable: &[(Arc<Definition>, CorrelationInput)],
    definition: &Definition,
    input: &CorrelationInput,
) -> Vec<Option<String>> {
    if definition.child(input.base.as_str()).is_none() {
        return vec![None];
    }
    groups(usable, |below| below.correlation == input.base)
        .into_iter()
        .map(|(_, group)| Some(group))
        .collect()
}

/// Key and group of the inputs that satisfy `wanted`, each once.
fn groups(
    usable: &[(Arc<Definition>, CorrelationInput)],
    wanted: impl Fn(&CorrelationInput) -> bool,
) -> Vec<(String, String)> {
    let mut groups: Vec<(String, String)> = usable
        .iter()
        .filter(|(_, input)| wanted(input))
        .map(|(definition, input)| (definition.key.clone(), row::group(&input.group)))
        .collect();
    groups.sort();
    groups.dedup();
    groups
}
