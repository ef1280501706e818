//! From directories of Sigma documents to one rule set, whole or not at all.
//!
//! Fed by configured directories, later ones overriding earlier ones by id; feeds `detect` and the collector's
//! correlation. Guarantees: a set holds every enabled rule of its files, exceptions applied, its own test cases
//! passed; otherwise there is no set but a list of everything that is wrong. A set that came out empty though there
//! were files is refused.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use auditflow_event::{Event, HostFacts, Meaning};
use rsigma_parser::{CorrelationRule, ExemplarRuleKind, FilterRule, SigmaDocument, SigmaRule};

use crate::correlation::{self, Correlation};
use crate::coverage::{self, Gap};
use crate::detect::{Detection, Engines, matched_fields};
use crate::document::{self, Document, Documents, Limits};
use crate::filter;
use crate::logsource::{Family, written};
use crate::rule::{Level, LoadError, Problem, Rule, RuleId, RuleSetVersion};
use crate::selftest;
use crate::sigma;

/// Detection rules, correlations and exceptions, compiled and tested.
#[derive(Debug)]
pub struct RuleSet {
    version: RuleSetVersion,
    /// Detection rules first, by their engine number, then correlations.
    rules: Vec<Arc<Rule>>,
    by_id: HashMap<RuleId, usize>,
    engines: Engines,
    correlations: Vec<Arc<Correlation>>,
    /// For each rule or correlation: the correlations that count it.
    parents: HashMap<RuleId, Vec<Arc<Correlation>>>,
    warnings: Vec<Problem>,
    gaps: Vec<Gap>,
    disabled: Vec<RuleId>,
}

impl RuleSet {
    /// Loads every `*.yml` below the directories, in their order, and runs the test cases that the rules carry.
    ///
    /// # Errors
    /// All problems of all files together; see [`LoadError`].
    pub fn load(dirs: &[PathBuf], limits: &Limits) -> Result<Self, LoadError> {
        Self::load_over(&[], dirs, limits)
    }

    /// [`RuleSet::load`], with the directories laid over rules in memory (path and text), such as
    /// [`crate::shipped::DETECTION`].
    ///
    /// # Errors
    /// As [`RuleSet::load`].
    pub fn load_over(first: &[(&str, &str)], dirs: &[PathBuf], limits: &Limits) -> Result<Self, LoadError> {
        Self::build(document::read(first, dirs, limits))
    }

    /// The set without rules, for a collector that has none yet.
    pub fn empty() -> Self {
        let (engines, _) = Engines::compile(std::iter::empty());
        Self {
            version: RuleSetVersion::of(&blake3::Hasher::new()),
            rules: Vec::new(),
            by_id: HashMap::new(),
            engines,
            correlations: Vec::new(),
            parents: HashMap::new(),
            warnings: Vec::new(),
            gaps: Vec::new(),
            disabled: Vec::new(),
        }
    }

    /// Digest of what the set says.
    pub fn version(&self) -> &RuleSetVersion {
        &self.version
    }

    /// All rules: detection rules, then correlations.
    pub fn rules(&self) -> &[Arc<Rule>] {
        &self.rules
    }

    /// The rule with that id.
    pub fn rule(&self, id: &RuleId) -> Option<&Arc<Rule>> {
        self.rules.get(*self.by_id.get(id)?)
    }

    /// The correlations, for whoever evaluates them.
    pub fn correlations(&self) -> &[Arc<Correlation>] {
        &self.correlations
    }

    /// The correlations that count matches of `rule`.
    pub fn parents(&self, rule: &RuleId) -> &[Arc<Correlation>] {
        self.parents.get(rule).map(Vec::as_slice).unwrap_or_default()
    }

    /// What loads but is probably not meant, such as an exception to a rule that does not exist.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Rules that cannot match, or not wholly: nothing feeds their log source, or their fields are in no event.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// The ids that `enabled: false` switched off.
    pub fn disabled(&self) -> &[RuleId] {
        &self.disabled
    }

    /// Appends a detection for every rule and view of `event` that match. `host` is what is known of the node that it
    /// came from: rules may look at it, and events do not carry it.
    pub fn detect(&self, event: &Event, host: Option<&HostFacts>, found: &mut Vec<Detection>) {
        self.detect_in(event, None, host, found);
    }

    /// [`RuleSet::detect`] for whoever has the event's meaning already: computing it is a good part of the work.
    pub fn detect_with(
        &self,
        event: &Event,
        meaning: &Meaning<'_>,
        host: Option<&HostFacts>,
        found: &mut Vec<Detection>,
    ) {
        self.detect_in(event, Some(meaning), host, found);
    }

    fn detect_in(
        &self,
        event: &Event,
        meaning: Option<&Meaning<'_>>,
        host: Option<&HostFacts>,
        found: &mut Vec<Detection>,
    ) {
        self.engines.detect(event, meaning, host, &mut |family, view, number, result| {
            if let Some(rule) = self.rules.get(number) {
                found.push(Detection {
                    rule: Arc::clone(rule),
                    family,
                    view,
                    matched: matched_fields(result),
                });
            }
        });
    }

    fn build(documents: Documents) -> Result<Self, LoadError> {
        let Documents { in_force: documents, disabled, files, mut problems, warnings } = documents;
        let mut parsed = Parsed { warnings, ..Parsed::default() };
        for document in documents {
            match sigma::parse(&document.text) {
                Ok(sigma) => parsed.take(document, sigma, &mut problems),
                Err((key, reason)) => problems.push(document.problem(key, reason)),
            }
        }
        let nothing = parsed.rules.is_empty() && parsed.correlations.is_empty() && disabled.is_empty();
        if files > 0 && nothing && problems.is_empty() {
            problems.push(Problem::new("", 0, format!("{files} rule files hold no rule; check rules.dirs")));
        }
        let set = parsed.compile(disabled, &mut problems);
        if !problems.is_empty() {
            problems.sort();
            return Err(LoadError::new(problems));
        }
        Ok(set)
    }
}

/// The documents by kind, before anything refers to anything.
#[derive(Default)]
struct Parsed {
    rules: Vec<(Document, SigmaRule)>,
    correlations: Vec<(Document, CorrelationRule)>,
    filters: Vec<(Document, FilterRule)>,
    warnings: Vec<Problem>,
}

impl Parsed {
    fn take(&mut self, document: Document, sigma: SigmaDocument, problems: &mut Vec<Problem>) {
        match sigma {
            SigmaDocument::Rule(rule) => self.rules.push((document, *rule)),
            SigmaDocument::Correlation(correlation) => self.correlations.push((document, correlation)),
            SigmaDocument::Filter(filter) => match filter::check(&filter) {
                Ok(()) => self.filters.push((document, filter)),
                Err(reason) => problems.push(document.problem("filter", reason)),
            },
        }
    }

    fn compile(mut self, disabled: Vec<RuleId>, problems: &mut Vec<Problem>) -> RuleSet {
        let version = self.version();
        let bases = self.bases();
        let mut rules: Vec<Arc<Rule>> =
            self.rules.iter().map(|(document, rule)| Arc::new(describe(document, rule, &bases))).collect();
        let correlations = self.correlate(&bases, problems);
        selftest::rules(&self.rules, problems);
        selftest::correlations(&self.rules, &self.correlations, &correlations, problems);
        let gaps = self
            .rules
            .iter()
            .zip(&rules)
            .filter_map(|((_, sigma), rule)| coverage::gap(sigma, rule))
            .collect();
        self.except(problems);

        let with_source =
            self.rules.iter().enumerate().filter_map(|(i, (_, r))| Some((i, rules[i].family?, r)));
        let (engines, failed) = Engines::compile(with_source);
        for (number, reason) in failed {
            problems.push(self.rules[number].0.problem("detection", reason));
        }
        let loaded = rules.iter().filter(|rule| rule.family.is_some()).count();
        if problems.is_empty() && engines.len() != loaded {
            problems.push(Problem::new(
                "",
                0,
                format!("{} of {loaded} rules were compiled; report this", engines.len()),
            ));
        }
        rules.extend(correlations.iter().map(|correlation| Arc::clone(&correlation.rule)));
        let mut parents: HashMap<RuleId, Vec<Arc<Correlation>>> = HashMap::new();
        for correlation in &correlations {
            for base in &correlation.rules {
                parents.entry(base.clone()).or_default().push(Arc::clone(correlation));
            }
        }
        let by_id = rules.iter().enumerate().map(|(index, rule)| (rule.id.clone(), index)).collect();
        RuleSet {
            version,
            rules,
            by_id,
            engines,
            correlations,
            parents,
            warnings: self.warnings,
            gaps,
            disabled,
        }
    }

    /// Every document's content in the order of ids: in which file it stands is of no account.
    fn version(&self) -> RuleSetVersion {
        let documents = self.rules.iter().map(|(d, _)| d);
        let documents = documents
            .chain(self.correlations.iter().map(|(d, _)| d))
            .chain(self.filters.iter().map(|(d, _)| d));
        let sorted: BTreeMap<&RuleId, &Document> =
            documents.map(|document| (&document.id, document)).collect();
        let mut hasher = blake3::Hasher::new();
        for document in sorted.values() {
            document.digest(&mut hasher);
        }
        RuleSetVersion::of(&hasher)
    }

    /// References that correlations make, each with whether the base also alerts by itself.
    fn bases(&self) -> HashMap<String, bool> {
        let mut bases = HashMap::new();
        for (_, correlation) in &self.correlations {
            for reference in &correlation.rules {
                *bases.entry(reference.clone()).or_default() |= correlation.generate;
            }
        }
        bases
    }

    /// Resolves what correlations refer to.
    fn correlate(&self, bases: &HashMap<String, bool>, problems: &mut Vec<Problem>) -> Vec<Arc<Correlation>> {
        let mut known: HashMap<&str, RuleId> = HashMap::new();
        for (document, name) in self
            .rules
            .iter()
            .map(|(d, r)| (d, &r.name))
            .chain(self.correlations.iter().map(|(d, c)| (d, &c.name)))
        {
            known.insert(document.id.as_str(), document.id.clone());
            if let Some(name) = name {
                known.entry(name).or_insert_with(|| document.id.clone());
            }
        }
        let mut correlations = Vec::new();
        for (document, parsed) in &self.correlations {
            let rule = Arc::new(describe_correlation(document, parsed, bases));
            let stated = document.get("correlation").is_some_and(|c| c.get("condition").is_some());
            match correlation::compile(parsed, rule, stated, &|reference| known.get(reference).cloned()) {
                Ok(correlation) => correlations.push(Arc::new(correlation)),
                Err(reason) => problems.push(document.problem("correlation", reason)),
            }
        }
        if let Some(id) = correlation::cycle(&correlations)
            && let Some((document, _)) = self.correlations.iter().find(|(document, _)| document.id == id)
        {
            problems.push(
                document
                    .problem("correlation", "counts itself by way of other correlations; break the circle"),
            );
            correlations.clear();
        }
        correlations
    }

    /// Joins the exceptions to their rules.
    fn except(&mut self, problems: &mut Vec<Problem>) {
        for (number, (document, filter)) in self.filters.iter().enumerate() {
            let mut concerned = false;
            for (_, rule) in self.rules.iter_mut().filter(|(_, rule)| filter::concerns(filter, rule)) {
                concerned = true;
                let never =
                    Family::of(&rule.logsource).map(|family| coverage::unserved(&filter.detection, family));
                if let Some(never) = never.filter(|never| !never.is_empty()) {
                    let message =
                        format!("excepts by {}, which no event of this log source has", never.join(", "));
                    self.warnings.push(document.problem("filter", message));
                }
                if let Err(reason) = filter::apply(filter, number, rule) {
                    problems.push(document.problem("filter", reason));
                }
            }
            if !concerned {
                let message = "is an exception to no loaded detection rule; check filter.rules, or remove it";
                self.warnings.push(document.problem("filter", message));
            }
        }
    }
}

fn boxed(texts: &[String]) -> Vec<Box<str>> {
    texts.iter().map(|text| text.as_str().into()).collect()
}

fn text(text: Option<&String>) -> Box<str> {
    text.map(|text| text.trim().into()).unwrap_or_default()
}

fn describe(document: &Document, rule: &SigmaRule, bases: &HashMap<String, bool>) -> Rule {
    Rule {
        id: document.id.clone(),
        title: rule.title.as_str().into(),
        name: rule.name.as_deref().map(Into::into),
        level: Level::from(rule.level),
        description: text(rule.description.as_ref()),
        author: text(rule.author.as_ref()),
        tags: boxed(&rule.tags),
        false_positives: boxed(&rule.falsepositives),
        references: boxed(&rule.references),
        logsource: written(&rule.logsource).into(),
        family: Family::of(&rule.logsource),
        alerts: alerts(&document.id, rule.name.as_ref(), bases),
        file: Arc::clone(&document.file),
        line: document.line,
        source: Arc::clone(&document.text),
        cases: selftest::count(&rule.custom_attributes, ExemplarRuleKind::Detection),
    }
}

fn describe_correlation(document: &Document, rule: &CorrelationRule, bases: &HashMap<String, bool>) -> Rule {
    Rule {
        id: document.id.clone(),
        title: rule.title.as_str().into(),
        name: rule.name.as_deref().map(Into::into),
        level: Level::from(rule.level),
        description: text(rule.description.as_ref()),
        author: text(rule.author.as_ref()),
        tags: boxed(&rule.tags),
        false_positives: boxed(&rule.falsepositives),
        references: boxed(&rule.references),
        logsource: Box::default(),
        family: None,
        alerts: alerts(&document.id, rule.name.as_ref(), bases),
        file: Arc::clone(&document.file),
        line: document.line,
        source: Arc::clone(&document.text),
        cases: selftest::count(&rule.custom_attributes, ExemplarRuleKind::Correlation),
    }
}

/// The base of a correlation alerts by itself only if one of its correlations says so (`generate: true`).
fn alerts(id: &RuleId, name: Option<&String>, bases: &HashMap<String, bool>) -> bool {
    let mentions = [bases.get(id.as_str()), name.and_then(|name| bases.get(name))];
    let mut mentions = mentions.into_iter().flatten().peekable();
    mentions.peek().is_none() || mentions.any(|generate| *generate)
}
