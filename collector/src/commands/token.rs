//! `token`: lets nodes join, and programs use the API.

use std::io::Write;

use anyhow::{anyhow, ensure};
use auditflow_event::Timestamp;
use auditflow_service::args::Exit;
use auditflow_service::config::Age;
use auditflow_service::lifecycle;
use clap::Args;

use crate::site::{Site, token};
use crate::store::Role;
use crate::web::access::new_api_token;

/// `token create`
#[derive(Debug, Clone, Args)]
pub struct Create {
    #[command(flatten)]
    place: super::Place,
    /// How long it lets nodes join
    #[arg(long, value_name = "TIME", default_value = "24h")]
    expires: Age,
    /// How many nodes it lets join
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

/// Prints the token, and nothing else, to standard output; what to do with it to standard error.
pub fn create(args: &Create) -> anyhow::Result<Exit> {
    let config = args.place.config()?;
    ensure!(args.expires.duration() > std::time::Duration::ZERO, "--expires must be longer than nothing");
    let store = super::open_store(&config)?;
    let site = Site::existing(&config.storage.data_dir)?;
    let token = token::create(site.ca_hash(), super::now(), args.expires.duration(), args.uses)?;
    lifecycle::block_on(store.add_join_token(token.row, super::by()))??;
    let exit = super::unless_closed(writeln!(std::io::stdout(), "{}", token.text))?;
    let port = config.listen.agents.port();
    let nodes = if args.uses == 1 { "one node".to_owned() } else { format!("{} nodes", args.uses) };
    eprintln!("lets {nodes} join within {}; it is shown only now. On the node:", args.expires);
    eprintln!("  auditflow-agent join https://COLLECTOR:{port} TOKEN");
    Ok(exit)
}

/// `token api`
#[derive(Debug, Clone, Args)]
pub struct Api {
    #[command(flatten)]
    place: super::Place,
    /// What it is for, for the list and the audit trail
    #[arg(long, value_name = "NAME")]
    name: String,
    /// What it may do: viewer (look), operator (and handle alerts) or admin (and manage nodes)
    #[arg(long, value_name = "ROLE", default_value = "viewer", value_parser = role)]
    role: Role,
    /// How long it is good for; until it is revoked if not given
    #[arg(long, value_name = "TIME")]
    expires: Option<Age>,
}

/// `token revoke`
#[derive(Debug, Clone, Args)]
pub struct Revoke {
    #[command(flatten)]
    place: super::Place,
    /// Its id, as `token list` prints it
    id: String,
}

/// `token list`
#[derive(Debug, Clone, Args)]
pub struct List {
    #[command(flatten)]
    place: super::Place,
}

/// Prints a new API token, and nothing else, to standard output.
pub fn api(args: &Api) -> anyhow::Result<Exit> {
    ensure!(!args.name.is_empty() && args.name.len() <= 128, "--name must have 1 to 128 bytes");
    let store = super::open_store(&args.place.config()?)?;
    let now = super::now();
    let expires_at = args.expires.map(|age| {
        let micros = i64::try_from(age.duration().as_micros()).unwrap_or(i64::MAX);
        Timestamp::from_micros(now.as_micros().saturating_add(micros))
    });
    let by = super::by();
    let (token, secret) = new_api_token(&args.name, args.role, &by.actor.to_string(), now, expires_at)?;
    let id = token.id.clone();
    lifecycle::block_on(store.add_api_token(token, secret.hash(), by))??;
    let exit = super::unless_closed(writeln!(std::io::stdout(), "{}", secret.reveal()))?;
    eprintln!("is the API token {id} ({}); it is shown only now. Send it as", args.role.name());
    eprintln!("  Authorization: Bearer TOKEN");
    Ok(exit)
}

/// Revokes one.
pub fn revoke(args: &Revoke) -> anyhow::Result<Exit> {
    let store = super::open_store(&args.place.config()?)?;
    let revoked = lifecycle::block_on(store.revoke_api_token(&args.id, super::by(), super::now()))??;
    ensure!(revoked, "there is no API token {} in force: `token list` prints them", args.id);
    Ok(Exit::Ok)
}

/// Prints them, newest first.
pub fn list(args: &List) -> anyhow::Result<Exit> {
    let store = super::open_store(&args.place.config()?)?;
    let now = super::now();
    let mut text = String::new();
    for token in lifecycle::block_on(store.api_tokens())?? {
        let state = match (token.revoked_at, token.expires_at) {
            (Some(at), _) => format!("revoked {at}"),
            (None, Some(at)) if at <= now => format!("expired {at}"),
            (None, Some(at)) => format!("until {at}"),
            (None, None) => "until revoked".to_owned(),
        };
        let line = format!(
            "{}  {:8}  {}  {state}  by {}\n",
            token.id,
            token.role.name(),
            token.name,
            token.created_by
        );
        text.push_str(&line);
    }
    super::unless_closed(std::io::stdout().write_all(text.as_bytes()))
}

fn role(name: &str) -> anyhow::Result<Role> {
    Role::from_name(name).ok_or_else(|| anyhow!("a role is viewer, operator or admin"))
}
