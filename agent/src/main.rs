//! The agent's command line: parses it and hands over to the command.

use std::path::PathBuf;

use auditflow_agent::commands::{
    self, decode, join, key, load_rules, reference, rules, spool, status, test_alert,
};
use auditflow_service::args::{self, ColorChoice, ConfigFile, Exit};
use auditflow_service::file;
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
    /// Watch this node until told to stop
    Run(ConfigFile),
    /// Make this node known to a collector, with a token that `auditflow-collector token create` printed
    Join(join::Args),
    /// Change the key that this node signs with
    #[command(subcommand)]
    Key(key::Command),
    /// Check the configuration, opening nothing; exits with 78 if it is wrong
    Check(ConfigFile),
    /// Print configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Say how the running agent is
    Status(status::Args),
    /// Fire a harmless real rule end to end and wait for its alert
    TestAlert(test_alert::Args),
    /// Turn audit log text into one event JSON per line
    Decode(DecodeArgs),
    /// Put kernel audit rules in force, all or nothing, or put back what was found
    LoadRules(load_rules::Args),
    /// Look into a spool
    #[command(subcommand)]
    Spool(spool::Command),
    /// Test pre-filter rules and see what they do
    #[command(subcommand)]
    Rules(rules::Command),
    /// Print what the documentation quotes
    #[command(subcommand)]
    Reference(reference::Command),
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
    format: decode::Format,
}

fn main() -> Exit {
    file::keep_private();
    let cli = match args::parse::<Cli>() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let outcome = match &cli.command {
        Command::Run(file) => commands::run::run(file, &cli.color),
        Command::Join(args) => join::run(args),
        Command::Key(command) => key::run(command),
        Command::Check(file) => commands::check::run(file),
        Command::Config(ConfigCommand::Default) => commands::config_default::run(),
        Command::Status(args) => status::run(args),
        Command::TestAlert(args) => test_alert::run(args),
        Command::Decode(args) => decode::run(&args.file, args.format),
        Command::LoadRules(args) => load_rules::run(args),
        Command::Spool(command) => spool::run(command),
        Command::Rules(command) => rules::run(command),
        Command::Reference(command) => reference::run(command),
    };
    args::conclude("auditflow-agent", outcome)
}
