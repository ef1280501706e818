//! Rules that are not those that were loaded: said by the agent, told to the collector, and mended by loading again.

use anyhow::{Context, ensure};
use auditflow_tests::until;
use serde_json::Value;

use crate::delivery::Scene;
use crate::machine::{Turn, auditctl};

const UID: u32 = 64_803;

/// What the agent's status says of the kernel's rules, once it is in this state.
fn rules_are(scene: &Scene<'_>, state: &str) -> anyhow::Result<String> {
    until(&format!("the rules are {state}"), || {
        let status = scene.agent.ask("GET", "/status", "")?.json()?;
        let sources = status["sources"].as_array().context("a status has sources")?;
        let rules = sources.iter().find(|source| source["name"] == "kernel_rules");
        let rules = rules.filter(|rules| rules["state"] == state);
        Ok(rules.and_then(|rules| rules["detail"].as_str()).map(str::to_owned))
    })
}

fn drift_is_noticed(test: &str, mode: &str) -> anyhow::Result<()> {
    let Some(turn) = Turn::take(test, UID)? else { return Ok(()) };
    turn.record_programs()?;
    let scene = Scene::start(&turn, mode)?;
    let detail = rules_are(&scene, "running")?;
    ensure!(detail.contains("stand as they were loaded (listed)"), "{detail}");

    // Somebody adds one and removes another behind our back.
    let foreign = format!("-a always,exit -F arch=b64 -S kill -F uid={UID} -k foreign");
    auditctl(&foreign.split(' ').collect::<Vec<_>>())?;
    let gone = format!("-d always,exit -F arch=b64 -S execve -F uid={UID} -k af-exec");
    auditctl(&gone.split(' ').collect::<Vec<_>>())?;
    let detail = rules_are(&scene, "degraded")?;
    ensure!(detail.starts_with("1 rules that were loaded are gone and 1 others stand"), "{detail}");
    let health: Value = scene.agent.ask("GET", "/healthz", "")?.json()?;
    assert_eq!(health["parts"]["kernel_rules"]["state"], "degraded", "{health:#}");
    let metrics = scene.agent.ask("GET", "/metrics", "")?.body;
    ensure!(metrics.contains("auditflow_agent_source_impaired{source=\"kernel_rules\"} 1"), "{metrics}");
    until("the collector knows", || {
        let events = scene.collector.events("type=agent_state")?;
        let drifted =
            events.iter().any(|event| event.to_string().contains("rules that were loaded are gone"));
        Ok(drifted.then_some(()))
    })?;

    auditctl(&foreign.replace("-a", "-d").split(' ').collect::<Vec<_>>())?;
    turn.record_programs()?;
    rules_are(&scene, "running")?;
    Ok(())
}

#[test]
fn drift_of_the_loaded_rules_is_noticed_on_unicast() -> anyhow::Result<()> {
    drift_is_noticed("drift, unicast", "unicast")
}

#[test]
fn drift_of_the_loaded_rules_is_noticed_on_multicast() -> anyhow::Result<()> {
    drift_is_noticed("drift, multicast", "multicast")
}
