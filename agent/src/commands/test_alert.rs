//! `test-alert`: fires a harmless real rule end to end and waits for its alert.
//!
//! The running agent makes an event on which a shipped rule alerts. Then the collector's API is asked until the alert
//! is there. What was seen on the way is said, so that a failure points to the part that failed.

use std::time::{Duration, Instant};

use anyhow::Context;
use auditflow_service::admin::Client;
use auditflow_service::args::{ConfigFile, Exit};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;

use super::say;
use crate::admin::TestAlert;
use crate::config::Config;
use crate::http_client::{HttpClient, Trust, beginning};
use crate::identity::Identity;
use crate::status::AgentStatus;

const PAUSE: Duration = Duration::from_millis(250);
/// How many of the newest alerts are looked through.
const NEWEST: u32 = 100;

/// What `test-alert` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// The collector's API
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:7480")]
    api: String,
    #[arg(
        long,
        value_name = "TOKEN",
        help = "A token for the API, instead of the one in the environment variable AUDITFLOW_API_TOKEN"
    )]
    api_token: Option<String>,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

/// Fires and waits; exits with 1 unless the alert was seen.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let config = super::load_config(&args.config)?;
    super::block_on(fire_and_wait(&config, args))
}

async fn fire_and_wait(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let agent = Client::new(&config.admin.socket);
    let begin = Instant::now();
    let fired: TestAlert = agent.post("/test-alert", &()).await?;
    say!("the agent made event {}", fired.event_id)?;
    let authority = Identity::read(&config.node.data_dir).ok().flatten().and_then(|identity| identity.site);
    let authority = authority.map(|site| site.ca_certificate).unwrap_or_default();
    let api = Api { client: HttpClient::new(Trust::Authority(&authority))?, args };
    let deadline = begin + Duration::from_secs(args.timeout);
    loop {
        let seen = api.alert_of(&fired.event_id).await;
        if let Ok(Some(alert)) = &seen {
            say!("alert {alert} is there, {} ms after the event", begin.elapsed().as_millis())?;
            return Ok(Exit::Ok);
        }
        if Instant::now() >= deadline {
            return say_what_was_seen(&agent, args, seen.err()).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn say_what_was_seen(agent: &Client, args: &Args, api: Option<anyhow::Error>) -> anyhow::Result<Exit> {
    say!("no alert was seen within {} s", args.timeout)?;
    let status: AgentStatus = agent.get("/status").await?;
    match &status.collector {
        None => say!("  the node has not joined a site: run auditflow-agent join URL TOKEN")?,
        Some(url) => say!("  the way to {url}: {}", status.link)?,
    }
    match api {
        Some(error) => {
            say!("  the collector's API could not be asked: {error:#}; see --api and --api-token")?;
        }
        None => say!(
            "  the collector's API at {} has no alert of this event: are the shipped rules loaded?",
            args.api
        )?,
    }
    Ok(Exit::Failure)
}

struct Api<'a> {
    client: HttpClient,
    args: &'a Args,
}

impl Api<'_> {
    /// The id of the alert that the event raised, if there is one yet.
    async fn alert_of(&self, event_id: &str) -> anyhow::Result<Option<String>> {
        let uri = format!("{}/alerts?limit={NEWEST}", self.args.api.trim_end_matches('/'));
        let mut request = Request::get(&uri);
        if let Some(token) = self.args.api_token.clone().or_else(|| std::env::var("AUDITFLOW_API_TOKEN").ok())
        {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let (status, body) = self.client.send(request.body(Full::<Bytes>::default())?).await?;
        if status != StatusCode::OK {
            anyhow::bail!("{uri} answered {status}: {}", beginning(&body));
        }
        let alerts: Vec<serde_json::Value> =
            serde_json::from_slice(&body).context("its answer is no list of alerts")?;
        // Wherever the alert names its event (its copy of the event, its evidence): the id is unique.
        let of_event = |alert: &&serde_json::Value| alert.to_string().contains(event_id);
        let id = |alert: &serde_json::Value| alert["alert_id"].as_str().unwrap_or("without an id").to_owned();
        Ok(alerts.iter().find(of_event).map(id))
    }
}
