//! The agent's command line: parses it and hands over to the command.

use std::path::PathBuf;

use auditflow_agent::commands;
use auditflow_service::args::{self, ColorChoice, ConfigFile, Exit};
use clap::{Parser, Subcommand};


/// AuditFlow's agent: watches this node and delivers what it saw
#[derive(Parser)]
#[command(name = "auditflow-agent", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the configuration, opening nothing; exits with 78 if it is wrong
    Check(ConfigFile),
    /// Print configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Turn audit log text into one event JSON per line
    Decode(DecodeArgs),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the commented reference with every key and its default
    Default,
}

#[derive(clap::Args)]
struct DecodeArgs {
    /// The audit log, or - for standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// What is printed
    #[arg(long, value_enum, default_value_t)]
    format: commands::decode::Format,
}

fn main() -> Exit {
    let cli = match args::parse::<Cli>() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let outcome = match &cli.command {
        Command::Check(file) => commands::check::run(file),
        Command::Config(ConfigCommand::Default) => commands::config_default::run(),
        Command::Decode(args) => commands::decode::run(&args.file, args.format),
    };
    args::conclude("auditflow-agent", outcome)
}
