//! One suite for windows with and without Redis: whatever is lost, late or out of order on the way to Redis, what is read
//! is what the store has. And what only Redis can get wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use auditflow_event::{EventId, Timestamp};
use auditflow_service::health::{Health, Part, PartState};
use auditflow_service::metrics::Metrics;
use auditflow_tests::Random;
use auditflow_tests::services::RedisServer;
use nix::sys::signal::Signal;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::config::ServerConfig;
use crate::correlate::row;
use crate::store::postgres::tests::kit::{self, Database};
use crate::store::postgres::{Options as PostgresOptions, PostgresStore};
use crate::store::{
    AlertChanges, Arrival, BatchFindings, BatchKey, By, DetectionRow, DirtyGroup, Match, Pass, Recorded,
    Store,
};
use crate::testing::{TestNode, site};

/// One minute: a window reaches back eight.
const TIMESPAN: i64 = 60_000;

/// A database, and two ways to read a group's detections from it.
struct Ground {
    _database: Database,
    store: Arc<dyn Store>,
    node: TestNode,
    /// Now, for the events of a test.
    now: i64,
    events: u128,
}

/// Redis, and windows in it.
struct Hot {
    redis: RedisServer,
    windows: InRedis,
    server: Arc<Server>,
    metrics: Metrics,
    health: Part,
    stop: CancellationToken,
    _folders: [TempDir; 2],
}

impl Ground {
    fn new() -> Option<Self> {
        let database = kit::database()?;
        let options = PostgresOptions { url: database.url(), connections: 4 };
        let store = PostgresStore::new(&options).unwrap().telling_revisions();
        kit::wait(store.migrate(By::COLLECTOR)).unwrap();
        let now = chrono::Utc::now().timestamp_millis();
        Some(Self { _database: database, store: Arc::new(store), node: TestNode::new(1), now, events: 0 })
    }

    /// A stored batch.
    async fn batch(&mut self) -> BatchKey {
        let batch = self.node.logins(&[1]);
        let arrivals: Vec<Arrival> = vec![batch.arrival()];
        self.store.store_batches(arrivals).await.unwrap();
        batch.key()
    }

    /// Findings of one group, at these times before now (milliseconds).
    fn found(&mut self, name: &str, ago: &[i64]) -> DetectionRow {
        let matches = ago.iter().zip(0..).map(|(ago, index)| {
            self.events += 1;
            Match {
                time: Timestamp::from_micros((self.now - ago) * 1_000),
                order: 7,
                index,
                event_id: EventId::from_uuid(Uuid::from_u128(self.events)),
                fields: vec![("value".to_owned(), name.to_owned())],
            }
        });
        DetectionRow { group: group(name), rule: "login".to_owned(), matches: matches.collect() }
    }

    async fn record(&self, batch: BatchKey, pass: Pass, detections: Vec<DetectionRow>) -> Recorded {
        let rule_set = "v1".to_owned();
        let findings = BatchFindings { rule_set, pass, detections, alerts: Vec::new(), dirty: Vec::new() };
        self.store.record_detections(batch, findings).await.unwrap()
    }

    /// Findings in a batch of their own; gives how they changed the group.
    async fn happens(&mut self, name: &str, ago: &[i64]) -> Regrouped {
        let batch = self.batch().await;
        let row = self.found(name, ago);
        self.record(batch, Pass::First, vec![row]).await.regrouped.remove(0)
    }

    async fn take(&self) -> Option<DirtyGroup> {
        let now = Timestamp::from_micros(self.now * 1_000);
        let until = Timestamp::from_micros(self.now * 1_000 + 60_000_000);
        self.store.take_dirty(now, until).await.unwrap()
    }

    async fn take_and_finish(&self) -> DirtyGroup {
        let taken = self.take().await.unwrap();
        assert!(self.store.finish_group(taken.clone(), AlertChanges::default()).await.unwrap().held);
        taken
    }

    fn asked<'a>(&self, key: &'a GroupKey, revision: Option<Revision>, back: i64) -> Asked<'a> {
        Asked { key, revision, timespan: TIMESPAN, from: self.now - back, to: self.now + 4 * TIMESPAN }
    }

    /// Fails unless `windows` say what the store says.
    async fn compare(&self, windows: &dyn Windows, asked: Asked<'_>) -> usize {
        let (from, to) = (row::start_of(asked.from), row::end_of(asked.to));
        let key = asked.key;
        let stored = self.store.detections_of_group(&key.correlation, &key.group, from, to).await.unwrap();
        let read = windows.detections(asked).await.unwrap();
        assert_eq!(in_order(read), in_order(stored.clone()), "{asked:?}");
        stored.len()
    }
}

impl Hot {
    /// A server, and the connection to it once it works.
    async fn start(store: &Arc<dyn Store>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut redis = RedisServer::make(folder.path(), None).unwrap()?;
        redis.start().unwrap();
        let (site_folder, site) = site();
        let password_file = Some(redis.password_file());
        let config = ServerConfig { url: Some(redis.url(None)), password_file, ca_file: None };
        let options = Options::from_config(&config, &site).unwrap().unwrap();
        let health = Health::requiring(&[]).part("redis");
        let server = Arc::new(Server::new(options, health.clone()));
        let metrics = Metrics::new("test").unwrap();
        let registered = WindowMetrics::register(&metrics).unwrap();
        let retention = Duration::from_hours(24);
        let windows = InRedis::new(Arc::clone(store), Arc::clone(&server), retention, registered);
        let stop = CancellationToken::new();
        let (running, stopped) = (Arc::clone(&server), stop.clone());
        tokio::spawn(async move { running.run(stopped).await });
        let hot = Self { redis, windows, server, metrics, health, stop, _folders: [folder, site_folder] };
        hot.until(PartState::Up).await;
        Some(hot)
    }

    async fn until(&self, state: PartState) {
        until(&self.health, &self.server, state).await;
    }

    /// How many windows were read here.
    fn read_from(&self, place: &str) -> u64 {
        let line = format!("auditflow_window_reads_total{{from=\"{place}\"}} ");
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let value = text.lines().find_map(|text| text.strip_prefix(&line));
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn ask(&self, words: &[&str]) -> String {
        self.redis.ask(words).unwrap()
    }

    fn only_key(&self) -> String {
        let keys = self.ask(&["KEYS", "auditflow:window:*"]);
        // The probe's has no group; it comes and goes.
        let mut own = keys.lines().filter(|key| self.ask(&["ZRANGE", key, "-1", "-1"]) != "probe");
        own.next().expect("there is a window").to_owned()
    }
}

impl Drop for Hot {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn until(health: &Part, server: &Server, state: PartState) {
    let begun = Instant::now();
    while health.state() != state || (state == PartState::Up) != server.connection().is_some() {
        assert!(begun.elapsed() < Duration::from_mins(1), "Redis is still {:?}", health.state());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn group(name: &str) -> GroupKey {
    GroupKey { correlation: "logins@1".to_owned(), group: name.to_owned() }
}

fn in_order(mut points: Vec<DetectionPoint>) -> Vec<DetectionPoint> {
    points.sort_by_key(|point| (point.time, point.at.node, point.at.seq, point.at.index, point.at.event_id));
    points
}

/// Plays a random life of a few groups; what is on the way to `windows` is lost, delayed, doubled and overtaken, and
/// `disturb` may do anything else to them.
async fn live(
    mut ground: Ground,
    windows: &dyn Windows,
    mut random: Random,
    mut disturb: impl FnMut(&mut Random),
) {
    let names = ["alice", "bob", "carol\0"];
    let mut recorded: Vec<(BatchKey, String)> = Vec::new();
    let mut on_the_way: Vec<Regrouped> = Vec::new();
    let mut known: HashMap<String, Revision> = HashMap::new();
    let mut compared = 0;
    for _ in 0..400 {
        match random.below(40) {
            0..=11 => {
                let name = names[random.below(3) as usize];
                let ago: Vec<i64> = (0..=random.below(4)).map(|_| ago(&mut random)).collect();
                let batch = ground.batch().await;
                let rows = vec![ground.found(name, &ago)];
                on_the_way.extend(ground.record(batch, Pass::First, rows).await.regrouped);
                recorded.push((batch, name.to_owned()));
            }
            12..=14 if !recorded.is_empty() => {
                let (batch, name) = recorded[random.below(recorded.len() as u64) as usize].clone();
                let pass = if random.below(2) == 0 { Pass::Rewrite } else { Pass::Prime };
                let rows = vec![ground.found(&name, &[ago(&mut random)]), ground.found("dave", &[1])];
                on_the_way.extend(ground.record(batch, pass, rows).await.regrouped);
            }
            15..=34 => {
                if let Some(taken) = ground.take().await {
                    let back = [TIMESPAN, 4 * TIMESPAN, 7 * TIMESPAN, 100 * TIMESPAN];
                    let asked = ground.asked(&taken.key, taken.revision, back[random.below(4) as usize]);
                    compared += ground.compare(windows, asked).await;
                    known.extend(taken.revision.map(|revision| (taken.key.group.clone(), revision)));
                    ground.store.finish_group(taken, AlertChanges::default()).await.unwrap();
                }
            }
            35 => disturb(&mut random),
            _ => {
                // Touched by a group below, without a change.
                let (name, at) = (names[random.below(2) as usize], row::start_of(ground.now));
                ground.store.mark_dirty(group(name), at, at).await.unwrap();
            }
        }
        while !on_the_way.is_empty() && random.below(5) > 0 {
            // Mostly at once and in order, sometimes not, sometimes twice, sometimes never.
            let place = if random.below(8) == 0 { random.below(on_the_way.len() as u64) as usize } else { 0 };
            let told =
                if random.below(8) == 0 { on_the_way[place].clone() } else { on_the_way.remove(place) };
            if random.below(20) > 0 {
                windows.changed(&told, TIMESPAN).await;
            }
        }
    }
    assert!(compared > 200, "much was compared: {compared}");
}

/// Mostly lately; some long ago, some in the future.
fn ago(random: &mut Random) -> i64 {
    match random.below(8) {
        0 => 20 * TIMESPAN,
        1 => -(random.below(10) as i64) * TIMESPAN,
        _ => random.below(7 * TIMESPAN as u64) as i64,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_what_is_read_is_what_the_store_has() {
    let Some(ground) = Ground::new() else { return };
    let windows = Stored(Arc::clone(&ground.store));
    live(ground, &windows, Random::announced("windows in the store"), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_redis_what_is_read_is_what_the_store_has_whatever_becomes_of_redis() {
    let mut random = Random::announced("windows in Redis");
    let mut read = 0;
    for _ in 0..3 {
        let Some(ground) = Ground::new() else { return };
        let Some(mut hot) = Hot::start(&ground.store).await else { return };
        let (health, server) = (hot.health.clone(), Arc::clone(&hot.server));
        let mut paused = false;
        let disturb = |random: &mut Random| {
            if std::mem::take(&mut paused) {
                hot.redis.signal(Signal::SIGCONT).unwrap();
            }
            kit::wait(until(&health, &server, PartState::Up));
            match random.below(6) {
                0 => drop(hot.redis.ask(&["FLUSHALL"]).unwrap()),
                1 => drop(hot.redis.ask(&["SCRIPT", "FLUSH"]).unwrap()),
                2 => drop(hot.redis.ask(&["CLIENT", "KILL", "TYPE", "normal"]).unwrap()),
                3 => {
                    hot.redis.kill().unwrap();
                    hot.redis.start().unwrap();
                }
                4 => {
                    hot.redis.signal(Signal::SIGSTOP).unwrap();
                    paused = true;
                }
                _ => {}
            }
        };
        live(ground, &hot.windows, random.split(), disturb).await;
        if paused {
            hot.redis.signal(Signal::SIGCONT).unwrap();
        }
        read += hot.read_from("redis");
    }
    assert!(read > 20, "much was read from Redis: {read}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_is_left_by_who_reads_and_grown_by_who_writes() {
    let Some(mut ground) = Ground::new() else { return };
    let Some(hot) = Hot::start(&ground.store).await else { return };
    let key = group("alice");
    let first = ground.happens("alice", &[1_000]).await;
    hot.windows.changed(&first, TIMESPAN).await;
    let taken = ground.take_and_finish().await;
    assert_eq!((first.before, Some(first.after)), (None, taken.revision));
    ground.compare(&hot.windows, ground.asked(&key, taken.revision, 4 * TIMESPAN)).await;
    assert_eq!((hot.read_from("store"), hot.read_from("redis")), (1, 0));
    let mut earlier = None;
    for round in 1..=10 {
        let grown = ground.happens("alice", &[500]).await;
        hot.windows.changed(&grown, TIMESPAN).await;
        let taken = ground.take_and_finish().await;
        let asked = ground.asked(&key, taken.revision, 4 * TIMESPAN);
        assert_eq!(ground.compare(&hot.windows, asked).await, 1 + round);
        earlier = if round == 6 { taken.revision } else { earlier };
    }
    assert_eq!((hot.read_from("store"), hot.read_from("redis")), (1, 10));
    // Who took the group a few revisions ago finds all that was there then.
    assert_eq!(ground.compare(&hot.windows, ground.asked(&key, earlier, 4 * TIMESPAN)).await, 11);
    // Further back than windows reach, and after a change that nobody told of.
    let untold = ground.happens("alice", &[400]).await;
    for (revision, back) in [(untold.before, 9 * TIMESPAN), (Some(untold.after), TIMESPAN)] {
        ground.compare(&hot.windows, ground.asked(&key, revision, back)).await;
    }
    assert_eq!((hot.read_from("store"), hot.read_from("redis")), (3, 11));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_is_bounded_in_members_and_bytes_and_expires() {
    let Some(mut ground) = Ground::new() else { return };
    let Some(hot) = Hot::start(&ground.store).await else { return };
    let key = group("alice");
    let times: Vec<i64> = (0..1_500).map(|number| number * 100).collect();
    ground.happens("alice", &times).await;
    let taken = ground.take_and_finish().await;
    let asked = ground.asked(&key, taken.revision, 4 * TIMESPAN);
    assert_eq!(ground.compare(&hot.windows, asked).await, 1_500);
    let window = hot.only_key();
    let members = |hot: &Hot| hot.ask(&["ZCARD", &window]).parse::<usize>().unwrap();
    assert_eq!(members(&hot), 1_001, "the head and a thousand");
    let expires: i64 = hot.ask(&["PTTL", &window]).parse().unwrap();
    assert!((1..=9 * TIMESPAN).contains(&expires), "{expires}");

    // What is left of it answers for its time, and grows no further.
    let grown = ground.happens("alice", &[50; 300]).await;
    hot.windows.changed(&grown, TIMESPAN).await;
    assert!(members(&hot) <= 1_001);
    let taken = ground.take_and_finish().await;
    let before = hot.read_from("redis");
    for (back, is_there) in [(60_000, true), (120_000, false)] {
        ground.compare(&hot.windows, ground.asked(&key, taken.revision, back)).await;
        assert_eq!(hot.read_from("redis"), before + 1, "{back}: {is_there}");
    }

    // One that is too large leaves nothing.
    let batch = ground.batch().await;
    let mut large = ground.found("alice", &[1]);
    large.matches[0].fields[0].1 = "x".repeat(5_000);
    let grown = ground.record(batch, Pass::First, vec![large]).await.regrouped.remove(0);
    hot.windows.changed(&grown, TIMESPAN).await;
    assert_eq!(members(&hot), 0);
    let taken = ground.take_and_finish().await;
    assert_eq!(ground.compare(&hot.windows, ground.asked(&key, taken.revision, TIMESPAN)).await, 902);
    assert_eq!(members(&hot), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_paused_full_or_gone_shows_and_the_store_answers_meanwhile() {
    let Some(mut ground) = Ground::new() else { return };
    let Some(mut hot) = Hot::start(&ground.store).await else { return };
    let key = group("alice");
    ground.happens("alice", &[1_000, 2_000]).await;
    let taken = ground.take_and_finish().await;
    let asked = ground.asked(&key, taken.revision, TIMESPAN);

    hot.redis.signal(Signal::SIGSTOP).unwrap();
    assert_eq!(ground.compare(&hot.windows, asked).await, 2);
    hot.until(PartState::Degraded).await;
    hot.redis.signal(Signal::SIGCONT).unwrap();
    hot.until(PartState::Up).await;

    // It answers to PING, and has no room. Only the look that is taken now and then notices.
    hot.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    hot.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    hot.until(PartState::Degraded).await;
    assert_eq!(ground.compare(&hot.windows, asked).await, 2);
    hot.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    hot.until(PartState::Up).await;

    hot.redis.kill().unwrap();
    assert_eq!(ground.compare(&hot.windows, asked).await, 2);
    hot.until(PartState::Degraded).await;
    hot.redis.start().unwrap();
    hot.until(PartState::Up).await;
    let before = hot.read_from("redis");
    assert_eq!(ground.compare(&hot.windows, asked).await, 2);
    assert_eq!(ground.compare(&hot.windows, asked).await, 2);
    assert_eq!(hot.read_from("redis"), before + 1, "the second time it is there again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn analyzers_may_keep_windows_and_do_nothing_else() {
    let Some(ground) = Ground::new() else { return };
    let Some(hot) = Hot::start(&ground.store).await else { return };
    let own = "auditflow:window:1:x";
    for forbidden in [
        &["GET", own][..],
        &["SET", own, "1"],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["FLUSHALL"],
        &["CONFIG", "GET", "*"],
        &["ACL", "LIST"],
        &["EVAL", "return 1", "0"],
        &["SCRIPT", "FLUSH"],
        &["SUBSCRIBE", "x"],
        &["PUBLISH", "x", "y"],
        &["ZADD", "elsewhere", "1", "x"],
        &["DEL", "elsewhere"],
        &["SHUTDOWN"],
    ] {
        let error = hot.redis.ask_as("auditflow", forbidden).unwrap_err().to_string();
        assert!(error.contains("NOPERM"), "{forbidden:?}: {error}");
    }
    hot.redis.ask_as("auditflow", &["ZADD", own, "1", "x"]).unwrap();
    let error = hot.redis.ask_as("default", &["ZADD", own, "1", "x"]).unwrap_err().to_string();
    assert!(error.contains("WRONGPASS") || error.contains("NOAUTH"), "{error}");
}
