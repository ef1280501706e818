//! `cargo xtask docs`: what the code itself prints, under `docs/generated`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use crate::workspace::{Profile, Programs, build_programs, output, root};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if a file differs from what the code prints
    #[arg(long)]
    check: bool,
}

/// One generated file: its name, the program that prints it, and what it is asked.
struct Reference {
    file: &'static str,
    program: fn(&Programs) -> &Path,
    arguments: &'static [&'static str],
}

fn agent(programs: &Programs) -> &Path {
    &programs.agent
}

fn collector(programs: &Programs) -> &Path {
    &programs.collector
}

const REFERENCES: &[Reference] = &[
    Reference { file: "agent.toml", program: agent, arguments: &["config", "default"] },
    Reference { file: "agent-metrics.md", program: agent, arguments: &["reference", "metrics"] },
    Reference { file: "agent-openapi.json", program: agent, arguments: &["reference", "openapi"] },
    Reference { file: "events.md", program: agent, arguments: &["reference", "events"] },
    Reference { file: "collector.toml", program: collector, arguments: &["config", "default"] },
    Reference { file: "collector-metrics.md", program: collector, arguments: &["reference", "metrics"] },
    Reference { file: "collector-openapi.json", program: collector, arguments: &["reference", "openapi"] },
];

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let programs = build_programs(Profile::Debug)?;
    let folder = root().join("docs/generated");
    fs::create_dir_all(&folder)?;
    let mut stale = Vec::new();
    for reference in REFERENCES {
        let text = output(Command::new((reference.program)(&programs)).args(reference.arguments))?;
        let path = folder.join(reference.file);
        if fs::read_to_string(&path).is_ok_and(|committed| committed == text) {
            continue;
        }
        if args.check {
            stale.push(reference.file);
        } else {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
            println!("wrote docs/generated/{}", reference.file);
        }
    }
    if !stale.is_empty() {
        bail!("out of date under docs/generated: {}; run `cargo xtask docs` and commit", stale.join(", "));
    }
    Ok(())
}
