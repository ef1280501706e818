use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn batch(id: i64, bytes: u64, urgent: bool) -> Waiting {
    Waiting { id: RowId(id), bytes, urgent }
}

fn limits() -> Limits {
    Limits { in_flight_bytes: 1000, in_flight_batches: 4, ..Limits::default() }
}

/// A schedule that has connected.
fn connected(limits: Limits) -> Schedule {
    let mut schedule = Schedule::new(limits, 7, Duration::ZERO);
    assert_eq!(schedule.next(Duration::ZERO, &Backlog::default()), Action::State);
    schedule.state_answered(Duration::ZERO, Outcome::Taken);
    schedule
}

#[test]
fn connecting_begins_with_a_state_frame_and_sends_nothing_beside_it() {
    let mut schedule = Schedule::new(limits(), 7, Duration::ZERO);
    let backlog = Backlog { urgent: Some(batch(1, 10, true)), bulk: None };
    assert_eq!(schedule.next(Duration::ZERO, &backlog), Action::State);
    assert_eq!(schedule.next(Duration::ZERO, &backlog), Action::Wait(None));
    schedule.state_answered(Duration::ZERO, Outcome::Failed);
    let Action::Wait(Some(retry_at)) = schedule.next(Duration::ZERO, &backlog) else { panic!("no pause") };
    assert_eq!(schedule.next(retry_at, &backlog), Action::State);
    schedule.state_answered(retry_at, Outcome::Taken);
    assert_eq!(schedule.next(retry_at, &backlog), Action::Send(batch(1, 10, true)));
}

#[test]
fn urgent_batch_overtakes_bulk_and_has_room_when_bulk_has_none() {
    let mut schedule = connected(limits());
    let bulk = Backlog { urgent: None, bulk: Some(batch(1, 750, false)) };
    assert_eq!(schedule.next(SECOND, &bulk), Action::Send(batch(1, 750, false)));
    let both = Backlog { urgent: Some(batch(3, 200, true)), bulk: Some(batch(2, 10, false)) };
    assert_eq!(schedule.next(SECOND, &both), Action::Send(batch(3, 200, true)));
    let bulk = Backlog { urgent: None, bulk: Some(batch(2, 10, false)) };
    assert!(matches!(schedule.next(SECOND, &bulk), Action::Wait(_)));
    assert_eq!(schedule.marks(), Marks { urgent: RowId(3), bulk: RowId(1) });
}

#[test]
fn batch_below_all_that_waits_for_an_acknowledgement_is_sent_whatever_the_bounds() {
    let mut schedule = connected(limits());
    for id in 11..=14 {
        let urgent = Backlog { urgent: Some(batch(id, 10, true)), bulk: None };
        assert_eq!(schedule.next(SECOND, &urgent), Action::Send(batch(id, 10, true)));
        schedule.answered(SECOND, RowId(id), Outcome::Taken);
    }
    let bulk = |id| Backlog { urgent: None, bulk: Some(batch(id, 10, false)) };
    assert!(matches!(schedule.next(SECOND, &bulk(15)), Action::Wait(_)));
    assert_eq!(schedule.next(SECOND, &bulk(1)), Action::Send(batch(1, 10, false)));
    assert!(matches!(schedule.next(SECOND, &bulk(2)), Action::Wait(_)));
    schedule.retired(&[RowId(1)]);
    assert_eq!(schedule.next(SECOND, &bulk(2)), Action::Send(batch(2, 10, false)));
}

#[test]
fn batch_larger_than_the_bound_is_sent_alone() {
    let mut schedule = connected(limits());
    let backlog = Backlog { urgent: None, bulk: Some(batch(1, 5000, false)) };
    assert_eq!(schedule.next(SECOND, &backlog), Action::Send(batch(1, 5000, false)));
    let backlog = Backlog { urgent: Some(batch(2, 1, true)), bulk: None };
    assert!(matches!(schedule.next(SECOND, &backlog), Action::Wait(_)));
}

#[test]
fn throttling_holds_everything_back_for_as_long_as_the_collector_said() {
    let mut schedule = connected(limits());
    let backlog = Backlog { urgent: Some(batch(1, 10, true)), bulk: None };
    assert_eq!(schedule.next(SECOND, &backlog), Action::Send(batch(1, 10, true)));
    schedule.answered(SECOND, RowId(1), Outcome::Throttled(Some(Duration::from_secs(90))));
    assert_eq!(schedule.next(SECOND * 2, &backlog), Action::Wait(Some(SECOND * 91)));
    assert_eq!(schedule.next(SECOND * 91, &Backlog::default()), Action::Send(batch(1, 10, true)));
}

#[test]
fn absurd_retry_after_is_not_obeyed_for_more_than_an_hour() {
    let mut schedule = connected(limits());
    let backlog = Backlog { urgent: Some(batch(1, 10, true)), bulk: None };
    schedule.next(SECOND, &backlog);
    schedule.answered(SECOND, RowId(1), Outcome::Throttled(Some(Duration::MAX)));
    assert_eq!(schedule.next(SECOND, &backlog), Action::Wait(Some(SECOND + LONGEST_HOLD)));
}

#[test]
fn overdue_acknowledgement_is_asked_about_before_the_oldest_batch_alone_is_sent_again() {
    let mut schedule = connected(limits());
    for id in 1..=2 {
        let backlog = Backlog { urgent: None, bulk: Some(batch(id, 10, false)) };
        assert_eq!(schedule.next(SECOND, &backlog), Action::Send(batch(id, 10, false)));
        schedule.answered(SECOND, RowId(id), Outcome::Taken);
    }
    let due = SECOND + limits().ack_overdue;
    assert_eq!(schedule.next(SECOND, &Backlog::default()), Action::Wait(Some(due)));
    assert_eq!(schedule.next(due, &Backlog::default()), Action::State);
    assert_eq!(schedule.next(due, &Backlog::default()), Action::Wait(None));
    schedule.state_answered(due, Outcome::Taken);
    assert_eq!(schedule.next(due, &Backlog::default()), Action::Send(batch(1, 10, false)));
    assert_eq!(schedule.next(due, &Backlog::default()), Action::Wait(None));
    schedule.answered(due, RowId(1), Outcome::Taken);
    let Action::Wait(Some(later)) = schedule.next(due, &Backlog::default()) else { panic!("sent again") };
    assert!(later > due + limits().ack_overdue, "no backoff");
    schedule.retired(&[RowId(1)]);
    assert_eq!(schedule.next(due, &Backlog::default()), Action::State);
}

#[test]
fn bulk_waits_for_the_budget_and_urgent_does_not() {
    let mut schedule = connected(Limits { budget: Some((86_400, 100)), ..limits() });
    let backlog = |id| Backlog { urgent: None, bulk: Some(batch(id, 100, false)) };
    assert_eq!(schedule.next(Duration::ZERO, &backlog(1)), Action::Send(batch(1, 100, false)));
    assert_eq!(schedule.next(Duration::ZERO, &backlog(2)), Action::Wait(Some(SECOND * 100)));
    let urgent = Backlog { urgent: Some(batch(3, 50, true)), ..backlog(2) };
    assert_eq!(schedule.next(Duration::ZERO, &urgent), Action::Send(batch(3, 50, true)));
    assert_eq!(schedule.next(SECOND * 100, &backlog(2)), Action::Wait(Some(SECOND * 150)));
    assert_eq!(schedule.next(SECOND * 150, &backlog(2)), Action::Send(batch(2, 100, false)));
}

#[test]
fn refused_batch_keeps_nothing_else_from_being_sent() {
    let mut schedule = connected(limits());
    let backlog = |id| Backlog { urgent: None, bulk: Some(batch(id, 10, false)) };
    schedule.next(SECOND, &backlog(1));
    schedule.answered(SECOND, RowId(1), Outcome::Refused);
    assert_eq!(schedule.next(SECOND, &backlog(2)), Action::Send(batch(2, 10, false)));
}

#[test]
fn batch_too_large_for_the_way_takes_up_no_room_and_keeps_no_other_waiting() {
    let mut schedule = connected(limits());
    let bulk = |id, bytes| Backlog { urgent: None, bulk: Some(batch(id, bytes, false)) };
    assert_eq!(schedule.next(SECOND, &bulk(1, 900)), Action::Send(batch(1, 900, false)));
    schedule.answered(SECOND, RowId(1), Outcome::TooLarge);
    assert_eq!(schedule.next(SECOND, &bulk(2, 700)), Action::Send(batch(2, 700, false)));
    schedule.answered(SECOND, RowId(2), Outcome::Taken);
    // It is the oldest that is not acknowledged, and yet the next one is asked about and sent again.
    let due = SECOND + limits().ack_overdue;
    assert_eq!(schedule.next(due, &Backlog::default()), Action::State);
    schedule.state_answered(due, Outcome::Taken);
    assert_eq!(schedule.next(due, &Backlog::default()), Action::Send(batch(2, 700, false)));
}

#[test]
fn what_a_collector_says_late_opens_the_way_or_closes_it() {
    let mut schedule = Schedule::new(limits(), 7, Duration::ZERO);
    assert_eq!(schedule.next(Duration::ZERO, &Backlog::default()), Action::State);
    schedule.state_answered(Duration::ZERO, Outcome::Failed);
    schedule.heard(Duration::ZERO, Outcome::Taken);
    assert!(schedule.is_connected());
    let backlog = Backlog { urgent: Some(batch(1, 10, true)), bulk: None };
    assert_eq!(schedule.next(Duration::ZERO, &backlog), Action::Send(batch(1, 10, true)));
    schedule.answered(Duration::ZERO, RowId(1), Outcome::Taken);
    schedule.heard(SECOND, Outcome::Stranger);
    assert!(!schedule.is_connected());
    let held = SECOND + limits().retry_ceiling / 2;
    assert_eq!(schedule.next(SECOND, &Backlog::default()), Action::Wait(Some(held)));
    assert_eq!(schedule.next(held, &Backlog::default()), Action::State);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Add { bytes: u64, urgent: bool },
    Pass(u64),
    Answer { which: usize, outcome: Outcome, acknowledge: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let outcome = prop_oneof![
        5 => Just(Outcome::Taken),
        2 => Just(Outcome::Failed),
        1 => (0_u64..100).prop_map(|seconds| Outcome::Throttled(Some(Duration::from_secs(seconds)))),
        1 => Just(Outcome::Throttled(None)),
        1 => Just(Outcome::Forked),
        1 => Just(Outcome::Stranger),
        1 => Just(Outcome::Refused),
    ];
    prop_oneof![
        3 => (1_u64..1500, any::<bool>()).prop_map(|(bytes, urgent)| Step::Add { bytes, urgent }),
        2 => (0_u64..200_000).prop_map(Step::Pass),
        5 => (any::<usize>(), outcome, any::<bool>())
            .prop_map(|(which, outcome, acknowledge)| Step::Answer { which, outcome, acknowledge }),
    ]
}

/// A spool and a way to a collector, reduced to what the schedule sees of them.
struct World {
    schedule: Schedule,
    now: Duration,
    held: BTreeMap<RowId, Waiting>,
    next_id: i64,
    in_flight: Vec<Option<Waiting>>,
    handed: BTreeMap<RowId, Waiting>,
    /// What was older than everything under way when it was sent: it may be beyond the bounds.
    below_all: BTreeSet<RowId>,
    held_until: Duration,
}

impl World {
    fn new() -> Self {
        Self {
            schedule: Schedule::new(limits(), 3, Duration::ZERO),
            now: Duration::ZERO,
            held: BTreeMap::new(),
            next_id: 1,
            in_flight: Vec::new(),
            handed: BTreeMap::new(),
            below_all: BTreeSet::new(),
            held_until: Duration::ZERO,
        }
    }

    fn backlog(&self) -> Backlog {
        let marks = self.schedule.marks();
        let above = |urgent: bool, mark: RowId| {
            self.held.values().find(|batch| batch.urgent == urgent && batch.id > mark).copied()
        };
        Backlog { urgent: above(true, marks.urgent), bulk: above(false, marks.bulk) }
    }

    /// Does what the schedule wants until it waits, and checks every action. Returns how long it wants to wait.
    fn settle(&mut self) -> Option<Duration> {
        loop {
            let backlog = self.backlog();
            match self.schedule.next(self.now, &backlog) {
                Action::Wait(until) => return until,
                Action::State => {
                    assert!(self.now >= self.held_until, "sent while held back");
                    assert!(!self.in_flight.contains(&None), "two state frames at once");
                    self.in_flight.push(None);
                }
                Action::Send(batch) => {
                    self.check(batch, &backlog);
                    self.handed.remove(&batch.id);
                    self.in_flight.push(Some(batch));
                }
            }
        }
    }

    fn check(&mut self, batch: Waiting, backlog: &Backlog) {
        assert!(self.now >= self.held_until, "sent while held back");
        let under_way: Vec<Waiting> = self.in_flight.iter().flatten().copied().collect();
        assert!(under_way.iter().all(|other| other.id != batch.id), "sent twice at once");
        let others: Vec<Waiting> = under_way.iter().chain(self.handed.values()).copied().collect();
        if others.iter().all(|other| batch.id < other.id) {
            self.below_all.insert(batch.id);
        }
        if let Some(first) = self.handed.keys().next().filter(|_| self.handed.contains_key(&batch.id)) {
            assert_eq!(*first, batch.id, "only the oldest unacknowledged batch is sent again");
            return;
        }
        let bound = limits().in_flight_bytes;
        let counted = others.iter().filter(|other| !self.below_all.contains(&other.id));
        let within = counted.map(|other| other.bytes).sum::<u64>() + batch.bytes <= bound;
        assert!(within || self.below_all.contains(&batch.id), "too much in flight");
        assert!(self.schedule.outstanding().count() <= limits().in_flight_batches + 2, "too many in flight");
        let all: u64 = others.iter().map(|other| other.bytes).sum();
        let others = self.schedule.outstanding().filter(|id| *id != batch.id).count();
        let fits = |urgent: &Waiting| all + urgent.bytes <= bound && others < limits().in_flight_batches;
        let fresh_bulk = Some(batch) == backlog.bulk;
        assert!(!(fresh_bulk && backlog.urgent.as_ref().is_some_and(fits)), "bulk went before urgent");
    }

    fn answer(&mut self, which: usize, outcome: Outcome, acknowledge: bool) {
        if self.in_flight.is_empty() {
            return;
        }
        let index = which % self.in_flight.len();
        if let Outcome::Throttled(Some(pause)) = outcome {
            self.held_until = self.held_until.max(self.now + pause);
        }
        match self.in_flight.swap_remove(index) {
            None => self.schedule.state_answered(self.now, outcome),
            Some(batch) => {
                self.schedule.answered(self.now, batch.id, outcome);
                if matches!(outcome, Outcome::Taken | Outcome::Forked | Outcome::Refused) {
                    self.handed.insert(batch.id, batch);
                }
                if outcome == Outcome::Taken && acknowledge {
                    self.handed.remove(&batch.id);
                    self.held.remove(&batch.id);
                    self.schedule.retired(&[batch.id]);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn bounds_hold_on_any_course_and_everything_arrives_once_the_collector_is_well(
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new();
        for step in steps {
            match step {
                Step::Add { bytes, urgent } => {
                    let batch = batch(world.next_id, bytes, urgent);
                    world.next_id += 1;
                    world.held.insert(batch.id, batch);
                }
                Step::Pass(millis) => world.now += Duration::from_millis(millis),
                Step::Answer { which, outcome, acknowledge } => world.answer(which, outcome, acknowledge),
            }
            world.settle();
        }
        let mut turns = 0;
        while !world.held.is_empty() {
            match world.settle() {
                _ if !world.in_flight.is_empty() => world.answer(0, Outcome::Taken, true),
                Some(until) => world.now = until,
                None => prop_assert!(false, "waits for nothing with {} batches held", world.held.len()),
            }
            turns += 1;
            prop_assert!(turns < 5000, "no end");
        }
    }
}
