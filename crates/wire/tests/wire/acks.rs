//! Acknowledgements free exactly what they speak of.

use auditflow_wire::ack::Range;
use auditflow_wire::{Ack, Answer, BatchSeq, Digest, Head, NodeKey, Signed, SiteKey, Span};

use crate::samples::{self, head, number, time};
use crate::sealing::{EPOCH, NODE};

fn span(first: u64, last: u64) -> Span {
    Span::new(number(first), number(last)).unwrap()
}

fn held(numbers: std::ops::RangeInclusive<u64>) -> impl Fn(BatchSeq) -> Option<Digest> {
    move |n| numbers.contains(&n.get()).then(|| head(n.get()).digest)
}

#[test]
fn acknowledgement_frees_what_carries_the_batches_own_digests() {
    let ack = samples::ack();
    let ack = ack.verify(&samples::site_key().public()).unwrap();
    assert_eq!(ack.releases(held(1..=400)).unwrap(), [span(1, 300), span(302, 302), span(304, 310)]);
}

#[test]
fn acknowledgement_with_another_digest_frees_nothing_at_all() {
    let ack = samples::ack();
    let foreign = |n: BatchSeq| held(1..=400)(n).map(|own| if n.get() == 310 { head(1).digest } else { own });
    assert_eq!(ack.unverified().releases(foreign).unwrap_err().number, number(310));
}

#[test]
fn acknowledgement_of_what_is_not_held_frees_nothing_below_it() {
    // The digest of 300 cannot be compared any more, so it says nothing about 250.
    let spans = samples::ack().unverified().releases(held(301..=305)).unwrap();
    assert_eq!(spans, [span(302, 302)]);
}

#[test]
fn batch_below_an_acknowledged_range_is_freed_by_the_digest_of_what_was_let_go_of_before() {
    // 301 to 310 were let go of by their range; then 300 was stored, and stored-through moved over them.
    let through = Some(head(310));
    let ack =
        Ack { node: NODE, epoch: EPOCH, time: time(0), answer: Answer::Stored, through, above: Vec::new() };
    assert_eq!(ack.releases(held(300..=310)).unwrap(), [span(1, 310)]);
}

#[test]
fn acknowledgement_by_another_key_proves_nothing() {
    let ack = samples::ack();
    assert!(ack.verify(&SiteKey::from_seed(&[8; 32]).public()).is_err());
    let node = NodeKey::from_seed(&[9; 32]);
    assert_eq!(node.public().as_bytes(), samples::site_key().public().as_bytes());
}

#[test]
fn ranges_that_overlap_or_stand_in_the_wrong_order_are_refused() {
    let range = |first, last| Range { span: span(first, last), digest: head(last).digest };
    for above in [vec![range(5, 9), range(9, 12)], vec![range(8, 9), range(5, 6)], vec![range(2, 4)]] {
        let through = Some(Head { number: number(2), digest: head(2).digest });
        let ack = Ack { node: NODE, epoch: EPOCH, time: time(0), answer: Answer::Stored, through, above };
        let signed = Signed::sign(ack, &samples::site_key());
        assert!(Signed::<Ack>::parse(signed.as_bytes()).is_err());
    }
}
