//! Proves that a hand-written reference file says what the code does.
//!
//! A program's `config default` prints such a file, and the documentation shows it. Its form: section headers and
//! prose (`# like this`) as usual; each key once, commented out without a space (`#max_bytes = "512MiB"`) with its
//! default as the value. A key without a default, or the header of a table that is absent by default, ends in
//! `  # example`.

use std::cell::RefCell;
use std::fmt::Debug;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::tree::{KeyPath, Node, Trace};
use super::{Configuration, Overrides, parse};

/// Marks a commented key whose value is an example, because the key has no default.
const EXAMPLE: &str = "# example";

/// Checks a commented reference against its type; the answer lists what is wrong. It must parse as it stands, give
/// the defaults as it stands and with its defaults uncommented, and have every key of the type in it.
pub fn check_reference<C>(reference: &str) -> Result<(), Vec<String>>
where
    C: Configuration + PartialEq + Debug,
{
    let mut wrong = Vec::new();
    let defaults = C::default();
    let without_examples = uncommented(reference, false);
    for (what, text) in [("as it stands", reference), ("uncommented", without_examples.as_str())] {
        match parse::<C>(Path::new(what), text, &Overrides::default()) {
            Ok(config) if config == defaults => {}
            Ok(config) => {
                wrong.push(format!("{what}, it is not the default: {config:?} instead of {defaults:?}"));
            }
            Err(error) => wrong.push(error.to_string()),
        }
    }
    let complete = uncommented(reference, true);
    match DeTable::parse(&complete) {
        Ok(root) => wrong.extend(key_faults::<C>(root.get_ref())),
        Err(error) => wrong.push(format!("with its examples, it does not parse: {error}")),
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// The reference with its commented keys active; `examples` says whether those without a default are among them.
fn uncommented(reference: &str, examples: bool) -> String {
    let lines = reference.lines().map(|line| {
        let is_example = line.trim_end().ends_with(EXAMPLE);
        match line.strip_prefix('#') {
            Some(key)
                if key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '[')
                    && (examples || !is_example) =>
            {
                key
            }
            _ => line,
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Keys that the type doesn't know or that the reference doesn't have.
fn key_faults<C: Configuration>(root: &DeTable<'_>) -> Vec<String> {
    let trace = RefCell::new(Trace::default());
    let read = C::deserialize(Node::root(root.clone(), &trace));
    let mut faults: Vec<String> = Vec::new();
    if let Err(error) = read {
        faults.push(format!("{}: {}", error.path.join("."), error.message));
    }
    let trace = trace.into_inner();
    faults.extend(
        trace.unknown.iter().map(|(path, _)| format!("{}: the type has no such key", path.join("."))),
    );
    for (path, fields) in &trace.structs {
        for field in *fields {
            if !has_key(root, path, field) {
                let mut key = path.clone();
                key.push((*field).to_owned());
                faults.push(format!("{}: missing in the reference", key.join(".")));
            }
        }
    }
    faults
}

fn has_key(root: &DeTable<'_>, path: &KeyPath, field: &str) -> bool {
    let Some((first, rest)) = path.split_first() else { return root.contains_key(field) };
    let mut value = root.get(first.as_str());
    for step in rest {
        value = match value.map(toml::Spanned::get_ref) {
            Some(DeValue::Table(table)) => table.get(step.as_str()),
            Some(DeValue::Array(array)) => step.parse().ok().and_then(|index: usize| array.get(index)),
            _ => None,
        };
    }
    value.is_some_and(|value| value.get_ref().as_table().is_some_and(|table| table.contains_key(field)))
}
