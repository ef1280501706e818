//! The collector's command line: parses it and hands over to the command.

use std::path::PathBuf;

use auditflow_collector::commands::{self, Place};
use auditflow_service::args::{self, ColorChoice, ConfigFile, Exit};
use auditflow_service::file;
use clap::{Parser, Subcommand};

/// AuditFlow's collector: takes what agents deliver, keeps it, finds what matters in it, and shows it
#[derive(Parser)]
#[command(name = "auditflow-collector", version, max_term_width = 100, after_help = FIRST_STEPS)]
struct Cli {
    #[command(flatten)]
    color: ColorChoice,
    #[command(subcommand)]
    command: Command,
}

const FIRST_STEPS: &str = "First steps:
  auditflow-collector run --data ./collector                      start, with nothing else installed
  auditflow-collector token create --data ./collector             let a node join: prints a token
  auditflow-agent join https://COLLECTOR:7443 TOKEN               on the node
  auditflow-collector admin reset-password --data ./collector     get into the page";

#[derive(Subcommand)]
enum Command {
    /// Run until stopped; needs --data DIR or a configuration file
    Run(commands::run::Run),
    /// Let nodes join, and programs use the API
    #[command(subcommand)]
    Token(TokenCommand),
    /// Check the configuration, opening nothing; exits with 78 if it is wrong
    Check(ConfigFile),
    /// Print configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Bring the store to this release's schema, as `run` does too
    Migrate(Place),
    /// Copy store and site keys, also while the collector runs
    Backup(BackupArgs),
    /// Prove that what is stored is what the nodes signed; exits with 1 if it is not
    Verify(commands::verify::Verify),
    /// Write what is stored of a node into a file that `verify --export` proves anywhere
    Export(commands::export::Export),
    /// Print the public keys of a node and of the site, as `verify --export` needs them, or rotate the site's
    Keys(commands::keys::Keys),
    /// Make a certificate for a broker, of the site's authority, so that nodes and collector trust it
    BrokerCertificate(commands::broker_certificate::BrokerCertificate),
    /// Messages that RabbitMQ set aside because nobody could take them
    #[command(subcommand)]
    DeadLetters(commands::dead_letters::DeadLettersCommand),
    /// Try rules before they are in force, and write exceptions
    #[command(subcommand)]
    Rules(commands::rules::RulesCommand),
    /// The page's administrator
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Who changed what here
    #[command(subcommand)]
    Audit(commands::audit::AuditCommand),
    /// Print what the code itself knows, as the docs have it
    #[command(subcommand)]
    Reference(ReferenceCommand),
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Print a new join token
    Create(commands::token::Create),
    /// Print a new API token
    Api(commands::token::Api),
    /// Revoke an API token by its id
    Revoke(commands::token::Revoke),
    /// List the API tokens
    List(commands::token::List),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the commented reference with every key and its default
    Default,
}

#[derive(clap::Args)]
struct BackupArgs {
    #[command(flatten)]
    place: Place,
    /// A directory that does not exist yet
    destination: PathBuf,
}

#[derive(Subcommand)]
enum ReferenceCommand {
    /// Every metric, as Markdown
    Metrics,
    /// The API's OpenAPI description, as JSON
    Openapi,
}

#[derive(Subcommand)]
enum AdminCommand {
    /// Give the user `admin` a new password and print it
    ResetPassword(Place),
}

fn main() -> Exit {
    file::keep_private();
    let cli = match args::parse::<Cli>() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    let outcome = match &cli.command {
        Command::Run(run) => commands::run::run(run, &cli.color),
        Command::Token(TokenCommand::Create(create)) => commands::token::create(create),
        Command::Token(TokenCommand::Api(api)) => commands::token::api(api),
        Command::Token(TokenCommand::Revoke(revoke)) => commands::token::revoke(revoke),
        Command::Token(TokenCommand::List(list)) => commands::token::list(list),
        Command::Check(file) => commands::check::run(file),
        Command::Config(ConfigCommand::Default) => commands::config_default::run(),
        Command::Migrate(place) => commands::migrate::run(place),
        Command::Backup(backup) => commands::backup::run(&backup.place, &backup.destination),
        Command::Verify(verify) => commands::verify::run(verify),
        Command::Export(export) => commands::export::run(export),
        Command::Keys(keys) => commands::keys::run(keys),
        Command::BrokerCertificate(wanted) => commands::broker_certificate::run(wanted),
        Command::DeadLetters(letters) => commands::dead_letters::run(letters),
        Command::Rules(rules) => commands::rules::run(rules),
        Command::Admin(AdminCommand::ResetPassword(place)) => commands::admin::reset_password(place),
        Command::Audit(audit) => commands::audit::run(audit),
        Command::Reference(ReferenceCommand::Metrics) => commands::reference::metrics(),
        Command::Reference(ReferenceCommand::Openapi) => commands::reference::openapi(),
    };
    args::conclude(commands::run::PROGRAM, outcome)
}
