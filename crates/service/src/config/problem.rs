//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// Everything that is wrong with a configuration. Prints one problem per line, in the file's order, as
/// `file:line:column: key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<ConfigProblem>,
}

impl ConfigError {
    pub(super) fn new(mut problems: Vec<ConfigProblem>) -> Self {
        problems.sort_by(|a, b| (&a.at, &a.key).cmp(&(&b.at, &b.key)));
        Self { problems }
    }

    pub(super) fn single(file: &Path, message: String) -> Self {
        let at = Whereabouts::File { path: file.to_owned(), position: None };
        Self { problems: vec![ConfigProblem { at, key: String::new(), message }] }
    }

    /// The problems in the order of the file, those of the environment last.
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where it was written.
    pub at: Whereabouts,
    /// The dotted path of the key, empty where it belongs to none (a syntax error).
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Where a configured value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whereabouts {
    /// The configuration file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// Line and column, both counted from one; `None` for a key that isn't in the file.
        position: Option<(usize, usize)>,
    },
    /// An environment variable of this name.
    Environment(String),
}

impl Whereabouts {
    /// Line and column in the file, both counted from one.
    pub fn position(&self) -> Option<(usize, usize)> {
        match self {
            Self::File { position, .. } => *position,
            Self::Environment(_) => None,
        }
    }
}

impl fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, position: Some((line, column)) } => {
                write!(f, "{}:{line}:{column}", path.display())
            }
            Self::File { path, position: None } => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
        }
    }
}

/// Collects what a program's own checks find.
#[derive(Debug, Default)]
pub struct Problems {
    found: Vec<(String, String)>,
}

impl Problems {
    /// Reports `message` for the key with the dotted path `key`, for example `spool.max_bytes` or `rules.dirs.0`.
    pub fn report(&mut self, key: &str, message: impl fmt::Display) {
        self.found.push((key.to_owned(), message.to_string()));
    }

    /// Reports `message` for `key` unless `holds`.
    pub fn require(&mut self, holds: bool, key: &str, message: impl fmt::Display) {
        if !holds {
            self.report(key, message);
        }
    }

    /// What was reported so far, as key and message, in order.
    pub fn found(&self) -> &[(String, String)] {
        &self.found
    }

    pub(super) fn into_inner(self) -> Vec<(String, String)> {
        self.found
    }
}
