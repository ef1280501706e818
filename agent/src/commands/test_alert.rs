//! `test-alert`: fires a harmless real rule end to end and waits for its alert.
//!
//! The running agent makes an event on which a shipped rule alerts. Then the collector is asked until the alert is
//! there: where the node delivers, with the node's own certificate, or its API with a token. What was seen on the way is said, so that a failure points to the part that failed.

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
use crate::ship::https::ClientIdentity;
use crate::status::AgentStatus;

const PAUSE: Duration = Duration::from_millis(250);
/// How many of the newest alerts are looked through.
const NEWEST: u32 = 100;

/// What `test-alert` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    /// Ask the collector's API, such as <http://127.0.0.1:7480>, instead of where this node delivers
    #[arg(long, value_name = "URL")]
    api: Option<String>,
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
    let collector = Collector::of(config, args)?;
    let deadline = begin + Duration::from_secs(args.timeout);
    loop {
        let seen = match &collector {
            Some(collector) => collector.alert_of(&fired.event_id).await,
            None => Ok(None),
        };
        if let Ok(Some(alert)) = &seen {
            say!("alert {alert} is there, {} ms after the event", begin.elapsed().as_millis())?;
            return Ok(Exit::Ok);
        }
        if Instant::now() >= deadline {
            return say_what_was_seen(&agent, args, collector.as_ref(), seen.err()).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn say_what_was_seen(
    agent: &Client,
    args: &Args,
    collector: Option<&Collector>,
    error: Option<anyhow::Error>,
) -> anyhow::Result<Exit> {
    say!("no alert was seen within {} s", args.timeout)?;
    let status: AgentStatus = agent.get("/status").await?;
    match &status.collector {
        None => say!("  the node has not joined a site: run auditflow-agent join URL TOKEN")?,
        Some(url) => say!("  the way to {url}: {}", status.link)?,
    }
    match (collector, error) {
        (None, _) => {}
        (Some(_), Some(error)) => {
            say!("  the collector could not be asked: {error:#}; see --api and --api-token")?;
        }
        (Some(collector), None) => {
            say!("  {} knows no alert of this event: are the shipped rules loaded?", collector.url)?;
        }
    }
    Ok(Exit::Failure)
}

/// Whom to ask.
struct Collector {
    client: HttpClient,
    url: String,
    /// It is the API that is asked.
    api: bool,
    token: Option<String>,
}

impl Collector {
    /// None: the node has joined no site, and no API was named.
    fn of(config: &Config, args: &Args) -> anyhow::Result<Option<Self>> {
        let identity = Identity::read(&config.node.data_dir).ok().flatten();
        let site = identity.as_ref().and_then(|identity| Some((identity, identity.site.as_ref()?)));
        if let Some(url) = &args.api {
            let authority = site.map(|(_, site)| site.ca_certificate.clone()).unwrap_or_default();
            let token = args.api_token.clone().or_else(|| std::env::var("AUDITFLOW_API_TOKEN").ok());
            let client = HttpClient::new(Trust::Authority(&authority))?;
            return Ok(Some(Self { client, url: url.trim_end_matches('/').to_owned(), api: true, token }));
        }
        let Some((identity, site)) = site else { return Ok(None) };
        let own = ClientIdentity {
            certificates: site.client_certificate.clone(),
            key: identity.key.to_pkcs8_pem()?.clone(),
        };
        let client = HttpClient::new(Trust::Site(&site.ca_certificate, &own))?;
        let url = config.collector.url.clone().unwrap_or_else(|| site.url.clone());
        Ok(Some(Self { client, url: url.trim_end_matches('/').to_owned(), api: false, token: None }))
    }

    /// The id of the alert that the event raised, if there is one yet.
    async fn alert_of(&self, event_id: &str) -> anyhow::Result<Option<String>> {
        let uri = if self.api {
            format!("{}/alerts?limit={NEWEST}", self.url)
        } else {
            format!("{}/agent/v1/alerts?event_id={event_id}", self.url)
        };
        let mut request = Request::get(&uri);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let (status, body) = self.client.send(request.body(Full::<Bytes>::default())?).await?;
        if status == StatusCode::NOT_FOUND && !self.api {
            return Ok(None);
        }
        if status != StatusCode::OK {
            anyhow::bail!("{uri} answered {status}: {}", beginning(&body));
        }
        let answer: serde_json::Value = serde_json::from_slice(&body).context("its answer is no JSON")?;
        let id = |alert: &serde_json::Value| alert["alert_id"].as_str().unwrap_or("without an id").to_owned();
        let Some(alerts) = answer.as_array() else { return Ok(Some(id(&answer))) };
        // Wherever the alert names its event (its copy of the event, its evidence): the id is unique.
        Ok(alerts.iter().find(|alert| alert.to_string().contains(event_id)).map(id))
    }
}
