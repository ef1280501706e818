//! A node that publishes as another: stopped by the broker's access rules, and where those are missing by the collector.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_agent::identity::Identity;
use auditflow_event::NodeId;
use auditflow_mqtt::{Address, Connection, Message, Options, topic};
use auditflow_tests::services::{Access, Mosquitto, Mqtt, RabbitMqServer, definitions, free_port};
use auditflow_tests::{Fault, until};
use auditflow_wire::{Answer, Part, Parts, Refusal, export};
use bytes::Bytes;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;

use crate::world::{Besides, Node, Settings, World};

const FRAMES: &str = "auditflow_ingest_frames_total";
/// A frame without parts: it is answered, and says nothing.
const EMPTY: &[u8] = b"AFF1";
const LIMIT: Duration = Duration::from_mins(1);

/// A client that has a node's certificate and does what it likes with it.
struct Client {
    connection: Connection,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl Client {
    async fn open(node: &Node, port: u16, listens_to: NodeId) -> anyhow::Result<Self> {
        Self::open_as(node, port, node.id, listens_to).await
    }

    /// With another's client id.
    async fn open_as(node: &Node, port: u16, called: NodeId, listens_to: NodeId) -> anyhow::Result<Self> {
        let options = Options {
            address: Address::parse(&format!("mqtts://localhost:{port}"))?,
            tls: Arc::new(tls_of(node)?),
            client_id: format!("{called}-0badc0de"),
            keeps_session: false,
            filter: topic::ack(listens_to),
            max_packet: 1 << 20,
            max_held: 1 << 20,
        };
        let (arriving, messages) = mpsc::unbounded_channel();
        Ok(Self { connection: Connection::open(&options, arriving).await?, messages })
    }

    async fn publish_as(&self, node: NodeId, frame: &[u8]) -> anyhow::Result<()> {
        let topic = topic::batch(node);
        let sent = self.connection.publish(&topic, Bytes::copy_from_slice(frame));
        Ok(tokio::time::timeout(LIMIT, sent).await??)
    }

    async fn next(&mut self) -> anyhow::Result<Bytes> {
        let message = tokio::time::timeout(LIMIT, self.messages.recv()).await?.context("no message came")?;
        Ok(message.payload)
    }
}

fn tls_of(node: &Node) -> anyhow::Result<ClientConfig> {
    let data = node.spool().parent().context("the spool is in a folder")?.to_owned();
    let identity = Identity::read(&data)?.context("the node has an identity")?;
    let site = identity.site.as_ref().context("the node has joined")?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(site.ca_certificate.as_bytes())?)?;
    let chain = CertificateDer::pem_slice_iter(site.client_certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(identity.key.to_pkcs8_pem()?.as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_client_auth_cert(chain.collect::<Result<_, _>>()?, key)?)
}

/// A frame with batches that the node has signed and nobody has seen.
fn unseen_frame(world: &mut World, node: &mut Node) -> anyhow::Result<Vec<u8>> {
    let mut log = world.audit_log(node)?;
    world.proxy.set(Fault::Cut);
    node.start()?;
    log.append(20)?;
    until("a batch is sealed", || {
        Ok((node.ask("/status")?["spool"]["batches"].as_u64() > Some(0)).then_some(()))
    })?;
    node.stop()?;
    world.proxy.set(Fault::None);
    let mut exported = Vec::new();
    auditflow_agent::spool::export(&node.spool(), &mut exported)?;
    let rest = exported.strip_prefix(&export::MAGIC).context("an export begins with its magic")?;
    let (length, rest) = rest.split_first_chunk::<4>().context("a frame has its length before it")?;
    Ok(rest.get(..u32::from_le_bytes(*length) as usize).context("a whole frame")?.to_vec())
}

#[test]
fn mosquitto_and_the_collector_keep_a_node_from_publishing_as_another() -> anyhow::Result<()> {
    let port = free_port()?;
    World::run_with_broker(port, |world| {
        let folder = world.folder("broker")?;
        let Some(mut broker) = Mosquitto::make(&folder, &world.certificates()?, port)? else { return Ok(()) };
        broker.start()?;
        let mut own = world.join("own", &Settings::default())?;
        let other = world.join("other", &Settings::default())?.id;
        let frame = unseen_frame(world, &mut own)?;
        world.until_subscribed()?;
        // Each node said that it was there when it joined.
        let before = world.metric(FRAMES)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut client = Client::open(&own, port, own.id).await?;
            // Mosquitto acknowledges both, and passes on the second.
            client.publish_as(other, &frame).await?;
            client.publish_as(own.id, EMPTY).await?;
            client.next().await?;
            ensure!(
                (world.metric(FRAMES)? - before - 1.0).abs() < 0.5,
                "only what is the node's own came through"
            );

            broker.set_access(Access::Everything)?;
            let mut client = Client::open(&own, port, other).await?;
            client.publish_as(other, &frame).await?;
            let answer = client.next().await?;
            let parts: Vec<Part<'_>> = Parts::new(&answer)?.collect::<Result<_, _>>()?;
            let is_refused = |part: &Part<'_>| {
                matches!(part, Part::Ack(ack) if ack.unverified().node == other
                    && ack.unverified().answer == Answer::Refused(Refusal::Malformed))
            };
            ensure!(!parts.is_empty() && parts.iter().all(is_refused), "answered {parts:?}");
            ensure!(world.metric("auditflow_ingest_events_total")? < 1.0, "nothing was stored");
            Ok(())
        })
    })
}

#[test]
fn rabbitmq_keeps_a_node_from_publishing_as_another_and_from_hearing_it() -> anyhow::Result<()> {
    let port = free_port()?;
    World::run_with_broker(port, |world| {
        let own = world.join("own", &Settings::default())?;
        let other = world.join("other", &Settings::default())?.id;
        let (folder, certificates) = (world.folder("broker")?, world.certificates()?);
        let rights = world.agents_address();
        let (begin, mqtt) = (
            definitions::without_queues(&[]),
            Mqtt { certificates: &certificates, port, rights: Some(&rights) },
        );
        let Some(mut broker) = RabbitMqServer::make(&folder, &begin, Some(mqtt))? else { return Ok(()) };
        broker.start()?;
        world.until_subscribed()?;
        let before = world.metric(FRAMES)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut client = Client::open(&own, port, own.id).await?;
            client.publish_as(own.id, EMPTY).await?;
            client.next().await?;
            let denied = client.publish_as(other, EMPTY).await;
            ensure!(denied.is_err(), "a publish under another's name was taken");
            ensure!(Client::open(&own, port, other).await.is_err(), "another's answers could be heard");
            let elsewhere = Client::open_as(&own, port, other, own.id).await;
            ensure!(elsewhere.is_err(), "the queue of another's subscription could be had");
            let mut client = Client::open(&own, port, own.id).await?;
            client.publish_as(own.id, EMPTY).await?;
            client.next().await?;
            ensure!(
                (world.metric(FRAMES)? - before - 2.0).abs() < 0.5,
                "only what is the node's own came through"
            );
            Ok(())
        })
    })
}

#[test]
fn a_revoked_node_is_shut_out_of_rabbitmq_and_an_approved_one_let_in_again() -> anyhow::Result<()> {
    let port = free_port()?;
    World::run_with_broker(port, |world| {
        let own = world.join("own", &Settings::default())?;
        let (folder, certificates, rights) =
            (world.folder("broker")?, world.certificates()?, world.agents_address());
        let mqtt = Mqtt { certificates: &certificates, port, rights: Some(&rights) };
        let begin = definitions::without_queues(&[]);
        let Some(mut broker) = RabbitMqServer::make(&folder, &begin, Some(mqtt))? else { return Ok(()) };
        world.restart_with(Besides::Managed(port, broker.management_address()))?;
        broker.start()?;
        world.until_subscribed()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut client = Client::open(&own, port, own.id).await?;
            client.publish_as(own.id, EMPTY).await?;
            client.next().await?;
            world.set_status(&own, "revoked")?;
            // It never pauses, so the broker asks nothing; and comes back as long as the broker remembers that it may.
            let shut_out = async {
                loop {
                    while client.publish_as(own.id, EMPTY).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    match Client::open(&own, port, own.id).await {
                        Ok(again) => client = again,
                        Err(_) => break,
                    }
                }
            };
            tokio::time::timeout(LIMIT, shut_out).await.context("a revoked node goes on publishing")?;
            // A refusal is not remembered.
            world.set_status(&own, "active")?;
            let mut client = Client::open(&own, port, own.id).await?;
            client.publish_as(own.id, EMPTY).await?;
            client.next().await.map(drop)
        })
    })
}
