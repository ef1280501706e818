//! The shared suite on PostgreSQL, and what only PostgreSQL can get wrong.

pub(crate) mod kit;

use std::sync::Arc;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{Options, PostgresStore, error, partitions, rows, schema, store};
use crate::store::conformance::alerts::alert;
use crate::store::conformance::conformance_suite;
use crate::store::{
    AlertChanges, AlertFilter, AlertStore, Arrival, BatchFindings, By, Change, Destination, DetectionStore,
    Entry, FlagKind, GroupKey, LedgerStore, NewBatch, NewFlag, NodeStore, Pass, Payload, PeopleStore, Store,
    StoreError, TrailStore, Walk,
};
use crate::testing::{TestBatch, TestNode, at};
use kit::Database;

/// A store of its own, with this release's schema.
fn fresh() -> Option<(Database, Arc<dyn Store>)> {
    let database = kit::database()?;
    let store = open(&database, 4);
    Some((database, Arc::new(store)))
}

fn open(database: &Database, connections: u32) -> PostgresStore {
    let store = PostgresStore::new(&Options { url: database.url(), connections }).unwrap();
    kit::wait(store.migrate(By::COLLECTOR)).unwrap();
    store.announcing_to(vec![Destination::Notifiers, Destination::Ancestor])
}

async fn connect(database: &Database) -> PgConnection {
    PgConnection::connect(&database.url()).await.unwrap()
}

conformance_suite!(fresh);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrating_from_several_processes_at_once_is_migrating_once_and_goes_back_again() {
    let Some(database) = kit::database() else { return };
    let stores: Vec<_> = (0..4)
        .map(|_| PostgresStore::new(&Options { url: database.url(), connections: 1 }).unwrap())
        .collect();
    let migrated =
        futures_util::future::join_all(stores.iter().map(|store| store.migrate(By::COLLECTOR))).await;
    let from: Vec<u32> = migrated.iter().map(|migrated| migrated.as_ref().unwrap().from).collect();
    assert_eq!(from.iter().filter(|from| **from == 0).count(), 1, "{from:?}");
    stores[0].migrate_down(1).await.unwrap();
    assert_eq!(stores[1].migrate(By::COLLECTOR).await.unwrap().from, 1);
    stores[0].migrate_down(0).await.unwrap();
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname <> 'schema_version'",
    )
    .fetch_one(&mut connect(&database).await)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_a_newer_release_is_refused() {
    let Some(database) = kit::database() else { return };
    let store = open(&database, 1);
    sqlx::query("UPDATE schema_version SET version = 99")
        .execute(&mut connect(&database).await)
        .await
        .unwrap();
    for refused in [store.migrate(By::COLLECTOR).await.map(drop), store.open().await] {
        assert!(matches!(refused, Err(StoreError::Newer { found: 99, .. })), "{refused:?}");
    }
}

async fn add_user(store: &PostgresStore, name: &str) {
    let user = crate::commands::admin::admin("hash".to_owned());
    let user = crate::store::User { name: name.to_owned(), ..user };
    store.set_user(user, By::COLLECTOR, at(0)).await.unwrap();
}

/// The number at which a walk along the trail fails; none if it does not.
fn first_bad(trail: &[Entry]) -> Option<u64> {
    let mut walk = Walk::default();
    trail.iter().find_map(|entry| walk.take(entry).err()).map(|broken| broken.number)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_trail_can_only_grow() {
    let Some(database) = kit::database() else { return };
    let store = open(&database, 1);
    add_user(&store, "eve").await;
    add_user(&store, "bob\0").await;
    let before = store.trail_from(1, 10).await.unwrap();
    let mut connection = connect(&database).await;
    let columns = "previous, digest, at, 'x', origin, action, object, outcome, detail FROM audit_trail";
    for statement in [
        "UPDATE audit_trail SET actor = 'x'".to_owned(),
        "DELETE FROM audit_trail".to_owned(),
        "DELETE FROM audit_trail WHERE number = 2".to_owned(),
        "TRUNCATE audit_trail".to_owned(),
        format!("INSERT INTO audit_trail SELECT number + 2, {columns} WHERE number = 2"),
        format!("INSERT INTO audit_trail SELECT number + 1, {columns} WHERE number = 2"),
    ] {
        let refused = sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut connection).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("append-only"), "{statement}: {refused}");
    }
    assert_eq!(store.trail_from(1, 10).await.unwrap(), before);
    assert_eq!((before.len(), first_bad(&before)), (2, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_the_triggers_away_and_changes_the_trail_is_found_out() {
    for (number, statement) in [
        (2, "UPDATE audit_trail SET actor = 'user:bob' WHERE number = 2"),
        (2, "UPDATE audit_trail SET digest = '\\x00' WHERE number = 2"),
        (1, "UPDATE audit_trail SET previous = '' WHERE number = 1"),
        (2, "DELETE FROM audit_trail WHERE number = 2"),
        (1, "DELETE FROM audit_trail WHERE number = 1"),
    ] {
        let Some(database) = kit::database() else { return };
        let store = open(&database, 1);
        for name in ["eve", "bob", "olga"] {
            add_user(&store, name).await;
        }
        assert_eq!(first_bad(&store.trail_from(1, 10).await.unwrap()), None);
        let mut connection = connect(&database).await;
        sqlx::query("ALTER TABLE audit_trail DISABLE TRIGGER ALL").execute(&mut connection).await.unwrap();
        assert_eq!(sqlx::query(statement).execute(&mut connection).await.unwrap().rows_affected(), 1);
        assert_eq!(first_bad(&store.trail_from(1, 10).await.unwrap()), Some(number), "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_processes_go_on_with_one_trail_and_a_migration_is_in_it() {
    let Some(database) = kit::database() else { return };
    let stores = [open(&database, 1), open(&database, 1)];
    for name in ["one", "two", "three"] {
        add_user(&stores[0], name).await;
        add_user(&stores[1], &format!("{name} too")).await;
    }
    let trail = stores[0].trail_from(1, 10).await.unwrap();
    assert_eq!((trail.len(), first_bad(&trail)), (6, None));
    // As an older release left it.
    let before = schema::VERSION;
    stores[0].migrate_down(before - 1).await.unwrap();
    assert_eq!(stores[1].migrate(By::user("olga")).await.unwrap().from, before - 1);
    assert_eq!(
        stores[1].migrate(By::user("bob")).await.unwrap().from,
        before,
        "a second look migrates nothing"
    );
    let trail = stores[0].trail_from(1, 10).await.unwrap();
    assert_eq!(first_bad(&trail), None);
    let last = trail.last().unwrap();
    assert_eq!((&*last.action, &*last.actor), ("store.migrate", "user:olga"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_by_id_ends_below_what_may_still_be_committed() {
    let Some(database) = kit::database() else { return };
    let store = open(&database, 2);
    let mut node = TestNode::new(1);
    // Somebody has drawn an id and takes its time.
    let mut slow = connect(&database).await;
    let mut transaction = slow.begin().await.unwrap();
    let drawn = rows::draw(&mut transaction, 1).await.unwrap()[0];
    let batch = node.logins(&[1]);
    store.store_batches(vec![batch.arrival()]).await.unwrap();
    let stored = store.batch(batch.key()).await.unwrap().unwrap();
    assert!(stored.id > drawn);
    assert!(store.batches_between(at(-10), at(10), None, 10).await.unwrap().is_empty());
    transaction.rollback().await.unwrap();
    assert_eq!(store.batches_between(at(-10), at(10), None, 10).await.unwrap(), [(stored.id, batch.key())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_store_for_the_same_nodes_in_other_orders_do_not_block_one_another() {
    let Some(database) = kit::database() else { return };
    let mut nodes: Vec<TestNode> = (1..=4).map(TestNode::new).collect();
    let rounds: Vec<Vec<_>> =
        (0..10).map(|second| nodes.iter_mut().map(|node| node.logins(&[second])).collect()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for process in 0..4 {
        let (store, rounds) = (open(&database, 1), rounds.clone());
        tasks.spawn(async move {
            let mut new = 0;
            for mut round in rounds {
                round.rotate_left(process);
                let arrivals = round.iter().map(TestBatch::arrival).collect();
                let report = store.store_batches(arrivals).await.unwrap();
                new += report.outcomes.iter().filter(|outcome| outcome.id.is_some()).count();
            }
            new
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 40);
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&mut connect(&database).await)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_costs_a_try_and_nothing_else() {
    let Some(database) = kit::database() else { return };
    let store = open(&database, 1);
    let mut node = TestNode::new(1);
    store.store_batches(vec![node.logins(&[1]).arrival()]).await.unwrap();
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .execute(&mut connect(&database).await)
    .await
    .unwrap();
    let report = store.store_batches(vec![node.logins(&[2]).arrival()]).await.unwrap();
    assert!(report.outcomes[0].id.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_fails_leaves_nothing_and_is_not_tried_again() {
    let Some(database) = kit::database() else { return };
    let store = open(&database, 1);
    sqlx::query("ALTER TABLE payload ADD CHECK (id < 0)")
        .execute(&mut connect(&database).await)
        .await
        .unwrap();
    let mut node = TestNode::new(1);
    let batch = node.logins(&[1]);
    let failed = store.store_batches(vec![batch.arrival()]).await.unwrap_err();
    assert!(!error::is_transient(&failed), "{failed:?}");
    assert!(store.batch(batch.key()).await.unwrap().is_none());
    assert!(store.ledger_view(node.id, node.epoch).await.unwrap().through().is_none());
    assert_eq!(schema::check(&mut connect(&database).await).await.unwrap(), schema::VERSION);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_turned_away_until_the_database_was_met_and_while_it_is_away() {
    let Some(database) = kit::database() else { return };
    let store = PostgresStore::new(&Options { url: database.url(), connections: 2 }).unwrap();
    assert!(matches!(store.users().await, Err(StoreError::Away)));
    assert!(matches!(store.open().await, Err(StoreError::Older { found: 0, .. })));
    assert!(matches!(store.users().await, Err(StoreError::Away)));
    store.migrate(By::COLLECTOR).await.unwrap();
    assert!(store.users().await.unwrap().is_empty());
    store.set_here(false);
    assert!(matches!(store.users().await, Err(StoreError::Away)));
    assert!(matches!(store.end_session([0; 32], By::COLLECTOR, at(0)).await, Err(StoreError::Away)));
    store.open().await.unwrap();
    assert!(store.users().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_several_processes_one_makes_the_first_user() {
    let Some(database) = kit::database() else { return };
    let stores: Vec<_> = (0..4).map(|_| open(&database, 2)).collect();
    let made = stores.iter().map(|store| {
        let user = crate::commands::admin::admin("hash".to_owned());
        store.add_first_user(user, By::COLLECTOR)
    });
    let made = futures_util::future::join_all(made).await;
    assert_eq!(made.into_iter().filter(|made| *made.as_ref().unwrap()).count(), 1);
    assert_eq!(stores[0].trail_from(1, 10).await.unwrap().len(), 1);
    assert!(!stores[0].is_without_users().await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_that_is_closed_before_a_batch_is_stored_on_it_takes_none() {
    let Some(database) = kit::database() else { return };
    let db = open(&database, 2);
    let mut node = TestNode::new(1);
    let (first, second) = (node.logins(&[1]), node.logins(&[2]));
    db.store_batches(vec![first.arrival()]).await.unwrap();
    let day = partitions::day_of(store::received_at(&second.arrival()));
    let days = store::Days::from([(day, day)]);
    sqlx::query("UPDATE partition SET expired_at = 1 WHERE day = $1")
        .bind(day)
        .execute(&mut connect(&database).await)
        .await
        .unwrap();
    let mut unit = db.begin().await.unwrap();
    assert!(store::store_batches(&mut unit, &[second.arrival()], &days).await.unwrap().is_none());
    drop(unit);
    assert!(db.batch(second.key()).await.unwrap().is_none());
    db.store_batches(vec![second.arrival()]).await.unwrap();
    let kept = db.batch(second.key()).await.unwrap().unwrap();
    assert!(matches!(kept.payload, Payload::Present(_)), "the next day takes it");
}

async fn hear(changes: &mut tokio::sync::broadcast::Receiver<Change>, wanted: &Change) {
    while changes.recv().await.unwrap() != *wanted {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_changes_others_hear_also_after_the_database_was_away() {
    let Some(database) = kit::database() else { return };
    let stores = [(); 2].map(|()| Arc::new(open(&database, 2)));
    let mut changes = [0, 1].map(|index: usize| stores[index].changes());
    let stop = tokio_util::sync::CancellationToken::new();
    for store in &stores {
        tokio::spawn(Arc::clone(store).exchange(stop.clone()));
    }
    let nodes = [1, 2].map(|seed| TestNode::new(seed).id);
    let flag = |node| {
        let (kind, detail) = (FlagKind::Gap, "a hole".to_owned());
        NewFlag { node, epoch: TestNode::new(1).epoch, seq: None, kind, detail, at: at(2) }
    };
    for listener in &mut changes {
        hear(listener, &Change::Missed).await;
    }
    stores[0].raise_flag(flag(nodes[0])).await.unwrap();
    hear(&mut changes[1], &Change::NodeChanged(nodes[0])).await;

    let mut changes = [0, 1].map(|index: usize| stores[index].changes());
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    .execute(&mut connect(&database).await)
    .await
    .unwrap();
    for listener in &mut changes {
        hear(listener, &Change::Missed).await;
    }
    // The first may have heard so from the second before it listened itself.
    loop {
        stores[1].raise_flag(flag(nodes[1])).await.unwrap();
        let wanted = Change::NodeChanged(nodes[1]);
        let heard = hear(&mut changes[0], &wanted);
        if tokio::time::timeout(std::time::Duration::from_millis(200), heard).await.is_ok() {
            break;
        }
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_processes_that_recompute_the_same_groups_one_does_and_one_episode_is_one_alert() {
    const GROUPS: u128 = 30;
    let Some(database) = kit::database() else { return };
    let first = open(&database, 2);
    for round in 0..2 {
        for group in 0..GROUPS {
            let key = GroupKey { correlation: "rule".to_owned(), group: group.to_string() };
            first.mark_dirty(key, at(0), at(1)).await.unwrap();
        }
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let store = open(&database, 2);
            tasks.spawn(async move {
                let mut opened = 0;
                while let Some(group) = store.take_dirty(at(0), at(60)).await.unwrap() {
                    let id: u128 = group.key.group.parse().unwrap();
                    let standing = vec![alert(id, "rule", Some(&group.key.group))];
                    let changes = AlertChanges { standing, ..AlertChanges::default() };
                    opened += store.finish_group(group, changes).await.unwrap().opened.len();
                }
                opened
            });
        }
        let opened: usize = tasks.join_all().await.into_iter().sum();
        assert_eq!(opened, if round == 0 { GROUPS as usize } else { 0 });
    }
    assert_eq!(first.alerts(AlertFilter::default(), None, 0, 100).await.unwrap().len(), GROUPS as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_is_left_to_the_process_that_took_it_until_its_claim_ends() {
    let Some(database) = kit::database() else { return };
    let stores = [open(&database, 2), open(&database, 2)];
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..20).map(|second| node.logins(&[second])).collect();
    let keys: Vec<_> = batches.iter().map(TestBatch::key).collect();
    let (claimed, free) = batches.split_at(10);
    let arrival = |batch: &TestBatch, claimed_until| {
        Arrival::Batch(Box::new(NewBatch { claimed_until, ..batch.received(0) }))
    };
    stores[0].store_batches(claimed.iter().map(|batch| arrival(batch, Some(at(5)))).collect()).await.unwrap();
    stores[0].store_batches(free.iter().map(|batch| arrival(batch, None)).collect()).await.unwrap();

    let take = |index: usize, now, until, limit| stores[index].take_unanalysed(at(now), at(until), limit);
    let (mut one, two) = (take(0, 1, 10, 6).await.unwrap(), take(1, 1, 10, 6).await.unwrap());
    assert_eq!((&*one, &*two), (&keys[10..16], &keys[16..]), "each is given its own, the oldest first");
    assert_eq!(take(1, 5, 15, 20).await.unwrap(), keys[..10], "its first claim has ended");
    assert!(take(0, 9, 20, 20).await.unwrap().is_empty());
    for key in &one {
        let recorded = stores[0].record_detections(*key, findings()).await.unwrap();
        assert!(recorded.fresh);
    }
    one = take(1, 15, 30, 20).await.unwrap();
    one.sort_unstable();
    let left: Vec<_> = keys.iter().copied().filter(|key| !keys[10..16].contains(key)).collect();
    assert_eq!(one, left, "whoever took them died");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_ask_at_once_are_given_different_batches() {
    let Some(database) = kit::database() else { return };
    let first = open(&database, 2);
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (0..40).map(|second| node.logins(&[second])).collect();
    first.store_batches(batches.iter().map(TestBatch::arrival).collect()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = open(&database, 2);
        tasks.spawn(async move {
            let mut taken = Vec::new();
            loop {
                let more = store.take_unanalysed(at(0), at(10), 3).await.unwrap();
                if more.is_empty() {
                    return taken;
                }
                taken.extend(more);
            }
        });
    }
    let mut taken: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    // Whoever found only rows that others were just taking stopped early; nothing was given twice.
    let count = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!((taken.len(), count), (40, 40));
}

fn findings() -> BatchFindings {
    let (rule_set, detections, alerts, dirty) = ("1".to_owned(), Vec::new(), Vec::new(), Vec::new());
    BatchFindings { rule_set, pass: Pass::First, detections, alerts, dirty }
}

/// As the ancestor's notification service makes it.
pub(crate) const ANCESTOR: &str = "CREATE TABLE alerts (
    alert_id UUID PRIMARY KEY, correlation_id UUID NOT NULL, timestamp TIMESTAMP WITH TIME ZONE NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT now(), alert_name VARCHAR(255) NOT NULL,
    alert_type VARCHAR(50) NOT NULL, severity VARCHAR(50) NOT NULL, description TEXT, source_service_name VARCHAR(100),
    rule_id VARCHAR(100), rule_name VARCHAR(255), actor_type VARCHAR(50), actor_id VARCHAR(255), client_ip INET,
    resource_type VARCHAR(100), resource_id VARCHAR(255), server_hostname VARCHAR(255), action_observed VARCHAR(255),
    analysis_rule_details JSONB, triggered_by_details JSONB, impacted_resource_details JSONB, metadata JSONB,
    raw_event_data JSONB)";
const ANCESTOR_ROWS: &str = r#"INSERT INTO alerts VALUES
    ('00000000-0000-4000-8000-000000000001', '00000000-0000-4000-8000-00000000000a', '1970-01-01T00:00:05.25Z',
     '1970-01-01T00:00:06Z', 'Three failed logins', 'SECURITY', 'CRITICAL', 'too many', 'audit-log-analysis',
     'ANLY-SEC-001', 'Failed logins', 'USER', 'alice', '192.0.2.7', 'SERVER', 'web-1', 'web-1', 'LOGIN_FAILED',
     '{"rule_id": "ANLY-SEC-001", "rule_description": "three in 60 s"}', '{"actor_id": "alice", "session": 7}', NULL,
     '{"count": 3}', '{"event_id": "e", "user_id": "alice"}'),
    ('00000000-0000-4000-8000-000000000002', '00000000-0000-4000-8000-00000000000b', '1970-01-01T00:00:07Z',
     '1970-01-01T00:00:08Z', 'Nothing else', 'SECURITY', 'WARNING', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, '"text"', '[]', NULL, NULL)"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ancestor_s_alerts_are_adopted_and_its_table_keeps_them() {
    let Some(database) = kit::database() else { return };
    let mut connection = connect(&database).await;
    for statement in [ANCESTOR, ANCESTOR_ROWS] {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
    let store = open(&database, 2);
    store.migrate_down(3).await.unwrap();
    assert!(store.alerts(AlertFilter::default(), None, 0, 10).await.unwrap().is_empty());
    store.migrate(By::COLLECTOR).await.unwrap();
    let listed = store.alerts(AlertFilter::default(), None, 0, 10).await.unwrap();
    let ids: Vec<u128> = listed.iter().map(|row| row.alert.alert_id.as_u128() & 0xff).collect();
    assert_eq!(ids, [2, 1], "newest first");
    let row = store.alert(listed[1].alert.alert_id).await.unwrap().unwrap();
    assert_eq!((row.alert.timestamp.as_micros(), row.received_at.as_micros()), (5_250_000, 6_000_000));
    assert_eq!((&*row.alert.rule.id, &*row.alert.rule.description), ("ANLY-SEC-001", "three in 60 s"));
    assert_eq!((&*row.alert.severity, &*row.alert.server_hostname), ("CRITICAL", "web-1"));
    assert_eq!(row.alert.triggered_by["client_ip"], "192.0.2.7");
    assert_eq!(row.alert.triggered_by["session"], 7);
    assert_eq!(row.alert.impacted_resource["resource_id"], "web-1");
    assert_eq!((&row.alert.metadata["count"], &row.alert.events[0]["user_id"]), (&3.into(), &"alice".into()));
    let kept: i64 =
        sqlx::query_scalar("SELECT count(*) FROM alerts").fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_another_shape_is_not_the_ancestor_s() {
    let Some(database) = kit::database() else { return };
    let mut connection = connect(&database).await;
    sqlx::raw_sql("CREATE TABLE alerts (alert_id UUID, note TEXT)").execute(&mut connection).await.unwrap();
    let store = open(&database, 1);
    assert!(store.alerts(AlertFilter::default(), None, 0, 10).await.unwrap().is_empty());
}

/// Findings of one login each by these users.
fn logins(pass: Pass, users: &[&str], second: i64) -> BatchFindings {
    let detection = |user: &&str| crate::store::DetectionRow {
        group: GroupKey { correlation: "logins".to_owned(), group: (*user).to_owned() },
        rule: "login".to_owned(),
        matches: vec![crate::store::Match {
            time: at(second),
            order: 0,
            index: 0,
            event_id: auditflow_event::EventId::from_uuid(uuid::Uuid::from_u128(second as u128)),
            fields: Vec::new(),
        }],
    };
    let detections = users.iter().map(detection).collect();
    BatchFindings { rule_set: "v1".to_owned(), pass, detections, alerts: Vec::new(), dirty: Vec::new() }
}

async fn finish_all(store: &PostgresStore) -> Vec<crate::store::DirtyGroup> {
    let mut finished = Vec::new();
    while let Some(group) = store.take_dirty(at(0), at(60)).await.unwrap() {
        assert!(store.finish_group(group.clone(), AlertChanges::default()).await.unwrap().held);
        finished.push(group);
    }
    finished
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revisions_of_a_group_follow_one_another_from_look_to_look() {
    let Some(database) = kit::database() else { return };
    let store = open(&database, 2).telling_revisions();
    let mut node = TestNode::new(1);
    let batches = [node.logins(&[1]), node.logins(&[2]), node.logins(&[3])];
    let [first, second, third] = batches.each_ref().map(TestBatch::key);
    store.store_batches(batches.iter().map(TestBatch::arrival).collect()).await.unwrap();

    let recorded = store.record_detections(first, logins(Pass::First, &["alice"], 1)).await.unwrap();
    let [alone] = &recorded.regrouped[..] else { panic!("{recorded:?}") };
    assert_eq!((alone.before, alone.added.len(), alone.removed), (None, 1, false));
    let taken = finish_all(&store).await;
    assert_eq!((taken.len(), taken[0].revision), (1, Some(alone.after)));

    // What was looked at is dirty no more, and its next change knows what it changes.
    let recorded = store.record_detections(second, logins(Pass::First, &["alice"], 500)).await.unwrap();
    let [grown] = &recorded.regrouped[..] else { panic!("{recorded:?}") };
    assert_eq!((grown.before, grown.added[0].time), (Some(alone.after), at(500)));
    let points = store.detections_of_group("logins", "alice", at(0), at(600)).await.unwrap();
    assert_eq!(points, [alone.added.clone(), grown.added.clone()].concat(), "what is told is what is read");
    // A mark alone changes nothing.
    store.mark_dirty(grown.key.clone(), at(0), at(700)).await.unwrap();
    let taken = finish_all(&store).await;
    assert_eq!((taken[0].revision, taken[0].from, taken[0].to), (Some(grown.after), at(0), at(700)));
    store.mark_dirty(grown.key.clone(), at(800), at(800)).await.unwrap();
    let taken = finish_all(&store).await;
    assert_eq!((taken[0].from, taken[0].to), (at(800), at(800)), "what was looked at is not looked at again");

    // A process that tells nothing does not go unnoticed, nor does what takes something away.
    let silent = open(&database, 2);
    let recorded = silent.record_detections(third, logins(Pass::First, &["alice"], 3)).await.unwrap();
    assert_eq!(recorded.regrouped, []);
    let recorded = store.record_detections(first, logins(Pass::Rewrite, &["bob"], 4)).await.unwrap();
    let [alice, bob] = &recorded.regrouped[..] else { panic!("{recorded:?}") };
    assert!(
        alice.removed && alice.added.is_empty() && alice.before.is_some_and(|before| before != grown.after)
    );
    assert_eq!((bob.removed, bob.before, bob.added.len()), (false, None, 1));
    assert_eq!(finish_all(&store).await.len(), 2);

    // Rows stay for an hour after the last look.
    let kept = async |age: i64| {
        sqlx::query("UPDATE dirty_group SET settled_at = settled_at - $1")
            .bind(age * 60_000_000)
            .execute(&mut connect(&database).await)
            .await
            .unwrap();
        store.expire_detections(at(-9999)).await.unwrap();
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM dirty_group")
            .fetch_one(&mut connect(&database).await)
            .await
            .unwrap();
        rows
    };
    assert_eq!((kept(59).await, kept(2).await), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn however_many_write_at_once_revisions_are_one_chain() {
    const BATCHES: i64 = 24;
    let Some(database) = kit::database() else { return };
    let store = Arc::new(open(&database, 6).telling_revisions());
    let mut node = TestNode::new(1);
    let batches: Vec<TestBatch> = (1..=BATCHES).map(|second| node.logins(&[second])).collect();
    store.store_batches(batches.iter().map(TestBatch::arrival).collect()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for (batch, second) in batches.iter().zip(1..) {
        let (store, key) = (Arc::clone(&store), batch.key());
        tasks.spawn(async move {
            let findings = logins(Pass::First, &["alice", "bob"], second);
            store.record_detections(key, findings).await.unwrap().regrouped
        });
    }
    let regrouped = tasks.join_all().await.concat();
    for name in ["alice", "bob"] {
        let mut steps: std::collections::HashMap<_, _> = regrouped
            .iter()
            .filter(|step| step.key.group == name)
            .map(|step| (step.before, step.after))
            .collect();
        assert_eq!(steps.len(), BATCHES as usize, "each follows another one");
        let mut last = None;
        while let Some(after) = steps.remove(&last) {
            last = Some(after);
        }
        assert!(steps.is_empty(), "and all of them one after the other");
        let taken = store.take_dirty(at(0), at(60)).await.unwrap().unwrap();
        let of_that =
            regrouped.iter().any(|step| step.key == taken.key && Some(step.after) == taken.revision);
        assert!(of_that);
    }
}
