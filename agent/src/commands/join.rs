//! `join`: makes this node known to a site.
//!
//! The token names the site's certificate authority by its hash. So the authority's certificate is fetched from
//! anybody, compared with the hash, and only then trusted; the token's secret leaves the machine after that. The node
//! proposes the id under which it has been keeping events. At last the way is tested with a signed frame, as batches
//! will travel.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use auditflow_service::admin::Client;
use auditflow_service::args::{ConfigFile, Exit};
use auditflow_service::file;
use auditflow_wire::enrol::{CA_PATH, ENROL_PATH, EnrolRequest, EnrolResponse, JoinToken, MAX_MESSAGE_LEN};
use auditflow_wire::facts::{ClockCause, ClockFact, Clocks};
use auditflow_wire::{CaHash, EpochId, FrameWriter, Signed, State};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::say;
use crate::config::Config;
use crate::hardware::Hardware;
use crate::http_client::{HttpClient, Trust, beginning};
use crate::identity::{Identity, Site};
use crate::ship::https::{self, ClientIdentity, Https};
use crate::ship::{Reply, Transport};
use crate::spool::Clock;

const TIMEOUT: Duration = Duration::from_secs(15);

/// What `join` is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFile,
    #[arg(help = "The collector's address, for example https://collector.example:7443")]
    url: String,
    /// The whole line that `auditflow-collector token create` printed, or @FILE to read it from a file
    token: String,
}

/// Joins.
pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let config = super::load_config(&args.config)?;
    super::block_on(join(&config, args))
}

async fn join(config: &Config, args: &Args) -> anyhow::Result<Exit> {
    let token = read_token(&args.token)?;
    let url = args.url.trim_end_matches('/');
    check_url(url, config)?;
    let data_dir = &config.node.data_dir;
    file::create_private_directory(data_dir)
        .with_context(|| format!("cannot make {}; run this as root", data_dir.display()))?;
    let hardware = Hardware::read("/".as_ref());
    let (mut identity, _) = Identity::load_or_make(data_dir, &hardware)?;

    let ca = fetch_ca(url, token.ca).await?;
    say!("{url} has the certificate authority that the token names")?;
    let response = enrol(url, &ca, &request(&identity, &hardware, &token)?).await?;
    if authority_of(&response.ca_certificate)? != token.ca {
        bail!("{url} answered with another certificate authority than the token names: ask for a new token");
    }
    let proposed = identity.node;
    let site = Site {
        url: url.to_owned(),
        ca_certificate: response.ca_certificate,
        client_certificate: response.client_certificate,
        keys: response.site_keys,
    };
    identity.join(response.node, site);
    identity.save(data_dir, &hardware)?;
    say!("joined as node {}", identity.node)?;
    if proposed != identity.node {
        say!("(the site knows this node by another id than it had here; what is in its spool is set aside)")?;
    }
    tell_running_agent(config).await?;
    if response.pending {
        say!(
            "an operator has to approve the node before its events are taken; until then they are kept here"
        )?;
        return Ok(Exit::Ok);
    }
    test_the_way(config, &identity).await
}

fn read_token(text: &str) -> anyhow::Result<JoinToken> {
    let text = match text.strip_prefix('@') {
        Some(path) => {
            let bytes = file::read_bounded(&PathBuf::from(path), 4096)
                .with_context(|| format!("cannot read {path}"))?;
            String::from_utf8(bytes).with_context(|| format!("{path} is not text"))?
        }
        None => text.to_owned(),
    };
    Ok(text.parse()?)
}

fn check_url(url: &str, config: &Config) -> anyhow::Result<()> {
    let uri: http::Uri =
        url.parse().with_context(|| format!("{url} is not an address; write https://host:port"))?;
    let plain_is_fine = config.collector.allow_plain_http || crate::config::is_loopback(&uri);
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if plain_is_fine => Ok(()),
        Some("http") => bail!("{url} is not encrypted; use https"),
        _ => bail!("{url} is not an address; write https://host:port"),
    }
}

/// Gets the authority's certificate from whoever answers; only one with the token's hash is given back.
async fn fetch_ca(url: &str, expected: CaHash) -> anyhow::Result<String> {
    let body = HttpClient::new(Trust::Nobody)?.get(&format!("{url}{CA_PATH}")).await?;
    let pem = String::from_utf8(body.to_vec()).ok().filter(|pem| pem.len() <= MAX_MESSAGE_LEN);
    let pem = pem.with_context(|| format!("{url} did not answer with a certificate: is it a collector?"))?;
    if authority_of(&pem)? != expected {
        bail!(
            "{url} has another certificate authority than the token names: either this is not the collector that made \
             the token, or somebody is in between; nothing was sent to it"
        );
    }
    Ok(pem)
}

fn authority_of(pem: &str) -> anyhow::Result<CaHash> {
    let certificate =
        CertificateDer::from_pem_slice(pem.as_bytes()).ok().context("that is no certificate")?;
    Ok(CaHash::of(&certificate))
}

fn request(identity: &Identity, hardware: &Hardware, token: &JoinToken) -> anyhow::Result<EnrolRequest> {
    let host_name = crate::agent::host_name();
    Ok(EnrolRequest {
        secret: token.secret().to_owned(),
        host_name,
        public_key: identity.key.public(),
        hardware_fingerprint: hardware.to_string(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        certificate_request: identity.certificate_request()?,
        proposed_node: Some(identity.node),
        former_node: identity.former,
    })
}

async fn enrol(url: &str, ca: &str, request: &EnrolRequest) -> anyhow::Result<EnrolResponse> {
    request.check()?;
    let body = Full::new(Bytes::from(serde_json::to_vec(request)?));
    let post = Request::post(format!("{url}{ENROL_PATH}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)?;
    let (status, body) = HttpClient::new(Trust::Authority(ca))?.send(post).await?;
    if !status.is_success() {
        bail!("the collector did not let the node in ({status}): {}", beginning(&body));
    }
    let response: EnrolResponse =
        serde_json::from_slice(&body).context("the collector's answer cannot be read")?;
    response.check()?;
    Ok(response)
}

/// An agent that runs takes the site up at once; one that doesn't will at its start.
async fn tell_running_agent(config: &Config) -> anyhow::Result<()> {
    let client = Client::new(&config.admin.socket).timeout(TIMEOUT);
    if client.get::<serde_json::Value>("/healthz").await.is_err() {
        say!("no agent runs here (nobody answers on {}); start it now", config.admin.socket.display())?;
        return Ok(());
    }
    let told: Result<serde_json::Value, _> = client.post("/reload", &()).await;
    match told {
        Ok(_) => say!("the running agent has been told")?,
        Err(error) => say!("the running agent could not be told ({error}); restart it")?,
    }
    Ok(())
}

/// Sends a signed frame that claims nothing, over the very way that batches take.
async fn test_the_way(config: &Config, identity: &Identity) -> anyhow::Result<Exit> {
    let Some(site) = &identity.site else { bail!("the site was not kept") };
    let now = Clock::open().now();
    let boottime_micros = now.boottime.as_micros() as u64;
    let fact = ClockFact {
        cause: ClockCause::Seal,
        wall: now.wall,
        boottime_micros,
        synchronised: now.synchronised,
    };
    let clocks = Clocks { boot: now.boot, facts: vec![fact] };
    let epoch = EpochId::generate()?;
    let (node, about) = (identity.node, crate::agent::about(&config.node));
    let site_key = Some(site.keys.newest());
    let (complete, last_ack, held) = (false, None, Vec::new());
    let state = State { node, epoch, complete, about, clocks, last_ack, site_key, held };
    let mut frame = FrameWriter::new();
    if !frame.push_state(&Signed::sign(state, &identity.key)) {
        bail!("a frame has no room for a state");
    }
    let client =
        ClientIdentity { certificates: site.client_certificate.clone(), key: identity.key.to_pkcs8_pem()? };
    let transport = Https::new(&https::Config {
        url: site.url.clone(),
        ca_certificates: site.ca_certificate.clone(),
        client: Some(client),
        allow_plain_http: config.collector.allow_plain_http,
        timeout: TIMEOUT,
    })?;
    match transport
        .send(frame.finish())
        .await
        .context("joined, but the way to the collector does not work")?
    {
        Reply::Frame(_) | Reply::Throttled(_) => {
            say!("the way to {} works", site.url)?;
            Ok(Exit::Ok)
        }
        Reply::Stranger => bail!("joined, but the collector does not take this node's data: see its page"),
        Reply::Refused(why) => bail!("joined, but the collector refuses what this agent sends: {why}"),
        Reply::Handed | Reply::TooLarge { .. } => bail!("joined, but what answers is no collector"),
    }
}
