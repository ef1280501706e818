//! The real door: TLS with client certificates, real batches, one answer per case of the design.

mod keys;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use auditflow_rules::{Current, RuleSet};
use auditflow_service::health::Health;
use auditflow_service::metrics::Metrics;
use auditflow_wire::enrol::{CA_PATH, ENROL_PATH, EnrolRequest, EnrolResponse};
use auditflow_wire::frame::{CONTENT_TYPE, HTTP_PATH, MAX_FRAME_LEN};
use auditflow_wire::{
    Ack, Answer, BatchSeq, Content, EvictReason, Eviction, Folded, FrameWriter, Held, NodeKey, Part, Parts,
    Refusal, Signed, Span,
};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use super::Ingest;
use super::https::{Door, Limits, Listener};
use crate::analyse::{self, HeldHint};
use crate::detect::Rules;
use crate::ingest::Feed;
use crate::metrics::IngestMetrics;
use crate::site::{Site, token};
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{By, FlagKind, NodeStatus, Store};
use crate::testing::{TestBatch, TestNode, at, due, frame};

/// A running door with its store.
struct Running {
    _directory: TempDir,
    store: Arc<dyn Store>,
    site: Site,
    address: SocketAddr,
    hints: mpsc::Receiver<HeldHint>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

/// What came back.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// A node that has joined.
struct Joined {
    node: TestNode,
    identity: Identity,
    tls: ClientConfig,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

async fn start(limits: Limits) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let options = Options::for_cap(1 << 30);
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(directory.path(), options).unwrap());
    let site = Site::open(directory.path()).unwrap();
    let metrics = IngestMetrics::register(&Metrics::new("test").unwrap()).unwrap();
    let (sender, hints) = analyse::hints();
    let feed = Feed { rules: Current::fixed(Rules::new(RuleSet::empty())), hints: sender };
    let ingest = Ingest::new(Arc::clone(&store), site.clone(), Some(feed), metrics.clone());
    let listener =
        Listener::bind("127.0.0.1:0".parse().unwrap(), &site, &["127.0.0.1".to_owned()]).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let health = Health::requiring(&["store"]).part("store");
    let ingest = Arc::new(ingest);
    let door = Door { ingest, store: Arc::clone(&store), site: site.clone(), metrics, health, limits };
    let server = tokio::spawn(listener.serve(door, stop.clone()));
    Running { _directory: directory, store, site, address, hints, stop, server }
}

impl Running {
    fn tls(&self, client: Option<&Identity>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.site.authority.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match client {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap(),
            None => builder.with_no_client_auth(),
        }
    }

    async fn request(&self, tls: &ClientConfig, request: Request<Full<Bytes>>) -> Reply {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(tls.clone())).connect(name, stream).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    async fn post(&self, tls: &ClientConfig, path: &str, body: Vec<u8>) -> Reply {
        let uri = format!("https://127.0.0.1{path}");
        self.request(tls, Request::post(uri).body(Full::new(Bytes::from(body))).unwrap()).await
    }

    async fn send(&self, joined: &Joined, body: Vec<u8>) -> Reply {
        self.post(&joined.tls, HTTP_PATH, body).await
    }

    /// Sends batches and returns the status and what the answer says, its signature checked.
    async fn deliver(&self, joined: &Joined, batches: &[&TestBatch]) -> (StatusCode, Vec<Ack>) {
        let reply = self.send(joined, frame(batches)).await;
        (reply.status, self.acks(&reply))
    }

    fn acks(&self, reply: &Reply) -> Vec<Ack> {
        assert_eq!(reply.headers[header::CONTENT_TYPE], CONTENT_TYPE, "{:?}", reply.body);
        let key = self.site.keys.get().signing.public();
        let parts = Parts::new(&reply.body).unwrap();
        parts
            .map(|part| match part.unwrap() {
                Part::Ack(ack) => ack.verify(&key).unwrap().clone(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    async fn token(&self, uses: u32) -> String {
        let now = auditflow_event::Timestamp::from_micros(chrono::Utc::now().timestamp_micros());
        let token = token::create(self.site.ca_hash(), now, Duration::from_mins(1), uses).unwrap();
        self.store.add_join_token(token.row, By::COLLECTOR).await.unwrap();
        token.text.parse::<auditflow_wire::JoinToken>().unwrap().secret().to_owned()
    }

    async fn enrol(&self, request: &EnrolRequest) -> Reply {
        self.post(&self.tls(None), ENROL_PATH, serde_json::to_vec(request).unwrap()).await
    }

    /// The node with this number joins as `auditflow-agent join` does.
    async fn join(&self, seed: u8) -> Joined {
        let mut node = TestNode::new(seed);
        let reply = self.enrol(&enrol_request(&node, &self.token(1).await)).await;
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
        let response: EnrolResponse = serde_json::from_slice(&reply.body).unwrap();
        response.check().unwrap();
        assert_eq!(response.site_keys, self.site.keys.get().pins());
        node.id = response.node;
        self.identified(node, &response.client_certificate)
    }

    /// The node with a client certificate for its key.
    fn identified(&self, node: TestNode, certificate: &str) -> Joined {
        let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(node.key.to_pkcs8_pem().unwrap().as_bytes()).unwrap();
        let identity = (chain, key);
        Joined { tls: self.tls(Some(&identity)), identity, node }
    }

    async fn open_flags(&self, kind: FlagKind) -> usize {
        let flags = self.store.flags(None, true, 100).await.unwrap();
        flags.iter().filter(|row| row.flag.kind == kind).count()
    }
}

fn enrol_request(node: &TestNode, secret: &str) -> EnrolRequest {
    EnrolRequest {
        secret: secret.to_owned(),
        host_name: "pi-1".to_owned(),
        public_key: node.key.public(),
        hardware_fingerprint: "board".to_owned(),
        agent_version: "0.1.0".to_owned(),
        certificate_request: certificate_request(&node.key),
        proposed_node: None,
        former_node: None,
    }
}

fn certificate_request(key: &NodeKey) -> String {
    let key = rcgen::KeyPair::from_pem(&key.to_pkcs8_pem().unwrap()).unwrap();
    rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

fn number(number: u64) -> BatchSeq {
    BatchSeq::new(number).unwrap()
}

fn through(ack: &Ack) -> u64 {
    ack.through.map_or(0, |head| head.number.get())
}

#[tokio::test]
async fn a_new_batch_is_stored_acknowledged_with_its_digest_and_hinted() {
    let mut site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let batch = joined.node.logins(&[1, 2, 3]);
    let (status, acks) = site.deliver(&joined, &[&batch]).await;
    assert_eq!((status, acks.len(), acks[0].answer), (StatusCode::OK, 1, Answer::Stored));
    assert_eq!(acks[0].through, Some(batch.signed.head()));
    assert_eq!((acks[0].node, acks[0].epoch), (joined.node.id, joined.node.epoch));
    let hint = site.hints.recv().await.unwrap().batch;
    assert_eq!((hint.key, hint.events.len()), (batch.key(), 3));
}

#[tokio::test]
async fn duplicates_and_replays_are_acknowledged_again() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let (first, second) = (joined.node.logins(&[1]), joined.node.logins(&[2]));
    site.deliver(&joined, &[&first, &second]).await;
    for again in [&first, &second, &first] {
        let (status, acks) = site.deliver(&joined, &[again]).await;
        assert_eq!((status, acks[0].answer, through(&acks[0])), (StatusCode::OK, Answer::Stored, 2));
    }
    assert_eq!(due(&*site.store, 10).await.len(), 2);
}

#[tokio::test]
async fn reordered_batches_are_acknowledged_as_ranges_until_the_gap_is_filled() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let batches: Vec<TestBatch> = (0..4).map(|n| joined.node.logins(&[n])).collect();
    let (status, acks) = site.deliver(&joined, &[&batches[3], &batches[2]]).await;
    assert_eq!((status, acks[0].through, acks[0].above.len()), (StatusCode::OK, None, 1));
    assert_eq!(acks[0].above[0].digest, batches[3].digest());
    let (_, acks) = site.deliver(&joined, &[&batches[1], &batches[0]]).await;
    assert_eq!((through(&acks[0]), acks[0].above.len()), (4, 0));
}

#[tokio::test]
async fn a_gap_below_what_the_node_holds_is_recorded_lost_and_passed_over() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let _never_sent = joined.node.logins(&[1]);
    joined.node.oldest_unacknowledged = Some(2);
    let second = joined.node.logins(&[2]);
    let (status, acks) = site.deliver(&joined, &[&second]).await;
    assert_eq!((status, through(&acks[0])), (StatusCode::OK, 2));
    assert_eq!(site.open_flags(FlagKind::Gap).await, 1);
}

#[tokio::test]
async fn an_older_epoch_is_accepted_and_answered_for_itself() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let old_epoch = joined.node.epoch;
    let (first, last) = (joined.node.logins(&[1]), joined.node.logins(&[2]));
    joined.node.restart(50);
    let newer = joined.node.logins(&[3]);
    site.deliver(&joined, &[&newer, &first]).await;
    let (status, acks) = site.deliver(&joined, &[&last]).await;
    assert_eq!((status, acks[0].epoch, through(&acks[0])), (StatusCode::OK, old_epoch, 2));
}

#[tokio::test]
async fn a_rolled_back_node_is_answered_fork_and_its_batch_is_kept_apart() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let mut restored = joined.node.clone();
    let (first, other) = (joined.node.logins(&[1]), restored.logins(&[2]));
    site.deliver(&joined, &[&first]).await;
    let (status, acks) = site.deliver(&joined, &[&other]).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(acks[0].answer, Answer::Fork { number: number(1), stored: first.digest() });
    assert_eq!(acks[0].through, Some(first.signed.head()));
    assert_eq!(site.open_flags(FlagKind::Fork).await, 1);
}

#[tokio::test]
async fn a_clone_that_names_the_same_predecessor_is_answered_fork() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let last = joined.node.logins(&[1]);
    let mut clone = joined.node.clone();
    joined.node.restart(50);
    clone.restart(60);
    site.deliver(&joined, &[&last, &joined.node.clone().logins(&[2])]).await;
    let (status, acks) = site.deliver(&joined, &[&clone.logins(&[3])]).await;
    assert_eq!((status, acks[0].epoch), (StatusCode::CONFLICT, clone.epoch));
    assert!(matches!(acks[0].answer, Answer::Fork { .. }) && acks[0].through.is_none(), "{acks:?}");
}

#[tokio::test]
async fn a_broken_link_is_stored_acknowledged_and_flagged() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let mut other = joined.node.clone();
    let first = joined.node.logins(&[1]);
    other.logins(&[9]);
    let (status, acks) = site.deliver(&joined, &[&first, &other.logins(&[2])]).await;
    assert_eq!((status, acks[0].answer, through(&acks[0])), (StatusCode::OK, Answer::Stored, 1));
    // As a range of its own: who sealed it may hold another first batch than the one that is stored.
    assert_eq!(acks[0].above.iter().map(|range| range.span).collect::<Vec<_>>(), [Span::one(number(2))]);
    assert_eq!(site.open_flags(FlagKind::BrokenLink).await, 1);
}

#[tokio::test]
async fn wrong_signatures_are_refused_flagged_and_not_stored() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let mut stranger = joined.node.clone();
    stranger.key = NodeKey::from_seed(&[99; 32]);
    let (status, acks) = site.deliver(&joined, &[&stranger.logins(&[1])]).await;
    assert_eq!((status, acks[0].answer), (StatusCode::FORBIDDEN, Answer::Refused(Refusal::UnknownKey)));
    // The right key's id over altered bytes: the last byte of the header's signature, then the payload's.
    let batch = joined.node.logins(&[1]);
    for from_end in [batch.payload.len() + 1, 1] {
        let mut body = batch.frame();
        let altered = body.len() - from_end;
        body[altered] ^= 1;
        let reply = site.send(&joined, body).await;
        let acks = site.acks(&reply);
        assert_eq!(
            (reply.status, acks[0].answer),
            (StatusCode::FORBIDDEN, Answer::Refused(Refusal::BadSignature))
        );
    }
    assert_eq!(site.open_flags(FlagKind::BadSignature).await, 1);
    assert!(due(&*site.store, 10).await.is_empty());
}

#[tokio::test]
async fn one_node_cannot_write_for_another() {
    let site = start(Limits::default()).await;
    let (thief, mut victim) = (site.join(1).await, site.join(2).await);
    let batch = victim.node.logins(&[1]);
    let (status, acks) = site.deliver(&thief, &[&batch]).await;
    assert_eq!((status, acks[0].answer), (StatusCode::FORBIDDEN, Answer::Refused(Refusal::Malformed)));
    assert_eq!(acks[0].node, thief.node.id);
    assert!(due(&*site.store, 10).await.is_empty());
    assert_eq!(site.deliver(&victim, &[&batch]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_good_batch_beside_a_refused_one_is_stored() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let good = joined.node.logins(&[1]);
    let mut stranger = TestNode::new(9);
    let (status, acks) = site.deliver(&joined, &[&stranger.logins(&[1]), &good]).await;
    assert_eq!((status, acks.len()), (StatusCode::FORBIDDEN, 2));
    assert_eq!(acks.iter().map(through).max(), Some(1));
}

#[tokio::test]
async fn pending_and_revoked_nodes_are_refused_until_somebody_approves_them() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let batch = joined.node.logins(&[1]);
    for (status, refusal) in
        [(NodeStatus::Pending, Refusal::Pending), (NodeStatus::Revoked, Refusal::Revoked)]
    {
        assert!(site.store.set_node_status(joined.node.id, status, By::user("eve"), at(0)).await.unwrap());
        let (status, acks) = site.deliver(&joined, &[&batch]).await;
        assert_eq!((status, acks[0].answer), (StatusCode::FORBIDDEN, Answer::Refused(refusal)));
    }
    site.store.set_node_status(joined.node.id, NodeStatus::Active, By::user("eve"), at(0)).await.unwrap();
    assert_eq!(site.deliver(&joined, &[&batch]).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_node_that_the_store_has_forgotten_is_told_so() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    // A certificate of this site for a node that its store has never heard of.
    let unknown = TestNode::new(77);
    let (request, key) = (certificate_request(&unknown.key), unknown.key.public());
    let pem = site.site.authority.client(&request, unknown.id, &key).unwrap();
    let forgotten = site.identified(unknown, &pem);
    let (status, acks) = site.deliver(&forgotten, &[&joined.node.logins(&[1])]).await;
    assert_eq!((status, acks[0].answer), (StatusCode::FORBIDDEN, Answer::Refused(Refusal::UnknownNode)));
}

#[tokio::test]
async fn a_state_settles_and_is_answered_for_every_epoch_it_names() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let batches: Vec<TestBatch> = (0..3).map(|n| joined.node.logins(&[n])).collect();
    site.deliver(&joined, &[&batches[2]]).await;
    let head = Some(batches[2].signed.head());
    let state = joined.node.state(vec![Held { epoch: joined.node.epoch, lowest: number(3), head }]);
    let mut body = FrameWriter::new();
    assert!(body.push_state(&Signed::sign(state.clone(), &joined.node.key)));
    let reply = site.send(&joined, body.finish()).await;
    let acks = site.acks(&reply);
    assert_eq!((reply.status, acks.len(), acks[0].through), (StatusCode::OK, 1, head));
    assert_eq!(site.open_flags(FlagKind::Gap).await, 1);
    let mut forged = FrameWriter::new();
    assert!(forged.push_state(&Signed::sign(state, &NodeKey::from_seed(&[8; 32]))));
    assert_eq!(site.send(&joined, forged.finish()).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn evicted_batches_and_folds_count_as_stored() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let batches: Vec<TestBatch> = (0..4).map(|n| joined.node.logins(&[n])).collect();
    let key = joined.node.key.clone();
    let eviction = Eviction::sign(batches[0].digest(), EvictReason::SpoolFull, &key);
    let fold = Folded::of(batches[1..3].iter().map(|batch| (&batch.signed, EvictReason::SpoolFull))).unwrap();
    let mut body = FrameWriter::new();
    assert!(body.push_batch(&batches[0].signed, Content::Evicted(eviction)));
    assert!(body.push_fold(&Signed::sign(fold, &key)));
    assert!(body.push_batch(&batches[3].signed, Content::Payload(&batches[3].payload)));
    let reply = site.send(&joined, body.finish()).await;
    assert_eq!((reply.status, through(&site.acks(&reply)[0])), (StatusCode::OK, 4));
    let losses = site.store.node(joined.node.id).await.unwrap().unwrap().losses;
    assert_eq!((losses.len(), &*losses[0].reason, losses[0].count), (1, "evicted", 3));
}

#[tokio::test]
async fn an_unknown_version_is_stored_acknowledged_flagged_and_judged_once_it_is_known() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let batch = joined.node.logins(&[1]);
    // Only the node's own key can sign another version's header; a batch stored unread stands for it in the store.
    let unread = crate::store::NewBatch { terms: None, unread: true, ..batch.received(0) };
    site.store.store_batches(vec![crate::store::Arrival::Batch(Box::new(unread))]).await.unwrap();
    let (status, acks) = site.deliver(&joined, &[&batch]).await;
    assert_eq!((status, through(&acks[0])), (StatusCode::OK, 1));
    assert_eq!(site.open_flags(FlagKind::UnknownVersion).await, 1);
    assert!(due(&*site.store, 10).await.is_empty());
    assert_eq!(super::late::read_unread(&site.store).await.unwrap(), 1);
    assert_eq!(due(&*site.store, 10).await, [batch.key()]);
}

#[tokio::test]
async fn what_is_no_frame_is_a_bad_request_and_a_bad_part_leaves_the_others() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    for body in [Vec::new(), b"nonsense".to_vec()] {
        let reply = site.send(&joined, body).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert_eq!(reply.headers[header::CONTENT_TYPE], "application/problem+json");
    }
    let mut body = joined.node.logins(&[1]).frame();
    // A part of an unknown kind with an empty body.
    body.extend([200, 0, 0, 0, 0]);
    let reply = site.send(&joined, body).await;
    assert_eq!((reply.status, through(&site.acks(&reply)[0])), (StatusCode::BAD_REQUEST, 1));
}

#[tokio::test]
async fn without_a_certificate_of_the_site_nothing_but_enrolment_is_open() {
    let site = start(Limits::default()).await;
    let mut node = TestNode::new(1);
    let reply = site.post(&site.tls(None), HTTP_PATH, node.logins(&[1]).frame()).await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    let reply = site
        .request(
            &site.tls(None),
            Request::get(format!("https://127.0.0.1{CA_PATH}")).body(Full::default()).unwrap(),
        )
        .await;
    assert_eq!(reply.body, site.site.authority.pem().as_bytes());
    let reply = site.post(&site.tls(None), "/nothing", Vec::new()).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    // Another site's certificate gets no answer at all.
    let stranger = start(Limits::default()).await.join(1).await;
    let tls = Arc::new(site.tls(Some(&stranger.identity)));
    let stream = TcpStream::connect(site.address).await.unwrap();
    let connecting =
        TlsConnector::from(tls).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await;
    if let Ok(stream) = connecting {
        let handshake =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
        let Ok((mut sender, connection)) = handshake else { return };
        let connection = tokio::spawn(connection);
        let request =
            Request::get(format!("https://127.0.0.1{CA_PATH}")).body(Full::<Bytes>::default()).unwrap();
        assert!(sender.send_request(request).await.is_err());
        connection.abort();
    }
}

#[tokio::test]
async fn enrolment_needs_a_valid_token_and_a_request_that_can_be_signed() {
    let site = start(Limits::default()).await;
    let node = TestNode::new(1);
    let wrong = enrol_request(&node, "no-such-secret-at-all");
    assert_eq!(site.enrol(&wrong).await.status, StatusCode::FORBIDDEN);
    let secret = site.token(1).await;
    let good = enrol_request(&node, &secret);
    let unsigned = EnrolRequest { certificate_request: "-----BEGIN nothing".to_owned(), ..good.clone() };
    let another = certificate_request(&TestNode::new(9).key);
    for request in [unsigned, EnrolRequest { certificate_request: another, ..good.clone() }] {
        assert_eq!(site.enrol(&request).await.status, StatusCode::BAD_REQUEST);
    }
    let first: EnrolResponse = serde_json::from_slice(&site.enrol(&good).await.body).unwrap();
    // The refused request did not use the token up; asked again, the same node is answered.
    let again: EnrolResponse = serde_json::from_slice(&site.enrol(&good).await.body).unwrap();
    assert_eq!((again.node, again.pending), (first.node, false));
    let other = enrol_request(&TestNode::new(2), &secret);
    assert_eq!(site.enrol(&other).await.status, StatusCode::FORBIDDEN);
    let mut proposing = enrol_request(&TestNode::new(4), &site.token(1).await);
    proposing.proposed_node = Some(TestNode::new(4).id);
    let proposed: EnrolResponse = serde_json::from_slice(&site.enrol(&proposing).await.body).unwrap();
    assert_eq!(proposed.node, TestNode::new(4).id);
    let mut taken = enrol_request(&TestNode::new(5), &site.token(1).await);
    taken.proposed_node = Some(proposed.node);
    let other: EnrolResponse = serde_json::from_slice(&site.enrol(&taken).await.body).unwrap();
    assert_ne!(other.node, proposed.node);
    let mut clone = enrol_request(&TestNode::new(3), &site.token(1).await);
    clone.former_node = Some(first.node);
    let clone: EnrolResponse = serde_json::from_slice(&site.enrol(&clone).await.body).unwrap();
    assert!(clone.pending);
}

#[tokio::test]
async fn too_large_a_body_is_refused_before_it_is_held() {
    let site = start(Limits::default()).await;
    let joined = site.join(1).await;
    let reply = site.send(&joined, vec![0; MAX_FRAME_LEN + 1]).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn overload_is_answered_with_when_to_come_again() {
    let node_busy = start(Limits { frames_per_node: 0, ..Limits::default() }).await;
    let all_busy = start(Limits { frames: 0, ..Limits::default() }).await;
    for (site, status) in
        [(&node_busy, StatusCode::TOO_MANY_REQUESTS), (&all_busy, StatusCode::SERVICE_UNAVAILABLE)]
    {
        let mut joined = site.join(1).await;
        let body = joined.node.logins(&[1]).frame();
        let reply = site.send(&joined, body).await;
        assert_eq!(reply.status, status);
        let seconds: u32 = reply.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
        assert!(seconds > 0);
        assert!(due(&*site.store, 10).await.is_empty());
    }
}

#[tokio::test]
async fn a_stop_ends_the_door_with_connections_open() {
    let site = start(Limits::default()).await;
    let joined = site.join(1).await;
    let stream = TcpStream::connect(site.address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let idle = TlsConnector::from(Arc::new(joined.tls.clone())).connect(name, stream).await.unwrap();
    site.stop.cancel();
    site.server.await.unwrap().unwrap();
    drop(idle);
}
