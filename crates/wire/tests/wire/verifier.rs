//! What `verify` proves, and what it notices.

use auditflow_wire::chain::{BadReason, Tally};
use auditflow_wire::{
    Ack, Answer, Checkpoint, EntryContent, EpochId, EvictReason, Eviction, Finding, Folded, Head, KeyRing,
    Link, NodeKey, Report, Signed, SignedAck, SignedHeader, Verifier,
};

use crate::samples::{self, chain_from, epoch, number, site_key, time};
use crate::sealing::{self, EPOCH, NODE};

fn verifier() -> Verifier {
    Verifier::new(NODE, [sealing::key().public()].into_iter().collect())
}

fn site() -> KeyRing<auditflow_wire::keys::Site> {
    [site_key().public()].into_iter().collect()
}

fn ack(epoch: EpochId, through: Head) -> SignedAck {
    let ack = Ack {
        node: NODE,
        epoch,
        time: time(0),
        answer: Answer::Stored,
        through: Some(through),
        above: Vec::new(),
    };
    Signed::sign(ack, &site_key())
}

/// Walks batches that all have the sample payload.
fn walk<'a>(verifier: &mut Verifier, batches: impl IntoIterator<Item = &'a SignedHeader>) -> Vec<Finding> {
    let payload = samples::payload();
    batches.into_iter().map(|batch| verifier.batch(batch, EntryContent::Payload(&payload.bytes))).collect()
}

fn walk_empty<'a>(verifier: &mut Verifier, batches: impl IntoIterator<Item = &'a SignedHeader>) {
    for batch in batches {
        verifier.batch(batch, EntryContent::Payload(&[]));
    }
}

fn gaps(report: &Report, epoch: usize) -> Vec<(u64, u64, bool)> {
    let gaps = report.epochs[epoch].gaps.iter();
    gaps.map(|gap| (gap.span.first().get(), gap.span.last().get(), gap.acknowledged)).collect()
}

#[test]
fn untouched_chain_is_verified_to_its_countersigned_head() {
    let chain = samples::chain(10);
    let mut verifier = verifier();
    verifier.countersigned(&ack(EPOCH, chain[9].head()), &site()).unwrap();
    assert!(walk(&mut verifier, &chain).iter().all(|finding| *finding == Finding::Verified));
    let report = verifier.finish();
    assert!(report.is_sound());
    let epoch = &report.epochs[0];
    assert_eq!(epoch.tally, Tally { verified: 10, ..Tally::default() });
    assert_eq!(
        (epoch.events, epoch.head, epoch.countersigned),
        (50, Some(chain[9].head()), Some(number(10)))
    );
}

#[test]
fn first_bad_batch_is_named_with_what_is_wrong() {
    let chain = samples::chain(6);
    let payload = samples::payload();
    let mut altered = payload.bytes.clone();
    altered[0] ^= 1;
    let mut verifier = verifier();
    walk(&mut verifier, &chain[..3]);
    let finding = verifier.batch(&chain[3], EntryContent::Payload(&altered));
    assert_eq!(finding, Finding::Bad(BadReason::Payload));
    assert_eq!(walk(&mut verifier, &chain[4..]), [Finding::Verified; 2]);
    let report = verifier.finish();
    assert!(!report.is_sound());
    let bad = report.first_bad().unwrap();
    assert_eq!((bad.epoch, bad.number, bad.reason), (EPOCH, number(4), BadReason::Payload));
}

#[test]
fn forged_batches_are_bad_whoever_forges_them() {
    let chain = samples::chain(3);
    let stranger = NodeKey::from_seed(&[8; 32]);
    let payload = samples::payload();
    let forge = |key: &NodeKey, events_before, previous: &SignedHeader| {
        let draft = sealing::draft(Some(previous.head()), events_before);
        auditflow_wire::seal(draft, &payload, key).unwrap()
    };
    let cases = [
        (forge(&stranger, 10, &chain[1]), BadReason::UnknownKey),
        (
            forge(&sealing::key(), 10, &samples::chain_from(EPOCH, &chain[0].header.link, 0, 2, 3)[1]),
            BadReason::Link,
        ),
        (forge(&sealing::key(), 11, &chain[1]), BadReason::Count),
    ];
    for (forged, reason) in cases {
        let mut verifier = verifier();
        walk(&mut verifier, &chain[..2]);
        assert_eq!(walk(&mut verifier, [&forged]), [Finding::Bad(reason)]);
    }
    let mut bytes = chain[2].as_bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let mut verifier = verifier();
    walk(&mut verifier, &chain[..2]);
    let finding = walk(&mut verifier, [&SignedHeader::parse(&bytes).unwrap()]);
    assert_eq!(finding, [Finding::Bad(BadReason::Signature)]);
    assert_eq!(walk(&mut verifier, [&chain[1]]), [Finding::Bad(BadReason::Order)]);
}

#[test]
fn batch_of_another_node_is_foreign() {
    let mut verifier = Verifier::new(samples::other_node(), [sealing::key().public()].into_iter().collect());
    assert_eq!(walk(&mut verifier, &samples::chain(1)), [Finding::Bad(BadReason::Foreign)]);
}

#[test]
fn deleted_newest_batches_show_when_an_acknowledgement_was_kept_elsewhere() {
    let chain = samples::chain(10);
    let mut verifier = verifier();
    verifier.countersigned(&ack(EPOCH, chain[8].head()), &site()).unwrap();
    walk(&mut verifier, &chain[..6]);
    let report = verifier.finish();
    assert_eq!(gaps(&report, 0), [(7, 9, true)]);
    assert!(!report.is_sound());
}

#[test]
fn deleted_batch_in_the_middle_shows_by_what_later_headers_saw_acknowledged() {
    let chain = samples::chain(6);
    let mut verifier = verifier();
    walk(&mut verifier, chain[..2].iter().chain(&chain[4..]));
    let report = verifier.finish();
    assert_eq!((gaps(&report, 0), report.epochs[0].missing), (vec![(3, 4, true)], 2));
    assert!(!report.is_sound());
}

#[test]
fn owed_batches_are_missing_but_nothing_is_wrong() {
    let chain = chain_from(EPOCH, &samples::chain(1)[0].header.link, 0, 6, 0);
    let mut verifier = verifier();
    walk_empty(&mut verifier, chain[..2].iter().chain(&chain[4..]));
    let report = verifier.finish();
    assert_eq!(gaps(&report, 0), [(3, 4, false)]);
    assert!(report.is_sound());
}

#[test]
fn declared_loss_is_lost_and_not_missing() {
    let chain = samples::chain(6);
    let mut verifier = verifier();
    walk(&mut verifier, &chain[..2]);
    verifier.lost(EPOCH, auditflow_wire::Span::new(number(3), number(4)).unwrap());
    walk(&mut verifier, &chain[4..]);
    let report = verifier.finish();
    assert!(report.is_sound());
    assert_eq!(report.epochs[0].tally, Tally { verified: 4, lost: 2, ..Tally::default() });
    assert_eq!(report.epochs[0].missing, 0);
}

#[test]
fn store_rewritten_after_the_acknowledgement_is_noticed() {
    let (real, forged) = (samples::chain(3), chain_from(EPOCH, &samples::chain(1)[0].header.link, 0, 3, 5));
    let mut verifier = verifier();
    verifier.countersigned(&ack(EPOCH, real[2].head()), &site()).unwrap();
    walk_empty(&mut verifier, &forged);
    let bad = verifier.finish().first_bad().unwrap();
    assert_eq!((bad.number, bad.reason), (number(3), BadReason::Named));
}

#[test]
fn evicted_expired_and_folded_batches_keep_the_chain_whole() {
    let chain = samples::chain(8);
    let evict =
        |batch: &SignedHeader| Eviction::sign(batch.digest(), EvictReason::SpoolFull, &sealing::key());
    let fold = Folded::of(chain[3..6].iter().map(|header| (header, EvictReason::SpoolFull))).unwrap();
    let mut verifier = verifier();
    walk(&mut verifier, &chain[..1]);
    assert_eq!(verifier.batch(&chain[1], EntryContent::Evicted(evict(&chain[1]))), Finding::Evicted);
    assert_eq!(verifier.batch(&chain[2], EntryContent::Expired), Finding::Expired);
    assert_eq!(verifier.fold(&Signed::sign(fold, &sealing::key())), Finding::Evicted);
    walk(&mut verifier, &chain[6..7]);
    let stolen = evict(&chain[6]);
    assert_eq!(verifier.batch(&chain[7], EntryContent::Evicted(stolen)), Finding::Bad(BadReason::Eviction));
    let tally = verifier.finish().epochs[0].tally;
    assert_eq!(tally, Tally { verified: 2, evicted: 4, expired: 1, lost: 0, bad: 1 });
}

#[test]
fn whole_epoch_that_was_deleted_is_missed_by_its_successor() {
    let old = samples::chain(4);
    let link = Link::Successor { epoch: EPOCH, heads: vec![old[3].head()] };
    let new = chain_from(epoch(2), &link, 0, 2, 2);
    let mut verifier = verifier();
    walk_empty(&mut verifier, &new);
    let report = verifier.finish();
    assert_eq!(report.epochs[0].predecessor, Some(EPOCH));
    assert_eq!((report.epochs[1].epoch, gaps(&report, 1)), (EPOCH, vec![(1, 4, false)]));
}

#[test]
fn batches_beyond_the_end_that_the_next_epoch_named_are_bad_in_either_order() {
    let old = samples::chain(4);
    let link = Link::Successor { epoch: EPOCH, heads: vec![old[2].head()] };
    let new = chain_from(epoch(2), &link, 0, 1, 2);
    for new_first in [true, false] {
        let mut verifier = verifier();
        if new_first {
            walk_empty(&mut verifier, &new);
        }
        walk(&mut verifier, &old);
        if !new_first {
            walk_empty(&mut verifier, &new);
        }
        let bad = verifier.finish().first_bad().unwrap();
        assert_eq!((bad.epoch, bad.number, bad.reason), (EPOCH, number(4), BadReason::AfterEnd));
    }
}

#[test]
fn walk_goes_on_after_a_checkpoint() {
    let chain = samples::chain(6);
    let checkpoint = |last: Head, cumulative| {
        let tally = Tally { verified: 4, ..Tally::default() };
        let checkpoint = Checkpoint { node: NODE, epoch: EPOCH, last, cumulative, tally, time: time(0) };
        Signed::sign(checkpoint, &site_key())
    };
    let mut sound = verifier();
    sound.checkpoint(&checkpoint(chain[3].head(), Some(20)), &site()).unwrap();
    assert_eq!(walk(&mut sound, &chain[4..]), [Finding::Verified; 2]);
    let report = sound.finish();
    assert!(report.is_sound());
    assert_eq!((report.epochs[0].checkpointed, report.epochs[0].tally.verified), (4, 2));

    let mut other = verifier();
    other.checkpoint(&checkpoint(samples::head(4), Some(20)), &site()).unwrap();
    assert_eq!(walk(&mut other, &chain[4..])[0], Finding::Bad(BadReason::Link));
}
