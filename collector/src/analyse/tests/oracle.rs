//! rsigma's own correlation, where its semantics are ours: events in order, at whole seconds, no field missing.

use rsigma_eval::{CorrelationConfig, CorrelationEngine, JsonEvent};

use super::*;

/// (rule, first match point, last match point, match points), in seconds.
type Told = (String, i64, i64, usize);

/// When rsigma fires, as episodes: runs at most a window apart.
fn oracle(events: &[(i64, serde_json::Value)]) -> Vec<Told> {
    let collection = rsigma_parser::parse_sigma_yaml(RULES).unwrap();
    let mut engine = CorrelationEngine::new(CorrelationConfig::default());
    engine.add_collection(&collection).unwrap();
    let mut fired: Vec<(String, i64)> = Vec::new();
    for (second, json) in events {
        for result in engine.process_event_at(&JsonEvent::borrow(json), at(*second).as_millis() / 1_000) {
            if result.is_correlation() {
                fired.push((result.header.rule_id.clone().unwrap(), *second));
            }
        }
    }
    let mut told: Vec<Told> = Vec::new();
    for (rule, span) in [("logins", 10), ("resources", 15), ("both", 8), ("ordered", 20), ("bursts", 60)] {
        let mut episodes: Vec<Told> = Vec::new();
        for second in fired.iter().filter(|(of, _)| of == rule).map(|(_, second)| *second) {
            match episodes.last_mut().filter(|last| second - last.2 <= span) {
                Some(last) => (last.2, last.3) = (second, last.3 + 1),
                None => episodes.push((rule.to_owned(), second, second, 1)),
            }
        }
        told.extend(episodes);
    }
    told
}

#[tokio::test]
async fn episodes_are_runs_of_what_rsigma_fires() {
    const KINDS: [&str; 3] = ["user_login", "sudo_command", "file_modified"];
    let (mut compared, mut seed) = (0, 7_u64);
    let mut roll = |sides: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % sides
    };
    let (_guard, store) = store();
    let worker = analyser(&store, Current::fixed(rules(RULES)));
    for round in 0..120 {
        let mut node = TestNode::new(1);
        node.id = auditflow_event::NodeId::from_bytes([100 + round; 16]);
        let (user, host) = (format!("user{round}"), format!("host{round}"));
        let (mut second, mut events, mut json) = (0, Vec::new(), Vec::new());
        for number in 0..60 {
            second += 1 + roll(5) as i64 + if roll(15) == 0 { 90 } else { 0 };
            let (kind, resource) = (KINDS[roll(3) as usize], ["/a", "/b"][roll(2) as usize]);
            let made = event(&node, number, second * 1_000, [kind, &user, &host, resource]);
            json.push((
                second,
                serde_json::from_str(&auditflow_event::EventJson::of(&made).to_text()).unwrap(),
            ));
            events.push(made);
        }
        store.store_batches(vec![node.seal(&events).arrival()]).await.unwrap();
        drain(&worker, at(10_000)).await;
        let mut told: Vec<Told> = Vec::new();
        for (rule, by_host) in CORRELATIONS {
            for row in standing(&store, rule, if by_host { &host } else { &user }).await {
                let episode = &row.alert.metadata["episode"];
                let second = |name: &str| {
                    let time: Timestamp = episode[name].as_str().unwrap().parse().unwrap();
                    (time.as_micros() - at(0).as_micros()) / 1_000_000
                };
                let points = episode["match_points"].as_u64().unwrap() as usize;
                told.push((rule.to_owned(), second("first_match"), second("last_match"), points));
            }
        }
        assert_eq!(told, oracle(&json), "round {round}");
        compared += told.len();
    }
    assert!(compared > 500, "only {compared} episodes compared");
}
