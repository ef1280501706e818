//! The text a configuration was read from: turns byte spans into places that a person finds.
//!
//! Environment values live in the same span space: each is given a range beyond the file's end, so that one kind of
//! span says where any value came from.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::problem::{ConfigProblem, Whereabouts};

pub(super) struct Source {
    name: PathBuf,
    text: String,
    /// (variable, its raw value, its range beyond the text), in the order of ranges.
    variables: Vec<(String, String, Range<usize>)>,
}

impl Source {
    pub(super) fn new(name: &Path, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), variables: Vec::new() }
    }

    /// Takes in a variable and returns the range that stands for it.
    pub(super) fn add_variable(&mut self, name: &str, value: &str) -> Range<usize> {
        let end = self.variables.last().map_or(self.text.len() + 1, |(_, _, range)| range.end + 1);
        let range = end..end + value.len() + 1;
        self.variables.push((name.to_owned(), value.to_owned(), range.clone()));
        range
    }

    /// The raw text of the variable that a span lies in.
    pub(super) fn plain_text_of(&self, span: Option<&Range<usize>>) -> Option<&str> {
        self.variable_at(span?.start).map(|(_, value, _)| value.as_str())
    }

    pub(super) fn problem(
        &self,
        span: Option<Range<usize>>,
        path: &[String],
        message: String,
    ) -> ConfigProblem {
        let at = match span {
            Some(span) => match self.variable_at(span.start) {
                Some((name, ..)) => Whereabouts::Environment(name.clone()),
                None => self.in_file(Some(self.position(span.start))),
            },
            None => self.in_file(None),
        };
        ConfigProblem { at, key: path.join("."), message }
    }

    fn variable_at(&self, offset: usize) -> Option<&(String, String, Range<usize>)> {
        self.variables.iter().find(|(_, _, range)| range.contains(&offset))
    }

    fn in_file(&self, position: Option<(usize, usize)>) -> Whereabouts {
        Whereabouts::File { path: self.name.clone(), position }
    }

    /// Line and column (in characters), both counted from one.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = line_after(before);
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        (line, String::from_utf8_lossy(&before[line_start..]).chars().count() + 1)
    }
}

/// The number of the line that follows this text, counted from one.
pub(super) fn line_after(text: &[u8]) -> usize {
    text.split(|byte| *byte == b'\n').count()
}
