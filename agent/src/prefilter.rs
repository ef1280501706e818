//! The pre-filter's rules: loaded at start, reloaded when a file changes or somebody asks, never half.
//!
//! Fed by the rules that ship inside the program and by the directories of the configuration; feeds the pipeline with the set in force. A set that cannot be
//! loaded leaves the old one in force (at start: no rules, so that everything is kept) and shows in the health.

use std::path::{Path, PathBuf};
use std::time::Duration;

use auditflow_rules::{Current, Limits, LoadError, Outcome, Prefilter, Reloader, shipped};
use auditflow_service::health::Part;

use crate::config::RulesConfig;

/// How long files must be left alone before they are read.
const SETTLE: Duration = Duration::from_millis(300);

/// The rules and what reloads them; dropping it stops the reloading.
#[derive(Debug)]
pub struct Rules {
    reloader: Reloader<Prefilter>,
}

impl Rules {
    /// Loads the rules and watches their directories from now on. `part` shows how they are.
    pub fn start(config: &RulesConfig, part: Part) -> std::io::Result<Self> {
        let (dirs, shipped) = (existing(&config.dirs), config.shipped);
        let initial = match load(shipped, &dirs) {
            Ok(rules) => {
                tracing::info!(rule_set = %rules.version(), rules = rules.rules().len(), "pre-filter rules are in force");
                part.up();
                rules
            }
            Err(error) => {
                refused(&part, &error);
                Prefilter::empty()
            }
        };
        let told = move |outcome: &Outcome<Prefilter>| match outcome {
            Outcome::Swapped(rules) => {
                tracing::info!(rule_set = %rules.version(), rules = rules.rules().len(), "pre-filter rules are in force");
                part.up();
            }
            Outcome::Refused(error) => refused(&part, error),
        };
        Ok(Self { reloader: Reloader::start(initial, &dirs, SETTLE, move |dirs| load(shipped, dirs), told)? })
    }

    /// The set in force.
    pub fn current(&self) -> Current<Prefilter> {
        self.reloader.current()
    }

    /// Reads the files again; what comes of it shows in the health and in the log.
    pub fn reload(&self) {
        self.reloader.reload();
    }
}

/// Loads the shipped rules, if they are wanted, and those of directories that exist.
pub fn load(with_shipped: bool, dirs: &[PathBuf]) -> Result<Prefilter, LoadError> {
    let first = if with_shipped { shipped::EDGE } else { &[] };
    if first.is_empty() && dirs.iter().all(|dir| is_empty(dir)) {
        return Ok(Prefilter::empty());
    }
    Prefilter::load_over(first, dirs, &Limits::default())
}

/// A directory that nobody has made has no rules; which ones there are is looked at once, at start.
pub fn existing(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let (there, missing): (Vec<&PathBuf>, Vec<&PathBuf>) = dirs.iter().partition(|dir| dir.is_dir());
    for dir in missing {
        tracing::info!("there is no {}, so no rules are read from it", dir.display());
    }
    there.into_iter().cloned().collect()
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

fn refused(part: &Part, error: &LoadError) {
    for problem in error.problems() {
        tracing::error!("{problem}");
    }
    part.degraded(&error.to_string(), &["the newest pre-filter rules"]);
}

/// For tests: the rules of one file's text; none if it is empty.
#[cfg(test)]
pub(crate) fn from_text(text: &str) -> Prefilter {
    let file = [("edge.yml", text)];
    if text.is_empty() {
        Prefilter::empty()
    } else {
        Prefilter::load_over(&file, &[], &Limits::default()).unwrap()
    }
}
