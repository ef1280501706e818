//! From events to alerts, with the rules that ship: what ordinary use raises, and what the ancestor's users expect.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use auditflow_tests::node::{NO_KERNEL, SYNTHETIC};
use auditflow_tests::{Agent, Binaries, Collector, Node, Outcome, until};
use serde_json::{Value, json};

/// How the last event of each recording is known: by its user.
const END: &str = "corpus-end";

/// A file below the workspace's root.
fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// How many alerts each rule has raised, by the rule's id.
fn alerts_by_rule(collector: &Collector) -> anyhow::Result<BTreeMap<String, (u64, String)>> {
    let mut counts = BTreeMap::new();
    for page in 0.. {
        let alerts = collector.json(&format!("/alerts?limit=200&offset={}", page * 200))?;
        let alerts = alerts.as_array().context("an array of alerts")?;
        for alert in alerts {
            let rule = |name: &str| alert["analysis_rule"][name].as_str().unwrap_or_default().to_owned();
            counts.entry(rule("rule_id")).or_insert_with(|| (0, rule("rule_name"))).0 += 1;
        }
        if alerts.len() < 200 {
            break;
        }
    }
    Ok(counts)
}

/// The table in docs/detection-noise.md: rule id, then alerts.
fn documented() -> anyhow::Result<BTreeMap<String, (u64, String)>> {
    let text = fs::read_to_string(root("docs/detection-noise.md"))?;
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let id = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        Some((id.to_owned(), (cells.get(2)?.parse().ok()?, (*cells.first()?).to_owned())))
    });
    let rows: BTreeMap<_, _> = rows.collect();
    ensure!(!rows.is_empty(), "docs/detection-noise.md has no table");
    Ok(rows)
}

/// The recorded kernel events, moved to now: what is older than what is kept would not be correlated. One more event
/// marks the end.
fn kernel_log(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let corpus = root("../shared/corpus/kernel-audit.log.zst");
    if !corpus.exists() {
        return Ok(None);
    }
    let text = Outcome::of(std::process::Command::new("zstd").arg("-dcq").arg(&corpus))?.success()?.stdout;
    let seconds =
        |line: &str| -> Option<u64> { line.split("audit(").nth(1)?.split('.').next()?.parse().ok() };
    let first = text.lines().find_map(seconds).context("a recording with times")?;
    let last = text.lines().rev().find_map(seconds).context("a recording with times")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let mut moved = String::with_capacity(text.len());
    for line in text.lines() {
        let then = seconds(line).with_context(|| format!("no time in {line}"))?;
        moved.push_str(&line.replacen(&then.to_string(), &(then - first + now).to_string(), 1));
        moved.push('\n');
    }
    let at = last - first + now + 60;
    moved.push_str(&format!(
        "type=SYSCALL msg=audit({at}.000:4000000): arch=c000003e syscall=59 success=yes exit=0 ppid=1 pid=2 uid=0 \
         auid=4294967295 ses=4294967295 comm=\"true\" exe=\"/usr/bin/true\" key=\"exec\"\n\
         type=EXECVE msg=audit({at}.000:4000000): argc=2 a0=\"true\" a1=\"{END}\"\n\
         type=PROCTITLE msg=audit({at}.000:4000000): proctitle=\"true\"\n"
    ));
    let path = folder.join("audit.log");
    fs::write(&path, moved)?;
    Ok(Some(path))
}

/// The recorded Kubernetes events, likewise.
fn kubernetes_log(folder: &Path) -> anyhow::Result<Option<PathBuf>> {
    let Ok(text) = fs::read_to_string(root("../shared/corpus/kubernetes-audit.jsonl")) else {
        return Ok(None);
    };
    let end = text.lines().next_back().context("a recording")?;
    let mut end: Value = serde_json::from_str(end)?;
    end["auditID"] = "00000000-0000-4000-8000-000000000001".into();
    end["verb"] = "delete".into();
    end["user"]["username"] = END.into();
    let path = folder.join("kubernetes-audit.log");
    fs::write(&path, format!("{}\n{end}\n", text.trim_end()))?;
    Ok(Some(path))
}

fn metric(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Waits until the last event of both recordings is stored. However slow the machine is, something arrives.
fn wait_for_both(collector: &Collector) -> anyhow::Result<()> {
    let mut stored = 0.0;
    loop {
        let is_through = until("more of the recordings is stored", || {
            let kernel = collector.events(&format!("q={END}&type=process_execution"))?;
            let kubernetes = collector.events(&format!("user={END}&type=kubernetes_api"))?;
            let metrics = collector.get("/metrics")?.body;
            let now = metric(&metrics, "auditflow_ingest_events_total ").context("events stored")?;
            let is_more = now > stored;
            stored = now;
            let is_through = !kernel.is_empty() && !kubernetes.is_empty();
            Ok((is_through || is_more).then_some(is_through))
        })?;
        if is_through {
            return Ok(());
        }
    }
}

#[test]
fn ordinary_use_raises_the_alerts_that_the_docs_explain() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (Some(kernel), Some(kubernetes)) = (kernel_log(folder.path())?, kubernetes_log(folder.path())?)
    else {
        eprintln!("SKIPPED: alerts on ordinary use: ../shared/corpus is not here");
        return Ok(());
    };
    let binaries = Binaries::find()?;
    let collector = Collector::start(&binaries, &folder.path().join("collector"))?;
    let sections = format!(
        "{NO_KERNEL}[sources.audit_log]\nenabled = true\npath = {:?}\n",
        kernel.display().to_string()
    );
    let node = Node::make(folder.path(), &sections)?;
    let config = fs::read_to_string(&node.config)?;
    let section = format!(
        "[sources.kubernetes_audit]\nrole = \"server\"\npath = {:?}\n",
        kubernetes.display().to_string()
    );
    fs::write(&node.config, config.replace("[sources.kubernetes_audit]\nenabled = false\n", &section))?;
    node.join(&binaries, &collector)?;
    let _agent = node.start(&binaries)?;

    wait_for_both(&collector)?;
    let events = until("everything that is stored is judged", || {
        let nodes = collector.json("/api/v1/nodes")?;
        let metrics = collector.get("/metrics")?.body;
        let stored = metric(&metrics, "auditflow_ingest_events_total ").context("events stored")?;
        let judged = metric(&metrics, "auditflow_analysed_events_total ").context("events judged")?;
        Ok((nodes[0]["owed"] == 0 && stored <= judged).then_some(stored))
    })?;
    eprintln!("{events} events were judged");
    ensure!(events > 50_000.0, "only {events} events were judged");
    let (raised, documented) = (alerts_by_rule(&collector)?, documented()?);
    ensure!(raised == documented, "raised: {raised:#?}\ndocs/detection-noise.md says: {documented:#?}");
    Ok(())
}

struct Scene {
    _folder: tempfile::TempDir,
    collector: Collector,
    agent: Agent,
}

impl Scene {
    fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let binaries = Binaries::find()?;
        let collector = Collector::start(&binaries, &folder.path().join("collector"))?;
        let node = Node::make(folder.path(), &[NO_KERNEL, SYNTHETIC].concat())?;
        node.join(&binaries, &collector)?;
        let agent = node.start(&binaries)?;
        Ok(Self { _folder: folder, collector, agent })
    }

    fn post(&self, event: &Value) -> anyhow::Result<()> {
        let answer = self.agent.ask("POST", "/generate_event", &event.to_string())?;
        ensure!(answer.status == 202, "{answer:?}");
        Ok(())
    }

    fn fail_login(&self, user: &str) -> anyhow::Result<()> {
        self.post(&json!({
            "event_type": "user_login", "action_result": "FAILURE", "user_id": user, "server_hostname": "web-1",
            "severity": "WARNING", "details": { "ip_address": "192.0.2.7" },
        }))
    }

    /// The alerts of a rule, in the ancestor's names.
    fn alerts(&self, rule: &str) -> anyhow::Result<Vec<Value>> {
        let alerts = self.collector.json("/alerts?limit=200")?;
        let alerts = alerts.as_array().context("an array of alerts")?;
        Ok(alerts.iter().filter(|alert| alert["analysis_rule"]["rule_id"] == rule).cloned().collect())
    }

    fn first_alert(&self, rule: &str) -> anyhow::Result<Value> {
        until(&format!("an alert of {rule}"), || Ok(self.alerts(rule)?.into_iter().next()))
    }
}

#[test]
fn failed_logins_are_one_alert_however_many_follow() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    for _ in 0..3 {
        scene.fail_login("alice")?;
    }
    let first = scene.first_alert("ANLY-SEC-001")?;
    for _ in 3..10 {
        scene.fail_login("alice")?;
    }
    let id = first["alert_id"].as_str().context("an id")?;
    until("the alert has grown to ten events", || {
        let alert = scene.collector.json(&format!("/api/v1/alerts/{id}"))?;
        Ok((alert["events"] == 10).then_some(()))
    })?;
    // Two of another user are none.
    scene.fail_login("bob")?;
    scene.fail_login("bob")?;
    scene.post(&json!({ "event_type": "file_modified", "details": { "resource": "/etc/shadow" } }))?;
    scene.first_alert("ANLY-SEC-002")?;
    let alerts = scene.alerts("ANLY-SEC-001")?;
    let [alert] = &alerts[..] else { bail!("{} alerts: {alerts:#?}", alerts.len()) };
    for (place, expected) in [
        ("/alert_name", json!("Repeated Failed Logins")),
        ("/triggered_by/actor_id", json!("alice")),
        ("/triggered_by/client_ip", json!("192.0.2.7")),
        ("/impacted_resource/server_hostname", json!("web-1")),
        ("/raw_event_data/event_type", json!("user_login")),
    ] {
        assert_eq!(alert.pointer(place), Some(&expected), "{place} of {alert:#}");
    }
    Ok(())
}

#[test]
fn a_sensitive_file_alerts_where_the_ancestor_puts_its_resource() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    let modified =
        |resource: &str| json!({ "resource": resource, "file_hash_old": "a", "file_hash_new": "b" });
    for (host, resource) in
        [("db-1", "/etc/sudoers"), ("db-2", "/etc/sudoers.bak"), ("db-3", "/root/.ssh/authorized_keys")]
    {
        scene.post(&json!({
            "event_type": "file_modified", "action_result": "MODIFIED", "user_id": "root", "severity": "CRITICAL",
            "server_hostname": host, "details": modified(resource),
        }))?;
    }
    let hosts = until("two alerts", || {
        let alerts = scene.alerts("ANLY-SEC-002")?;
        let host = |alert: &Value| alert["impacted_resource"]["server_hostname"].as_str().map(str::to_owned);
        let mut hosts: Vec<String> = alerts.iter().filter_map(host).collect();
        hosts.sort_unstable();
        Ok(Some(hosts).filter(|hosts| hosts.len() >= 2))
    })?;
    assert_eq!(hosts, ["db-1", "db-3"]);
    let alerts = scene.alerts("ANLY-SEC-002")?;
    let of_db_1 = alerts.iter().find(|alert| alert["impacted_resource"]["server_hostname"] == "db-1");
    let resource = of_db_1.and_then(|alert| alert.pointer("/impacted_resource/resource_id"));
    assert_eq!(resource, Some(&json!("/etc/sudoers")));
    Ok(())
}

#[test]
fn alerts_are_served_in_the_ancestors_shape() -> anyhow::Result<()> {
    let scene = Scene::start()?;
    for user in ["alice", "bob", "carol"] {
        scene.post(&json!({
            "event_type": "file_modified", "user_id": user, "details": { "resource": "/etc/passwd" },
        }))?;
        until("the alert is there", || {
            let alerts = scene.alerts("ANLY-SEC-002")?;
            Ok(alerts.iter().any(|alert| alert["triggered_by"]["actor_id"] == user).then_some(()))
        })?;
    }
    let page = |query: &str| -> anyhow::Result<Vec<Value>> {
        let page = scene.collector.json(&format!("/alerts?{query}"))?;
        Ok(page.as_array().context("an array")?.clone())
    };
    let all = page("limit=100")?;
    assert_eq!(all.len(), 3);
    let actors: Vec<_> = all.iter().map(|alert| alert["triggered_by"]["actor_id"].clone()).collect();
    assert_eq!(actors, ["carol", "bob", "alice"], "newest first");
    assert_eq!(page("limit=1")?, all[..1]);
    assert_eq!(page("limit=2&offset=1")?, all[1..]);

    let mut names: Vec<&str> = all[0].as_object().context("an object")?.keys().map(String::as_str).collect();
    names.retain(|name| *name != "received_at");
    names.sort_unstable();
    let expected = [
        "action_observed",
        "alert_id",
        "alert_name",
        "alert_type",
        "analysis_rule",
        "correlation_id",
        "description",
        "impacted_resource",
        "metadata",
        "raw_event_data",
        "severity",
        "source_service_name",
        "timestamp",
        "triggered_by",
    ];
    assert_eq!(names, expected);
    for (place, keys) in [
        ("analysis_rule", &["rule_id", "rule_name", "rule_description"][..]),
        ("triggered_by", &["actor_type", "actor_id"]),
        ("impacted_resource", &["resource_type", "resource_id", "server_hostname"]),
    ] {
        for key in keys {
            ensure!(all[0][place][*key].is_string(), "{place}.{key} of {:#}", all[0]);
        }
    }

    let id = all[0]["alert_id"].as_str().context("an id")?;
    assert_eq!(scene.collector.json(&format!("/alerts/{id}"))?, all[0]);
    let status = |path: &str| anyhow::Ok(scene.collector.get(path)?.status);
    assert_eq!(status("/alerts/00000000-0000-4000-8000-000000000000")?, 404);
    assert_eq!(status("/alerts/no-uuid")?, 400);
    assert_eq!(status("/alerts?limit=many")?, 400);
    Ok(())
}
