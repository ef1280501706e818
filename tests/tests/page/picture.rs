//! The picture for the README: four nodes at work, alerts of several kinds, one node that has gone silent.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use auditflow_tests::node::{NO_KERNEL, SYNTHETIC};
use auditflow_tests::{Agent, Binaries, Collector, Node, Random, until};
use serde_json::json;

use crate::browser::Browser;
use crate::{fail_login, post};

/// What people and services do all day.
const ORDINARY: [(&str, &str, &str); 4] = [
    ("user_login", "deploy", "SUCCESS"),
    ("sudo_command", "deploy", "SUCCESS"),
    ("service_status_change", "root", "STARTED"),
    ("user_login", "backup", "SUCCESS"),
];

/// Takes it after so many minutes, in which the rate chart fills.
pub(crate) fn take(
    browser: &Browser,
    binaries: &Binaries,
    collector: &Collector,
    folder: &Path,
    minutes: u64,
) -> anyhow::Result<()> {
    let mut agents = Vec::new();
    for name in ["k3s-agent-1", "k3s-agent-2", "k3s-agent-3"] {
        let folder = folder.join(name);
        let binaries = named(binaries, &folder, name)?;
        let log = folder.join("audit.log");
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("samples/demo-audit.log"), &log)?;
        let log = log.display().to_string();
        let recording = format!("[sources.audit_log]\nenabled = true\npath = {log:?}\n");
        let replays = if name == "k3s-agent-1" { recording } else { String::new() };
        let node = Node::make(&folder, &[NO_KERNEL, SYNTHETIC, &replays].concat())?;
        node.join(&binaries, collector)?;
        agents.push(node.start(&binaries)?);
    }
    work(&mut agents, minutes)?;
    browser.open(&format!("http://{}/", collector.page))?;
    until("the page is live", || {
        Ok((browser.script("return document.getElementById('live').textContent;")? == "live").then_some(()))
    })?;
    browser.fit_window()?;
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    fs::create_dir_all(&images)?;
    fs::write(images.join("page.png"), browser.picture()?)?;
    Ok(())
}

/// Ordinary events at a rate that rises and falls, some that should alert, and one agent that ends on the way.
fn work(agents: &mut Vec<Agent>, minutes: u64) -> anyhow::Result<()> {
    let mut random = Random::announced("picture");
    let begin = Instant::now();
    for minute in 0..minutes {
        for agent in agents.iter() {
            for _ in 0..60 + random.below(60) + 4 * (minute % 9) {
                let (kind, user, result) = *random.pick(&ORDINARY);
                post(agent, &json!({ "event_type": kind, "user_id": user, "action_result": result }))?;
            }
        }
        if minute == minutes / 3 {
            agents.pop().context("three agents")?.kill()?;
            fail_login(&agents[0], "root")?;
            let changed = json!({ "resource": "/etc/sudoers" });
            let changed = json!({ "event_type": "file_modified", "user_id": "deploy", "details": changed });
            post(&agents[1], &changed)?;
        }
        thread::sleep(Duration::from_mins(minute + 1).saturating_sub(begin.elapsed()));
    }
    Ok(())
}

/// The agent as it would be on a machine of this name, where a machine's name may be changed.
pub(crate) fn named(binaries: &Binaries, folder: &Path, name: &str) -> anyhow::Result<Binaries> {
    use std::os::unix::fs::PermissionsExt;
    if !nix::unistd::getuid().is_root() {
        return Ok(binaries.clone());
    }
    fs::create_dir_all(folder)?;
    let agent = folder.join("agent.sh");
    let program = binaries.agent.display();
    fs::write(
        &agent,
        format!("#!/bin/sh\nexec unshare --uts sh -c 'hostname {name}; exec {program} \"$@\"' - \"$@\"\n"),
    )?;
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
    Ok(Binaries { agent, ..binaries.clone() })
}
