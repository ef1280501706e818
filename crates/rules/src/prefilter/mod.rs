//! The agent's pre-filter: ordered Sigma rules with an action each.
//!
//! Fed by rule files (`rules/edge`) and by events before they are spooled; what it says is counted and travels as
//! signed data. Rules are gone through in the order of files and documents: `keep`, `drop`, `sample` and `rate_limit`
//! end the way of an event, `tag` and `priority` go on, and what no rule ends is kept.

mod action;
mod limiter;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use auditflow_event::{Event, Priority};
use rsigma_eval::Event as _;
use rsigma_parser::{SigmaDocument, SigmaRule};

use crate::detect::{Engines, MatchedField, matched_fields};
use crate::document::{self, Document, Documents, Limits};
use crate::logsource::{Family, written};
use crate::rule::{LoadError, Problem, RuleId, RuleSetVersion};
use crate::view::{self, View};
use crate::{selftest, sigma};

pub use action::{Action, Rate, Ratio};
use limiter::Limiter;

/// Compiled and tested pre-filter rules.
#[derive(Debug)]
pub struct Prefilter {
    version: RuleSetVersion,
    rules: Vec<EdgeRule>,
    engines: Engines,
}

/// One pre-filter rule, and how often it spoke.
#[derive(Debug)]
pub struct EdgeRule {
    /// Its id, or its title where it has none.
    pub id: RuleId,
    /// One line for people.
    pub title: Box<str>,
    /// What it does with what it matches.
    pub action: Action,
    /// The file and line of its document.
    pub place: Box<str>,
    limiter: Option<Limiter>,
    reached: AtomicU64,
    dropped: AtomicU64,
}

impl EdgeRule {
    /// Events that came to this rule and matched it.
    pub fn reached_total(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }

    /// Events that it dropped.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// What is to be done with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Keep it, or drop it and why.
    pub disposition: Disposition,
    /// The rule that decided; `None` when no rule did and it is kept.
    pub rule: Option<RuleId>,
    /// Names to add to the event's tags.
    pub tags: Vec<Box<str>>,
    /// The event's new priority, if a rule gave one.
    pub priority: Option<Priority>,
}

/// Whether an event goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is spooled.
    Keep,
    /// It ends here, and is counted.
    Drop(DropReason),
}

/// Why an event was dropped: the names under which loss is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// By `drop`.
    Filtered,
    /// By `sample`, which keeps only a share.
    Sampled,
    /// By `rate_limit`.
    RateLimited,
}

impl DropReason {
    /// The name in metrics and declarations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Filtered => "filtered",
            Self::Sampled => "sampled",
            Self::RateLimited => "rate_limited",
        }
    }
}

/// One rule that an event matches, for `rules explain`.
#[derive(Clone, Debug)]
pub struct Step<'p> {
    /// The rule.
    pub rule: &'p EdgeRule,
    /// The values that made it match.
    pub matched: Vec<MatchedField>,
    /// Whether no rule after it is looked at.
    pub ends: bool,
}

impl Prefilter {
    /// Loads every `*.yml` below the directories, in their order, and runs the test cases that the rules carry.
    ///
    /// # Errors
    /// All problems of all files together; see [`LoadError`].
    pub fn load(dirs: &[PathBuf], limits: &Limits) -> Result<Self, LoadError> {
        Self::load_over(&[], dirs, limits)
    }

    /// [`Prefilter::load`], with the directories laid over rules in memory (path and text), such as
    /// [`crate::shipped::EDGE`].
    ///
    /// # Errors
    /// As [`Prefilter::load`].
    pub fn load_over(first: &[(&str, &str)], dirs: &[PathBuf], limits: &Limits) -> Result<Self, LoadError> {
        Self::build(document::read(first, dirs, limits))
    }

    /// The pre-filter that keeps everything.
    pub fn empty() -> Self {
        let (engines, _) = Engines::compile(std::iter::empty());
        Self { version: RuleSetVersion::of(&blake3::Hasher::new()), rules: Vec::new(), engines }
    }

    /// Digest of what the rules say, and of their order.
    pub fn version(&self) -> &RuleSetVersion {
        &self.version
    }

    /// The rules in their order.
    pub fn rules(&self) -> &[EdgeRule] {
        &self.rules
    }

    /// What is to be done with `event`. `now` is monotonic time since any fixed start; only `rate_limit` looks at it.
    pub fn judge(&self, event: &Event, now: Duration) -> Verdict {
        let mut verdict =
            Verdict { disposition: Disposition::Keep, rule: None, tags: Vec::new(), priority: None };
        for (number, key) in self.matching(event) {
            let rule = &self.rules[number];
            rule.reached.fetch_add(1, Ordering::Relaxed);
            let dropped = match &rule.action {
                Action::Tag(names) => {
                    let new =
                        names.iter().filter(|name| !verdict.tags.contains(name)).cloned().collect::<Vec<_>>();
                    verdict.tags.extend(new);
                    continue;
                }
                Action::Priority(priority) => {
                    verdict.priority = Some(*priority);
                    continue;
                }
                Action::Keep => None,
                Action::Drop => Some(DropReason::Filtered),
                Action::Sample(ratio) => (!ratio.keeps(&event.id)).then_some(DropReason::Sampled),
                Action::RateLimit(rate) => {
                    let allowed = rule.limiter.as_ref().is_none_or(|limiter| limiter.allow(rate, key, now));
                    (!allowed).then_some(DropReason::RateLimited)
                }
            };
            verdict.rule = Some(rule.id.clone());
            if let Some(reason) = dropped {
                rule.dropped.fetch_add(1, Ordering::Relaxed);
                verdict.disposition = Disposition::Drop(reason);
            }
            break;
        }
        verdict
    }

    /// The rules that `event` matches, in their order, and why. Counts nothing and limits nothing.
    pub fn explain(&self, event: &Event) -> Vec<Step<'_>> {
        let mut steps: Vec<(usize, Vec<MatchedField>)> = Vec::new();
        self.engines.detect(event, None, None, &mut |_, _, number, result| {
            steps.push((number, matched_fields(result)));
        });
        steps.sort_by_key(|(number, _)| *number);
        steps.dedup_by_key(|(number, _)| *number);
        let steps = steps.into_iter().filter_map(|(number, matched)| {
            let rule = self.rules.get(number)?;
            Some(Step { rule, matched, ends: rule.action.ends() })
        });
        steps.collect()
    }

    /// The numbers of the rules that match, ascending, each with the key that limits its rate.
    fn matching(&self, event: &Event) -> Vec<(usize, u64)> {
        let mut matching = Vec::new();
        view::visit(event, None, None, self.engines.families(), &mut |family, _, view| {
            self.engines.evaluate(family, view, &mut |number, _| {
                matching.push((number, self.rules.get(number).map_or(0, |rule| rule.key(view))));
            });
        });
        matching.sort_unstable_by_key(|(number, _)| *number);
        matching.dedup_by_key(|(number, _)| *number);
        matching
    }

    fn build(documents: Documents) -> Result<Self, LoadError> {
        let Documents { in_force: documents, disabled, files, mut problems, warnings: _ } = documents;
        let mut hasher = blake3::Hasher::new();
        let mut parsed: Vec<(Document, SigmaRule)> = Vec::new();
        let mut rules = Vec::new();
        for document in documents {
            match edge_rule(&document) {
                Ok((rule, sigma)) => {
                    document.digest(&mut hasher);
                    rules.push(rule);
                    parsed.push((document, sigma));
                }
                Err((key, reason)) => problems.push(document.problem(key, reason)),
            }
        }
        if files > 0 && rules.is_empty() && disabled.is_empty() && problems.is_empty() {
            problems.push(Problem::new("", 0, format!("{files} rule files hold no rule; check rules.dirs")));
        }
        selftest::rules(&parsed, &mut problems);
        let with_family = parsed.iter().enumerate();
        let with_family =
            with_family.filter_map(|(i, (_, sigma))| Some((i, Family::of(&sigma.logsource)?, sigma)));
        let (engines, failed) = Engines::compile(with_family);
        for (number, reason) in failed {
            problems.push(parsed[number].0.problem("detection", reason));
        }
        if problems.is_empty() && engines.len() != rules.len() {
            let message = format!("{} of {} rules were compiled; report this", engines.len(), rules.len());
            problems.push(Problem::new("", 0, message));
        }
        if problems.is_empty() {
            return Ok(Self { version: RuleSetVersion::of(&hasher), rules, engines });
        }
        problems.sort();
        Err(LoadError::new(problems))
    }
}

impl EdgeRule {
    fn key(&self, view: &View<'_>) -> u64 {
        match &self.action {
            Action::RateLimit(rate) => limiter::key(rate.by.iter().map(|field| view.get_field(field))),
            _ => 0,
        }
    }
}

fn edge_rule(document: &Document) -> Result<(EdgeRule, SigmaRule), (&'static str, String)> {
    let action = Action::parse(document)?;
    let mut map = document.map.clone();
    for key in action::KEYS {
        map.remove(*key);
    }
    // `action` is a word of Sigma's own (collections), so the parser must not see ours.
    let text = yaml_serde::to_string(&map).map_err(|error| ("detection", error.to_string()))?;
    let SigmaDocument::Rule(sigma) = sigma::parse(&text)? else {
        return Err((
            "action",
            "only detection rules can have an action; put this file among the detection rules".into(),
        ));
    };
    if Family::of(&sigma.logsource).is_none() {
        let source = written(&sigma.logsource);
        return Err((
            "logsource",
            format!("nothing on a node feeds log source {source}; the rule would never match"),
        ));
    }
    let limiter = matches!(action, Action::RateLimit(_)).then(Limiter::default);
    let rule = EdgeRule {
        id: document.id.clone(),
        title: sigma.title.as_str().into(),
        action,
        place: format!("{}:{}", document.file.display(), document.line).into(),
        limiter,
        reached: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
    };
    Ok((rule, *sigma))
}
