//! `rules check|test|exclude`: rule files tried before they are in force, and exceptions with what they would have
//! spared.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use auditflow_rules::{Gap, Limits, LoadError, Missing, Rule, RuleSet, exclusion, shipped};
use auditflow_service::args::Exit;
use auditflow_service::{file, lifecycle};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::alert::again::{self, Again};
use crate::detect::Rules;
use crate::store::{Action, AlertCursor, AlertFilter, AlertRow, Store};

/// Alerts looked at for what an exception would have spared, the newest first.
const LOOKED_AT: usize = 10_000;
const PAGE: usize = 200;

/// `rules`
#[derive(Debug, Clone, Subcommand)]
pub enum RulesCommand {
    /// Load rule directories over the shipped rules and say what is wrong, or what can never match; exits with 78 if
    /// they would be refused
    Check(Directories),
    /// The same, with the test cases that each rule of the directories carries
    Test(Directories),
    /// Write an exception to a rule, and count the past alerts that it would have spared
    Exclude(Exclude),
}

/// Which rules.
#[derive(Debug, Clone, Args)]
pub struct Directories {
    /// Directories of rule files, in the order in which they are laid over one another
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
}

/// `rules exclude`
#[derive(Debug, Clone, Args)]
pub struct Exclude {
    /// The rule: its id, its name or its title
    rule: String,
    /// What is harmless: Field=value, with Sigma's modifiers if wanted (CommandLine|contains=--nightly); several must
    /// hold together
    #[arg(long = "field", required = true, value_name = "FIELD=VALUE")]
    fields: Vec<String>,
    /// Why, for whoever reads the file later
    #[arg(long, default_value = "")]
    reason: String,
    /// Write nothing, print the exception
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: super::Place,
}

/// Runs it.
pub fn run(command: &RulesCommand) -> anyhow::Result<Exit> {
    match command {
        RulesCommand::Check(Directories { dirs }) => match load(dirs) {
            Ok(set) => super::unless_closed(summary(&set)),
            Err(error) => Ok(refused(&error)),
        },
        RulesCommand::Test(Directories { dirs }) => match load(dirs) {
            Ok(set) => super::unless_closed(cases(&set, dirs).and_then(|()| summary(&set))),
            Err(error) => Ok(refused(&error)),
        },
        RulesCommand::Exclude(args) => exclude(args),
    }
}

fn load(dirs: &[PathBuf]) -> Result<RuleSet, LoadError> {
    RuleSet::load_over(shipped::DETECTION, dirs, &Limits::default())
}

fn refused(error: &LoadError) -> Exit {
    for problem in error.problems() {
        eprintln!("{problem}");
    }
    eprintln!("the rules would be refused: those before them would stay in force");
    Exit::Config
}

fn summary(set: &RuleSet) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for warning in set.warnings() {
        writeln!(out, "warning: {warning}")?;
    }
    for Gap { rule, missing } in set.gaps() {
        let name = set.rule(rule).map_or(rule.as_str(), |rule| &rule.title);
        match missing {
            Missing::Source(source) => writeln!(out, "never matches: {name}: nothing feeds {source}")?,
            Missing::OneValue(selection) => {
                writeln!(out, "may not match: {name}: {selection} wants one value to be several at once")?;
            }
            Missing::Fields(fields) => {
                writeln!(out, "may not match: {name}: no event has {}", fields.join(", "))?;
            }
        }
    }
    let (rules, correlations) = (set.rules().len(), set.correlations().len());
    writeln!(out, "{} rules and {correlations} correlations, version {}", rules - correlations, set.version())
}

/// The rules of the directories with their test cases, all passed: otherwise the set would have been refused.
fn cases(set: &RuleSet, dirs: &[PathBuf]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for rule in set.rules().iter().filter(|rule| dirs.iter().any(|dir| rule.file.starts_with(dir))) {
        match rule.cases {
            0 => writeln!(out, "no test case   {}  {}", rule.file.display(), rule.title)?,
            1 => writeln!(out, " 1 case passed  {}  {}", rule.file.display(), rule.title)?,
            count => writeln!(out, "{count:2} cases passed {}  {}", rule.file.display(), rule.title)?,
        }
    }
    Ok(())
}

fn exclude(args: &Exclude) -> anyhow::Result<Exit> {
    let config = args.place.config()?;
    let dirs: Vec<PathBuf> = config.rules.dirs.iter().filter(|dir| dir.is_dir()).cloned().collect();
    let set = load(&dirs).context("the rules in force can't be loaded: mend them first (`rules check`)")?;
    let rule = find(&set, &args.rule)?;
    let document = exclusion(&rule, &args.fields, &args.reason)?;
    let mut files = shipped::DETECTION.to_vec();
    files.push(("exception.yml", &document));
    let with = RuleSet::load_over(&files, &dirs, &Limits::default())
        .context("the exception is not a valid filter")?;

    let exists = config.storage.postgres.is_set() || config.storage.data_dir.join("collector.db").exists();
    let store = if exists { Some(super::open_store(&config)?) } else { None };
    if let Some(store) = &store {
        let spared = lifecycle::block_on(spared(store, &Rules::new(with), &rule))??;
        eprintln!("{spared}");
    } else {
        eprintln!("no collector in {}: past alerts were not looked at", config.storage.data_dir.display());
    }
    if args.dry_run {
        return super::unless_closed(write!(std::io::stdout(), "{document}"));
    }
    let dir = config.rules.dirs.last().context("no rule directory is configured: set [rules] dirs")?;
    let written = write(dir, &rule, &document);
    let path = match &store {
        None => written?,
        Some(store) => {
            let file = written.as_ref().ok().map(|path| path.display().to_string());
            let detail = json!({ "file": file, "reason": args.reason });
            super::recorded(store, (Action::RuleExclude, rule.id.to_string()), detail, written)?
        }
    };
    super::unless_closed(writeln!(std::io::stdout(), "{}", path.display()))
}

fn find(set: &RuleSet, wanted: &str) -> anyhow::Result<Arc<Rule>> {
    let is = |rule: &&Arc<Rule>| {
        rule.id.as_str() == wanted
            || rule.name.as_deref() == Some(wanted)
            || rule.title.eq_ignore_ascii_case(wanted)
    };
    let mut found = set.rules().iter().filter(is);
    let rule = found
        .next()
        .with_context(|| format!("no rule is called {wanted}: give its id, its name or its title"))?;
    ensure!(found.next().is_none(), "several rules are called {wanted}: give the id");
    Ok(Arc::clone(rule))
}

/// Writes the exception next to the other local rules. The same exception always has the same file.
fn write(dir: &Path, rule: &Rule, document: &str) -> anyhow::Result<PathBuf> {
    let words = rule.title.to_ascii_lowercase();
    let words: Vec<&str> =
        words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let digest = &blake3::hash(document.as_bytes()).to_hex()[..8];
    let path = dir.join(format!("exclude-{}-{digest}.yml", words.join("-")));
    std::fs::create_dir_all(dir)
        .and_then(|()| file::write_atomic(&path, document.as_bytes(), 0o644))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// What an exception would have spared.
#[derive(Debug, Default)]
struct Spared {
    removed: usize,
    stay: usize,
    unknown: usize,
    more: bool,
}

impl std::fmt::Display for Spared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { removed, stay, unknown, more } = self;
        let which = if *more { format!("the newest {LOOKED_AT}") } else { "all".to_owned() };
        write!(
            f,
            "of {which} past alerts that the rule had a part in the exception would have spared {removed} and left {stay}"
        )?;
        if *unknown > 0 {
            write!(f, "; of {unknown} the events are not all kept any more")?;
        }
        Ok(())
    }
}

/// Judges the evidence of past alerts again, with the exception.
async fn spared(store: &Arc<dyn Store>, with: &Rules, rule: &Rule) -> anyhow::Result<Spared> {
    let mut spared = Spared::default();
    let mut looked_at = 0;
    for id in again::raised_by(with, &rule.id) {
        let mut after: Option<AlertCursor> = None;
        loop {
            let filter = AlertFilter { rule_id: Some(id.as_str().to_owned()), ..AlertFilter::default() };
            let page: Vec<AlertRow> = store.alerts(filter, after, 0, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(AlertCursor { received_at: last.received_at, alert_id: last.alert.alert_id });
            for row in &page {
                if looked_at == LOOKED_AT {
                    spared.more = true;
                    return Ok(spared);
                }
                looked_at += 1;
                match again::judge(&**store, with, &row.alert).await? {
                    Again::Raised => spared.stay += 1,
                    Again::NotRaised => spared.removed += 1,
                    Again::Unknown => spared.unknown += 1,
                }
            }
        }
    }
    Ok(spared)
}
