//! The spool against random sequences of everything that happens to a node, with one oracle: what the cursors say was
//! read is stored once everything is delivered, or was declared lost; the chain verifies; the cap is kept.

use std::collections::BTreeMap;

use auditflow_event::{Priority, Timestamp};
use auditflow_wire::BootId;
use proptest::prelude::*;

use super::world::{Read, World};
use crate::spool::Now;

#[derive(Debug, Clone)]
enum Step {
    Commit(Read),
    Pass(u64),
    Seal,
    Ship {
        batches: usize,
        acks_arrive: bool,
    },
    State,
    Stop,
    Crash {
        garbage: usize,
    },
    Reboot,
    SetClock(i64),
    KeepCopy,
    RestoreCopy,
    /// A copy is put in place whose log ends early, or in garbage from there on.
    RestoreTorn {
        from_end: usize,
        garbled: bool,
    },
    /// Several batches are under way at once, and arrive in any order.
    ShipTogether {
        batches: usize,
        order: u64,
        acks_arrive: bool,
    },
    Flip {
        log: bool,
        at: usize,
        bit: u8,
    },
}

fn read() -> impl Strategy<Value = Read> {
    let priority = prop_oneof![Just(Priority::Low), Just(Priority::Normal), Just(Priority::High)];
    (0_u64..40, 1_usize..1500, priority, proptest::bool::weighted(0.2))
        .prop_map(|(events, len, priority, urgent)| Read { events, len, priority, urgent })
}

fn ordinary() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => read().prop_map(Step::Commit),
        4 => (0_u64..20).prop_map(Step::Pass),
        4 => Just(Step::Seal),
        3 => (1_usize..6, proptest::bool::weighted(0.7))
            .prop_map(|(batches, acks_arrive)| Step::Ship { batches, acks_arrive }),
        1 => Just(Step::State),
        1 => Just(Step::Stop),
        1 => (0_usize..9000).prop_map(|garbage| Step::Crash { garbage }),
        1 => Just(Step::Reboot),
        1 => (-100_000_i64..100_000).prop_map(Step::SetClock),
    ]
}

fn hostile() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => ordinary(),
        1 => Just(Step::KeepCopy),
        1 => Just(Step::RestoreCopy),
        3 => (0_usize..1000, any::<bool>()).prop_map(|(from_end, garbled)| Step::RestoreTorn { from_end, garbled }),
        3 => (2_usize..5, any::<u64>(), proptest::bool::weighted(0.8))
            .prop_map(|(batches, order, acks_arrive)| Step::ShipTogether { batches, order, acks_arrive }),
        1 => (any::<bool>(), any::<usize>(), 0_u8..8).prop_map(|(log, at, bit)| Step::Flip { log, at, bit }),
    ]
}

fn run(max_bytes: u64, steps: Vec<Step>) {
    let mut world = World::new(max_bytes);
    let mut kept: Option<BTreeMap<String, Vec<u8>>> = None;
    for step in steps {
        match step {
            Step::Commit(read) => world.commit(read).unwrap(),
            Step::Pass(seconds) => pass(&mut world.now, seconds),
            Step::Seal => world.seal(),
            Step::Ship { batches, acks_arrive } => {
                world.ship(batches, acks_arrive);
            }
            Step::State => world.send_state(),
            Step::Stop => {
                world.stop();
                world.start();
            }
            Step::Crash { garbage } => {
                world.crash();
                let mut files = world.copy();
                files.entry("spool.db-wal".to_owned()).or_default().extend(vec![0x5A; garbage]);
                world.replace(&files);
                world.start();
            }
            Step::Reboot => {
                world.crash();
                let mut boot = *world.now.boot.as_bytes();
                boot[0] ^= 1;
                world.now =
                    Now { boot: BootId::from_bytes(boot), boottime: std::time::Duration::ZERO, ..world.now };
                world.start();
            }
            Step::SetClock(seconds) => {
                world.now.wall = Timestamp::from_micros(world.now.wall.as_micros() + seconds * 1_000_000);
            }
            Step::KeepCopy => kept = Some(world.copy()),
            Step::RestoreCopy => {
                if let Some(files) = &kept {
                    world.open = None;
                    world.restored = true;
                    world.undone = true;
                    world.replace(files);
                    world.start();
                }
            }
            Step::RestoreTorn { from_end, garbled } => {
                if let Some(mut files) = kept.clone() {
                    if let Some(log) = files.get_mut("spool.db-wal") {
                        let keep = log.len() - log.len() * from_end / 1000;
                        if garbled {
                            log[keep..].fill(0xA5);
                        } else {
                            log.truncate(keep);
                        }
                    }
                    world.open = None;
                    world.restored = true;
                    world.undone = true;
                    world.replace(&files);
                    world.start();
                }
            }
            Step::ShipTogether { batches, order, acks_arrive } => {
                world.ship_together(batches, order, acks_arrive);
            }
            Step::Flip { log, at, bit } => {
                // A damaged log is a shorter one: the collector may know more of the chain than the node does then.
                world.undone = true;
                world.crash();
                let mut files = world.copy();
                let name = if log { "spool.db-wal" } else { "spool.db" };
                if let Some(byte) = files.get_mut(name).filter(|bytes| !bytes.is_empty()).map(|bytes| {
                    let at = at % bytes.len();
                    &mut bytes[at]
                }) {
                    *byte ^= 1 << bit;
                }
                world.replace(&files);
                world.start();
            }
        }
        world.check_cap();
    }
    world.deliver_all();
    world.check_delivery();
}

/// Each case works on real files: few by default, as many as one likes by `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let default = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { default.cases } else { 24 };
    ProptestConfig { cases, max_shrink_iters: 200, failure_persistence: None, ..default }
}

fn pass(now: &mut Now, seconds: u64) {
    now.boottime += std::time::Duration::from_secs(seconds);
    now.wall = Timestamp::from_micros(now.wall.as_micros() + seconds as i64 * 1_000_000);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_lost_or_invented_by_crashes_reboots_and_lost_answers(
        steps in proptest::collection::vec(ordinary(), 1..80),
    ) {
        run(8 << 20, steps);
    }

    #[test]
    fn what_a_tiny_spool_cannot_keep_is_declared_to_the_event(
        steps in proptest::collection::vec(ordinary(), 40..160),
    ) {
        run(1 << 20, steps);
    }

    #[test]
    fn damage_and_older_copies_lose_nothing_in_silence(
        steps in proptest::collection::vec(hostile(), 1..120),
    ) {
        run(2 << 20, steps);
    }
}
