//! The shared suite on SQLite, and what only SQLite can get wrong.

use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;

use super::{Options, SqliteStore, backup, migrate};
use crate::store::conformance::conformance_suite;
use crate::store::{EventQuery, Limits, Store, StoreError};
use crate::testing::{TestNode, at};

const OPTIONS: Options = Options { part_bytes: 1 << 20 };

fn temporary() -> (TempDir, Arc<dyn Store>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(directory.path(), OPTIONS).unwrap());
    (directory, store)
}

conformance_suite!(temporary);

async fn some_batches(store: &Arc<dyn Store>, count: i64) {
    let mut node = TestNode::new(1);
    let arrivals = (0..count).map(|second| node.logins(&[second]).arrival()).collect();
    store.store_batches(arrivals).await.unwrap();
}

#[tokio::test]
async fn what_was_stored_is_there_after_a_restart() {
    let (directory, store) = temporary();
    some_batches(&store, 3).await;
    drop(store);
    let store = SqliteStore::open(directory.path(), OPTIONS).unwrap();
    let query = EventQuery { limit: 10, ..EventQuery::default() };
    let found = crate::store::EventSearch::search_events(&store, query).await.unwrap();
    assert_eq!(found.events.len(), 3);
}

#[tokio::test]
async fn a_payload_that_the_ledger_does_not_know_does_not_exist_and_is_overwritten() {
    let (directory, store) = temporary();
    some_batches(&store, 1).await;
    // As after a crash before the ledger's commit: the next id is taken in the partition's files only.
    let payload = "INSERT INTO payload SELECT 2, x'00' FROM payload";
    let index = "INSERT INTO batch SELECT 2, node, epoch, 2, time_from, time_to, types, filter FROM batch";
    for (file, row) in [("2026-11-23.0.db", payload), ("2026-11-23.0.index.db", index)] {
        let file = Connection::open(directory.path().join("payload").join(file)).unwrap();
        assert_eq!(file.execute(row, []).unwrap(), 1);
    }
    let query = EventQuery { limit: 10, ..EventQuery::default() };
    assert_eq!(store.search_events(query.clone()).await.unwrap().events.len(), 1);
    assert_eq!(store.batches_between(at(-10), at(10), None, 10).await.unwrap().len(), 1);
    let mut other = TestNode::new(2);
    store.store_batches(vec![other.logins(&[5]).arrival()]).await.unwrap();
    assert_eq!(store.search_events(query).await.unwrap().events.len(), 2);
}

#[tokio::test]
async fn a_call_that_fails_harms_no_other_in_its_transaction() {
    let (_directory, store) = temporary();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40_u8 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let user = if number % 2 == 0 { "eve" } else { "nobody" };
            let session = crate::store::Session {
                token_hash: [number; 32],
                user: user.to_owned(),
                created_at: at(0),
                expires_at: at(9),
            };
            if number == 0 {
                // Until the user is there, all fail alike.
                let user = crate::commands::admin::admin("hash".to_owned());
                store.set_user(crate::store::User { name: "eve".to_owned(), ..user }, "t").await.unwrap();
            }
            (number, store.add_session(session).await.is_ok())
        });
    }
    for (number, done) in tasks.join_all().await {
        let kept = store.session([number; 32], at(1)).await.unwrap().is_some();
        assert_eq!(done, kept, "session {number}: what was said is not what is");
    }
    assert!(store.session([0; 32], at(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_busy_day_is_cut_into_parts_that_are_pruned_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> =
        Arc::new(SqliteStore::open(directory.path(), Options { part_bytes: 200 }).unwrap());
    for _ in 0..2 {
        some_batches(&store, 8).await;
    }
    let files = || std::fs::read_dir(directory.path().join("payload")).unwrap().count();
    let before = files();
    let limits = Limits { max_bytes: 1, max_age_seconds: u64::MAX };
    let mut pruned = 0;
    while let [pruning] = &store.retain(limits, at(0)).await.unwrap()[..] {
        assert_eq!((&*pruning.day, pruning.part), ("2026-11-23", pruned));
        pruned += 1;
    }
    assert!(pruned > 1, "{pruned}");
    assert!(files() < before, "nothing was removed");
    let query = EventQuery { limit: 100, ..EventQuery::default() };
    let left = store.search_events(query).await.unwrap().events.len();
    assert!(left > 0 && left < 8, "{left} events are left");
}

#[tokio::test]
async fn a_file_whose_removal_was_interrupted_is_removed_at_the_next_start() {
    let (directory, store) = temporary();
    some_batches(&store, 1).await;
    drop(store);
    let main = Connection::open(directory.path().join("collector.db")).unwrap();
    main.execute("UPDATE partition SET expired_at = 1", []).unwrap();
    drop(main);
    let files = ["db", "index.db"].map(|kind| directory.path().join(format!("payload/2026-11-23.0.{kind}")));
    assert!(files.iter().all(|file| file.exists()));
    migrate(directory.path()).unwrap();
    assert!(!files.iter().any(|file| file.exists()));
}

#[tokio::test]
async fn a_backup_taken_while_the_store_is_in_use_is_a_store() {
    let (directory, store) = temporary();
    some_batches(&store, 5).await;
    let copy = directory.path().join("copy");
    backup(directory.path(), &copy).unwrap();
    let copied: Arc<dyn Store> = Arc::new(SqliteStore::open(&copy, OPTIONS).unwrap());
    let query = EventQuery { limit: 10, ..EventQuery::default() };
    assert_eq!(copied.search_events(query).await.unwrap().events.len(), 5);
    assert_eq!(copied.unanalysed(10).await.unwrap(), store.unanalysed(10).await.unwrap());
}

#[tokio::test]
async fn the_audit_trail_can_only_grow() {
    let (directory, store) = temporary();
    store.set_user(crate::commands::admin::admin("hash".to_owned()), "t").await.unwrap();
    let main = Connection::open(directory.path().join("collector.db")).unwrap();
    for statement in ["UPDATE audit_trail SET actor = 'x'", "DELETE FROM audit_trail"] {
        let error = main.execute(statement, []).unwrap_err().to_string();
        assert!(error.contains("append-only"), "{error}");
    }
    assert_eq!(store.trail(None, 10).await.unwrap().len(), 1);
}

#[test]
fn a_store_of_a_newer_release_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    migrate(directory.path()).unwrap();
    let path = directory.path().join("collector.db");
    let main = Connection::open(&path).unwrap();
    main.pragma_update(None, "user_version", 99).unwrap();
    drop(main);
    let before = std::fs::read(&path).unwrap();
    let error = SqliteStore::open(directory.path(), OPTIONS).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
