//! From directories to YAML documents: bounded, in a fixed order, each with its place for messages.
//!
//! Fed by configured directories, feeds `load` and `prefilter`. Guarantees: no file is read beyond its limit, entries
//! whose names begin with a dot are passed over (a `ConfigMap` mount holds every file twice, once below `..data`), and
//! of two documents with the same id in different directories only the one of the later directory remains.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use yaml_serde::{Mapping, Value};

use crate::rule::{Problem, RuleId};

/// How much rule text is accepted. What exceeds a limit is a problem, never a truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Files over all directories.
    pub files: usize,
    /// Bytes over all files.
    pub total_bytes: u64,
    /// Directories below directories.
    pub depth: usize,
}

impl Default for Limits {
    /// Room for ten times SigmaHQ's whole collection.
    fn default() -> Self {
        Self { file_bytes: 1 << 20, files: 40_000, total_bytes: 256 << 20, depth: 16 }
    }
}

/// One YAML document of a rule file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) file: Arc<Path>,
    /// Line of its first line in the file, from 1.
    pub(crate) line: u32,
    pub(crate) text: Arc<str>,
    pub(crate) map: Mapping,
    pub(crate) id: RuleId,
}

impl Document {
    /// The value of a top-level key.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    /// The line of a top-level key, else of the document.
    pub(crate) fn line_of(&self, key: &str) -> u32 {
        let at = self
            .text
            .lines()
            .position(|line| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':')));
        self.line + at.unwrap_or(0) as u32
    }

    pub(crate) fn problem(&self, key: &str, message: impl Into<String>) -> Problem {
        Problem::new(&*self.file, self.line_of(key), message)
    }

    /// Adds the document's meaning to a digest: keys sorted, so that layout and comments do not count.
    pub(crate) fn digest(&self, hasher: &mut blake3::Hasher) {
        digest_mapping(&self.map, hasher);
    }
}

/// What the directories hold.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// The documents in force, in the order of directories and files; an overriding one stands where it is written.
    pub(crate) in_force: Vec<Document>,
    /// Ids switched off by `enabled: false`.
    pub(crate) disabled: Vec<RuleId>,
    pub(crate) files: usize,
    pub(crate) problems: Vec<Problem>,
    pub(crate) warnings: Vec<Problem>,
}

/// The documents of `first` (path and text), then of every `*.yml` and `*.yaml` below the directories, in order.
pub(crate) fn read(first: &[(&str, &str)], dirs: &[PathBuf], limits: &Limits) -> Documents {
    let mut reader = Reader { limits, total: 0, out: Documents::default() };
    let mut layers = Vec::new();
    if !first.is_empty() {
        let parse = |(path, text): &(&str, &str)| parse(Path::new(path), text, &mut reader.out.problems);
        layers.push(first.iter().flat_map(parse).collect());
        reader.out.files += first.len();
    }
    for dir in dirs {
        let mut files = Vec::new();
        reader.find(dir, 0, &mut files);
        let mut layer = Vec::new();
        for file in files {
            reader.file(&file, &mut layer);
        }
        layers.push(layer);
    }
    let mut out = reader.out;
    override_by_id(layers, &mut out);
    out
}

/// Splits one file's text, for a caller that has it in memory.
pub(crate) fn parse(file: &Path, text: &str, problems: &mut Vec<Problem>) -> Vec<Document> {
    let file: Arc<Path> = Arc::from(file);
    let mut documents = Vec::new();
    for (line, text) in split(text) {
        match yaml_serde::from_str::<Value>(text) {
            Ok(Value::Null) => {}
            Ok(Value::Mapping(map)) => {
                let id = ["id", "title"].iter().find_map(|key| map.get(*key).and_then(Value::as_str));
                let Some(id) = id else {
                    problems.push(Problem::new(
                        &*file,
                        line,
                        "document has neither an id nor a title; give it an id",
                    ));
                    continue;
                };
                let id = RuleId::from(id);
                documents.push(Document { file: Arc::clone(&file), line, text: text.into(), map, id });
            }
            Ok(_) => problems.push(Problem::new(&*file, line, "document is not a mapping of keys to values")),
            Err(error) => {
                let at = error.location().map_or(0, |location| location.line().saturating_sub(1) as u32);
                problems.push(Problem::new(&*file, line + at, format!("not valid YAML: {error}")));
            }
        }
    }
    documents
}

struct Reader<'l> {
    limits: &'l Limits,
    total: u64,
    out: Documents,
}

impl Reader<'_> {
    /// Collects rule files below `dir`, sorted by name, a directory's content where its name sorts.
    fn find(&mut self, dir: &Path, depth: usize, files: &mut Vec<PathBuf>) {
        if depth > self.limits.depth {
            self.problem(dir, format!("directories nest deeper than {}; flatten them", self.limits.depth));
            return;
        }
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut paths: Vec<PathBuf> = match entries {
            Ok(entries) => entries.iter().map(fs::DirEntry::path).collect(),
            Err(error) => {
                self.problem(
                    dir,
                    format!(
                        "cannot read the rule directory: {error}; create it or take it out of rules.dirs"
                    ),
                );
                return;
            }
        };
        paths.retain(|path| !hidden(path));
        paths.sort_unstable();
        for path in paths {
            if path.is_dir() {
                self.find(&path, depth + 1, files);
            } else if path.extension().is_some_and(|e| e == "yml" || e == "yaml") {
                files.push(path);
            }
        }
    }

    fn file(&mut self, path: &Path, layer: &mut Vec<Document>) {
        self.out.files += 1;
        if self.out.files > self.limits.files {
            if self.out.files == self.limits.files + 1 {
                self.problem(path, format!("more than {} rule files; remove some", self.limits.files));
            }
            return;
        }
        let limit = self.limits.file_bytes;
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
        if let Err(error) = read {
            self.problem(path, format!("cannot read the rule file: {error}; check its permissions"));
            return;
        }
        self.total += bytes.len() as u64;
        if bytes.len() as u64 > limit {
            self.problem(path, format!("larger than {limit} bytes; split it"));
        } else if self.total > self.limits.total_bytes {
            self.problem(
                path,
                format!("rule files exceed {} bytes together; remove some", self.limits.total_bytes),
            );
        } else {
            match std::str::from_utf8(&bytes) {
                Ok(text) => layer.extend(parse(path, text, &mut self.out.problems)),
                Err(error) => {
                    let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count() as u32;
                    self.out.problems.push(Problem::new(path, line, "not UTF-8; save the file as UTF-8"));
                }
            }
        }
    }

    fn problem(&mut self, path: &Path, message: String) {
        self.out.problems.push(Problem::new(path, 0, message));
    }
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Documents of one file with the line each begins on. A line that is `---`, or begins with `--- `, separates.
fn split(text: &str) -> Vec<(u32, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        offset += line.len();
        let alone = line.trim_end() == "---";
        if alone || line.starts_with("--- ") {
            parts.push((start_line, &text[start..offset - line.len()]));
            // What follows `---` on its line (a comment, a tag) belongs to the document that it opens.
            start = if alone { offset } else { offset - line.len() + 3 };
            start_line = index as u32 + if alone { 2 } else { 1 };
        }
    }
    parts.push((start_line, &text[start..]));
    parts
}

/// Later directories override earlier ones by id; `enabled: false` removes; the same id twice in one is a mistake.
fn override_by_id(layers: Vec<Vec<Document>>, out: &mut Documents) {
    let mut winner: BTreeMap<RuleId, (usize, usize)> = BTreeMap::new();
    for (layer, documents) in layers.iter().enumerate() {
        for (index, document) in documents.iter().enumerate() {
            let earlier = winner.insert(document.id.clone(), (layer, index));
            match earlier {
                Some((other, at)) if other == layer => {
                    let first = &layers[other][at];
                    let place = format!("{}:{}", first.file.display(), first.line);
                    out.problems.push(
                        document.problem(
                            "id",
                            format!("id {} is also at {place}; make them differ", document.id),
                        ),
                    );
                }
                None if !enabled(document) && document.map.len() == 2 => out.warnings.push(document.problem(
                    "id",
                    format!("disables {}, which no rule directory before it has", document.id),
                )),
                _ => {}
            }
        }
    }
    for (layer, documents) in layers.into_iter().enumerate() {
        for (index, document) in documents.into_iter().enumerate() {
            match document.get("enabled") {
                None | Some(Value::Bool(_)) => {}
                Some(_) => {
                    out.problems.push(document.problem("enabled", "enabled is neither true nor false"));
                }
            }
            if winner.get(&document.id) != Some(&(layer, index)) {
                continue;
            }
            if enabled(&document) {
                out.in_force.push(document);
            } else {
                out.disabled.push(document.id);
            }
        }
    }
}

fn enabled(document: &Document) -> bool {
    document.get("enabled").and_then(Value::as_bool).unwrap_or(true)
}

fn digest_mapping(map: &Mapping, hasher: &mut blake3::Hasher) {
    let mut entries: Vec<(String, &Value)> = map
        .iter()
        .map(|(key, value)| (key.as_str().map_or_else(|| format!("{key:?}"), str::to_owned), value))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    mark(hasher, b'{', entries.len());
    for (key, value) in entries {
        mark(hasher, b'k', key.len());
        hasher.update(key.as_bytes());
        digest_value(value, hasher);
    }
}

fn digest_value(value: &Value, hasher: &mut blake3::Hasher) {
    match value {
        Value::Null => mark(hasher, b'0', 0),
        Value::Bool(value) => mark(hasher, b'b', usize::from(*value)),
        Value::Number(number) => digest_text(b'n', &number.to_string(), hasher),
        Value::String(text) => digest_text(b's', text, hasher),
        Value::Sequence(items) => {
            mark(hasher, b'[', items.len());
            for item in items {
                digest_value(item, hasher);
            }
        }
        Value::Mapping(map) => digest_mapping(map, hasher),
        Value::Tagged(tagged) => {
            digest_text(b't', &tagged.tag.to_string(), hasher);
            digest_value(&tagged.value, hasher);
        }
    }
}

fn digest_text(kind: u8, text: &str, hasher: &mut blake3::Hasher) {
    mark(hasher, kind, text.len());
    hasher.update(text.as_bytes());
}

/// A type byte and a length before every value, so that no two different documents digest alike.
fn mark(hasher: &mut blake3::Hasher, kind: u8, len: usize) {
    hasher.update(&[kind]);
    hasher.update(&(len as u64).to_le_bytes());
}
