//! A node's keys give way to each other.

use auditflow_wire::chain::{BadReason, Finding, Tally};
use auditflow_wire::{
    Batch, BatchSeq, Content, Draft, EntryContent, EpochId, EvictReason, Eviction, Folded, Head, Link,
    NodeKey, NodeKeys, NodeRotation, NodeRotationError, NotASigner, Report, Signed, SignedHeader,
    SignedNodeRotation, Verifier, seal,
};

use crate::samples::{self, epoch, number, time};
use crate::sealing::{self, EPOCH, NODE};

fn key(seed: u8) -> NodeKey {
    NodeKey::from_seed(&[seed; 32])
}

fn rotation(from: &NodeKey, to: &NodeKey, sealed: &[(EpochId, Head)]) -> SignedNodeRotation {
    let rotation =
        NodeRotation { node: NODE, epoch: EPOCH, next: to.public(), at: time(0), sealed: sealed.to_vec() };
    Signed::sign(rotation, from)
}

/// Four batches, the last two of them sealed by `second`.
fn rotated_chain(second: &NodeKey) -> Vec<SignedHeader> {
    let mut chain = samples::chain(2);
    for _ in 0..2 {
        let last = chain.last().unwrap();
        let before = last.header.facts.as_ref().unwrap().cumulative;
        let draft = sealing::draft(Some(last.head()), before);
        chain.push(seal(draft, &samples::payload(), second).unwrap());
    }
    chain
}

#[test]
fn retired_key_speaks_for_what_it_had_sealed_and_for_nothing_else() {
    let (first, second) = (sealing::key(), key(2));
    let mut keys = NodeKeys::from_iter([first.public()]);
    let rotation = rotation(&first, &second, &[(epoch(4), samples::head(9)), (EPOCH, samples::head(3))]);
    assert_eq!(keys.follow(&rotation), Ok(true));
    assert_eq!(keys.follow(&rotation), Ok(false));
    assert_eq!(keys.current(), Some(&second.public()));

    let may = |key: &NodeKey, epoch: EpochId, n: u64| keys.signer(key.id(), epoch, number(n)).map(|_| ());
    for (of, n) in [(EPOCH, 1), (EPOCH, 3), (epoch(4), 9)] {
        assert_eq!(may(&first, of, n), Ok(()));
    }
    for (of, n) in [(EPOCH, 4), (epoch(4), 10), (epoch(5), 1)] {
        assert_eq!(may(&first, of, n), Err(NotASigner::Retired(first.id())));
        assert_eq!(may(&second, of, n), Ok(()));
    }
    assert_eq!(may(&key(3), EPOCH, 1), Err(NotASigner::Unknown(key(3).id())));
    // What a node says of itself now is the key in use's to say.
    assert_eq!(keys.speaker(first.id()), Err(NotASigner::Retired(first.id())));
    assert_eq!(keys.speaker(second.id()), Ok(&second.public()));
}

#[test]
fn keys_that_are_collected_first_learn_their_rotations_afterwards() {
    let all = [key(1), key(2), key(3)];
    let rotations =
        [rotation(&all[0], &all[1], &[]), rotation(&all[1], &all[2], &[(EPOCH, samples::head(1))])];
    let mut followed = NodeKeys::from_iter([all[0].public()]);
    let mut collected: NodeKeys = all.iter().map(NodeKey::public).collect();
    for keys in [&mut followed, &mut collected] {
        for rotation in &rotations {
            assert_eq!(keys.follow(rotation), Ok(true));
        }
        assert_eq!(keys.current(), Some(&all[2].public()));
        assert_eq!(keys.all().count(), 3);
        assert!(keys.signer(all[0].id(), EPOCH, BatchSeq::FIRST).is_err());
        assert!(keys.signer(all[1].id(), EPOCH, BatchSeq::FIRST).is_ok());
    }
}

#[test]
fn forged_contradicting_and_circular_rotations_are_refused_and_change_nothing() {
    let (first, second, stranger) = (key(1), key(2), key(9));
    let mut keys = NodeKeys::from_iter([first.public()]);
    let missing = rotation(&second, &key(3), &[]);
    assert_eq!(keys.follow(&missing), Err(NodeRotationError::Unknown(second.id())));
    let mut forged = rotation(&first, &stranger, &[]).as_bytes().to_vec();
    let end = forged.len() - 1;
    forged[end] ^= 1;
    let forged = SignedNodeRotation::parse(&forged).unwrap();
    assert!(matches!(keys.follow(&forged), Err(NodeRotationError::Signature(_))));
    assert_eq!(keys.current(), Some(&first.public()));

    keys.follow(&rotation(&first, &second, &[])).unwrap();
    let stolen = rotation(&first, &stranger, &[]);
    assert_eq!(keys.follow(&stolen), Err(NodeRotationError::Contradiction(first.id())));
    for next in [&first, &second] {
        let circular = rotation(&second, next, &[]);
        assert_eq!(keys.follow(&circular), Err(NodeRotationError::Reused(next.id())));
    }
    assert_eq!((keys.current(), keys.rotations().len()), (Some(&second.public()), 1));
}

#[test]
fn later_key_may_sign_away_what_an_earlier_one_sealed_and_not_the_other_way_round() {
    let (first, second) = (sealing::key(), key(2));
    let chain = rotated_chain(&second);
    let mut keys = NodeKeys::from_iter([first.public()]);
    keys.follow(&rotation(&first, &second, &[(EPOCH, chain[1].head())])).unwrap();
    let evicted = |batch: &SignedHeader, by: &NodeKey| {
        let content = Content::Evicted(Eviction::sign(batch.digest(), EvictReason::SpoolFull, by));
        Batch { signed: batch.clone(), content }.verify(&keys)
    };
    assert!(evicted(&chain[0], &first).is_ok() && evicted(&chain[0], &second).is_ok());
    assert!(evicted(&chain[3], &second).is_ok());
    assert!(evicted(&chain[3], &first).is_err());
}

#[test]
fn a_chain_over_a_rotation_is_proved_and_what_the_old_key_signed_later_is_not() {
    let (first, second) = (sealing::key(), key(2));
    let chain = rotated_chain(&second);
    let mut keys = NodeKeys::from_iter([first.public()]);
    keys.follow(&rotation(&first, &second, &[(EPOCH, chain[1].head())])).unwrap();
    let prove = |chain: &[SignedHeader]| -> Report {
        let mut verifier = Verifier::new(NODE, keys.clone());
        for batch in chain {
            verifier.batch(batch, EntryContent::Expired);
        }
        verifier.finish()
    };
    let report = prove(&chain);
    assert!(report.is_sound());
    assert_eq!(report.epochs[0].tally, Tally { expired: 4, ..Tally::default() });

    let forged = samples::chain(3);
    let report = prove(&forged);
    assert_eq!(report.first_bad().unwrap().number, number(3));
    assert_eq!(
        report.first_bad().unwrap().reason.to_string(),
        "signed with a key that the node had retired by then"
    );

    let fold = |by: &NodeKey| {
        let folded = Folded::of(chain[1..3].iter().map(|header| (header, EvictReason::SpoolFull))).unwrap();
        let mut verifier = Verifier::new(NODE, keys.clone());
        verifier.batch(&chain[0], EntryContent::Expired);
        verifier.fold(&Signed::sign(folded, by))
    };
    assert_eq!(fold(&second), Finding::Evicted);
    assert!(matches!(fold(&first), Finding::Bad(_)));
}

#[test]
fn epochs_that_were_let_go_of_before_a_key_gave_way_are_proved_and_those_that_follow_it_are_not() {
    let (first, second) = (sealing::key(), key(2));
    let old = samples::chain(3);
    let chain_of = |of: EpochId, before: (EpochId, Head)| {
        let link = Link::Successor { epoch: before.0, heads: vec![before.1] };
        let draft = Draft { epoch: of, link, ..sealing::draft(None, 0) };
        seal(draft, &samples::payload(), &first).unwrap()
    };
    // The key gave way in the second epoch; of the first one nothing was held any more.
    let then = chain_of(epoch(2), (EPOCH, old[2].head()));
    let said = NodeRotation {
        node: NODE,
        epoch: epoch(2),
        next: second.public(),
        at: time(0),
        sealed: vec![(epoch(2), then.head())],
    };
    let mut keys = NodeKeys::from_iter([first.public()]);
    keys.follow(&Signed::sign(said, &first)).unwrap();
    let child = chain_of(epoch(3), (epoch(2), then.head()));
    let grandchild = chain_of(epoch(4), (epoch(3), child.head()));
    let mut verifier = Verifier::new(NODE, keys);
    for batch in old.iter().chain([&then]) {
        assert_eq!(verifier.batch(batch, EntryContent::Expired), Finding::Expired);
    }
    for batch in [&child, &grandchild] {
        assert_eq!(verifier.batch(batch, EntryContent::Expired), Finding::Bad(BadReason::RetiredKey));
    }
}
