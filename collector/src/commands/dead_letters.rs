//! `dead-letters`: messages that RabbitMQ set aside because nobody could take them.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use auditflow_service::args::Exit;
use auditflow_service::{file, lifecycle};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::bus::dead::{DeadLetter, DeadLetters};
use crate::bus::{self, names};
use crate::config::{BusConfig, Config};
use crate::site::Site;
use crate::store::Action;

/// Letters that are looked at if nobody says how many.
const LOOKED_AT: usize = 1000;

/// `dead-letters`
#[derive(Debug, Clone, Subcommand)]
pub enum DeadLettersCommand {
    /// Print what was set aside, and why, oldest first
    List(List),
    /// Print one letter's particulars, and write what it says into a file
    Show(Show),
    /// Publish letters again, once what was wrong is mended
    Requeue(Chosen),
    /// Throw letters away
    Discard(Chosen),
}

/// Where the letters are.
#[derive(Debug, Clone, Args)]
pub struct From {
    #[command(flatten)]
    place: super::Place,
    /// The broker, as a user that may read dead letters; the configuration's, if it is not said
    #[arg(long, value_name = "URL", requires = "password_file")]
    url: Option<String>,
    /// The file with that user's password
    #[arg(long, value_name = "FILE", requires = "url")]
    password_file: Option<PathBuf>,
    /// The queue
    #[arg(long, default_value = names::DEAD_BATCHES)]
    queue: String,
    /// Look at no more than so many
    #[arg(long, value_name = "NUMBER", default_value_t = LOOKED_AT)]
    limit: usize,
}

/// `dead-letters list`
#[derive(Debug, Clone, Args)]
pub struct List {
    #[command(flatten)]
    from: From,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// `dead-letters show`
#[derive(Debug, Clone, Args)]
pub struct Show {
    #[command(flatten)]
    from: From,
    /// Write the letter's bytes into this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The letter, as `list` names it
    id: String,
}

/// `dead-letters requeue` and `discard`
#[derive(Debug, Clone, Args)]
pub struct Chosen {
    #[command(flatten)]
    from: From,
    /// All that there are
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// The letters, as `list` names them
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
}

/// Does what is asked.
pub fn run(command: &DeadLettersCommand) -> anyhow::Result<Exit> {
    match command {
        DeadLettersCommand::List(args) => list(args),
        DeadLettersCommand::Show(args) => show(args),
        DeadLettersCommand::Requeue(args) => settle(args, Action::DeadLetterRequeue),
        DeadLettersCommand::Discard(args) => settle(args, Action::DeadLetterDiscard),
    }
}

fn list(args: &List) -> anyhow::Result<Exit> {
    let config = args.from.place.config()?;
    lifecycle::block_on(async {
        let taken = args.from.take(&config).await?;
        let mut text = String::new();
        for letter in &taken.letters {
            text += &if args.json { described(letter).to_string() } else { line(letter) };
            text.push('\n');
        }
        if taken.letters.is_empty() && !args.json {
            text = format!("no dead letters in {}\n", args.from.queue);
        }
        super::unless_closed(std::io::stdout().write_all(text.as_bytes()))
    })?
}

fn show(args: &Show) -> anyhow::Result<Exit> {
    let config = args.from.place.config()?;
    lifecycle::block_on(async {
        let taken = args.from.take(&config).await?;
        let letter = find(&taken, &args.id)?;
        if let Some(path) = &args.out {
            file::write_atomic(path, &letter.body, 0o600)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let text = serde_json::to_string_pretty(&described(letter))? + "\n";
        super::unless_closed(std::io::stdout().write_all(text.as_bytes()))
    })?
}

/// Puts letters back or throws them away, each with an entry in the audit trail.
fn settle(args: &Chosen, action: Action) -> anyhow::Result<Exit> {
    let config = args.from.place.config()?;
    let store = super::open_store(&config)?;
    lifecycle::block_on(async {
        let taken = args.from.take(&config).await?;
        let chosen: Vec<&DeadLetter> = if args.all {
            taken.letters.iter().collect()
        } else {
            args.ids.iter().map(|id| find(&taken, id)).collect::<anyhow::Result<_>>()?
        };
        for letter in &chosen {
            let done = match action {
                Action::DeadLetterRequeue => taken.requeue(letter).await,
                _ => taken.discard(letter).await,
            };
            let done = done.with_context(|| format!("dead letter {}", letter.id));
            super::record(&store, (action, letter.id.clone()), described(letter), done).await?;
        }
        let many = if chosen.len() == 1 { "letter" } else { "letters" };
        super::unless_closed(writeln!(std::io::stdout(), "{} {many}", chosen.len()))
    })?
}

impl From {
    async fn take(&self, config: &Config) -> anyhow::Result<DeadLetters> {
        let site = Site::existing(&config.storage.data_dir)?;
        let of_operator = BusConfig {
            url: self.url.clone(),
            password_file: self.password_file.clone(),
            ..config.bus.clone()
        };
        let bus = if self.url.is_some() { &of_operator } else { &config.bus };
        let Some(options) = bus::Options::from_config(&bus.broker(), &site)? else {
            bail!("there is no bus: name one in [bus] url, or with --url and --password-file")
        };
        let taken = DeadLetters::take(&options, &self.queue, self.limit).await;
        taken.with_context(|| format!("cannot read {} of {options}", self.queue))
    }
}

fn find<'a>(taken: &'a DeadLetters, id: &str) -> anyhow::Result<&'a DeadLetter> {
    let mut found = taken.letters.iter().filter(|letter| letter.id.starts_with(id));
    let first =
        found.next().with_context(|| format!("there is no dead letter {id}: see `dead-letters list`"))?;
    ensure!(
        found.all(|letter| letter.id == first.id),
        "more than one dead letter begins with {id}: write more of it"
    );
    Ok(first)
}

fn described(letter: &DeadLetter) -> Value {
    let DeadLetter { id, sent_to: (exchange, routing_key), node, since, reason, finding, body, .. } = letter;
    json!({
        "id": id,
        "since": since,
        "reason": reason,
        "finding": finding,
        "exchange": exchange,
        "routing_key": routing_key,
        "node": node,
        "bytes": body.len(),
    })
}

fn line(letter: &DeadLetter) -> String {
    let DeadLetter { id, node, since, reason, finding, body, .. } = letter;
    let node = node.map_or_else(|| "-".to_owned(), |node| node.to_string());
    let since = since.as_deref().unwrap_or("-");
    format!("{id}  {since}  {node}  {} bytes  {reason}: {finding}", body.len())
}
