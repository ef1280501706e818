//! Folding forgets headers and nothing that they declared.

use auditflow_wire::fold::FoldError;
use auditflow_wire::{
    ClockCause, Draft, Encoded, EvictReason, Folded, Link, LossReason, LossSource, SignedHeader, seal,
};

use crate::samples;
use crate::sealing;

fn chain() -> Vec<SignedHeader> {
    let mut chain: Vec<SignedHeader> = Vec::new();
    for _ in 0..6 {
        let draft = sealing::draft(chain.last().map(SignedHeader::head), 0);
        let clocks = if chain.len() == 1 { samples::clocks() } else { draft.clocks.clone() };
        let draft = Draft { losses: samples::losses(), clocks, ..draft };
        chain.push(seal(draft, &Encoded::empty(), &sealing::key()).unwrap());
    }
    chain
}

#[test]
fn fold_names_both_ends_and_adds_up_what_the_headers_declared() {
    let chain = chain();
    let reasons =
        [EvictReason::SpoolFull, EvictReason::DiskFull, EvictReason::SpoolFull, EvictReason::SpoolFull];
    let fold = Folded::of(chain[1..5].iter().zip(reasons)).unwrap();
    assert_eq!((fold.first(), fold.last()), (chain[1].head(), chain[4].head()));
    assert_eq!(fold.link, Link::Previous(chain[0].digest()));
    let evicted: Vec<_> = fold.evicted.iter().map(|evicted| (evicted.reason, evicted.batches)).collect();
    assert_eq!(evicted, [(EvictReason::SpoolFull, 3), (EvictReason::DiskFull, 1)]);
    let gap = fold.losses.iter().find(|loss| loss.reason == LossReason::SerialGap).unwrap();
    assert_eq!((gap.source, gap.count), (LossSource::KernelAudit, Some(4 * 1234)));
    let stopped = fold.losses.iter().find(|loss| loss.reason == LossReason::NotRunning).unwrap();
    assert_eq!(stopped.count, None);
    let causes: Vec<_> = fold.clocks.facts.iter().map(|fact| fact.cause).collect();
    assert_eq!(causes, [ClockCause::Start, ClockCause::Synchronised, ClockCause::Step]);
}

#[test]
fn folds_join_to_the_same_as_folding_at_once() {
    let chain = chain();
    let fold = |range: std::ops::Range<usize>| {
        Folded::of(chain[range].iter().map(|header| (header, EvictReason::SpoolFull))).unwrap()
    };
    assert_eq!(fold(0..2).join(fold(2..6)).unwrap(), fold(0..6));
    assert_eq!(fold(0..2).join(fold(3..6)).unwrap_err(), FoldError::NotConsecutive);
}

#[test]
fn headers_that_do_not_follow_each_other_are_not_folded() {
    let chain = chain();
    let other = samples::chain(2);
    for headers in [[&chain[0], &chain[2]], [&chain[1], &chain[0]], [&chain[0], &other[1]]] {
        let folded = Folded::of(headers.map(|header| (header, EvictReason::SpoolFull)));
        assert_eq!(folded.unwrap_err(), FoldError::NotConsecutive);
    }
    assert_eq!(Folded::of([]).unwrap_err(), FoldError::Empty);
}

#[test]
fn fold_that_would_carry_too_much_is_refused() {
    let mut chain: Vec<SignedHeader> = Vec::new();
    for _ in 0..4 {
        let draft =
            Draft { clocks: samples::clocks(), ..sealing::draft(chain.last().map(SignedHeader::head), 0) };
        chain.push(seal(draft, &Encoded::empty(), &sealing::key()).unwrap());
    }
    let folded = Folded::of(chain.iter().map(|header| (header, EvictReason::SpoolFull)));
    assert_eq!(folded.unwrap_err(), FoldError::TooMuch);
}
