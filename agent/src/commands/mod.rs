//! What the command line can do, one file per command.

pub mod check;
pub mod config_default;
pub mod decode;
pub mod join;
pub mod key;
pub mod load_rules;
pub mod reference;
pub mod rules;
pub mod run;
pub mod spool;
pub mod status;
pub mod test_alert;

use std::fmt;
use std::future::Future;
use std::io::{self, Write as _};

use auditflow_service::args::{ConfigFile, Exit, OutputClosed};
use auditflow_service::config;

use crate::config::{Config, ENVIRONMENT_PREFIX};

/// Prints a line to standard output; fails if nobody reads it, which [`conclude`] takes for a quiet end.
///
/// [`conclude`]: auditflow_service::args::conclude
macro_rules! say {
    ($($arguments:tt)*) => {
        $crate::commands::print_line(format_args!($($arguments)*))
    };
}
use say;

fn print_line(line: fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => OutputClosed.into(),
        _ => error.into(),
    })
}

/// The configuration that `--config` names, or the one in the usual place; without either, the defaults.
fn load_config(file: &ConfigFile) -> anyhow::Result<Config> {
    let usual = config::default_path("agent");
    let path = file.file.as_deref().or_else(|| usual.exists().then_some(&usual));
    Ok(config::load(path, ENVIRONMENT_PREFIX)?)
}

/// Runs a short command's async part on this thread.
fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Writing to a pipe that nobody reads any more ends a command in peace.
fn unless_closed(result: io::Result<()>) -> anyhow::Result<Exit> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::Ok),
    }
}
