//! The rules in force and how they are replaced while the collector runs.
//!
//! Fed by the rules that ship inside the program, by directories, their changes and SIGHUP; feeds `analyse`, the page
//! and `commands::rules`. A set comes into force whole, tested, or not at all; health says which and why.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use auditflow_rules::{Current, Limits, LoadError, Outcome, ReloadState, Reloader, RuleSet};
use auditflow_service::health::Part;

use crate::correlate::definition::Definitions;

/// How long rule files must be left alone before they are read: an editor or a `ConfigMap` changes several at once.
const SETTLE: Duration = Duration::from_millis(300);

/// A rule set with its correlations made ready.
#[derive(Debug)]
pub struct Rules {
    set: RuleSet,
    definitions: Definitions,
}

impl Rules {
    /// Makes a set ready.
    pub fn new(set: RuleSet) -> Self {
        Self { definitions: Definitions::of(&set), set }
    }

    /// The rules that ship, and over them those of the directories, later ones overriding earlier ones by id.
    ///
    /// # Errors
    /// Everything that is wrong with the files.
    pub fn load(dirs: &[PathBuf]) -> Result<Self, LoadError> {
        RuleSet::load_over(auditflow_rules::shipped::DETECTION, dirs, &Limits::default()).map(Self::new)
    }

    /// [`Rules::load`] with those of the directories that exist: a machine without local rules is not broken.
    fn load_existing(dirs: &[PathBuf]) -> Result<Self, LoadError> {
        let existing: Vec<PathBuf> = dirs.iter().filter(|dir| dir.exists()).cloned().collect();
        Self::load(&existing)
    }

    /// The rules.
    pub fn set(&self) -> &RuleSet {
        &self.set
    }

    /// Its correlations.
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }
}

/// Keeps the rules in force up to date. Dropping it stops that; whoever holds the current rules keeps them.
#[derive(Debug)]
pub struct RulesReloader(Reloader<Rules>);

impl RulesReloader {
    /// Loads the rules and watches the directories. Local rules that can't be loaded leave the shipped ones in force,
    /// and `health` says what is wrong with them.
    ///
    /// # Errors
    /// If the reloading thread can't be started.
    pub fn start(dirs: &[PathBuf], health: Part) -> io::Result<Self> {
        let (initial, refused) = match Rules::load_existing(dirs) {
            Ok(rules) => (rules, None),
            Err(error) => {
                let shipped = Rules::load(&[]).unwrap_or_else(|_| Rules::new(RuleSet::empty()));
                (shipped, Some(error))
            }
        };
        match &refused {
            None => report_loaded(&initial, &health),
            Some(error) => report_refused(error, &health),
        }
        let again = refused.is_some();
        let reloader =
            Reloader::start(initial, dirs, SETTLE, Rules::load_existing, move |outcome| match outcome {
                Outcome::Swapped(rules) => report_loaded(rules, &health),
                Outcome::Refused(error) => report_refused(error, &health),
            })?;
        if again {
            // So that its state shows the refusal too.
            reloader.reload();
        }
        Ok(Self(reloader))
    }

    /// The rules in force.
    pub fn current(&self) -> Current<Rules> {
        self.0.current()
    }

    /// Asks for a reload now.
    pub fn reload(&self) {
        self.0.reload();
    }

    /// How reloading goes.
    pub fn state(&self) -> ReloadState {
        self.0.state()
    }
}

fn report_loaded(rules: &Rules, health: &Part) {
    let set = rules.set();
    for warning in set.warnings() {
        tracing::warn!(%warning, "a rule file is probably not meant so");
    }
    tracing::info!(
        rules = set.rules().len() - set.correlations().len(),
        correlations = set.correlations().len(),
        disabled = set.disabled().len(),
        version = set.version().as_str(),
        "rules loaded"
    );
    health.up();
}

fn report_refused(error: &LoadError, health: &Part) {
    health.degraded(&error.to_string(), &["changes to rules: the rules before them stay in force"]);
}
