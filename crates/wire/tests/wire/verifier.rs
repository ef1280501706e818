//! What `verify` proves, and what it notices.

use auditflow_wire::ack::Range;
use auditflow_wire::chain::{BadReason, Tally};
use auditflow_wire::{
    Ack, Answer, Checkpoint, EntryContent, EpochId, EvictReason, Eviction, Finding, Folded, Head, KeyRing,
    Link, NodeKey, Report, Signed, SignedAck, SignedCheckpoint, SignedHeader, Span, Verifier,
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
fn hole_below_what_is_acknowledged_above_it_is_owed_and_one_within_was_deleted() {
    let chain = chain_from(EPOCH, &samples::chain(1)[0].header.link, 0, 9, 0);
    let above = vec![Range { span: Span::new(number(6), number(9)).unwrap(), digest: chain[8].digest() }];
    let said = Ack { above, ..ack(EPOCH, chain[2].head()).unverified().clone() };
    for (held, found, sound) in [
        ([&chain[..3], &chain[5..]].concat(), (4, 5, false), true),
        ([&chain[..3], &chain[5..8]].concat(), (9, 9, true), false),
        ([&chain[..3], &chain[6..]].concat(), (4, 6, true), false),
        ([&chain[..2], &chain[5..]].concat(), (3, 5, true), false),
    ] {
        let mut verifier = verifier();
        verifier.acknowledged(&said);
        walk_empty(&mut verifier, &held);
        let report = verifier.finish();
        assert_eq!((gaps(&report, 0).last(), report.is_sound()), (Some(&found), sound));
    }
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

fn checkpoint(report: &Report) -> SignedCheckpoint {
    Signed::sign(report.epochs[0].to_checkpoint(NODE, time(0)).unwrap(), &site_key())
}

/// After a walk of these, with nothing left of their payloads.
fn checkpoint_of(batches: &[SignedHeader]) -> SignedCheckpoint {
    let mut verifier = verifier();
    for batch in batches {
        verifier.batch(batch, EntryContent::Expired);
    }
    checkpoint(&verifier.finish())
}

#[test]
fn walk_goes_on_after_a_checkpoint() {
    let chain = samples::chain(6);
    let four = checkpoint_of(&chain[..4]);
    let mut sound = verifier();
    sound.checkpoint(&four, &site()).unwrap();
    assert_eq!(walk(&mut sound, &chain[4..]), [Finding::Verified; 2]);
    let report = sound.finish();
    assert!(report.is_sound());
    assert_eq!((report.epochs[0].checkpointed(), report.epochs[0].tally.verified), (4, 2));

    let mut other = verifier();
    let elsewhere = Checkpoint { last: samples::head(4), ..four.unverified().clone() };
    other.checkpoint(&Signed::sign(elsewhere, &site_key()), &site()).unwrap();
    assert_eq!(walk(&mut other, &chain[4..])[0], Finding::Bad(BadReason::Link));

    let mut strangers = verifier();
    let forged = Signed::sign(four.unverified().clone(), &auditflow_wire::SiteKey::from_seed(&[77; 32]));
    assert!(strangers.checkpoint(&forged, &site()).is_err());
}

#[test]
fn a_later_checkpoint_carries_the_tally_of_the_earlier_one_on() {
    let chain = samples::chain(9);
    let mut later = verifier();
    later.checkpoint(&checkpoint_of(&chain[..4]), &site()).unwrap();
    later.lost(EPOCH, auditflow_wire::Span::new(number(5), number(6)).unwrap());
    for batch in &chain[6..8] {
        later.batch(batch, EntryContent::Expired);
    }
    let eight = checkpoint(&later.finish());
    let said = eight.unverified();
    assert_eq!((said.last, said.cumulative), (chain[7].head(), Some(40)));
    assert_eq!(said.link.as_ref(), Some(&chain[0].header.link));
    assert_eq!(said.tally, Tally { expired: 6, lost: 2, ..Tally::default() });
    let mut last = verifier();
    last.checkpoint(&eight, &site()).unwrap();
    assert_eq!(walk(&mut last, &chain[8..]), [Finding::Verified]);
    assert!(last.finish().is_sound());
}

#[test]
fn what_is_bad_or_not_there_is_never_checkpointed() {
    let chain = samples::chain(5);
    let none = |walk: &dyn Fn(&mut Verifier)| {
        let mut verifier = verifier();
        walk(&mut verifier);
        assert_eq!(verifier.finish().epochs[0].to_checkpoint(NODE, time(0)), None);
    };
    none(&|verifier| walk_empty(verifier, &chain));
    none(&|verifier| drop(walk(verifier, chain[..2].iter().chain(&chain[3..]))));
    none(&|verifier| verifier.checkpoint(&checkpoint_of(&chain), &site()).unwrap());
    none(&|verifier| {
        *verifier = Verifier::new(NODE, [NodeKey::from_seed(&[99; 32]).public()].into_iter().collect());
        walk(verifier, &chain);
    });
}

#[test]
fn an_epoch_that_a_checkpointed_one_followed_cannot_vanish() {
    let old = samples::chain(4);
    let link = Link::Successor { epoch: EPOCH, heads: vec![old[3].head()] };
    let new = chain_from(epoch(2), &link, 0, 2, 4);
    let mut alone = verifier();
    for batch in &new {
        alone.batch(batch, EntryContent::Expired);
    }
    let report = alone.finish();
    let own = report.epochs.iter().find(|report| report.epoch == epoch(2)).unwrap();
    let new = Signed::sign(own.to_checkpoint(NODE, time(0)).unwrap(), &site_key());
    let mut verifier = verifier();
    verifier.checkpoint(&new, &site()).unwrap();
    walk(&mut verifier, &old[..3]);
    let report = verifier.finish();
    let predecessor = report.epochs.iter().find(|report| report.epoch == EPOCH).unwrap();
    assert_eq!(predecessor.missing, 1);
}

#[test]
fn a_batch_that_is_there_beside_its_checkpoint_is_proved_by_itself() {
    let chain = samples::chain(4);
    let payload = samples::payload();
    let mut verifier = verifier();
    verifier.checkpoint(&checkpoint_of(&chain[..3]), &site()).unwrap();
    assert_eq!(verifier.batch(&chain[1], EntryContent::Payload(&payload.bytes)), Finding::Verified);
    assert_eq!(verifier.batch(&chain[0], EntryContent::Payload(&[])), Finding::Bad(BadReason::Payload));
    let other = chain_from(EPOCH, &chain[0].header.link, 0, 3, 5);
    assert_eq!(verifier.batch(&other[2], EntryContent::Expired), Finding::Bad(BadReason::Named));
    walk(&mut verifier, &chain[3..]);
    let report = verifier.finish();
    assert_eq!((report.epochs[0].beside, report.epochs[0].tally.bad), (1, 2));
    assert_eq!(report.epochs[0].tally.verified, 1);
}

#[test]
fn a_batch_that_was_stored_before_the_fold_that_stands_for_it_is_no_fault() {
    let chain = samples::chain(6);
    let payload = samples::payload();
    let fold = Folded::of(chain[1..4].iter().map(|header| (header, EvictReason::SpoolFull))).unwrap();
    let fold = Signed::sign(fold, &sealing::key());
    let mut verifier = verifier();
    walk(&mut verifier, &chain[..1]);
    assert_eq!(verifier.fold(&fold), Finding::Evicted);
    assert_eq!(verifier.batch(&chain[2], EntryContent::Payload(&payload.bytes)), Finding::Verified);
    let other = chain_from(EPOCH, &chain[0].header.link, 0, 4, 5);
    assert_eq!(verifier.batch(&other[3], EntryContent::Expired), Finding::Bad(BadReason::Named));
    assert_eq!(verifier.fold(&fold), Finding::Bad(BadReason::Order));
    walk(&mut verifier, &chain[4..]);
    let report = verifier.finish();
    assert_eq!(
        (report.epochs[0].beside, report.epochs[0].tally.evicted, report.epochs[0].tally.bad),
        (1, 3, 2)
    );
}
