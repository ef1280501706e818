//! What to say about a key that nobody knows.

use std::collections::BTreeMap;

use super::tree::KeyPath;

/// How many known keys are listed where none is close.
const LISTED: usize = 12;

/// The message for the unknown key at `path`, given the fields of each struct.
pub(super) fn unknown_key(path: &[String], structs: &BTreeMap<KeyPath, &'static [&'static str]>) -> String {
    let Some((key, parent)) = path.split_last() else { return "unknown key".to_owned() };
    let known = structs.get(parent).copied().unwrap_or_default();
    if let Some(near) = nearest(key, known) {
        return format!("unknown key; did you mean `{near}`?");
    }
    // A key that is right in another section is the commonest mistake after a typing error.
    if let Some((home, _)) = structs.iter().find(|(_, fields)| fields.contains(&key.as_str())) {
        return format!("unknown key here; `{key}` belongs into [{}]", home.join("."));
    }
    if known.is_empty() || known.len() > LISTED {
        return "unknown key; remove it (`config default` prints all known keys)".to_owned();
    }
    format!("unknown key; known here: {}", known.join(", "))
}

/// The known key that is at most a third of its length away.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, name) = known.iter().map(|name| (distance(key, name), *name)).min()?;
    (distance <= name.chars().count().div_ceil(3)).then_some(name)
}

/// Edits (insert, remove, replace, swap of neighbours) that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_key_is_found_within_a_third_of_its_length() {
        let known = ["max_bytes", "max_age", "commit_interval_ms"];
        for (typed, expected) in [
            ("max_byte", Some("max_bytes")),
            ("max_bytse", Some("max_bytes")),
            ("maxage", Some("max_age")),
            ("commit_interval", Some("commit_interval_ms")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, &known), expected, "{typed}");
        }
    }
}
