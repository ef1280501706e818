//! The nodes' part of the suite.

use std::sync::Arc;

use auditflow_event::{AgentState, Condition, Event};
use auditflow_wire::{
    BatchSeq, Digest, Head, Held, Loss, LossReason, LossSource, NodeFacts, NodeKey, NodeRotation,
    NodeRotationError, Signed, SignedNodeRotation,
};

use super::store;
use crate::store::{
    By, EnrolOutcome, Enrolment, FlagKind, JoinToken, KeyOutcome, MAX_NODE_KEYS, NewFlag, NodeStatus, Store,
    TrailFilter,
};
use crate::testing::{TestNode, at};

const SECRET: [u8; 32] = [5; 32];

async fn token(db: &Arc<dyn Store>, uses_left: u32) {
    let token = JoinToken { secret_hash: SECRET, created_at: at(0), expires_at: at(100), uses_left };
    db.add_join_token(token, By::user("eve")).await.unwrap();
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
        origin: None,
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
        By::user("eve"),
    )
    .await
    .unwrap();
    let clone = TestNode::new(2);
    let asked = Enrolment { token: [9; 32], former: Some(first.id), ..enrolment(&clone) };
    assert_eq!(db.enrol(asked).await.unwrap(), EnrolOutcome::Pending);
    assert_eq!(db.node_access(clone.id).await.unwrap().unwrap().0, NodeStatus::Pending);
    assert!(db.set_node_status(clone.id, NodeStatus::Active, By::user("eve"), at(3)).await.unwrap());
    assert_eq!(db.node(clone.id).await.unwrap().unwrap().status, NodeStatus::Active);
    let nobody = TestNode::new(77).id;
    assert!(!db.set_node_status(nobody, NodeStatus::Revoked, By::user("eve"), at(3)).await.unwrap());
    assert_eq!(db.node_access(nobody).await.unwrap(), None);
}

fn rotation(node: &TestNode, from: &NodeKey, to: &NodeKey) -> SignedNodeRotation {
    let sealed = vec![(node.epoch, Head { number: BatchSeq::FIRST, digest: Digest::of(b"first") })];
    Signed::sign(
        NodeRotation { node: node.id, epoch: node.epoch, next: to.public(), at: at(2), sealed },
        from,
    )
}

pub(crate) async fn rotated_keys_stay_known_with_what_they_may_still_say(db: Arc<dyn Store>) {
    let node = enrolled(&db).await;
    let [second, third] = [42, 43].map(|seed| NodeKey::from_seed(&[seed; 32]));
    let chain = vec![rotation(&node, &node.key, &second), rotation(&node, &second, &third)];
    // Again, as after an answer that was lost.
    for seconds in [2, 3] {
        let outcome = db.rotate_node_key(node.id, chain.clone(), at(seconds)).await.unwrap();
        assert_eq!(outcome, KeyOutcome::Current(third.public()));
    }
    let keys = db.node_keys(node.id).await.unwrap();
    assert_eq!((keys.current(), keys.rotations().len()), (Some(&third.public()), 2));
    let second_number = BatchSeq::FIRST.next().unwrap();
    for key in [&node.key, &second] {
        assert!(keys.signer(key.id(), node.epoch, BatchSeq::FIRST).is_ok());
        assert!(keys.signer(key.id(), node.epoch, second_number).is_err());
    }
    let rotations = TrailFilter { action: Some("node.rotate_key".to_owned()), ..TrailFilter::default() };
    assert_eq!(db.trail(rotations, None, 100).await.unwrap().len(), 2);
}

pub(crate) async fn of_rotations_that_do_not_hold_none_is_followed(db: Arc<dyn Store>) {
    let node = enrolled(&db).await;
    let [second, third] = [42, 43].map(|seed| NodeKey::from_seed(&[seed; 32]));
    let refused = async |chain: Vec<SignedNodeRotation>| match db.rotate_node_key(node.id, chain, at(2)).await
    {
        Ok(KeyOutcome::Refused(error)) => error,
        other => panic!("{other:?}"),
    };
    let good = rotation(&node, &node.key, &second);
    let stranger = rotation(&node, &third, &second);
    assert_eq!(refused(vec![good.clone(), stranger]).await, NodeRotationError::Unknown(third.id()));
    assert_eq!(db.node_keys(node.id).await.unwrap().current(), Some(&node.key.public()));
    db.rotate_node_key(node.id, vec![good], at(2)).await.unwrap();
    let stolen = rotation(&node, &node.key, &third);
    assert_eq!(refused(vec![stolen]).await, NodeRotationError::Contradiction(node.key.id()));
}

pub(crate) async fn a_retired_key_does_not_enrol_again(db: Arc<dyn Store>) {
    let node = enrolled(&db).await;
    let second = NodeKey::from_seed(&[42; 32]);
    db.rotate_node_key(node.id, vec![rotation(&node, &node.key, &second)], at(2)).await.unwrap();
    assert_eq!(db.enrol(enrolment(&node)).await.unwrap(), EnrolOutcome::KeyRetired);
}

pub(crate) async fn more_keys_than_are_kept_of_a_node_are_refused(db: Arc<dyn Store>) {
    let node = enrolled(&db).await;
    let key = |n: usize| match n {
        0 => node.key.clone(),
        n => NodeKey::from_seed(&std::array::from_fn(|i| if i < 2 { (n >> (8 * i)) as u8 } else { 77 })),
    };
    let chain: Vec<_> = (0..MAX_NODE_KEYS).map(|n| rotation(&node, &key(n), &key(n + 1))).collect();
    let (last, kept) = chain.split_last().unwrap();
    let outcome = db.rotate_node_key(node.id, kept.to_vec(), at(2)).await.unwrap();
    assert_eq!(outcome, KeyOutcome::Current(key(MAX_NODE_KEYS - 1).public()));
    let outcome = db.rotate_node_key(node.id, vec![last.clone()], at(2)).await.unwrap();
    assert_eq!(outcome, KeyOutcome::TooMany);
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

pub(crate) async fn lag_is_the_newest_event_s_and_idle_time_is_none(db: Arc<dyn Store>) {
    let mut node = enrolled(&db).await;
    let id = node.id;
    let lag = async || db.node(id).await.unwrap().unwrap().lag;
    // All arrives at noon: what happened half a minute before it, then what happened two seconds before it.
    let (late, recent, idle) = (node.logins(&[-30]), node.logins(&[-2]), node.seal(&[]));
    let older = node.logins(&[-60]);
    assert_eq!(lag().await, None);
    store(&db, &[&late]).await;
    assert_eq!(lag().await, Some(30_000_000));
    store(&db, &[&recent]).await;
    assert_eq!(lag().await, Some(2_000_000));
    store(&db, &[&idle, &older]).await;
    db.apply_state(node.state(Vec::new()), at(300)).await.unwrap();
    assert_eq!(lag().await, Some(2_000_000));
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
    assert!(db.close_flag(open[0].id, By::user("eve"), at(2)).await.unwrap());
    assert!(!db.close_flag(open[0].id, By::user("eve"), at(2)).await.unwrap());
    assert!(db.flags(None, true, 10).await.unwrap().is_empty());
    assert_eq!(db.flags(None, false, 10).await.unwrap()[0].closed, Some((at(2), "user:eve".to_owned())));
    db.raise_flag(NewFlag { at: at(3), ..flag }).await.unwrap();
    let again = db.flags(None, true, 10).await.unwrap();
    assert_eq!((again[0].flag.at, again[0].count), (at(3), 3));
}
