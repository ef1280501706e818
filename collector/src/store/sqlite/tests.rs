//! The shared suite on SQLite, and what only SQLite can get wrong.

use std::sync::Arc;

use rusqlite::Connection;
use tempfile::TempDir;

use super::{Options, SqliteStore, backup, migrate};
use crate::store::conformance::conformance_suite;
use crate::store::{By, Destination, Entry, EventQuery, Limits, Store, StoreError, TrailFilter, Walk};
use crate::testing::{TestNode, at, due};

const OPTIONS: Options = Options { part_bytes: 1 << 20 };

fn temporary() -> (TempDir, Arc<dyn Store>) {
    let directory = tempfile::tempdir().unwrap();
    let announces = vec![Destination::Notifiers, Destination::Ancestor];
    let store = SqliteStore::open(directory.path(), OPTIONS).unwrap().announcing_to(announces);
    (directory, Arc::new(store))
}

#[expect(clippy::unnecessary_wraps, reason = "other stores' makers may find nothing to make one with")]
fn fresh() -> Option<(TempDir, Arc<dyn Store>)> {
    Some(temporary())
}

conformance_suite!(fresh);

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
                store
                    .set_user(crate::store::User { name: "eve".to_owned(), ..user }, By::COLLECTOR, at(0))
                    .await
                    .unwrap();
            }
            (number, store.add_session(session, By::COLLECTOR).await.is_ok())
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
    migrate(directory.path(), By::COLLECTOR).unwrap();
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
    assert_eq!(due(&*copied, 10).await, due(&*store, 10).await);
}

#[tokio::test]
async fn the_audit_trail_can_only_grow() {
    let (directory, store) = temporary();
    add_user(&store, "eve").await;
    add_user(&store, "bob").await;
    let before = store.trail_from(1, 10).await.unwrap();
    let main = Connection::open(directory.path().join("collector.db")).unwrap();
    let columns = "previous, digest, at, 'x', origin, action, object, outcome, detail FROM audit_trail";
    for statement in [
        "UPDATE audit_trail SET actor = 'x'",
        "DELETE FROM audit_trail",
        "DELETE FROM audit_trail WHERE number = 2",
        &format!("INSERT OR REPLACE INTO audit_trail SELECT number, {columns}"),
        &format!("INSERT INTO audit_trail SELECT number + 2, {columns} WHERE number = 2"),
        &format!("INSERT INTO audit_trail SELECT number + 1, {columns} WHERE number = 2"),
    ] {
        let error = main.execute(statement, []).unwrap_err().to_string();
        assert!(error.contains("append-only"), "{statement}: {error}");
    }
    assert_eq!(store.trail_from(1, 10).await.unwrap(), before);
    assert_eq!(before.len(), 2);
}

async fn add_user(store: &Arc<dyn Store>, name: &str) {
    let user = crate::commands::admin::admin("hash".to_owned());
    let user = crate::store::User { name: name.to_owned(), ..user };
    store.set_user(user, By::COLLECTOR, at(0)).await.unwrap();
}

/// The number at which a walk along the trail fails; none if it does not.
fn first_bad(trail: &[Entry]) -> Option<u64> {
    let mut walk = Walk::default();
    trail.iter().find_map(|entry| walk.take(entry).err()).map(|broken| broken.number)
}

#[tokio::test]
async fn whoever_takes_the_triggers_away_and_changes_the_trail_is_found_out() {
    for (number, statement) in [
        (2, "UPDATE audit_trail SET actor = 'user:bob' WHERE number = 2"),
        (2, "UPDATE audit_trail SET detail = CAST(x'7bff7d' AS TEXT) WHERE number = 2"),
        (2, "UPDATE audit_trail SET digest = x'00' WHERE number = 2"),
        (1, "UPDATE audit_trail SET previous = x'' WHERE number = 1"),
        (2, "DELETE FROM audit_trail WHERE number = 2"),
        (1, "DELETE FROM audit_trail WHERE number = 1"),
    ] {
        let (directory, store) = temporary();
        for name in ["eve", "bob", "olga"] {
            add_user(&store, name).await;
        }
        assert_eq!(first_bad(&store.trail_from(1, 10).await.unwrap()), None);
        let main = Connection::open(directory.path().join("collector.db")).unwrap();
        let triggers =
            "DROP TRIGGER audit_trail_is_never_changed; DROP TRIGGER audit_trail_is_never_shortened;";
        main.execute_batch(triggers).unwrap();
        assert_eq!(main.execute(statement, []).unwrap(), 1);
        assert_eq!(first_bad(&store.trail_from(1, 10).await.unwrap()), Some(number), "{statement}");
    }
}

#[tokio::test]
async fn a_command_beside_the_collector_goes_on_with_the_same_chain() {
    let (directory, collector) = temporary();
    let command: Arc<dyn Store> = Arc::new(SqliteStore::open(directory.path(), OPTIONS).unwrap());
    for name in ["one", "two", "three"] {
        add_user(&collector, name).await;
        add_user(&command, &format!("{name} too")).await;
    }
    let trail = collector.trail_from(1, 10).await.unwrap();
    assert_eq!((trail.len(), first_bad(&trail)), (6, None));
}

#[tokio::test]
async fn a_migration_is_in_the_trail_and_making_a_store_is_not() {
    let (directory, store) = temporary();
    assert!(store.trail(TrailFilter::default(), None, 10).await.unwrap().is_empty());
    drop(store);
    let main = Connection::open(directory.path().join("collector.db")).unwrap();
    main.execute_batch("DROP TABLE outbox; PRAGMA user_version = 5").unwrap();
    drop(main);
    migrate(directory.path(), By::user("olga")).unwrap();
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(directory.path(), OPTIONS).unwrap());
    let trail = store.trail(TrailFilter::default(), None, 10).await.unwrap();
    assert_eq!(trail.len(), 1, "a second look migrates nothing");
    assert_eq!((&*trail[0].action, &*trail[0].actor), ("store.migrate", "user:olga"));
    assert_eq!(trail[0].detail, r#"{"from":5,"to":6}"#);
}

#[test]
fn a_store_of_a_newer_release_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    migrate(directory.path(), By::COLLECTOR).unwrap();
    let path = directory.path().join("collector.db");
    let main = Connection::open(&path).unwrap();
    main.pragma_update(None, "user_version", 99).unwrap();
    drop(main);
    let before = std::fs::read(&path).unwrap();
    let error = SqliteStore::open(directory.path(), OPTIONS).err().unwrap();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}
