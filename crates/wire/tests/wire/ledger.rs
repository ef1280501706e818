//! Each situation of DESIGN §2 and §5 has its one answer.

use auditflow_wire::chain::{EpochLedger, ForkKind, MAX_RUNS};
use auditflow_wire::{
    Answer, Digest, EpochId, EvictReason, Evidence, Folded, Head, Judgement, Link, Predecessor, Refusal,
    SignedHeader, Span, UnknownPredecessor, Verdict,
};

use crate::samples::{self, chain_from, epoch, number, time};
use crate::sealing::NODE;

const OLD: EpochId = EpochId::from_bytes([1; 16]);

fn span(first: u64, last: u64) -> Span {
    Span::new(number(first), number(last)).unwrap()
}

fn unknown() -> Link {
    Link::Unknown { why: UnknownPredecessor::FirstStart, epoch: None }
}

fn chain(len: u64) -> Vec<SignedHeader> {
    chain_from(OLD, &unknown(), 0, len, 0)
}

fn admit(ledger: &mut EpochLedger, batch: &SignedHeader) -> Judgement {
    ledger.admit(batch, Evidence::default())
}

fn admit_known(ledger: &mut EpochLedger, batch: &SignedHeader, stored: Digest) -> Judgement {
    ledger.admit(batch, Evidence { stored: Some(stored), ..Evidence::default() })
}

fn kind(judgement: &Judgement) -> Option<ForkKind> {
    match judgement.verdict {
        Verdict::Fork(fork) => Some(fork.kind),
        _ => None,
    }
}

fn successor(id: u8, heads: Vec<Head>) -> SignedHeader {
    chain_from(epoch(id), &Link::Successor { epoch: OLD, heads }, 0, 1, id).remove(0)
}

/// Admits the first batch of a new epoch together with what is known of the old one.
fn succeed(old: &mut EpochLedger, batch: &SignedHeader, heads: &[Head]) -> (EpochLedger, Judgement) {
    let mut own = EpochLedger::default();
    let predecessor = Some(Predecessor { ledger: old, heads });
    let judgement = own.admit(batch, Evidence { predecessor, ..Evidence::default() });
    (own, judgement)
}

#[test]
fn overtaking_makes_no_gap_and_the_hole_is_owed_until_it_is_filled() {
    let chain = chain(4);
    let mut ledger = EpochLedger::default();
    assert_eq!(admit(&mut ledger, &chain[0]).verdict, Verdict::Store);
    assert_eq!(admit(&mut ledger, &chain[3]).verdict, Verdict::StoreAbove);
    assert_eq!(ledger.owed(), [span(2, 3)]);
    let ack = ledger.ack(NODE, OLD, None, time(0));
    assert_eq!((ack.through, ack.above.len(), ack.above[0].span), (Some(chain[0].head()), 1, span(4, 4)));
    assert_eq!(admit(&mut ledger, &chain[2]).verdict, Verdict::StoreAbove);
    let last = admit(&mut ledger, &chain[1]);
    assert_eq!((last.verdict, last.broken, last.lost), (Verdict::Store, vec![], vec![]));
    assert_eq!(ledger.through(), Some(chain[3].head()));
    assert!(ledger.owed().is_empty() && ledger.above().is_empty());
}

#[test]
fn duplicate_is_acknowledged_again_and_changes_nothing() {
    let chain = chain(2);
    let mut ledger = EpochLedger::default();
    admit(&mut ledger, &chain[0]);
    let before = ledger.clone();
    let again = admit_known(&mut ledger, &chain[0], chain[0].digest());
    assert_eq!((again.verdict, &ledger), (Verdict::Duplicate, &before));
    assert_eq!(ledger.ack(NODE, OLD, Some(&again.verdict), time(0)).answer, Answer::Stored);
}

#[test]
fn known_number_with_another_digest_is_a_fork_and_so_is_what_continues_it() {
    let (ours, theirs) = (chain(3), chain_from(OLD, &unknown(), 0, 3, 9));
    let mut ledger = EpochLedger::default();
    admit(&mut ledger, &ours[0]);
    let forked = admit_known(&mut ledger, &theirs[0], ours[0].digest());
    assert_eq!(kind(&forked), Some(ForkKind::OtherDigest));
    let answer = ledger.ack(NODE, OLD, Some(&forked.verdict), time(0)).answer;
    assert_eq!(answer, Answer::Fork { number: number(1), stored: ours[0].digest() });
    assert_eq!(kind(&admit(&mut ledger, &theirs[1])), Some(ForkKind::Branch));
    assert_eq!(kind(&admit(&mut ledger, &theirs[2])), Some(ForkKind::Branch));
    assert_eq!(admit(&mut ledger, &ours[1]).verdict, Verdict::Store);
    assert_eq!(ledger.through(), Some(ours[1].head()));
}

#[test]
fn broken_link_is_stored_acknowledged_and_flagged_from_either_side() {
    let (ours, other) = (chain(3), chain_from(OLD, &unknown(), 0, 3, 9));
    let mut upwards = EpochLedger::default();
    admit(&mut upwards, &ours[0]);
    let judged = admit(&mut upwards, &other[1]);
    assert_eq!((judged.verdict, judged.broken), (Verdict::StoreAbove, vec![number(2)]));

    let mut downwards = EpochLedger::default();
    admit(&mut downwards, &other[1]);
    let judged = admit(&mut downwards, &ours[0]);
    assert_eq!((judged.verdict, judged.broken), (Verdict::Store, vec![number(2)]));
    assert_eq!(upwards, downwards);
    assert_eq!(EpochLedger::from_bytes(&upwards.to_bytes()).unwrap(), upwards);
    assert_eq!(kind(&admit_known(&mut upwards, &other[0], ours[0].digest())), Some(ForkKind::OtherDigest));
    assert_eq!(admit(&mut upwards, &other[2]).verdict, Verdict::StoreAbove);
    assert_eq!((upwards.owed(), upwards.highest()), (vec![], Some(number(3))));
}

#[test]
fn nothing_below_a_broken_link_is_let_go_of_by_whoever_sealed_what_is_above_it() {
    let (ours, other) = (chain(3), chain_from(OLD, &unknown(), 0, 3, 9));
    let mut ledger = EpochLedger::default();
    for batch in [&ours[0], &other[1], &other[2]] {
        admit(&mut ledger, batch);
    }
    let ack = ledger.ack(NODE, OLD, None, time(0));
    let releases = |chain: &[SignedHeader]| {
        ack.releases(|number| chain.iter().find(|b| b.header.number == number).map(SignedHeader::digest))
    };
    assert!(releases(&other).is_err(), "its first batch is not the one that is stored");
    assert!(releases(&ours).is_err(), "its second batch is not the one that is stored");
    assert_eq!(releases(&other[1..]), Ok(vec![span(2, 3)]));
    assert_eq!(releases(&ours[..1]), Ok(vec![span(1, 1)]));
}

#[test]
fn hole_below_the_oldest_unacknowledged_number_is_lost_and_passed_over() {
    let chain = chain(8);
    let mut ledger = EpochLedger::default();
    admit(&mut ledger, &chain[0]);
    admit(&mut ledger, &chain[7]);
    assert_eq!(ledger.settle(number(6)), [span(2, 5)]);
    assert_eq!((ledger.lost(), ledger.owed()), (&[span(2, 5)][..], vec![span(6, 7)]));
    assert_eq!(ledger.settle(number(6)), []);
    assert_eq!(admit(&mut ledger, &chain[5]).verdict, Verdict::Store);
    assert_eq!(ledger.through(), Some(chain[5].head()));

    let late = admit(&mut ledger, &chain[2]);
    assert_eq!((late.verdict, late.recovered), (Verdict::Store, vec![span(3, 3)]));
    assert_eq!(ledger.lost(), [span(2, 2), span(4, 5)]);
}

#[test]
fn header_says_below_which_number_a_hole_is_loss() {
    let chain = samples::lagging_chain_from(OLD, &unknown(), 0..8, 0, 2);
    let mut ledger = EpochLedger::default();
    admit(&mut ledger, &chain[0]);
    let judged = admit(&mut ledger, &chain[6]);
    assert_eq!((judged.verdict, judged.lost), (Verdict::StoreAbove, vec![span(2, 4)]));
    assert_eq!(ledger.owed(), [span(5, 6)]);
}

#[test]
fn collector_restored_from_backup_learns_what_it_lost_from_the_nodes_state() {
    let chain = chain(10);
    let mut restored = EpochLedger::default();
    for batch in &chain[..3] {
        admit(&mut restored, batch);
    }
    assert_eq!(restored.settle(number(9)), [span(4, 8)]);
    assert_eq!(restored.through(), Some(chain[2].head()));
    assert_eq!(admit(&mut restored, &chain[8]).verdict, Verdict::Store);
    assert_eq!(restored.through(), Some(chain[8].head()));
}

#[test]
fn epoch_that_the_node_holds_nothing_of_owes_nothing_after_its_named_end() {
    let chain = chain(5);
    let mut old = EpochLedger::default();
    admit(&mut old, &chain[0]);
    let (own, judged) = succeed(&mut old, &successor(2, vec![chain[4].head()]), &[]);
    assert_eq!((judged.verdict, own.predecessor()), (Verdict::Store, Some(OLD)));
    assert_eq!(old.owed(), [span(2, 5)]);
    assert_eq!(old.settle_all(), [span(2, 5)]);
    assert!(old.owed().is_empty());
}

#[test]
fn older_epoch_stays_accepted_through_the_head_that_its_successor_named() {
    let chain = chain(5);
    let mut old = EpochLedger::default();
    succeed(&mut old, &successor(2, vec![chain[3].head()]), &[]);
    for batch in chain[..4].iter().rev() {
        assert!(matches!(admit(&mut old, batch).verdict, Verdict::Store | Verdict::StoreAbove));
    }
    assert_eq!(kind(&admit(&mut old, &chain[4])), Some(ForkKind::AfterEnd));
    assert_eq!(old.through(), Some(chain[3].head()));
}

#[test]
fn second_successor_of_one_head_is_a_fork_and_all_of_its_epoch_with_it() {
    let chain = chain(2);
    let mut old = EpochLedger::default();
    for batch in &chain {
        admit(&mut old, batch);
    }
    let first = successor(2, vec![chain[1].head()]);
    let (_, judged) = succeed(&mut old, &first, &[chain[1].head()]);
    assert_eq!(judged.verdict, Verdict::Store);
    let (_, again) = succeed(&mut old, &first, &[chain[1].head()]);
    assert_eq!(again.verdict, Verdict::Store, "a lost transaction is repeated");

    let clone = successor(3, vec![chain[1].head()]);
    let (mut own, judged) = succeed(&mut old, &clone, &[chain[1].head()]);
    assert_eq!(kind(&judged), Some(ForkKind::SecondSuccessor));
    let second = chain_from(epoch(3), &Link::Previous(clone.digest()), 1, 1, 3).remove(0);
    assert_eq!(kind(&admit(&mut own, &second)), Some(ForkKind::Branch));
    assert_eq!(kind(&admit(&mut own, &clone)), Some(ForkKind::Branch));
    assert_eq!(own.through(), None);

    // Sealed anew as the answer asks, the clone goes on.
    let anew = Link::Unknown { why: UnknownPredecessor::Forked, epoch: Some(epoch(3)) };
    let mut own = EpochLedger::default();
    let judged = admit(&mut own, &chain_from(epoch(4), &anew, 0, 1, 4)[0]);
    assert_eq!((judged.verdict, own.predecessor()), (Verdict::Store, Some(epoch(3))));
}

#[test]
fn successor_of_an_older_head_than_the_one_stored_is_a_rolled_back_spool() {
    let (ours, other) = (chain(3), chain_from(OLD, &unknown(), 0, 3, 9));
    for (heads, stored) in [
        (vec![ours[1].head()], vec![ours[1].head()]),
        (vec![other[2].head()], vec![ours[2].head()]),
        (vec![ours[2].head(), other[0].head()], vec![ours[2].head(), ours[0].head()]),
    ] {
        let mut old = EpochLedger::default();
        for batch in &ours {
            admit(&mut old, batch);
        }
        let (_, judged) = succeed(&mut old, &successor(2, heads), &stored);
        assert_eq!(kind(&judged), Some(ForkKind::RolledBack));
        assert_eq!(old.successor(), None);
    }
}

#[test]
fn fold_stands_for_its_numbers_and_the_chain_goes_on_through_it() {
    let chain = chain(6);
    let fold = |range: std::ops::Range<usize>| {
        Folded::of(chain[range].iter().map(|header| (header, EvictReason::SpoolFull))).unwrap()
    };
    let mut ledger = EpochLedger::default();
    admit(&mut ledger, &chain[0]);
    admit(&mut ledger, &chain[3]);
    admit(&mut ledger, &chain[5]);
    let evidence = || Evidence::default();
    let judged = ledger.admit_fold(&fold(1..5), evidence());
    assert_eq!((judged.verdict, judged.broken), (Verdict::Store, vec![]));
    assert_eq!(ledger.through(), Some(chain[5].head()));
    assert_eq!(ledger.admit_fold(&fold(2..4), evidence()).verdict, Verdict::Duplicate);
    assert_eq!(admit(&mut ledger, &chain[2]).verdict, Verdict::Duplicate);

    let other = chain_from(OLD, &unknown(), 0, 6, 9);
    let forked = Folded::of(other[1..6].iter().map(|header| (header, EvictReason::SpoolFull))).unwrap();
    assert_eq!(kind(&ledger.admit_fold(&forked, evidence())), Some(ForkKind::OtherDigest));
    let stored_first = Some(chain[1].digest());
    let judged = EpochLedger::default().admit_fold(&forked, Evidence { stored_first, ..evidence() });
    assert_eq!(kind(&judged), Some(ForkKind::OtherDigest));
}

#[test]
fn holes_are_bounded_and_close_again() {
    let chain = chain(2 * MAX_RUNS as u64 + 3);
    let mut ledger = EpochLedger::default();
    for batch in chain.iter().step_by(2).take(MAX_RUNS) {
        admit(&mut ledger, batch);
    }
    let before = ledger.clone();
    let refused = admit(&mut ledger, &chain[2 * MAX_RUNS]);
    assert_eq!((refused.verdict, &ledger), (Verdict::TooManyHoles, &before));
    let answer = ledger.ack(NODE, OLD, Some(&refused.verdict), time(0)).answer;
    assert_eq!(answer, Answer::Refused(Refusal::TooManyHoles));
    assert!(ledger.to_bytes().len() < 150_000);
    assert_eq!(EpochLedger::from_bytes(&ledger.to_bytes()), Ok(ledger.clone()));
    assert_eq!(admit(&mut ledger, &chain[1]).verdict, Verdict::Store);
    assert_eq!(admit(&mut ledger, &chain[2 * MAX_RUNS]).verdict, Verdict::StoreAbove);

    // Known losses don't count for ever.
    let mut lossy = before;
    let lost = lossy.settle(number(2 * MAX_RUNS as u64));
    assert_eq!(lost.len(), MAX_RUNS - 1);
    assert_eq!(admit(&mut lossy, &chain[2 * MAX_RUNS + 2]).verdict, Verdict::StoreAbove);
    assert_eq!(lossy.through(), Some(chain[2 * MAX_RUNS - 2].head()));
}

#[test]
fn acknowledgement_lists_as_many_ranges_as_fit_and_parses() {
    let chain = chain(400);
    let mut ledger = EpochLedger::default();
    for batch in chain.iter().step_by(2) {
        admit(&mut ledger, batch);
    }
    let ack = ledger.ack(NODE, OLD, None, time(0));
    assert_eq!(ack.above.len(), 64);
    let signed = auditflow_wire::Signed::sign(ack.clone(), &samples::site_key());
    let parsed = auditflow_wire::SignedAck::parse(signed.as_bytes()).unwrap();
    assert_eq!(*parsed.unverified(), ack);
}
