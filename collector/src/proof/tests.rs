//! What tampering, killing and a full disk do to checkpoints, in SQLite's own files.

use std::path::Path;
use std::sync::Arc;

use auditflow_event::Timestamp;
use auditflow_service::health::{Health, PartState};
use auditflow_service::metrics::Metrics;
use auditflow_wire::{BatchSeq, NodeFacts, SiteKey};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::checkpoint::{Checkpoints, Replaced};
use crate::metrics::StorageMetrics;
use crate::retention::Retention;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{Arrival, Limits, Store};
use crate::testing::{self, TestNode, at, enrol};

const DAY: i64 = 86_400;
const LIMITS: Limits = Limits { max_bytes: u64::MAX, max_age_seconds: DAY as u64 };

fn open(directory: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(directory, Options { part_bytes: 768 << 10 }).unwrap())
}

/// A store in which this many batches of one node have lost their payload.
async fn old(batches: usize) -> (TempDir, Arc<dyn Store>, TestNode) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let node = old_node(&store, 1, batches).await;
    store.retain(LIMITS, at(20 * DAY)).await.unwrap();
    (directory, store, node)
}

async fn old_node(store: &Arc<dyn Store>, seed: u8, batches: usize) -> TestNode {
    let mut node = TestNode::new(seed);
    enrol(store, &node).await;
    store.store_batches((0..batches).map(|_| node.seal(&[]).arrival()).collect()).await.unwrap();
    node
}

fn main_file(directory: &TempDir) -> Connection {
    Connection::open(directory.path().join("collector.db")).unwrap()
}

fn count(connection: &Connection, table: &str) -> i64 {
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

async fn pass(checkpoints: &mut Checkpoints) -> Replaced {
    checkpoints.pass(LIMITS, at(20 * DAY), &CancellationToken::new()).await.unwrap()
}

fn why(checkpoints: &Checkpoints, node: &TestNode) -> String {
    checkpoints.unsound().get(&(node.id, node.epoch)).cloned().unwrap_or_default()
}

#[tokio::test]
async fn evidence_of_tampering_is_not_checkpointed_away() {
    let (_site_directory, site) = testing::site();
    for (tampering, mending, told) in [
        (
            "UPDATE ledger SET signed = CAST(substr(signed, 1, length(signed) - 1) || x'FF' AS BLOB) WHERE seq = 3 AND node = x'01010101010101010101010101010101'",
            "UPDATE ledger SET signed = (SELECT signed FROM kept WHERE kept.id = ledger.id)",
            "batch 3: bad signature",
        ),
        (
            "DELETE FROM ledger WHERE seq = 3 AND node = x'01010101010101010101010101010101'",
            "INSERT OR IGNORE INTO ledger SELECT * FROM kept",
            "batches 3 are not there",
        ),
        (
            "UPDATE ledger SET signed = x'00' WHERE seq = 3 AND node = x'01010101010101010101010101010101'",
            "UPDATE ledger SET signed = (SELECT signed FROM kept WHERE kept.id = ledger.id)",
            "batch header is damaged",
        ),
    ] {
        let (directory, store, node) = old(5).await;
        let other = old_node(&store, 2, 5).await;
        store.retain(LIMITS, at(20 * DAY)).await.unwrap();
        let main = main_file(&directory);
        main.execute_batch("CREATE TABLE kept AS SELECT * FROM ledger").unwrap();
        main.execute_batch(tampering).unwrap();
        let rows = count(&main, "ledger");
        let mut checkpoints = Checkpoints::new(Arc::clone(&store), site.keys.clone());
        // The other node's rows are replaced all the same.
        assert_eq!(pass(&mut checkpoints).await, Replaced { checkpoints: 1, numbers: 5 });
        assert!(why(&checkpoints, &node).contains(told), "{:?}", checkpoints.unsound());
        assert_eq!((count(&main, "ledger"), count(&main, "checkpoint")), (rows - 5, 1));
        assert!(store.checkpoint(other.id, other.epoch).await.unwrap().is_some());
        assert_eq!(pass(&mut checkpoints).await, Replaced::default());
        main.execute_batch("DELETE FROM kept WHERE node <> x'01010101010101010101010101010101'").unwrap();
        main.execute_batch(mending).unwrap();
        assert_eq!(pass(&mut checkpoints).await, Replaced { checkpoints: 1, numbers: 5 }, "{told}");
        assert!(checkpoints.unsound().is_empty());
    }
}

#[tokio::test]
async fn a_checkpoint_that_the_site_did_not_sign_is_not_carried_on() {
    let (_site_directory, site) = testing::site();
    let (directory, store, node) = old(2).await;
    let mut checkpoints = Checkpoints::new(Arc::clone(&store), site.keys.clone());
    pass(&mut checkpoints).await;
    let signed = store.checkpoint(node.id, node.epoch).await.unwrap().unwrap();
    let forged = auditflow_wire::Signed::sign(signed.unverified().clone(), &SiteKey::from_seed(&[9; 32]));
    main_file(&directory).execute("UPDATE checkpoint SET signed = ?1", [forged.as_bytes()]).unwrap();
    let mut node = node;
    store.store_batches(vec![node_batch(&mut node)]).await.unwrap();
    assert!(why(&checkpoints, &node).is_empty());
    store.retain(LIMITS, at(20 * DAY)).await.unwrap();
    assert_eq!(pass(&mut checkpoints).await, Replaced::default());
    assert!(why(&checkpoints, &node).starts_with("its checkpoint:"), "{:?}", checkpoints.unsound());
}

/// The third batch of a node that has sealed two.
fn node_batch(node: &mut TestNode) -> Arrival {
    node.seal(&[]).arrival()
}

#[tokio::test]
async fn keys_that_were_rotated_since_still_prove_a_checkpoint() {
    let (_site_directory, site) = testing::site();
    let (_directory, store, mut node) = old(2).await;
    let mut checkpoints = Checkpoints::new(Arc::clone(&store), site.keys.clone());
    pass(&mut checkpoints).await;
    site.keys.rotate(at(1)).unwrap();
    store.store_batches(vec![node_batch(&mut node)]).await.unwrap();
    store.retain(LIMITS, at(20 * DAY)).await.unwrap();
    assert_eq!(pass(&mut checkpoints).await, Replaced { checkpoints: 1, numbers: 1 });
}

#[tokio::test]
async fn a_replacement_that_fails_halfway_leaves_the_rows() {
    let (_site_directory, site) = testing::site();
    let (directory, store, node) = old(5).await;
    let main = main_file(&directory);
    main.execute_batch(
        "CREATE TRIGGER full BEFORE DELETE ON ledger WHEN old.seq = 4 BEGIN SELECT raise(ABORT, 'no'); END",
    )
    .unwrap();
    let mut checkpoints = Checkpoints::new(Arc::clone(&store), site.keys.clone());
    assert!(checkpoints.pass(LIMITS, at(20 * DAY), &CancellationToken::new()).await.is_err());
    assert_eq!((count(&main, "ledger"), count(&main, "checkpoint")), (5, 0));
    main.execute_batch("DROP TRIGGER full").unwrap();
    assert_eq!(pass(&mut checkpoints).await.numbers, 5);
    assert_eq!((count(&main, "ledger"), count(&main, "checkpoint")), (0, 1));
    assert_eq!(store.ledger_view(node.id, node.epoch).await.unwrap().highest(), BatchSeq::new(5));
}

/// Bytes of one page in SQLite's log: a header and the page.
const LOG_FRAME: u64 = 24 + 4096;

#[tokio::test]
async fn wherever_the_log_was_cut_there_are_rows_or_a_checkpoint_and_never_neither() {
    let (_site_directory, site) = testing::site();
    let (directory, store, node) = old(300).await;
    let log = directory.path().join("collector.db-wal");
    main_file(&directory).query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    // A reader keeps the log from being copied into the file and begun anew.
    let reader = main_file(&directory);
    reader.execute_batch("BEGIN; SELECT count(*) FROM ledger").unwrap();
    let mut checkpoints = Checkpoints::new(Arc::clone(&store), site.keys.clone());
    assert_eq!(pass(&mut checkpoints).await.numbers, 300);
    let length = std::fs::metadata(&log).unwrap().len();
    assert!(length > 4 * LOG_FRAME, "{length}");
    let mut outcomes = Vec::new();
    for cut in (0..length).step_by(LOG_FRAME as usize / 2).chain([length]) {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(directory.path().join("collector.db"), copy.path().join("collector.db")).unwrap();
        let bytes = std::fs::read(&log).unwrap();
        std::fs::write(copy.path().join("collector.db-wal"), &bytes[..cut as usize]).unwrap();
        let main = main_file(&copy);
        let found = (count(&main, "ledger"), count(&main, "checkpoint"));
        assert!([(300, 0), (0, 1)].contains(&found), "cut at {cut}: {found:?}");
        if outcomes.last() != Some(&found) {
            outcomes.push(found);
        }
    }
    assert_eq!(outcomes, [(300, 0), (0, 1)]);
    drop(reader);
    assert!(store.checkpoint(node.id, node.epoch).await.unwrap().is_some());
}

#[tokio::test]
async fn a_collector_that_stops_makes_no_more_checkpoints() {
    let (_site_directory, site) = testing::site();
    let (_directory, store, _) = old(5).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let mut checkpoints = Checkpoints::new(store, site.keys.clone());
    assert_eq!(checkpoints.pass(LIMITS, at(20 * DAY), &stop).await.unwrap(), Replaced::default());
}

/// What a directory takes, but for SQLite's shared memory, which is none on disk.
fn taken(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata().unwrap() {
            folder if folder.is_dir() => taken(&entry.path()),
            _ if entry.file_name().to_string_lossy().ends_with("-shm") => 0,
            file => file.len(),
        })
        .sum()
}

/// Returns how many bytes the headers had.
async fn feed(store: &Arc<dyn Store>, node: &mut TestNode, batches: usize, received: Timestamp) -> u64 {
    let (mut arrivals, mut headers) = (Vec::new(), 0);
    for number in 0..batches {
        let batch = if number % 16 == 0 { node.logins(&[1, 2, 3]) } else { node.seal(&[]) };
        headers += batch.signed.as_bytes().len() as u64;
        let mut batch = batch.received(0);
        batch.received_at = received;
        arrivals.push(Arrival::Batch(Box::new(batch)));
    }
    store.store_batches(arrivals).await.unwrap();
    headers
}

#[tokio::test]
async fn a_store_that_is_fed_far_more_than_fits_stays_within_its_bytes_ledger_included() {
    const CAP: u64 = 12 << 20;
    let (_site_directory, site) = testing::site();
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut node = TestNode::new(1);
    let labels = (10..40).map(|label| (format!("label-{label}"), "x".repeat(24)));
    node.about = NodeFacts::new("web-1", "0.1.0", "6.12", "aarch64", labels);
    enrol(&store, &node).await;
    let limits = Limits { max_bytes: CAP, max_age_seconds: 90 * DAY as u64 };
    let health = Health::requiring(&[]);
    let mut retention = Retention {
        store: Arc::clone(&store),
        checkpoints: Checkpoints::new(Arc::clone(&store), site.keys.clone()),
        limits,
        health: health.part("store"),
        ledger: health.part("ledger"),
        metrics: StorageMetrics::register(&Metrics::new("0").unwrap()).unwrap(),
    };
    let (mut most, mut fed) = (0, 0);
    for round in 0..24 {
        fed += feed(&store, &mut node, 1000, at(round * 600)).await;
        retention.pass(at(round * 600), &CancellationToken::new()).await.unwrap();
        most = most.max(taken(directory.path()));
    }
    assert!(fed > 2 * CAP, "{fed}");
    assert!(most <= CAP, "{most} of {CAP}");
    assert_eq!(health.report().parts["ledger"].state, PartState::Up);
    let view = store.ledger_view(node.id, node.epoch).await.unwrap();
    assert_eq!(view.through().map(|head| head.number.get()), Some(24_000));
    let (checkpointed, _) = store.epochs(node.id).await.unwrap()[0].checkpoint.unwrap();
    assert!(checkpointed.get() > 12_000, "{checkpointed}");
    let kept = store.chain(node.id, node.epoch, BatchSeq::FIRST, 1).await.unwrap();
    assert_eq!(Some(kept[0].span().first()), checkpointed.next(), "the chain goes on where it ends");
}
