//! `rules`: tests pre-filter rules, and explains what they make of events.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use auditflow_audit_record::{Assembler, Limits, MAX_LINE, Reader};
use auditflow_event::Event;
use auditflow_rules::{Disposition, LoadError, Prefilter};
use auditflow_service::args::{ConfigFile, Exit};

use super::say;
use crate::prefilter;
use crate::source::replay::LogClock;

/// What `rules` does.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Load rules and run the test cases that they carry; exits with 1 if something is wrong
    Test(TestArgs),
    /// Say which rules match each event of an audit log, and what becomes of it
    Explain(ExplainArgs),
}

/// What `rules test` is given.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Directories with rules, instead of the shipped ones and those of the configuration
    #[arg(value_name = "DIR")]
    dirs: Vec<PathBuf>,
}

/// What `rules explain` is given.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Directories with rules, instead of the shipped ones and those of the configuration
    #[arg(long = "rules", value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The audit log, or - for standard input
    #[arg(default_value = "-")]
    log: PathBuf,
}

/// Does it.
pub fn run(command: &Command) -> anyhow::Result<Exit> {
    match command {
        Command::Test(args) => test(args),
        Command::Explain(args) => explain(args),
    }
}

fn test(args: &TestArgs) -> anyhow::Result<Exit> {
    match load(&args.config, &args.dirs)? {
        Ok(rules) => {
            say!("{} rules are good; their version is {}", rules.rules().len(), rules.version())?;
            Ok(Exit::Ok)
        }
        Err(error) => {
            for problem in error.problems() {
                say!("{problem}")?;
            }
            Ok(Exit::Failure)
        }
    }
}

/// Directories that are named must exist; those of the configuration need not.
fn load(config: &ConfigFile, dirs: &[PathBuf]) -> anyhow::Result<Result<Prefilter, LoadError>> {
    if !dirs.is_empty() {
        return Ok(prefilter::load(false, dirs));
    }
    let config = super::load_config(config)?.rules;
    Ok(prefilter::load(config.shipped, &prefilter::existing(&config.dirs)))
}

fn explain(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let rules = load(&args.config, &args.dirs)??;
    if args.log == Path::new("-") {
        return explain_each(&rules, io::stdin().lock());
    }
    let file = File::open(&args.log).with_context(|| format!("cannot open {}", args.log.display()))?;
    explain_each(&rules, file)
}

fn explain_each(rules: &Prefilter, input: impl Read) -> anyhow::Result<Exit> {
    let mut reader = Reader::new(io::BufReader::new(input), MAX_LINE);
    let mut assembler = Assembler::new(Limits::default());
    let mut clock = LogClock::default();
    while let Some(record) = reader.next_record()? {
        if let Ok(record) = record {
            clock.saw(record.stamp.millis);
            assembler.push(record, clock.waited(Duration::ZERO));
        }
        explain_ready(rules, &mut assembler)?;
    }
    if let Some(Ok(record)) = reader.take_rest() {
        assembler.push(record, clock.waited(Duration::ZERO));
    }
    assembler.flush();
    explain_ready(rules, &mut assembler)?;
    Ok(Exit::Ok)
}

fn explain_ready(rules: &Prefilter, assembler: &mut Assembler) -> anyhow::Result<()> {
    while let Some(audit) = assembler.pop() {
        let stamp = audit.stamp;
        let event = Event::audit(None, audit);
        let now = Duration::from_millis(stamp.millis);
        let verdict = rules.judge(&event, now);
        let fate = match verdict.disposition {
            Disposition::Keep => "kept",
            Disposition::Drop(reason) => reason.as_str(),
        };
        say!("{stamp} {}: {fate}", event.meaning().event_type.as_str())?;
        for step in rules.explain(&event) {
            let ends = if step.ends { ", which ends it" } else { "" };
            say!("    {} ({}){ends}; {}", step.rule.title, step.rule.action.as_str(), step.rule.place)?;
            for field in &step.matched {
                say!("        {} = {} ({})", field.field, field.value, field.selection)?;
            }
        }
    }
    Ok(())
}
