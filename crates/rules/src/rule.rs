//! What a rule is once loaded, apart from how it matches: its names, its level, where it stands.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::logsource::Family;

/// A rule's identity: Sigma's `id`, or its title where a rule has none. Alert ids derive from it, so it must not
/// change while the rule means the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleId(Arc<str>);

impl RuleId {
    /// The id as written in the rule file.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RuleId {
    fn from(id: &str) -> Self {
        Self(Arc::from(id))
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RuleId({})", self.0)
    }
}

impl serde::Serialize for RuleId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Sigma's five levels, in ascending order of urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For enrichment and statistics; nobody is told.
    Informational,
    /// Notable, rarely an incident.
    Low,
    /// Worth a look in the course of the day. What a rule without a level has.
    Medium,
    /// Needs a prompt look.
    High,
    /// Almost certainly an incident.
    Critical,
}

impl Level {
    /// The name as Sigma spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "informational",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl From<Option<rsigma_parser::Level>> for Level {
    fn from(level: Option<rsigma_parser::Level>) -> Self {
        match level {
            Some(rsigma_parser::Level::Informational) => Self::Informational,
            Some(rsigma_parser::Level::Low) => Self::Low,
            Some(rsigma_parser::Level::Medium) | None => Self::Medium,
            Some(rsigma_parser::Level::High) => Self::High,
            Some(rsigma_parser::Level::Critical) => Self::Critical,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A loaded rule as people and alerts see it. Detection rules and correlations both have one.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Identity; see [`RuleId`].
    pub id: RuleId,
    /// One line for people.
    pub title: Box<str>,
    /// Sigma's machine-readable `name`, by which correlations and filters may refer to it.
    pub name: Option<Box<str>>,
    /// How urgent a match is.
    pub level: Level,
    /// What it looks for and why it matters.
    pub description: Box<str>,
    /// Who wrote it (`author`), as the rule's licence asks to be shown.
    pub author: Box<str>,
    /// Tags, `attack.t1059.004` among them.
    pub tags: Vec<Box<str>>,
    /// Known causes of harmless matches.
    pub false_positives: Vec<Box<str>>,
    /// Links to background.
    pub references: Vec<Box<str>>,
    /// The log source as written, `product/category/service`; empty for a correlation.
    pub logsource: Box<str>,
    /// Which view of events it is evaluated on; `None` for a correlation and for a source that AuditFlow has not.
    pub family: Option<Family>,
    /// Whether a match raises an alert by itself. False for a rule that is only the base of correlations.
    pub alerts: bool,
    /// The file that it came from.
    pub file: Arc<Path>,
    /// The line on which its document begins, from 1.
    pub line: u32,
    /// The document as written, for the page that explains an alert.
    pub source: Arc<str>,
    /// How many test cases it carries (`rsigma.exemplars`). All of them passed when it was loaded.
    pub cases: usize,
}

/// Short BLAKE3 digest of a rule set's canonical content: 16 lowercase hex digits. Comments, layout and the files'
/// names do not count; what a rule says does.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RuleSetVersion(Box<str>);

impl RuleSetVersion {
    pub(crate) fn of(hasher: &blake3::Hasher) -> Self {
        Self(hasher.finalize().to_hex()[..16].into())
    }

    /// The 16 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RuleSetVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Something wrong, or worth knowing, at one place of one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file or directory.
    pub file: PathBuf,
    /// The line, from 1; 0 where the whole file or directory is meant.
    pub line: u32,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(file: impl Into<PathBuf>, line: u32, message: impl Into<String>) -> Self {
        Self { file: file.into(), line, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file.display(), self.message),
            line => write!(f, "{}:{line}: {}", self.file.display(), self.message),
        }
    }
}

/// A rule set that was refused: everything that was found wrong with it, at most [`LoadError::MAX`] problems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    problems: Vec<Problem>,
    more: usize,
}

impl LoadError {
    /// How many problems are kept; the rest are only counted.
    pub const MAX: usize = 200;

    pub(crate) fn new(mut problems: Vec<Problem>) -> Self {
        let more = problems.len().saturating_sub(Self::MAX);
        problems.truncate(Self::MAX);
        Self { problems, more }
    }

    /// What was found wrong, in the order of the files.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len() + self.more;
        write!(f, "rule files have {count} problem{}", if count == 1 { "" } else { "s" })?;
        for problem in self.problems.iter().take(3) {
            write!(f, "; {problem}")?;
        }
        if count > 3 {
            write!(f, "; and {} more", count - 3)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}
