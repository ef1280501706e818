//! Keys change: the site's, of which nodes are told, and a node's, which it presents.

use auditflow_wire::enrol::{KEYS_PATH, RekeyRequest, RekeyResponse};
use auditflow_wire::{NodeRotation, SignedNodeRotation, SitePins, State};

use super::*;

fn rotation(node: &TestNode, next: &NodeKey, through: Option<&TestBatch>) -> SignedNodeRotation {
    let sealed = through.map(|batch| (node.epoch, batch.signed.head())).into_iter().collect();
    let said = NodeRotation { node: node.id, epoch: node.epoch, next: next.public(), at: at(1), sealed };
    Signed::sign(said, &node.key)
}

impl Running {
    async fn present(&self, rotations: Vec<SignedNodeRotation>, by: &NodeKey) -> Reply {
        let request = RekeyRequest { rotations, certificate_request: certificate_request(by) };
        self.post(&self.tls(None), KEYS_PATH, serde_json::to_vec(&request).unwrap()).await
    }

    /// The node with its next key, which the collector has taken.
    async fn rekeyed(&self, joined: &Joined, next: &NodeKey, through: Option<&TestBatch>) -> Joined {
        let reply = self.present(vec![rotation(&joined.node, next, through)], next).await;
        assert_eq!(reply.status, StatusCode::OK, "{:?}", reply.body);
        let response: RekeyResponse = serde_json::from_slice(&reply.body).unwrap();
        response.check().unwrap();
        self.identified(joined.node.with_key(next), &response.client_certificate)
    }
}

#[tokio::test]
async fn a_node_goes_on_with_its_new_key_and_what_waited_under_the_old_one_is_taken() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let waited: Vec<TestBatch> = (0..2).map(|n| joined.node.logins(&[n])).collect();
    let next = NodeKey::from_seed(&[42; 32]);
    let mut rekeyed = site.rekeyed(&joined, &next, waited.last()).await;
    let new = rekeyed.node.logins(&[3]);
    let (status, acks) = site.deliver(&rekeyed, &[&waited[0], &waited[1], &new]).await;
    assert_eq!((status, acks[0].through), (StatusCode::OK, Some(new.signed.head())));
    // An earlier batch may be signed away with the new key.
    let mut body = FrameWriter::new();
    let eviction = Eviction::sign(waited[0].digest(), EvictReason::SpoolFull, &next);
    assert!(body.push_batch(&waited[0].signed, Content::Evicted(eviction)));
    assert_eq!(site.send(&rekeyed, body.finish()).await.status, StatusCode::OK);
    assert!(site.store.flags(None, true, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn whoever_has_the_old_key_adds_nothing_and_is_noticed() {
    let site = start(Limits::default()).await;
    let mut joined = site.join(1).await;
    let waited = joined.node.logins(&[0]);
    let next = NodeKey::from_seed(&[42; 32]);
    let rekeyed = site.rekeyed(&joined, &next, Some(&waited)).await;
    let forged = joined.node.logins(&[1]);
    let refused = Answer::Refused(Refusal::RetiredKey);
    // With the old certificate, and carried by the node itself.
    for carrier in [&joined, &rekeyed] {
        let (status, acks) = site.deliver(carrier, &[&forged]).await;
        assert_eq!((status, acks[0].answer), (StatusCode::FORBIDDEN, refused));
    }
    assert_eq!(site.open_flags(FlagKind::BadSignature).await, 1);
    // Another successor of the old key is a clone's.
    let stolen = NodeKey::from_seed(&[43; 32]);
    let reply = site.present(vec![rotation(&joined.node, &stolen, None)], &stolen).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    assert_eq!(site.open_flags(FlagKind::Fork).await, 1);
    assert_eq!(site.store.node_keys(joined.node.id).await.unwrap().current(), Some(&next.public()));
}

#[tokio::test]
async fn a_state_that_the_old_key_signed_last_is_refused_without_an_incident() {
    let site = start(Limits::default()).await;
    let joined = site.join(1).await;
    let rekeyed = site.rekeyed(&joined, &NodeKey::from_seed(&[42; 32]), None).await;
    let mut body = FrameWriter::new();
    assert!(body.push_state(&Signed::sign(joined.node.state(Vec::new()), &joined.node.key)));
    assert_eq!(site.send(&rekeyed, body.finish()).await.status, StatusCode::FORBIDDEN);
    assert!(site.store.flags(None, true, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_new_key_is_answered_as_often_as_it_is_presented_until_it_is_old() {
    let site = start(Limits::default()).await;
    let joined = site.join(1).await;
    let [second, third] = [42, 43].map(|seed| NodeKey::from_seed(&[seed; 32]));
    let first = rotation(&joined.node, &second, None);
    let then = rotation(&joined.node.with_key(&second), &third, None);
    for _ in 0..2 {
        assert_eq!(site.present(vec![first.clone()], &second).await.status, StatusCode::OK);
    }
    assert_eq!(site.present(vec![first.clone(), then], &third).await.status, StatusCode::OK);
    assert_eq!(site.present(vec![first], &second).await.status, StatusCode::FORBIDDEN);
    assert_eq!(site.open_flags(FlagKind::Fork).await, 0);
}

#[tokio::test]
async fn a_stranger_s_rotation_and_one_without_the_new_key_are_refused() {
    let site = start(Limits::default()).await;
    let joined = site.join(1).await;
    let (next, other) = (NodeKey::from_seed(&[42; 32]), NodeKey::from_seed(&[43; 32]));
    // The request proves another key than the rotation names.
    let own = rotation(&joined.node, &next, None);
    assert_eq!(site.present(vec![own], &other).await.status, StatusCode::BAD_REQUEST);
    let stranger = joined.node.with_key(&other);
    let forged = rotation(&stranger, &next, None);
    assert_eq!(site.present(vec![forged], &next).await.status, StatusCode::FORBIDDEN);
    let unknown = rotation(&TestNode::new(9), &next, None);
    assert_eq!(site.present(vec![unknown], &next).await.status, StatusCode::FORBIDDEN);
    assert_eq!(site.present(Vec::new(), &next).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        site.store.node_keys(joined.node.id).await.unwrap().current(),
        Some(&joined.node.key.public())
    );
    assert!(site.store.flags(None, true, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_node_that_was_away_over_several_rotations_is_told_the_chain_with_its_first_state() {
    let site = start(Limits::default()).await;
    let joined = site.join(1).await;
    let mut pins = site.site.keys.get().pins();
    for second in 1..=3 {
        site.site.keys.rotate(at(second)).unwrap();
    }
    let state = |pins: &SitePins| {
        let mut body = FrameWriter::new();
        let state = State { site_key: Some(pins.newest()), ..joined.node.state(Vec::new()) };
        assert!(body.push_state(&Signed::sign(state, &joined.node.key)));
        body.finish()
    };
    let told = async |pins: &mut SitePins| {
        let reply = site.send(&joined, state(pins)).await;
        let mut told = 0;
        for part in Parts::new(&reply.body).unwrap() {
            if let Part::Rotation(rotation) = part.unwrap() {
                assert!(pins.follow(&rotation).unwrap());
                told += 1;
            }
        }
        told
    };
    assert_eq!(told(&mut pins).await, 3);
    assert_eq!(pins, site.site.keys.get().pins());
    assert_eq!(told(&mut pins).await, 0);
    // Whoever enrols now pins what holds now, and acknowledgements are the new key's.
    let mut second = site.join(2).await;
    let batch = second.node.logins(&[1]);
    assert_eq!(site.deliver(&second, &[&batch]).await.1[0].through, Some(batch.signed.head()));
}
