//! Rules for kernel audit records, reduced to what is left of them for one type of record.
//!
//! Nearly every such rule asks for a `type`. Deciding that once, when rules are loaded, leaves for each type an engine
//! with only the rules that can match it, indexed by what else they ask for. (With `type` left in, the engine's index
//! would pick it as the most telling item and try every rule for EXECVE on every EXECVE record.)

use std::collections::{BTreeSet, HashMap};

use rsigma_parser::{ConditionExpr, Detection, DetectionItem, Detections, Quantifier, SigmaRule, SigmaValue};

/// The record types that rules ask for by name, in upper case.
pub(crate) fn types<'r>(rules: impl Iterator<Item = &'r SigmaRule>) -> BTreeSet<String> {
    let mut types = BTreeSet::new();
    for rule in rules {
        rule.detection.named.values().for_each(|detection| collect(detection, &mut types));
    }
    types
}

/// What is left of a rule for records of `kind` (`None`: of a type that no rule names); nothing if it cannot match.
pub(crate) fn specialise(rule: &SigmaRule, kind: Option<&str>) -> Option<SigmaRule> {
    let folded: HashMap<&str, Folded<Detection>> =
        rule.detection.named.iter().map(|(name, d)| (name.as_str(), fold(d, kind))).collect();
    let mut conditions = Vec::new();
    for condition in &rule.detection.conditions {
        match fold_condition(condition, &folded) {
            Some(Folded::False) => {}
            Some(Folded::Open(condition)) => conditions.push(condition),
            // Nothing but the type is asked for, or it cannot be told: the rule as it is.
            Some(Folded::True) | None => return Some(rule.clone()),
        }
    }
    if conditions.is_empty() {
        return None;
    }
    let open = folded.into_iter().filter_map(|(name, folded)| match folded {
        Folded::Open(detection) => Some((name.to_owned(), detection)),
        _ => None,
    });
    let named = open.collect();
    let detection = Detections { named, conditions, condition_strings: Vec::new(), timeframe: None };
    Some(SigmaRule { detection, ..rule.clone() })
}

/// What is known of a part once the type is.
enum Folded<T> {
    True,
    False,
    Open(T),
}

fn collect(detection: &Detection, types: &mut BTreeSet<String>) {
    match detection {
        Detection::AllOf(items) => {
            let values = items.iter().filter_map(wanted_types).flatten();
            types.extend(values.map(|name| name.to_ascii_uppercase()));
        }
        Detection::AnyOf(parts) | Detection::And(parts) => parts.iter().for_each(|part| collect(part, types)),
        _ => {}
    }
}

/// The names of an item that does nothing but compare `type` with names.
fn wanted_types(item: &DetectionItem) -> Option<Vec<String>> {
    if item.field.name.as_deref() != Some("type") || !item.field.modifiers.is_empty() {
        return None;
    }
    let plain = |value: &SigmaValue| match value {
        SigmaValue::String(text) => text.as_plain().filter(|text| text.is_ascii()),
        _ => None,
    };
    item.values.iter().map(plain).collect()
}

fn fold(detection: &Detection, kind: Option<&str>) -> Folded<Detection> {
    match detection {
        Detection::AllOf(items) => {
            let mut left = Vec::new();
            for item in items {
                match wanted_types(item) {
                    Some(types)
                        if types.iter().any(|name| kind.is_some_and(|k| k.eq_ignore_ascii_case(name))) => {}
                    Some(_) => return Folded::False,
                    None => left.push(item.clone()),
                }
            }
            if left.is_empty() { Folded::True } else { Folded::Open(Detection::AllOf(left)) }
        }
        Detection::AnyOf(parts) => {
            let parts = parts.iter().map(|part| fold(part, kind));
            any(parts).map(Detection::AnyOf)
        }
        Detection::And(parts) => {
            let parts = parts.iter().map(|part| fold(part, kind));
            all(parts).map(Detection::And)
        }
        other => Folded::Open(other.clone()),
    }
}

/// `None` where selections are counted: that is left as it is.
fn fold_condition(
    condition: &ConditionExpr,
    named: &HashMap<&str, Folded<Detection>>,
) -> Option<Folded<ConditionExpr>> {
    let identifier = |name: &str| match named.get(name) {
        Some(Folded::True) => Folded::True,
        Some(Folded::False) | None => Folded::False,
        Some(Folded::Open(_)) => Folded::Open(ConditionExpr::Identifier(name.to_owned())),
    };
    let parts =
        |parts: &[ConditionExpr]| parts.iter().map(|p| fold_condition(p, named)).collect::<Option<Vec<_>>>();
    Some(match condition {
        ConditionExpr::Identifier(name) => identifier(name),
        ConditionExpr::And(list) => all(parts(list)?.into_iter()).map(ConditionExpr::And),
        ConditionExpr::Or(list) => any(parts(list)?.into_iter()).map(ConditionExpr::Or),
        ConditionExpr::Not(part) => match fold_condition(part, named)? {
            Folded::True => Folded::False,
            Folded::False => Folded::True,
            Folded::Open(part) => Folded::Open(ConditionExpr::Not(Box::new(part))),
        },
        ConditionExpr::Selector { quantifier, pattern } => {
            let mut names: Vec<&str> =
                named.keys().copied().filter(|name| pattern.matches_detection_name(name)).collect();
            names.sort_unstable();
            let selected = names.into_iter().map(identifier);
            match quantifier {
                Quantifier::Any => any(selected).map(ConditionExpr::Or),
                Quantifier::All => all(selected).map(ConditionExpr::And),
                Quantifier::Count(_) => return None,
            }
        }
    })
}

fn all<T>(parts: impl Iterator<Item = Folded<T>>) -> Folded<Vec<T>> {
    let mut open = Vec::new();
    for part in parts {
        match part {
            Folded::True => {}
            Folded::False => return Folded::False,
            Folded::Open(part) => open.push(part),
        }
    }
    if open.is_empty() { Folded::True } else { Folded::Open(open) }
}

fn any<T>(parts: impl Iterator<Item = Folded<T>>) -> Folded<Vec<T>> {
    let mut open = Vec::new();
    for part in parts {
        match part {
            Folded::True => return Folded::True,
            Folded::False => {}
            Folded::Open(part) => open.push(part),
        }
    }
    if open.is_empty() { Folded::False } else { Folded::Open(open) }
}

impl<T> Folded<Vec<T>> {
    fn map<U>(self, join: impl FnOnce(Vec<T>) -> U) -> Folded<U> {
        match self {
            Self::True => Folded::True,
            Self::False => Folded::False,
            Self::Open(parts) => Folded::Open(join(parts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rsigma_eval::{Engine, JsonEvent};
    use rsigma_parser::parse_sigma_yaml;
    use serde_json::{Value, json};

    use crate::detect::Engines;
    use crate::logsource::Family;
    use crate::view::{Node, View};

    /// A selection as YAML: items, or a list of alternatives.
    fn selection() -> impl Strategy<Value = String> {
        let item = prop::sample::select(vec![
            "type: PATH",
            "type: [execve, TTY]",
            "type|startswith: P",
            "x: '1'",
            "x: 'a*'",
        ]);
        let map = prop::collection::btree_map(Just(()), item.clone(), 1..2)
            .prop_map(|m| m.into_values().collect::<Vec<_>>());
        let two = (map.clone(), prop::sample::select(vec!["y: '1'", "y: '2'"])).prop_map(|(mut items, y)| {
            items.push(y);
            items
        });
        let map = prop_oneof![map, two].prop_map(|items| format!("{{{}}}", items.join(", ")));
        prop_oneof![
            map.clone(),
            prop::collection::vec(map, 1..3).prop_map(|maps| format!("[{}]", maps.join(", "))),
            Just("[a1]".to_owned())
        ]
    }

    fn rule() -> impl Strategy<Value = String> {
        const CONDITIONS: [&str; 10] = [
            "s1",
            "not s1",
            "s1 and not s2",
            "s1 or (s2 and s3)",
            "1 of s*",
            "all of s*",
            "not 1 of s*",
            "2 of s*",
            "1 of them and not s3",
            "not (s1 and s2) or s3",
        ];
        (prop::collection::vec(selection(), 3), prop::sample::select(CONDITIONS.to_vec())).prop_map(|(s, condition)| {
            format!(
                "title: T\nid: t\nlogsource: {{product: linux, service: auditd}}\ndetection:\n  s1: {}\n  s2: {}\n  s3: {}\n  condition: {condition}\n",
                s[0], s[1], s[2]
            )
        })
    }

    fn record() -> impl Strategy<Value = Value> {
        let kind = prop::sample::select(vec![None, Some("PATH"), Some("EXECVE"), Some("TTY"), Some("CWD")]);
        let x = prop::sample::select(vec![None, Some("1"), Some("a1")]);
        let y = prop::sample::select(vec![None, Some("1"), Some("2")]);
        (kind, x, y).prop_map(|(kind, x, y)| {
            let fields = [("type", kind), ("x", x), ("y", y)];
            Value::Object(fields.into_iter().filter_map(|(k, v)| Some((k.to_owned(), json!(v?)))).collect())
        })
    }

    proptest! {
        /// Deciding the type beforehand changes nothing about what matches.
        #[test]
        fn a_specialised_rule_matches_what_the_rule_matches(rule in rule(), records in prop::collection::vec(record(), 8)) {
            let collection = parse_sigma_yaml(&rule).unwrap();
            prop_assert!(collection.errors.is_empty(), "{:?} in {rule}", collection.errors);
            let mut model = Engine::new();
            model.add_collection(&collection).unwrap();
            let (engines, errors) = Engines::compile(std::iter::once((0, Family::Auditd, &collection.rules[0])));
            prop_assert!(errors.is_empty());
            for record in records {
                let text = record.to_string();
                let mut matched = false;
                engines.evaluate(Family::Auditd, &View::Example(Node::parse(&text)), &mut |_, _| matched = true);
                let expected = !model.evaluate(&JsonEvent::borrow(&record)).is_empty();
                prop_assert_eq!(matched, expected, "{} on {}", rule, record);
            }
        }
    }
}
