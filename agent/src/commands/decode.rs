//! `decode`: audit log text in, event JSON out.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use auditflow_service::args::Exit;
use clap::ValueEnum;

use crate::decode::{Decoded, decode};

/// What is printed.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub enum Format {
    /// One JSON object per line
    #[default]
    Jsonl,
}

/// Decodes `path`, or standard input for `-`. Fails if there were lines and none of them was an audit record.
pub fn run(path: &Path, format: Format) -> anyhow::Result<Exit> {
    let Format::Jsonl = format;
    // Past the standard library's line buffering: lines are gathered here already.
    let output =
        File::from(io::stdout().as_fd().try_clone_to_owned().context("cannot write to standard output")?);
    let decoded = if path == Path::new("-") {
        decode(io::stdin().lock(), output)
    } else {
        decode(File::open(path).with_context(|| format!("cannot open {}", path.display()))?, output)
    };
    match decoded {
        Ok(decoded) => Ok(conclude(decoded)),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Ok),
        Err(error) => Err(error).with_context(|| format!("cannot decode {}", path.display())),
    }
}

fn conclude(decoded: Decoded) -> Exit {
    if decoded.undecodable == 0 {
        return Exit::Ok;
    }
    // Nobody reads standard error: then nobody misses it.
    let _ = writeln!(io::stderr(), "auditflow-agent: {} lines are no audit records", decoded.undecodable);
    if decoded.events == 0 { Exit::Failure } else { Exit::Ok }
}
