//! The shipper, a real spool and a real HTTP server, with everything between them failing in turn.

mod server;

use std::sync::Arc;
use std::time::Duration;

use auditflow_event::Priority;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    PKCS_ED25519,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::https::{ClientIdentity, Config, Https};
use super::*;
use crate::spool::tests::collector::Collector;
use crate::spool::tests::world::{NODE, Read, World, keys, now_at};
use crate::spool::{Acknowledged, Spool};
use server::{Fault, Server};

fn limits() -> Limits {
    Limits {
        retry_first: Duration::from_millis(2),
        retry_ceiling: Duration::from_millis(20),
        ack_overdue: Duration::from_millis(50),
        ..Limits::default()
    }
}

fn plain(address: std::net::SocketAddr) -> Config {
    Config {
        url: format!("http://{address}"),
        ca_certificates: String::new(),
        client: None,
        allow_plain_http: false,
        timeout: Duration::from_millis(300),
    }
}

/// A spool with some batches, urgent ones among them.
fn world_with(batches: u64) -> World {
    let mut world = World::new(8 << 20);
    for number in 0..batches {
        let priority = if number % 3 == 0 { Priority::High } else { Priority::Normal };
        world.commit(Read { events: 10, len: 200, priority, urgent: number % 3 == 0 }).unwrap();
        world.now = now_at(world.now.boottime.as_secs() + 6);
        world.seal();
    }
    world
}

/// The pipeline's part: applies reports to the spool, wakes the shipper, until nothing is held.
async fn apply_until_empty(
    spool: &mut Spool,
    reports: &mut mpsc::Receiver<Report>,
    wake: &Notify,
    world_dir: &std::path::Path,
) {
    let now = now_at(10_000);
    loop {
        match reports.recv().await.unwrap() {
            Report::Ack(ack) => {
                let outcome = spool.acknowledge(&ack, now).unwrap();
                assert!(!matches!(outcome, Acknowledged::Void(_) | Acknowledged::Refused(_)), "{outcome:?}");
            }
            Report::PayloadDamaged(id) => spool.give_up_payload(id, now).unwrap(),
            Report::Damaged(what) => spool.give_up(&what, now).unwrap(),
            Report::Rotation(rotation) => drop(spool.follow(&rotation)),
        }
        wake.notify_one();
        let held = crate::spool::inspect(world_dir).unwrap();
        if held.epochs.iter().all(|epoch| epoch.batches + epoch.evicted == 0) {
            return;
        }
    }
}

/// Ships everything in `world` through `transport`; says what the status was at the end.
async fn ship_all(world: &mut World, transport: Https, limits: Limits) -> Status {
    let (mut spool, reader) = world.open.take().unwrap();
    let (sender, mut reports) = mpsc::channel(16);
    let wake = Arc::new(Notify::new());
    let shipper = Shipper::new(reader, transport, limits, 1, sender, Arc::clone(&wake));
    let status = shipper.status();
    let stopping = CancellationToken::new();
    let task = tokio::spawn(shipper.run(stopping.clone()));
    let dir = world.dir.clone();
    tokio::time::timeout(Duration::from_mins(1), apply_until_empty(&mut spool, &mut reports, &wake, &dir))
        .await
        .expect("something is never delivered");
    stopping.cancel();
    task.await.unwrap().unwrap();
    status.borrow().clone()
}

#[tokio::test]
async fn everything_arrives_once_through_every_fault_on_the_way() {
    let mut world = world_with(12);
    let faults = [
        Fault::Cut,
        Fault::Status(500),
        Fault::Garbage,
        Fault::CutAfterStoring,
        Fault::Throttle,
        Fault::Stall,
        Fault::Status(404),
        Fault::Status(403),
        Fault::Cut,
        Fault::CutAfterStoring,
        Fault::Status(503),
        Fault::Garbage,
    ];
    let server = Server::new(Collector::new(NODE, keys().key.public()), faults.into_iter().cycle().take(36));
    let mut tasks = JoinSet::new();
    let address = server.listen(None, &mut tasks).await;
    let status = ship_all(&mut world, Https::new(&plain(address)).unwrap(), limits()).await;
    assert!(status.failures > 0);
    let mut collector = server.collector.lock().unwrap();
    assert_eq!(collector.events().len(), 120);
    assert!(collector.verify().is_sound());
    assert_eq!((collector.forks, collector.lost, collector.owed()), (0, 0, 0));
}

#[tokio::test]
async fn older_copy_of_a_spool_is_answered_fork_and_all_of_it_arrives_anew() {
    let mut world = world_with(3);
    let older = world.copy();
    world.commit(Read { events: 7, len: 50, priority: Priority::Normal, urgent: false }).unwrap();
    world.stop();
    world.start();
    let server = Server::new(Collector::new(NODE, keys().key.public()), []);
    let mut tasks = JoinSet::new();
    let address = server.listen(None, &mut tasks).await;
    ship_all(&mut world, Https::new(&plain(address)).unwrap(), limits()).await;
    world.replace(&older);
    world.start();
    ship_all(&mut world, Https::new(&plain(address)).unwrap(), limits()).await;
    let mut collector = server.collector.lock().unwrap();
    assert!(collector.forks > 0);
    assert_eq!(collector.events().len(), 37);
    assert_eq!(collector.verify().first_bad(), None);
}

#[tokio::test]
async fn a_refusal_is_shown_with_what_to_do() {
    assert!(shown_for(Fault::Status(403)).await.contains("join again"));
}

#[tokio::test]
async fn a_collector_that_cannot_read_a_batch_is_not_taken_for_one_that_stored_it() {
    assert!(shown_for(Fault::Unread).await.contains("could not read a batch"));
}

/// What the status says of the way when each frame meets this fault.
async fn shown_for(fault: Fault) -> String {
    let mut world = world_with(1);
    let (_spool, reader) = world.open.take().unwrap();
    let server = Server::new(Collector::new(NODE, keys().key.public()), [fault; 1000]);
    let mut tasks = JoinSet::new();
    let address = server.listen(None, &mut tasks).await;
    let (sender, _reports) = mpsc::channel(16);
    let transport = Https::new(&plain(address)).unwrap();
    let shipper = Shipper::new(reader, transport, limits(), 1, sender, Arc::new(Notify::new()));
    let mut status = shipper.status();
    let stopping = CancellationToken::new();
    let task = tokio::spawn(shipper.run(stopping.clone()));
    let shown = down_reason(&mut status).await;
    stopping.cancel();
    task.await.unwrap().unwrap();
    assert!(server.faults_left() > 0);
    shown
}

async fn down_reason(status: &mut watch::Receiver<Status>) -> String {
    let down = status.wait_for(|status| matches!(status.link, Link::Down(_))).await.unwrap();
    match &down.link {
        Link::Down(why) => why.clone(),
        link => panic!("{link:?}"),
    }
}

/// A site of a test: its certification authority, and certificates signed by it.
struct Site {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer =
            CertifiedIssuer::self_signed(params, KeyPair::generate_for(&PKCS_ED25519).unwrap()).unwrap();
        Self { issuer }
    }

    fn ca(&self) -> String {
        self.issuer.pem()
    }

    /// Certificate and key in PEM.
    fn certificate(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> ClientIdentity {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        ClientIdentity { certificates: certificate.pem(), key: key.serialize_pem() }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca().as_bytes()).unwrap()).unwrap();
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let own = self.certificate("127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth);
        let chain = vec![CertificateDer::from_pem_slice(own.certificates.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

#[tokio::test]
async fn only_the_pinned_site_gets_anything_and_only_from_a_node_with_its_certificate() {
    let (site, other) = (Site::new(), Site::new());
    let mut world = world_with(4);
    let server = Server::new(Collector::new(NODE, keys().key.public()), []);
    let mut tasks = JoinSet::new();
    let address = server.listen(Some(site.acceptor()), &mut tasks).await;
    let own = site.certificate("node", ExtendedKeyUsagePurpose::ClientAuth);
    let foreign = other.certificate("node", ExtendedKeyUsagePurpose::ClientAuth);
    let config = |ca: String, client: Option<ClientIdentity>| Config {
        url: format!("https://{address}"),
        ca_certificates: ca,
        client,
        ..plain(address)
    };
    for wrong in
        [config(other.ca(), Some(own.clone())), config(site.ca(), None), config(site.ca(), Some(foreign))]
    {
        let transport = Https::new(&wrong).unwrap();
        let error = transport.send(b"AFF1".to_vec()).await.unwrap_err();
        assert!(matches!(error, TransportError::Connection(_)), "{error}");
    }
    ship_all(&mut world, Https::new(&config(site.ca(), Some(own))).unwrap(), limits()).await;
    assert_eq!(server.collector.lock().unwrap().events().len(), 40);
}
