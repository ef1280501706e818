//! The search's part of the suite: a full scan in memory is the model.

use std::sync::Arc;

use auditflow_event::{Event, EventId, EventType, HostFacts};
use auditflow_wire::NodeFacts;

use super::store;
use crate::store::terms::Wanted;
use crate::store::{Arrival, Budget, EventPage, EventQuery, Limits, Store};
use crate::testing::{TestNode, at};

const GENEROUS: Budget = Budget { batches: 10_000, bytes: u64::MAX };

/// Events of three nodes in batches that overlap in time and arrive in any order, with the nodes they are of.
async fn filled(db: &Arc<dyn Store>, seed: u64) -> Vec<(TestNode, Event)> {
    let mut random = Random(seed);
    let mut model = Vec::new();
    let mut arrivals = Vec::new();
    for number in 1..=3 {
        let mut node = TestNode::new(number);
        let site = if number == 2 { "south" } else { "north" };
        node.about = NodeFacts::new("pi", "1", "", "", [("site".to_owned(), site.to_owned())]);
        for _ in 0..12 {
            let start = random.below(500) as i64;
            let events: Vec<Event> = (0..random.below(12))
                .map(|_| {
                    let kind = ["user_login", "file_modified", "sudo_command"][random.below(3) as usize];
                    let user = ["alice", "bob", "root"][random.below(3) as usize];
                    let resource = ["/etc/shadow", "/usr/bin/curl", "sshd"][random.below(3) as usize];
                    node.event(start + random.below(90) as i64, kind, user, resource)
                })
                .collect();
            let batch = node.seal(&events);
            // Some on another day: another file.
            let received = batch.received(random.below(2) as i64 * 86_400);
            arrivals.push(Arrival::Batch(Box::new(received)));
            model.extend(events.into_iter().map(|event| (node.clone(), event)));
        }
    }
    for index in (1..arrivals.len()).rev() {
        arrivals.swap(index, random.below(index as u64 + 1) as usize);
    }
    db.store_batches(arrivals).await.unwrap();
    model
}

/// Every page of a query, and how many there were.
async fn all_pages(db: &Arc<dyn Store>, mut query: EventQuery) -> (Vec<EventPage>, Vec<(i64, EventId)>) {
    let (mut pages, mut found) = (Vec::new(), Vec::new());
    loop {
        let page = db.search_events(query.clone()).await.unwrap();
        assert!(page.events.len() <= query.limit);
        found.extend(page.events.iter().map(|found| (found.event.time.as_micros(), found.at.event_id)));
        let next = page.next;
        pages.push(page);
        assert!(pages.len() < 10_000, "a search that never ends");
        match next {
            Some(next) => query.before = Some(next),
            None => return (pages, found),
        }
    }
}

fn sorted(found: &[(i64, EventId)]) -> Vec<(i64, EventId)> {
    let mut sorted = found.to_vec();
    sorted.sort_unstable();
    sorted
}

pub(crate) async fn events_are_found_newest_first_in_pages_of_any_size_and_budget(db: Arc<dyn Store>) {
    let model = filled(&db, 7).await;
    let expected =
        sorted(&model.iter().map(|(_, event)| (event.time.as_micros(), event.id)).collect::<Vec<_>>());
    for (limit, batches) in [(1, 1), (3, 2), (10, 1), (10, 100), (1_000, 1), (1_000, 10_000)] {
        let budget = Budget { batches, bytes: u64::MAX };
        let (pages, found) = all_pages(&db, EventQuery { limit, budget, ..EventQuery::default() }).await;
        assert!(found.is_sorted_by(|a, b| a.0 >= b.0), "limit {limit}, budget {batches}: not newest first");
        assert_eq!(sorted(&found), expected, "limit {limit}, budget {batches}");
        assert!(pages.iter().all(|page| !page.partial || page.next.is_some()));
    }
}

pub(crate) async fn every_filter_finds_what_a_full_scan_finds(db: Arc<dyn Store>) {
    let model = filled(&db, 11).await;
    let base = || EventQuery { limit: 7, budget: GENEROUS, ..EventQuery::default() };
    let words = |terms: &[&str]| terms.iter().map(ToString::to_string).collect::<Vec<_>>();
    let queries = [
        EventQuery { node: Some(model[0].0.id), ..base() },
        EventQuery { from: Some(at(100)), to: Some(at(200)), ..base() },
        EventQuery { event_types: vec![EventType::FileModified, EventType::SudoCommand], ..base() },
        EventQuery { user: Some("ALICE".to_owned()), ..base() },
        EventQuery { terms: words(&["shadow"]), ..base() },
        EventQuery { terms: words(&["details.resource:/etc/shadow", "bob"]), ..base() },
        EventQuery { terms: words(&["/usr/bin/curl"]), user: Some("root".to_owned()), ..base() },
        EventQuery { terms: words(&["labels.site:SOUTH", "bob"]), ..base() },
        EventQuery { terms: words(&["labels.site:nowhere"]), ..base() },
        EventQuery { terms: words(&["nowhere"]), ..base() },
    ];
    for query in queries {
        let wanted = Wanted::of(&query);
        let expected: Vec<(i64, EventId)> = model
            .iter()
            .filter(|(node, event)| {
                let host = HostFacts { labels: node.about.labels.clone(), ..HostFacts::default() };
                query.node.is_none_or(|id| id == node.id) && wanted.matches(event, &host)
            })
            .map(|(_, event)| (event.time.as_micros(), event.id))
            .collect();
        let label = format!("{query:?}");
        let (_, found) = all_pages(&db, query).await;
        assert_eq!(sorted(&found), sorted(&expected), "{label}");
    }
    assert!(model.iter().any(|(_, event)| event.meaning().user_id.as_deref() == Some("alice")));
}

pub(crate) async fn a_rare_token_opens_few_batches(db: Arc<dyn Store>) {
    let mut node = TestNode::new(1);
    for round in 0..10 {
        let batches: Vec<_> = (0..50)
            .map(|n| {
                let second = round * 50 + n;
                let resource = if second == 123 { "needle".to_owned() } else { format!("straw-{second}") };
                let event = node.event(second, "file_modified", "alice", &resource);
                node.seal(&[event])
            })
            .collect();
        store(&db, &batches.iter().collect::<Vec<_>>()).await;
    }
    let query =
        EventQuery { terms: vec!["needle".to_owned()], limit: 10, budget: GENEROUS, ..EventQuery::default() };
    let (pages, found) = all_pages(&db, query).await;
    assert_eq!(found.len(), 1);
    let decoded: u32 = pages.iter().map(|page| page.batches_decoded).sum();
    assert!(decoded <= 20, "{decoded} of 500 batches were opened");
    assert!(pages.iter().map(|page| page.batches_pruned).sum::<u64>() >= 480);
    let event = &pages[0].events[0];
    let again = db.event(event.at.batch(), event.at.index).await.unwrap().unwrap();
    assert_eq!(again.event.id, event.at.event_id);
}

pub(crate) async fn a_search_does_not_find_what_is_pruned(db: Arc<dyn Store>) {
    filled(&db, 3).await;
    let query = EventQuery { limit: 10_000, budget: GENEROUS, ..EventQuery::default() };
    let before = db.search_events(query.clone()).await.unwrap().events.len();
    let limits = Limits { max_bytes: 1, max_age_seconds: u64::MAX };
    assert_eq!(db.retain(limits, at(2 * 86_400)).await.unwrap().len(), 1);
    let after = db.search_events(query).await.unwrap().events.len();
    assert!(after > 0 && after < before, "{after} of {before}");
}

/// Xorshift: the same sequence in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
