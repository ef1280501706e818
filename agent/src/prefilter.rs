//! The pre-filter's rules: loaded at start, reloaded when a file changes or somebody asks, never half.
//!
//! Fed by the rule directories of the configuration; feeds the pipeline with the set in force. A set that cannot be
//! loaded leaves the old one in force (at start: no rules, so that everything is kept) and shows in the health.

use std::path::{Path, PathBuf};
use std::time::Duration;

use auditflow_rules::{Current, Limits, LoadError, Outcome, Prefilter, Reloader};
use auditflow_service::health::Part;

/// How long files must be left alone before they are read.
const SETTLE: Duration = Duration::from_millis(300);

/// The rules and what reloads them; dropping it stops the reloading.
#[derive(Debug)]
pub struct Rules {
    reloader: Reloader<Prefilter>,
}

impl Rules {
    /// Loads the rules in `dirs` and watches them from now on. `part` shows how they are.
    pub fn start(dirs: &[PathBuf], part: Part) -> std::io::Result<Self> {
        let dirs = existing(dirs);
        let initial = match load(&dirs) {
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
        Ok(Self { reloader: Reloader::start(initial, &dirs, SETTLE, load, told)? })
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

/// Loads the rules of directories that exist.
pub fn load(dirs: &[PathBuf]) -> Result<Prefilter, LoadError> {
    if dirs.is_empty() { Ok(Prefilter::empty()) } else { Prefilter::load(dirs, &Limits::default()) }
}

/// A directory that nobody has made has no rules; which ones there are is looked at once, at start.
pub fn existing(dirs: &[PathBuf]) -> Vec<PathBuf> {
    let (there, missing): (Vec<&PathBuf>, Vec<&PathBuf>) = dirs.iter().partition(|dir| Path::is_dir(dir));
    for dir in missing {
        tracing::info!("there is no {}, so no rules are read from it", dir.display());
    }
    there.into_iter().cloned().collect()
}

fn refused(part: &Part, error: &LoadError) {
    for problem in error.problems() {
        tracing::error!("{problem}");
    }
    part.degraded(&error.to_string(), &["the newest pre-filter rules"]);
}
