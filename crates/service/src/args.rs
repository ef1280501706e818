//! The command line's shared parts: `--config`, colour, exit statuses, how errors are printed.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{ExitCode, Termination};

use clap::error::ErrorKind;
use clap::{Args, Parser, ValueEnum};

use crate::config::ConfigError;

/// How a program ends, after sysexits.h where that has a number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or stopped cleanly.
    Ok,
    /// 1: failed, or a check found something.
    Failure,
    /// 64 (`EX_USAGE`): the command line is wrong.
    Usage,
    /// 78 (`EX_CONFIG`): the configuration is wrong.
    Config,
}

impl Exit {
    /// The exit status.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failure => 1,
            Self::Usage => 64,
            Self::Config => 78,
        }
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.code())
    }
}

/// `--config FILE`, to be flattened into the commands that read the configuration.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigFile {
    /// Configuration file (TOML), if another than /etc/auditflow/agent.toml or collector.toml
    #[arg(short, long = "config", value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// `--color WHEN`, to be flattened into the program's arguments.
#[derive(Debug, Clone, Default, Args)]
pub struct ColorChoice {
    /// When to print in colour
    #[arg(long, value_enum, value_name = "WHEN", default_value_t, global = true)]
    pub color: Color,
}

/// When to print in colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Color {
    /// On a terminal, unless the environment variable `NO_COLOR` is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Color {
    /// Whether to print to standard output in colour.
    pub fn on_stdout(self) -> bool {
        self.decide(
            std::io::stdout().is_terminal(),
            std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty()),
        )
    }

    /// Whether to print to standard error in colour.
    pub fn on_stderr(self) -> bool {
        self.decide(
            std::io::stderr().is_terminal(),
            std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty()),
        )
    }

    /// See <https://no-color.org>: an empty `NO_COLOR` counts as unset, an explicit `--color` wins.
    fn decide(self, terminal: bool, no_color: bool) -> bool {
        match self {
            Self::Auto => terminal && !no_color,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Parses the command line; on `--help`, `--version` or an error it prints what is due and answers how to exit.
pub fn parse<P: Parser>() -> Result<P, Exit> {
    P::try_parse().map_err(|error| {
        // A closed pipe while printing help is nobody's problem.
        let _ = error.print();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Ok,
            _ => Exit::Usage,
        }
    })
}

/// Nobody reads standard output any more (`… | head -1`), which ends a command in peace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct OutputClosed;

/// Turns what a command came to into an exit status, printing an error to standard error: a configuration's problems
/// one per line (78), anything else as `program: error: cause: cause` (1). [`OutputClosed`] is no error.
pub fn conclude(program: &str, outcome: anyhow::Result<Exit>) -> Exit {
    match outcome {
        Ok(exit) => exit,
        Err(error) if error.is::<OutputClosed>() => Exit::Ok,
        Err(error) => {
            let (text, exit) = explain(program, &error);
            eprintln!("{text}");
            exit
        }
    }
}

fn explain(program: &str, error: &anyhow::Error) -> (String, Exit) {
    if let Some(config) = error.chain().find_map(|cause| cause.downcast_ref::<ConfigError>()) {
        return (config.to_string(), Exit::Config);
    }
    let mut text = format!("{program}: error: ");
    let mut last = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Libraries often print their source themselves: say nothing twice.
        if !last.ends_with(&cause) {
            let separator = if last.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{cause}");
            last = cause;
        }
    }
    (text, Exit::Failure)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use anyhow::Context as _;

    use super::*;
    use crate::config::{self, Configuration, Overrides, Problems};

    #[derive(Debug, Default, serde::Deserialize)]
    struct Empty {}

    impl Configuration for Empty {
        fn validate(&self, _: &mut Problems) {}
    }

    #[test]
    fn colour_needs_a_terminal_and_no_objection_unless_demanded() {
        for (choice, terminal, no_color, expected) in [
            (Color::Auto, true, false, true),
            (Color::Auto, true, true, false),
            (Color::Auto, false, false, false),
            (Color::Always, false, true, true),
            (Color::Never, true, false, false),
        ] {
            assert_eq!(choice.decide(terminal, no_color), expected, "{choice:?} {terminal} {no_color}");
        }
    }

    #[test]
    fn configuration_error_exits_78_wherever_it_is_in_the_chain() {
        let error = config::parse::<Empty>(Path::new("a.toml"), "x = 1", &Overrides::default()).unwrap_err();
        let (text, exit) = explain("auditflow-agent", &anyhow::Error::from(error).context("cannot start"));
        assert_eq!((exit.code(), text.lines().count()), (78, 1));
        assert!(text.starts_with("a.toml:1:1: x: "), "{text}");
    }

    #[test]
    fn a_reader_that_left_is_no_failure_and_another_broken_pipe_is_one() {
        assert_eq!(conclude("auditflow-agent", Err(OutputClosed.into())), Exit::Ok);
        let lost = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(conclude("auditflow-agent", Err(lost.into())), Exit::Failure);
    }

    #[test]
    fn other_error_exits_1_and_prints_its_causes_once() {
        let cause = std::io::Error::other("no space left on device");
        let error =
            Err::<(), _>(cause).context("cannot write spool").context("cannot write spool").unwrap_err();
        let (text, exit) = explain("auditflow-agent", &error);
        assert_eq!(exit, Exit::Failure);
        assert_eq!(text, "auditflow-agent: error: cannot write spool: no space left on device");
    }
}
