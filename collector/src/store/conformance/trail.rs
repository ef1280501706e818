//! The part of the suite about the audit trail.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::alerts::{alert, change, standing};
use crate::store::{
    Act, Action, Actor, ApiToken, By, Enrolment, Entry, FlagKind, JoinToken, NewFlag, NodeStatus, Outcome,
    Role, Session, StatusChange, Store, TrailFilter, User, Walk,
};
use crate::testing::{TestNode, at};

const ORIGIN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

fn olga() -> By {
    By { origin: Some(ORIGIN), ..By::user("olga") }
}

fn user(password_hash: &str) -> User {
    User {
        name: "eve".to_owned(),
        role: Role::Operator,
        password_hash: password_hash.to_owned(),
        created_at: at(0),
        disabled_at: None,
    }
}

fn token(id: &str) -> ApiToken {
    ApiToken {
        id: id.to_owned(),
        name: "grafana".to_owned(),
        role: Role::Viewer,
        created_by: "user:olga".to_owned(),
        created_at: at(3),
        expires_at: None,
        revoked_at: None,
    }
}

/// Everything, in order; fails if it is no chain.
async fn whole(db: &Arc<dyn Store>) -> Vec<Entry> {
    let entries = db.trail_from(1, 1000).await.unwrap();
    let mut walk = Walk::default();
    entries.iter().try_for_each(|entry| walk.take(entry)).unwrap();
    entries
}

/// Whatever a store can be told to change.
async fn do_everything(db: &Arc<dyn Store>) {
    let node = TestNode::new(1);
    let join = JoinToken { secret_hash: [7; 32], created_at: at(0), expires_at: at(9), uses_left: 1 };
    db.add_join_token(join, olga()).await.unwrap();
    let enrolment = Enrolment {
        node: node.id,
        token: [7; 32],
        key: node.key.public(),
        hostname: "pi".to_owned(),
        version: "1".to_owned(),
        fingerprint: "board".to_owned(),
        former: None,
        origin: Some(ORIGIN),
        now: at(1),
    };
    db.enrol(enrolment).await.unwrap();
    assert!(db.set_node_status(node.id, NodeStatus::Revoked, olga(), at(2)).await.unwrap());
    let (kind, detail) = (FlagKind::Gap, "a hole".to_owned());
    db.raise_flag(NewFlag { node: node.id, epoch: node.epoch, seq: None, kind, detail, at: at(2) })
        .await
        .unwrap();
    let flag = db.flags(None, true, 1).await.unwrap()[0].id;
    assert!(db.close_flag(flag, olga(), at(2)).await.unwrap());
    db.set_user(user("secret hash one"), olga(), at(3)).await.unwrap();
    db.set_user(user("secret hash two"), olga(), at(3)).await.unwrap();
    let session =
        Session { token_hash: [8; 32], user: "eve".to_owned(), created_at: at(3), expires_at: at(9) };
    db.add_session(session, By { origin: Some(ORIGIN), ..By::user("eve") }).await.unwrap();
    db.end_session([8; 32], By::user("eve"), at(4)).await.unwrap();
    db.add_api_token(token("t1"), [9; 32], olga()).await.unwrap();
    assert!(db.revoke_api_token("t1", olga(), at(4)).await.unwrap());
    change(db, standing(vec![alert(1, "rule", None)])).await;
    let said = StatusChange { note: Some("seen".to_owned()), ..StatusChange::default() };
    assert!(db.set_alert_status(Uuid::from_u128(1), said, olga(), at(5)).await.unwrap());
    assert!(db.delete_alert(Uuid::from_u128(1), olga(), at(5)).await.unwrap());
    let act = Act::done(at(6), By::COLLECTOR, Action::StoreBackup, "/backup", json!({}));
    db.record(Act { outcome: Outcome::Failed, ..act }).await.unwrap();
}

pub(crate) async fn every_change_is_in_the_trail_with_who_what_and_from_where(db: Arc<dyn Store>) {
    do_everything(&db).await;
    let node = TestNode::new(1).id.to_string();
    let node_actor = format!("node:{node}");
    let alert = Uuid::from_u128(1).to_string();
    let entries = whole(&db).await;
    let said: Vec<(&str, &str, &str)> =
        entries.iter().map(|entry| (&*entry.actor, &*entry.action, &*entry.object)).collect();
    let expected = [
        ("user:olga", "join_token.create", "07070707"),
        (&node_actor, "node.enrol", &node),
        ("user:olga", "node.set_status", &node),
        ("user:olga", "flag.close", &node),
        ("user:olga", "user.create", "eve"),
        ("user:olga", "user.change", "eve"),
        ("user:eve", "session.open", "eve"),
        ("user:eve", "session.close", "eve"),
        ("user:olga", "api_token.create", "t1"),
        ("user:olga", "api_token.revoke", "t1"),
        ("user:olga", "alert.change", &alert),
        ("user:olga", "alert.delete", &alert),
        ("collector", "store.backup", "/backup"),
    ];
    assert_eq!(said, expected);
    assert_eq!((entries[0].at, &*entries[0].origin, &*entries[0].outcome), (at(0), "192.0.2.7", "done"));
    let detail = |index: usize| serde_json::from_str::<Value>(&entries[index].detail).unwrap();
    assert_eq!((&*entries[1].origin, &detail(1)["join_token"]), ("192.0.2.7", &json!("07070707")));
    assert_eq!(detail(5)["password_changed"], true);
    assert_eq!(entries[12].outcome, "failed");
}

pub(crate) async fn what_changed_nothing_is_not_in_the_trail(db: Arc<dyn Store>) {
    let nobody = TestNode::new(77).id;
    assert!(!db.set_node_status(nobody, NodeStatus::Active, olga(), at(1)).await.unwrap());
    assert!(!db.close_flag(404, olga(), at(1)).await.unwrap());
    assert!(!db.revoke_api_token("none", olga(), at(1)).await.unwrap());
    assert!(!db.delete_alert(Uuid::nil(), olga(), at(1)).await.unwrap());
    db.end_session([1; 32], olga(), at(1)).await.unwrap();
    let session =
        Session { token_hash: [1; 32], user: "nobody".to_owned(), created_at: at(0), expires_at: at(1) };
    assert!(db.add_session(session, olga()).await.is_err());
    assert!(whole(&db).await.is_empty());
}

pub(crate) async fn secrets_are_not_in_the_trail(db: Arc<dyn Store>) {
    do_everything(&db).await;
    let text = format!("{:?}", whole(&db).await);
    let hex = |byte: u8| data_encoding::HEXLOWER.encode(&[byte; 8]);
    for secret in ["secret hash", &hex(7), &hex(8), &hex(9)] {
        assert!(!text.contains(secret), "{secret} is in {text}");
    }
}

pub(crate) async fn the_trail_is_one_chain_however_many_write_at_once(db: Arc<dyn Store>) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..40 {
        let db = Arc::clone(&db);
        tasks.spawn(async move {
            let act = Act::done(at(number), olga(), Action::StoreExport, number.to_string(), json!({}));
            db.record(act).await.unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(whole(&db).await.len(), 40);
}

pub(crate) async fn the_trail_is_filtered_and_paged_newest_first(db: Arc<dyn Store>) {
    let program = Actor::Token { id: "t1".to_owned(), name: "grafana".to_owned() };
    let actors = [Actor::User("olga".to_owned()), program, Actor::User("olg".to_owned())];
    for number in 0..9 {
        let by = By { actor: actors[number % 3].clone(), origin: None };
        let action = if number < 4 { Action::FlagClose } else { Action::AlertChange };
        db.record(Act::done(at(number as i64), by, action, "x", json!({}))).await.unwrap();
    }
    let numbers = |entries: Vec<Entry>| entries.iter().map(|entry| entry.number).collect::<Vec<_>>();
    let all = TrailFilter::default;
    assert_eq!(numbers(db.trail(all(), None, 3).await.unwrap()), [9, 8, 7]);
    assert_eq!(numbers(db.trail(all(), Some(7), 3).await.unwrap()), [6, 5, 4]);
    assert!(db.trail(all(), Some(1), 3).await.unwrap().is_empty());
    assert_eq!(numbers(db.trail_from(8, 9).await.unwrap()), [8, 9]);
    for (actor, found) in [
        ("user:olga", vec![7, 4, 1]),
        ("user", vec![9, 7, 6, 4, 3, 1]),
        ("token:t1", vec![8, 5, 2]),
        ("token:t1:grafana", vec![8, 5, 2]),
        ("us", vec![]),
        ("", vec![]),
        ("%", vec![]),
    ] {
        let filter = TrailFilter { actor: Some(actor.to_owned()), ..all() };
        assert_eq!(numbers(db.trail(filter, None, 9).await.unwrap()), found, "{actor}");
    }
    let filter = TrailFilter { action: Some("alert.change".to_owned()), since: Some(at(6)), ..all() };
    assert_eq!(numbers(db.trail(filter, None, 9).await.unwrap()), [9, 8, 7]);
}
