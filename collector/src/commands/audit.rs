//! `audit`: prints the collector's own audit trail, and proves that nothing in it is missing or changed.

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;

use auditflow_event::Timestamp;
use auditflow_service::args::Exit;
use auditflow_service::lifecycle;
use clap::{Args, Subcommand};

use crate::store::{Broken, Entry, Store, TrailFilter, TrailHead, Walk};
use crate::web::api::audit;

/// Entries read at a time.
const PAGE: usize = 500;

/// `audit`
#[derive(Debug, Clone, Subcommand)]
pub enum AuditCommand {
    /// Print who changed what, newest first
    List(List),
    /// Prove that no entry is missing or changed, and print the head; exits with 1 if one is
    Verify(Verify),
}

/// `audit list`
#[derive(Debug, Clone, Args)]
pub struct List {
    #[command(flatten)]
    place: super::Place,
    /// Only what was done at this time or later, as 2026-11-23T05:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only what this actor did: as it is printed, or its beginning up to a colon (cli, user:admin, token:ID)
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// One JSON object per line, with digests
    #[arg(long)]
    json: bool,
}

/// `audit verify`
#[derive(Debug, Clone, Args)]
pub struct Verify {
    #[command(flatten)]
    place: super::Place,
    /// A head that was printed before and kept elsewhere: the trail must still lead through it
    #[arg(long, value_name = "NUMBER:DIGEST")]
    head: Option<TrailHead>,
}

/// Does what is asked.
pub fn run(command: &AuditCommand) -> anyhow::Result<Exit> {
    match command {
        AuditCommand::List(args) => list(args),
        AuditCommand::Verify(args) => verify(args),
    }
}

fn list(args: &List) -> anyhow::Result<Exit> {
    let store = super::open_store(&args.place.config()?)?;
    let filter = TrailFilter { actor: args.actor.clone(), action: None, since: args.since };
    let mut before = None;
    loop {
        let page = lifecycle::block_on(store.trail(filter.clone(), before, PAGE))??;
        let Some(last) = page.last() else { return Ok(Exit::Ok) };
        before = Some(last.number);
        let mut text = String::new();
        for entry in page {
            text += &if args.json { serde_json::to_string(&audit::Entry::of(entry))? } else { line(&entry) };
            text.push('\n');
        }
        match std::io::stdout().write_all(text.as_bytes()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Exit::Ok),
            written => written?,
        }
    }
}

fn line(entry: &Entry) -> String {
    let Entry { number, at, actor, origin, action, object, outcome, detail, .. } = entry;
    let mut text = format!("{number}  {at}  {outcome}  {action}");
    for part in [actor, origin, object, detail] {
        text.push_str("  ");
        // What somebody called something must not speak to the terminal.
        let part = if part.is_empty() { "-" } else { part };
        for letter in part.chars() {
            if letter.is_control() {
                // Writing to a string can't fail.
                let _ = write!(text, "{}", letter.escape_default());
            } else {
                text.push(letter);
            }
        }
    }
    text
}

fn verify(args: &Verify) -> anyhow::Result<Exit> {
    let store = super::open_store(&args.place.config()?)?;
    let walked = lifecycle::block_on(walk(&store, args.head))??;
    let (text, exit) = match walked {
        Ok(Some(head)) => {
            let many = if head.number == 1 { "entry" } else { "entries" };
            let text = format!(
                "{} {many}, none missing, none changed\nhead {head}\n\
                 keep the head elsewhere: `audit verify --head` then shows whether the trail was written anew\nsound\n",
                head.number
            );
            (text, Exit::Ok)
        }
        Ok(None) => ("no entries\nsound\n".to_owned(), Exit::Ok),
        Err(broken) => (format!("not sound: {broken}\n"), Exit::Failure),
    };
    super::unless_closed(std::io::stdout().write_all(text.as_bytes()))?;
    Ok(exit)
}

/// Walks the chain from its beginning, past a head that was kept if there is one.
async fn walk(
    store: &Arc<dyn Store>,
    kept: Option<TrailHead>,
) -> anyhow::Result<Result<Option<TrailHead>, Broken>> {
    let mut walk = Walk::past(kept);
    loop {
        let page = store.trail_from(walk.expected(), PAGE).await?;
        if page.is_empty() {
            return Ok(walk.finish());
        }
        for entry in page {
            if let Err(broken) = walk.take(&entry) {
                return Ok(Err(broken));
            }
        }
    }
}
