//! `load-rules`: puts kernel audit rules in force, or puts back what was found.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use auditflow_service::args::{ConfigFile, Exit};
use auditflow_service::file;

use super::{load_config, say};
use crate::kernel_rules::field::Kind;
use crate::kernel_rules::{self, Located, Plan, load, syntax};
use crate::netlink::AuditSocket;

/// The largest rule file that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Load kernel audit rules (auditctl's syntax), all or nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(help = "Rule files, in this order; none: those of the configuration (sources.kernel_audit.rules)")]
    files: Vec<PathBuf>,

    #[command(flatten)]
    config: ConfigFile,

    /// Read and check the files, print what would be done, touch nothing
    #[arg(long, conflicts_with = "restore")]
    dry_run: bool,

    /// Put back the rules and settings that stood before the first load
    #[arg(long, conflicts_with = "files")]
    restore: bool,

    /// Where to keep what was found
    #[arg(long, value_name = "FILE", default_value = load::STATE)]
    state: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    if args.restore {
        let mut socket = AuditSocket::open()?;
        load::restore(&mut socket, &args.state)?;
        say!("restored the audit rules and settings that stood before")?;
        return Ok(Exit::Ok);
    }
    let configured;
    let files = if args.files.is_empty() {
        configured = load_config(&args.config)?.sources.kernel_audit.rules;
        &configured
    } else {
        &args.files
    };
    let lines = read(files)?;
    let plan = Plan::of(&lines);
    if args.dry_run {
        say!("{}", described(plan))?;
        return Ok(Exit::Ok);
    }
    if let Some(folder) = args.state.parent() {
        file::create_private_directory(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let mut socket = AuditSocket::open()?;
    let refused = load::load(&mut socket, &lines, &args.state)?;
    for (line, error) in &refused {
        let cause = error.errno().map_or_else(|| error.to_string(), |errno| errno.desc().to_owned());
        say!("{}:{}: not loaded: {cause}: {}", line.file, line.line, line.text)?;
    }
    say!("{}; {} of them not possible here", described(plan), refused.len())?;
    Ok(Exit::Ok)
}

fn read(files: &[PathBuf]) -> anyhow::Result<Vec<Located>> {
    if files.is_empty() {
        bail!("no rule files: name some, or set sources.kernel_audit.rules in the configuration");
    }
    let machine = syntax::Machine { number_of: &number_of, is_directory: &|path| Path::new(path).is_dir() };
    let mut lines = Vec::new();
    let mut errors = Vec::new();
    for path in files {
        let name = path.display().to_string();
        let bytes =
            file::read_bounded(path, MAX_FILE_BYTES).with_context(|| format!("cannot read {name}"))?;
        let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8"))?;
        match kernel_rules::parse_file(&name, &text, &machine) {
            Ok(parsed) => lines.extend(parsed),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() {
        return Ok(lines);
    }
    let listed: Vec<String> = errors.iter().map(ToString::to_string).collect();
    bail!("{}", listed.join("\n"))
}

fn described(plan: Plan) -> String {
    let clear = if plan.clear { "every rule removed, then " } else { "" };
    format!("{clear}{} rules to load, {} to remove, {} settings to change", plan.add, plan.delete, plan.set)
}

/// The number of a user or group, from the files that name them.
fn number_of(kind: Kind, name: &str) -> Option<u32> {
    let path = match kind {
        Kind::User => "/etc/passwd",
        Kind::Group => "/etc/group",
        _ => return None,
    };
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let mut columns = line.split(':');
        (columns.next() == Some(name)).then(|| columns.nth(1)?.parse().ok()).flatten()
    })
}
