//! Environment variables that override single keys of the file.

use std::borrow::Cow;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::source::Source;

/// The environment's overrides, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// (variable, path of the key, value)
    entries: Vec<(String, Vec<String>, String)>,
}

impl Overrides {
    /// Takes the process environment's variables that begin with `prefix`. A variable that isn't UTF-8 is none of ours.
    pub fn from_env(prefix: &str) -> Self {
        let utf8 = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::from_pairs(prefix, utf8)
    }

    /// Takes those of `pairs` whose name begins with `prefix` and has a double underscore after it.
    pub fn from_pairs(prefix: &str, pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut entries: Vec<_> = pairs
            .into_iter()
            .filter_map(|(name, value)| {
                let path: Vec<String> =
                    name.strip_prefix(prefix)?.split("__").map(str::to_lowercase).collect();
                let names_a_key = path.len() > 1 && path.iter().all(|step| !step.is_empty());
                names_a_key.then_some((name, path, value))
            })
            .collect();
        entries.sort();
        Self { entries }
    }

    /// Puts the overrides into the tree, each with a span of its own in `source`.
    pub(super) fn apply<'i>(&'i self, root: &mut DeTable<'i>, source: &mut Source) {
        for (name, path, raw) in &self.entries {
            let span = source.add_variable(name, raw);
            let value = match DeValue::parse(raw) {
                Ok(value) => moved_to(value.into_inner(), &span),
                Err(_) => DeValue::String(Cow::Borrowed(raw)),
            };
            insert(root, path, value, &span);
        }
    }
}

fn insert<'i>(table: &mut DeTable<'i>, path: &'i [String], value: DeValue<'i>, span: &Range<usize>) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        // Removed first: a key that is already there would keep the file's span.
        table.remove(first.as_str());
        table.insert(Spanned::new(span.clone(), Cow::Borrowed(first)), Spanned::new(span.clone(), value));
        return;
    }
    if !table.get(first.as_str()).is_some_and(|old| old.get_ref().is_table()) {
        table.remove(first.as_str());
        let inner = Spanned::new(span.clone(), DeValue::Table(DeTable::new()));
        table.insert(Spanned::new(span.clone(), Cow::Borrowed(first)), inner);
    }
    if let Some(DeValue::Table(inner)) = table.get_mut(first.as_str()).map(Spanned::get_mut) {
        insert(inner, rest, value, span);
    }
}

/// The value with every span in it replaced by the variable's.
fn moved_to<'i>(value: DeValue<'i>, span: &Range<usize>) -> DeValue<'i> {
    match value {
        DeValue::Array(array) => DeValue::Array(
            array
                .into_iter()
                .map(|item| Spanned::new(span.clone(), moved_to(item.into_inner(), span)))
                .collect(),
        ),
        DeValue::Table(table) => {
            let entries = table.into_iter().map(|(key, item)| {
                let key = Spanned::new(span.clone(), key.into_inner());
                (key, Spanned::new(span.clone(), moved_to(item.into_inner(), span)))
            });
            DeValue::Table(entries.collect())
        }
        scalar => scalar,
    }
}
