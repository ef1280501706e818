//! The analyser on a real store, driven step by step.

mod cases;
mod oracle;
mod schedules;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use auditflow_event::{Event, EventId, Timestamp};
use auditflow_rules::{Current, Limits, RuleSet};
use auditflow_service::health::Health;
use auditflow_service::metrics::Metrics;
use serde_json::json;
use tempfile::TempDir;

use super::batches::JobError;
use super::{Analyser, AnalysisMetrics, Parts};
use crate::correlate::found::Bounds;
use crate::correlate::windows::Stored;
use crate::detect::Rules;
use crate::store::sqlite::{Options, SqliteStore};
use crate::store::{AlertRow, Machine, Store};
use crate::testing::{TestNode, at, due};

/// Base rules and correlations of every kind over events in the ancestor's shape.
const RULES: &str = r"
title: Login
id: login
name: login
logsource: { product: auditflow }
detection: { s: { event_type: user_login }, condition: s }
---
title: Sudo
id: sudo
logsource: { product: auditflow }
detection: { s: { event_type: sudo_command }, condition: s }
---
title: File
id: file
logsource: { product: auditflow }
detection: { s: { event_type: file_modified }, condition: s }
---
title: Shadow
id: shadow
level: critical
logsource: { product: auditflow }
detection: { s: { event_type: file_modified, file.path: /etc/shadow }, condition: s }
---
title: Logins
id: logins
level: high
correlation: { type: event_count, rules: [login], group-by: [user_id], timespan: 10s, condition: { gte: 3 } }
---
title: Many resources
id: resources
correlation:
    type: value_count
    rules: [login, sudo]
    group-by: [user_id]
    timespan: 15s
    condition: { gte: 2, field: details.resource }
---
title: Login and sudo
id: both
correlation: { type: temporal, rules: [login, sudo], group-by: [user_id], timespan: 8s, condition: { gte: 2 } }
---
title: Login then sudo then file
id: ordered
correlation: { type: temporal_ordered, rules: [login, sudo, file], group-by: [user_id], timespan: 20s }
---
title: Bursts on one host
id: bursts
correlation:
    type: event_count
    rules: [logins]
    group-by: [server_hostname]
    timespan: 60s
    condition: { gte: 2 }
    generate: true
";

/// Correlations of [`RULES`] with whether the group is the host (else the user).
const CORRELATIONS: [(&str, bool); 5] =
    [("logins", false), ("resources", false), ("both", false), ("ordered", false), ("bursts", true)];

fn rules(text: &str) -> Rules {
    Rules::new(RuleSet::load_over(&[("test.yml", text)], &[], &Limits::default()).unwrap())
}

/// A store in memory as far as the machine has such a place: what is tested here is not durability.
fn store() -> (TempDir, Arc<dyn Store>) {
    let memory = PathBuf::from("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let store = SqliteStore::open(dir.path(), Options::for_cap(1 << 30)).unwrap();
    (dir, Arc::new(store))
}

fn analyser(store: &Arc<dyn Store>, rules: Current<Rules>) -> Arc<Analyser> {
    analyser_with(store, rules, Bounds::default())
}

fn analyser_with(store: &Arc<dyn Store>, rules: Current<Rules>, bounds: Bounds) -> Arc<Analyser> {
    let parts = Parts {
        store: Arc::clone(store),
        windows: Arc::new(Stored(Arc::clone(store))),
        rules,
        retention: Duration::from_hours(90 * 24),
        metrics: AnalysisMetrics::register(&Metrics::new("test").unwrap()).unwrap(),
        health: Health::requiring(&[]).part("analysis"),
    };
    Analyser::with_bounds(parts, bounds)
}

/// An event of `kind` by `user` on `host` about `resource`, so many milliseconds after noon.
fn event(node: &TestNode, number: u64, millis: i64, what: [&str; 4]) -> Event {
    let [kind, user, host, resource] = what;
    let text = json!({
        "event_type": kind,
        "timestamp": Timestamp::from_micros(at(0).as_micros() + millis * 1_000).to_string(),
        "user_id": user,
        "server_hostname": host,
        "action_result": "FAILURE",
        "details": { "resource": resource, "ip_address": "203.0.113.9" },
    });
    Event::synthetic(Some(node.id), *node.epoch.as_bytes(), number, &text.to_string()).unwrap()
}

/// Judges everything due and computes every marked group.
async fn drain(analyser: &Arc<Analyser>, now: Timestamp) {
    if analyser.is_changing() {
        analyser.follow_rules().await;
    }
    loop {
        let due = due(&*analyser.store, 64).await;
        if due.is_empty() {
            break;
        }
        for key in due {
            judge(analyser, key).await;
        }
    }
    while analyser.recompute_next(now).await.unwrap() {}
}

async fn judge(analyser: &Arc<Analyser>, key: crate::store::BatchKey) {
    match analyser.job(&analyser.rules_in_use(), key, None).await {
        Ok(()) => {}
        Err(JobError::Store(error)) => panic!("{error}"),
        Err(JobError::Panicked) => panic!("judging panicked"),
    }
}

/// The alerts of a correlation's group that stand.
async fn standing(store: &Arc<dyn Store>, rule: &str, group: &str) -> Vec<AlertRow> {
    let group = json!([group]).to_string();
    let mut rows = store.alerts_of_group(rule, &group).await.unwrap();
    rows.retain(|row| matches!(row.machine, Machine::Standing | Machine::Amended));
    rows.sort_by_key(|row| (row.alert.timestamp, row.alert.alert_id));
    rows
}

/// What of an alert must not depend on how its events arrived.
fn essence(row: &AlertRow) -> serde_json::Value {
    let mut alert = serde_json::to_value(&row.alert).unwrap();
    let evidence: Vec<EventId> = row.alert.evidence.iter().map(|at| at.event_id).collect();
    alert["evidence"] = serde_json::to_value(evidence).unwrap();
    alert
}
