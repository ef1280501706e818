use std::collections::BTreeMap;

use auditflow_event::NodeId;
use auditflow_wire::EpochId;

use super::*;
use crate::store::{FlagKind, FlagRow, NewFlag};
use crate::testing::at;

fn node(number: u8) -> NodeRow {
    NodeRow {
        id: NodeId::from_bytes([number; 16]),
        hostname: format!("k3s-{number}"),
        labels: BTreeMap::new(),
        kernel: String::new(),
        architecture: String::new(),
        version: "0.1.0".to_owned(),
        status: NodeStatus::Active,
        enrolled_at: at(-9_000),
        last_seen: Some(at(-10)),
        last_event: Some(at(-10)),
        lag: Some(0),
        stored_through: None,
        holes: 0,
        owed: 0,
        lost: 0,
        batches: 9,
        losses: Vec::new(),
        flags: Vec::new(),
        coverage: BTreeMap::new(),
    }
}

fn forked(mut row: NodeRow) -> NodeRow {
    let flag = NewFlag {
        node: row.id,
        epoch: EpochId::from_bytes([1; 16]),
        seq: None,
        kind: FlagKind::Fork,
        detail: "two batches have number 7".to_owned(),
        at: at(-5),
    };
    row.flags.push(FlagRow { id: 1, flag, count: 1, closed: None });
    row
}

fn said(nodes: &[NodeRow]) -> (VerdictLevel, String) {
    let verdict = verdict(nodes, &[], at(0));
    (verdict.level, verdict.text)
}

#[test]
fn verdict_says_in_one_line_what_is_missing() {
    use VerdictLevel::{Attention, Bad, Good};
    let late = NodeRow { owed: 300, holes: 12, last_event: Some(at(-8 * 3600 - 3000)), ..node(6) };
    let five = (1..=5).map(node);
    let cases = [
        (vec![], Attention, "No node has joined yet"),
        (vec![node(1)], Good, "The only node is complete"),
        (five.clone().collect(), Good, "All 5 nodes complete"),
        (five.chain([late]).collect(), Attention, "5 of 6 nodes complete, 1 owes 312 batches since 03:10"),
        (
            vec![node(1), NodeRow { lost: 1, ..node(2) }],
            Bad,
            "1 of 2 nodes complete, 1 lost 1 batch for good",
        ),
        (vec![forked(node(1))], Bad, "0 of 1 nodes complete, 1 has a broken chain"),
        (
            vec![node(1), NodeRow { last_seen: Some(at(-3600)), ..node(2) }],
            Attention,
            "1 of 2 nodes complete, 1 silent since 11:00",
        ),
        (vec![NodeRow { last_seen: None, ..node(1) }], Attention, "0 of 1 nodes complete, 1 not heard yet"),
        (
            vec![node(1), NodeRow { status: NodeStatus::Pending, ..node(2) }],
            Attention,
            "The only node is complete, 1 waits for approval",
        ),
        (
            vec![NodeRow { status: NodeStatus::Revoked, lost: 9, ..node(1) }],
            Attention,
            "No node has joined yet",
        ),
    ];
    for (nodes, level, text) in cases {
        assert_eq!(said(&nodes), (level, text.to_owned()));
    }
}

#[test]
fn what_is_on_its_way_is_not_owed_yet() {
    let sending = NodeRow { owed: 2, last_event: Some(at(-5)), ..node(1) };
    assert_eq!(said(std::slice::from_ref(&sending)).0, VerdictLevel::Good);
    let stuck = NodeRow { last_event: Some(at(-61)), ..sending.clone() };
    assert_eq!(said(&[stuck]).1, "0 of 1 nodes complete, 1 owes 2 batches since 11:58");
    let overtaken = NodeRow { owed: 9, ..sending };
    assert_eq!(said(&[overtaken]).0, VerdictLevel::Attention, "urgent batches alone make nothing complete");
}

#[test]
fn verdict_does_not_call_it_good_while_critical_alerts_are_open() {
    let open = [SeverityCount { severity: "CRITICAL".to_owned(), alerts: 2 }];
    let verdict = verdict(&[node(1)], &open, at(0));
    assert_eq!(verdict.level, VerdictLevel::Attention);
    assert_eq!(verdict.text, "The only node is complete; 2 critical alerts open");
}

#[test]
fn every_minute_of_the_hour_has_a_point_also_those_without_events() {
    let rates = [RatePoint { minute: at(-120), events: 7 }];
    let points = every_minute(&rates, at(30));
    assert_eq!(points.len(), 60);
    assert_eq!(points[59], Rate { minute: at(0).to_string(), events: 0 });
    assert_eq!(points[57], Rate { minute: at(-120).to_string(), events: 7 });
}

#[test]
fn advice_is_bounded_and_names_node_command_and_reason() {
    let health = auditflow_service::health::Health::requiring(&[]);
    let nodes: Vec<NodeRow> = (1..=20).map(|number| forked(node(number))).collect();
    let advice = advice(&nodes, &[], &health.report(), " --data x", at(0));
    assert_eq!(advice.len(), ADVICE);
    assert_eq!(advice[0].text, "k3s-1: two batches have number 7. Prove what is stored");
    let command = format!("auditflow-collector verify --data x --node {}", nodes[0].id);
    assert_eq!(advice[0].command.as_deref(), Some(&*command));
}
