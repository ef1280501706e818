//! The alerts that stand are a function of the events: whatever the order, delay, duplication and batching of their
//! arrival, and however often analysis is cut off in between.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use auditflow_event::{Event, NodeId, Timestamp};
use auditflow_rules::Current;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

use super::*;
use crate::store::BatchKey;

const KINDS: [&str; 3] = ["user_login", "sudo_command", "file_modified"];
const RESOURCES: [&str; 3] = ["/a", "/b", "/etc/shadow"];

/// What happened: (node, milliseconds, kind, user, resource).
type Happening = (usize, i64, usize, usize, usize);

/// A small generator for the many choices of one schedule.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.roll(last + 1));
        }
    }
}

/// Two stores for all schedules: each schedule has nodes, users and a host of its own.
struct Ground {
    runtime: tokio::runtime::Runtime,
    reference: Arc<dyn Store>,
    tried: Arc<dyn Store>,
    rules: Current<Rules>,
    bounds: Bounds,
    _guards: [TempDir; 2],
    schedules: AtomicU64,
}

impl Ground {
    fn new(bounds: Bounds) -> Self {
        let [(a, reference), (b, tried)] = [store(), store()];
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let rules = Current::fixed(rules(RULES));
        Self { runtime, reference, tried, rules, bounds, _guards: [a, b], schedules: AtomicU64::new(1) }
    }

    /// Plays one schedule; gives back what stands in order and out of order.
    fn play(&self, happenings: &[Happening], seed: u64) -> (Vec<Value>, Vec<Value>) {
        let schedule = self.schedules.fetch_add(1, Ordering::Relaxed);
        let nodes: Vec<TestNode> = (0..2_u8)
            .map(|number| {
                let mut node = TestNode::new(number + 1);
                let mut id = [number + 1; 16];
                id[..8].copy_from_slice(&schedule.to_be_bytes());
                node.id = NodeId::from_bytes(id);
                node
            })
            .collect();
        let (users, host) = ([0, 1].map(|user| format!("u{schedule}-{user}")), format!("h{schedule}"));
        let events: Vec<(usize, Event)> = happenings
            .iter()
            .zip(0..)
            .map(|(&(node, millis, kind, user, resource), number)| {
                let what = [KINDS[kind], &users[user], &host, RESOURCES[resource]];
                (node, super::event(&nodes[node], number, millis, what))
            })
            .collect();
        self.runtime.block_on(async {
            self.in_order(nodes.clone(), &events).await;
            self.out_of_order(nodes, &events, &mut Dice(seed | 1)).await;
            (self.stands(&self.reference, &users, &host).await, self.stands(&self.tried, &users, &host).await)
        })
    }

    async fn in_order(&self, mut nodes: Vec<TestNode>, events: &[(usize, Event)]) {
        for (number, node) in nodes.iter_mut().enumerate() {
            let mut own: Vec<Event> = of_node(events, number);
            own.sort_by_key(|event| event.time);
            if !own.is_empty() {
                self.reference.store_batches(vec![node.seal(&own).arrival()]).await.unwrap();
            }
        }
        drain(&analyser_with(&self.reference, self.rules.clone(), self.bounds), at(200)).await;
    }

    async fn out_of_order(&self, mut nodes: Vec<TestNode>, events: &[(usize, Event)], dice: &mut Dice) {
        let mut batches = Vec::new();
        for (number, node) in nodes.iter_mut().enumerate() {
            let mut own = of_node(events, number);
            for again in 0..own.len() {
                if dice.roll(8) == 0 {
                    own.push(own[again].clone());
                }
            }
            dice.shuffle(&mut own);
            while !own.is_empty() {
                let rest = own.split_off(dice.roll(own.len().min(6)) + 1);
                batches.push(node.seal(&own));
                own = rest;
            }
        }
        for again in 0..batches.len() {
            if dice.roll(6) == 0 {
                batches.push(batches[again].clone());
            }
        }
        dice.shuffle(&mut batches);
        // The collector's clock runs on by days between arrivals: what is delayed is delayed beyond anything hot.
        let mut now = at(200);
        let mut worker = analyser_with(&self.tried, self.rules.clone(), self.bounds);
        for batch in batches {
            self.tried.store_batches(vec![batch.arrival()]).await.unwrap();
            for _ in 0..dice.roll(5) {
                self.act(&mut worker, &mut now, dice).await;
            }
        }
        drain(&worker, Timestamp::from_micros(now.as_micros() + 3_600_000_000)).await;
    }

    /// One step of analysis: a batch, a group, or a restart that leaves a group locked.
    async fn act(&self, worker: &mut Arc<Analyser>, now: &mut Timestamp, dice: &mut Dice) {
        *now = Timestamp::from_micros(now.as_micros() + dice.roll(86_400) as i64 * 1_000_000);
        if worker.is_changing() {
            worker.follow_rules().await;
        }
        match dice.roll(8) {
            0 => {
                let until = Timestamp::from_micros(now.as_micros() + 60_000_000);
                self.tried.take_dirty(*now, until).await.unwrap();
                *worker = analyser_with(&self.tried, self.rules.clone(), self.bounds);
            }
            1..4 => {
                let due: Vec<BatchKey> = due(&*self.tried, 16).await;
                if !due.is_empty() {
                    let key = due[dice.roll(due.len())];
                    // Two may race for it.
                    tokio::join!(judge(worker, key), judge(worker, key));
                }
            }
            _ => {
                worker.recompute_next(*now).await.unwrap();
            }
        }
    }

    async fn stands(&self, store: &Arc<dyn Store>, users: &[String; 2], host: &str) -> Vec<Value> {
        let mut stands = Vec::new();
        for (rule, by_host) in CORRELATIONS {
            let groups: Vec<&str> =
                if by_host { vec![host] } else { users.iter().map(String::as_str).collect() };
            for group in groups {
                stands.extend(standing(store, rule, group).await.iter().map(essence));
            }
        }
        let filter = crate::store::AlertFilter {
            rule_id: Some("shadow".to_owned()),
            server_hostname: Some(host.to_owned()),
            ..Default::default()
        };
        let mut single = store.alerts(filter, None, 0, 1_000).await.unwrap();
        single.sort_by_key(|row| row.alert.alert_id);
        stands.extend(single.iter().map(essence));
        stands
    }
}

fn of_node(events: &[(usize, Event)], node: usize) -> Vec<Event> {
    events.iter().filter(|(of, _)| *of == node).map(|(_, event)| event.clone()).collect()
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    // Some in the same instant, some a window apart, some far off.
    let time = prop_oneof![
        4 => 0..40_000_i64,
        2 => (0..30_i64).prop_map(|step| step * 5_000),
        1 => 100_000..400_000_i64,
    ];
    prop::collection::vec((0..2_usize, time, 0..3_usize, 0..2_usize, 0..3_usize), 1..28)
}

/// Plays so many schedules; gives back how many alerts stood in them.
fn play_many(stream: u8, cases: u32) -> usize {
    // Half of them with bounds so small that episodes of a few events are continued.
    let small = Bounds { ends: 1, settled_from: 2 + usize::from(stream % 4), lag: i64::from(stream / 4) };
    let ground = Ground::new(if stream.is_multiple_of(2) { small } else { Bounds::default() });
    let alerts = Cell::new(0);
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[stream; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&(happenings(), any::<u64>()), |(happenings, seed)| {
        let (expected, found) = ground.play(&happenings, seed);
        prop_assert_eq!(&found, &expected);
        alerts.set(alerts.get() + expected.len());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    alerts.get()
}

#[test]
fn same_alerts_stand_whatever_the_schedule() {
    // Each stream has stores of its own: they wait for their disks side by side.
    let alerts: usize = std::thread::scope(|scope| {
        let streams: Vec<_> = (1..=4).map(|stream| scope.spawn(move || play_many(stream, 500))).collect();
        streams.into_iter().map(|stream| stream.join().unwrap()).sum()
    });
    assert!(alerts > 4_000, "only {alerts} alerts: the schedules show too little");
}
