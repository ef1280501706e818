//! The nodes' part of the suite.

use std::sync::Arc;

use auditflow_event::{AgentState, Condition, Event};
use auditflow_wire::{BatchSeq, Held, Loss, LossReason, LossSource, NodeFacts, NodeKey};

use super::store;
use crate::store::{EnrolOutcome, Enrolment, FlagKind, JoinToken, NewFlag, NodeStatus, Store};
use crate::testing::{TestNode, at};

const SECRET: [u8; 32] = [5; 32];

async fn token(db: &Arc<dyn Store>, uses_left: u32) {
    let token = JoinToken { secret_hash: SECRET, created_at: at(0), expires_at: at(100), uses_left };
    db.add_join_token(token, "eve").await.unwrap();
}

fn enrolment(node: &TestNode) -> Enrolment {
    Enrolment {
        node: node.id,
        token: SECRET,
        key: node.key.public(),
        hostname: format!("host-{}", node.id),
        version: "1".to_owned(),
        fingerprint: "board".to_owned(),
        former: None,
        now: at(1),
    }
}

async fn enrolled(db: &Arc<dyn Store>) -> TestNode {
    let node = TestNode::new(1);
    token(db, 1).await;
    assert_eq!(db.enrol(enrolment(&node)).await.unwrap(), EnrolOutcome::Active);
    node
}

pub(crate) async fn a_token_lets_in_as_many_nodes_as_it_says(db: Arc<dyn Store>) {
    let nodes: Vec<TestNode> = (1..=4).map(TestNode::new).collect();
    assert_eq!(db.enrol(enrolment(&nodes[0])).await.unwrap(), EnrolOutcome::TokenRefused);
    token(&db, 2).await;
    assert_eq!(db.enrol(enrolment(&nodes[0])).await.unwrap(), EnrolOutcome::Active);
    // Asked again, as after an answer that was lost: the same node, and no use of the token.
    let again = Enrolment { node: nodes[3].id, ..enrolment(&nodes[0]) };
    assert_eq!(db.enrol(again).await.unwrap(), EnrolOutcome::Known(nodes[0].id, false));
    let late = Enrolment { now: at(100), ..enrolment(&nodes[1]) };
    assert_eq!(db.enrol(late).await.unwrap(), EnrolOutcome::TokenRefused);
    assert_eq!(db.enrol(enrolment(&nodes[1])).await.unwrap(), EnrolOutcome::Active);
    assert_eq!(db.enrol(enrolment(&nodes[2])).await.unwrap(), EnrolOutcome::TokenRefused);
    assert_eq!(db.nodes().await.unwrap().len(), 2);
    assert_eq!(db.join_token(SECRET).await.unwrap().unwrap().uses_left, 0);
    assert_eq!(db.join_token([6; 32]).await.unwrap(), None);
}

pub(crate) async fn a_cloned_node_waits_for_approval(db: Arc<dyn Store>) {
    let first = enrolled(&db).await;
    db.add_join_token(
        JoinToken { secret_hash: [9; 32], created_at: at(0), expires_at: at(9), uses_left: 1 },
        "eve",
    )
    .await
    .unwrap();
    let clone = TestNode::new(2);
    let asked = Enrolment { token: [9; 32], former: Some(first.id), ..enrolment(&clone) };
    assert_eq!(db.enrol(asked).await.unwrap(), EnrolOutcome::Pending);
    assert_eq!(db.node_access(clone.id).await.unwrap().unwrap().0, NodeStatus::Pending);
    assert!(db.set_node_status(clone.id, NodeStatus::Active, "eve", at(3)).await.unwrap());
    assert_eq!(db.node(clone.id).await.unwrap().unwrap().status, NodeStatus::Active);
    let nobody = TestNode::new(77).id;
    assert!(!db.set_node_status(nobody, NodeStatus::Revoked, "eve", at(3)).await.unwrap());
    assert_eq!(db.node_access(nobody).await.unwrap(), None);
}

pub(crate) async fn rotated_keys_stay_known(db: Arc<dyn Store>) {
    let node = enrolled(&db).await;
    let new = NodeKey::from_seed(&[42; 32]).public();
    db.rotate_node_key(node.id, new, at(2)).await.unwrap();
    db.rotate_node_key(node.id, new, at(3)).await.unwrap();
    assert_eq!(db.node_keys(node.id).await.unwrap(), [new, node.key.public()]);
}

pub(crate) async fn losses_and_coverage_are_summed_per_node(db: Arc<dyn Store>) {
    let mut node = enrolled(&db).await;
    let loss = |count| Loss {
        reason: LossReason::KernelLost,
        source: LossSource::KernelAudit,
        count,
        times: None,
        serials: None,
    };
    let state = |seconds, condition| AgentState {
        source: "kernel_audit".into(),
        state: condition,
        at: at(seconds),
        since: at(0),
        reason: Some("because".into()),
        counts: vec![("lost".into(), 3)],
    };
    let said = |number, seconds, condition| {
        Event::state(Some(node.id), *node.epoch.as_bytes(), number, state(seconds, condition))
    };
    let events = [said(1, 20, Condition::Degraded), said(2, 10, Condition::Running)];
    node.losses = vec![loss(Some(4)), loss(None)];
    let first = node.seal(&events[..1]);
    node.losses = vec![loss(Some(u64::MAX))];
    // Said earlier, sent later: the newer word stands.
    let second = node.seal(&events[1..]);
    store(&db, &[&first, &second, &first]).await;
    let row = db.node(node.id).await.unwrap().unwrap();
    assert_eq!(row.losses.len(), 1);
    assert_eq!((row.losses[0].count, row.losses[0].unknown), (i64::MAX as u64, 1));
    let coverage = &row.coverage["kernel_audit"];
    assert_eq!((&*coverage.state, coverage.at, &coverage.counts["lost"]), ("degraded", at(20), &3.into()));
    assert_eq!((row.batches, row.last_event, row.last_seen), (2, Some(at(20)), Some(at(0))));
    let (epoch, head) = row.stored_through.unwrap();
    assert_eq!((epoch, head.unwrap().number), (node.epoch, BatchSeq::new(2).unwrap()));
    assert!(row.is_complete());
}

pub(crate) async fn what_a_node_owes_falls_as_it_comes(db: Arc<dyn Store>) {
    let mut node = enrolled(&db).await;
    // Idle intervals: batches without events.
    let batches: Vec<_> = (0..3).map(|_| node.seal(&[])).collect();
    let held = Held { epoch: node.epoch, lowest: BatchSeq::FIRST, head: Some(batches[2].signed.head()) };
    let state = node.state(vec![held]);
    db.apply_state(state, at(1)).await.unwrap();
    let owed = async || {
        let row = db.node(node.id).await.unwrap().unwrap();
        (row.owed, row.is_complete(), row.last_event)
    };
    assert_eq!(owed().await, (3, false, None));
    store(&db, &[&batches[0]]).await;
    assert_eq!(owed().await, (2, false, None));
    store(&db, &[&batches[1], &batches[2], &batches[2]]).await;
    assert_eq!(owed().await, (0, true, None));
}

pub(crate) async fn a_node_is_what_it_last_said_of_itself(db: Arc<dyn Store>) {
    let mut node = enrolled(&db).await;
    let labels = |value: &str| [("site".to_owned(), value.to_owned())];
    node.about = NodeFacts::new("k3s-7", "0.2.0", "6.12.47", "aarch64", labels("north"));
    db.apply_state(node.state(Vec::new()), at(1)).await.unwrap();
    let row = db.node(node.id).await.unwrap().unwrap();
    assert_eq!(
        (&*row.hostname, &*row.version, &*row.kernel, &*row.architecture),
        ("k3s-7", "0.2.0", "6.12.47", "aarch64")
    );
    assert_eq!(row.labels["site"], "north");
    // A batch speaks of when it was sealed, not of now; an event keeps what held then.
    let before = node.logins(&[1]);
    node.about = NodeFacts::new("", "0.2.1", "", "", labels("south"));
    db.apply_state(node.state(Vec::new()), at(2)).await.unwrap();
    store(&db, &[&before]).await;
    let row = db.node(node.id).await.unwrap().unwrap();
    assert_eq!((&*row.hostname, &*row.version, &*row.labels["site"]), ("k3s-7", "0.2.1", "south"));
    let found = db.event(before.key(), 0).await.unwrap().unwrap();
    assert_eq!(found.host.name.as_deref(), Some("k3s-7"));
    assert_eq!(found.host.labels, [("site".into(), "north".into())]);
}

pub(crate) async fn flags_count_close_and_open_again(db: Arc<dyn Store>) {
    let node = enrolled(&db).await;
    let flag = NewFlag {
        node: node.id,
        epoch: node.epoch,
        seq: None,
        kind: FlagKind::BadSignature,
        detail: "twice".to_owned(),
        at: at(1),
    };
    db.raise_flag(flag.clone()).await.unwrap();
    db.raise_flag(flag.clone()).await.unwrap();
    let open = db.flags(Some(node.id), true, 10).await.unwrap();
    assert_eq!((open.len(), open[0].count, &open[0].flag), (1, 2, &flag));
    assert!(!db.node(node.id).await.unwrap().unwrap().is_complete());
    assert!(db.close_flag(open[0].id, "eve", at(2)).await.unwrap());
    assert!(!db.close_flag(open[0].id, "eve", at(2)).await.unwrap());
    assert!(db.flags(None, true, 10).await.unwrap().is_empty());
    assert_eq!(db.flags(None, false, 10).await.unwrap()[0].closed, Some((at(2), "eve".to_owned())));
    db.raise_flag(NewFlag { at: at(3), ..flag }).await.unwrap();
    let again = db.flags(None, true, 10).await.unwrap();
    assert_eq!((again[0].flag.at, again[0].count), (at(3), 3));
}
