//! What the system benches (`tests/benches`, run by `cargo xtask bench`) share: where they work, the recorded log they
//! work on, what a program's run cost, and one way of saying a figure.
//!
//! A bench that misses something it needs says `SKIPPED` and why; one that falls short says so and does not fail, for
//! a busy machine is no defect.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::programs;

/// The environment variable that says on which disk to work.
const FOLDER: &str = "AUDITFLOW_BENCH_DIR";

/// In which the kernel counts for `/proc`, on every architecture.
const TICKS_PER_SECOND: u64 = 100;

/// One bench: says which it is, then its figures.
#[derive(Debug)]
pub struct Bench {
    name: &'static str,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
    /// Nothing was promised; the figure explains another.
    None,
}

impl Bench {
    /// Runs a bench; what it cannot go on without (see [`Missing`]) ends it as skipped, any other error as failed.
    pub fn run(name: &'static str, body: impl FnOnce(&Self) -> anyhow::Result<()>) -> ExitCode {
        println!("\n{name}: cargo xtask bench {name}");
        let Err(error) = body(&Self { name }) else { return ExitCode::SUCCESS };
        if let Some(missing) = error.downcast_ref::<Missing>() {
            println!("{name}: SKIPPED: {missing}");
            return ExitCode::SUCCESS;
        }
        eprintln!("{name}: FAILED: {error:#}");
        ExitCode::FAILURE
    }

    /// Says a figure.
    pub fn figure(&self, what: &str, value: f64, unit: &str, target: Target) {
        println!("{}: {what}: {} {unit}{}", self.name, Short(value), target.judged(value));
    }

    /// Says something about how it was measured.
    pub fn note(&self, text: &str) {
        println!("{}: {text}", self.name);
    }
}

impl Target {
    fn judged(self, value: f64) -> String {
        let (words, bound, is_reached) = match self {
            Self::AtLeast(bound) => ("at least", bound, value >= bound),
            Self::AtMost(bound) => ("at most", bound, value <= bound),
            Self::None => return String::new(),
        };
        format!(" ({words} {}: {})", Short(bound), if is_reached { "reached" } else { "FALLS SHORT" })
    }
}

/// A number with three significant digits, or whole.
struct Short(f64);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.abs() {
            0.0..10.0 => write!(f, "{:.2}", self.0),
            10.0..100.0 => write!(f, "{:.1}", self.0),
            _ => write!(f, "{:.0}", self.0),
        }
    }
}

/// Something that a bench needs is not here: what, and how to get it.
#[derive(Debug)]
pub struct Missing(pub String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// What a program's run cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Time on any processor, in the program and in the kernel for it.
    pub cpu: Duration,
    /// Time until it ended.
    pub wall: Duration,
}

impl Cost {
    /// Runs the command to its end, while no other child of this process ends.
    pub fn of(command: &mut Command) -> anyhow::Result<Self> {
        let (cpu, begin) = (children_cpu()?, Instant::now());
        let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
        let cost = Self { cpu: children_cpu()?.saturating_sub(cpu), wall: begin.elapsed() };
        if !status.success() {
            bail!("{command:?} ended with {status}");
        }
        Ok(cost)
    }
}

fn children_cpu() -> anyhow::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}

/// What a running process has cost so far, in whole hundredths of a second.
pub fn cpu_of(process: i32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("no {path}"))?;
    // The name, in brackets, may hold anything; user and system time are the 12th and 13th field after it.
    let fields = text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).context("no process name")?;
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// What a running process and all that descend from it have cost so far; those that ended meanwhile are not in it.
pub fn cpu_of_family(process: i32) -> anyhow::Result<Duration> {
    Ok(programs::family(process)?.into_iter().filter_map(|process| cpu_of(process).ok()).sum())
}

/// The memory of a running process and all that descend from it, in bytes; what several share is counted once.
pub fn memory_of_family(process: i32) -> anyhow::Result<u64> {
    let of = |process: i32| {
        let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    };
    Ok(programs::family(process)?.into_iter().filter_map(of).sum())
}

/// The middle of what was measured; what noise does to single runs leaves it alone.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.len() / 2;
    match (values.get(upper), values.get(values.len().saturating_sub(1) / 2)) {
        (Some(upper), Some(lower)) => f64::midpoint(*lower, *upper),
        _ => f64::NAN,
    }
}

/// A folder on the disk to be measured; what is in it goes when the value is dropped.
pub fn folder() -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("auditflow-bench-").tempdir_in(base()?)?)
}

/// The recorded kernel audit log (372,803 records, 90,309 events) as text; unpacked once.
pub fn recorded_log() -> anyhow::Result<PathBuf> {
    let packed =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus").join("kernel-audit.log.zst");
    if !packed.is_file() {
        return Err(Missing(format!("no recorded audit log at {}", packed.display())).into());
    }
    let log = base()?.join("kernel-audit.log");
    if !log.is_file() {
        let partial = tempfile::NamedTempFile::new_in(base()?)?;
        zstd::stream::copy_decode(BufReader::new(File::open(&packed)?), BufWriter::new(partial.as_file()))?;
        partial.persist(&log)?;
    }
    Ok(log)
}

/// How many records and events the recorded log has.
pub const RECORDED: (u64, u64) = (372_803, 90_309);

fn base() -> anyhow::Result<PathBuf> {
    let base = std::env::var_os(FOLDER).map_or_else(std::env::temp_dir, PathBuf::from);
    fs::create_dir_all(&base)?;
    Ok(base)
}
