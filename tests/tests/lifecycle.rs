//! Starting, reloading, stopping: what an operator and systemd may rely on, of both programs.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use auditflow_tests::node::{NO_KERNEL, SYNTHETIC};
use auditflow_tests::{Agent, Binaries, Collector, Node, Outcome, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

struct Scene {
    folder: tempfile::TempDir,
    binaries: Binaries,
    collector: Collector,
    node: Node,
}

impl Scene {
    /// A collector, and a node that has joined it.
    fn set(sections: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let binaries = Binaries::find()?;
        let collector = Collector::start(&binaries, &folder.path().join("collector"))?;
        let node = Node::make(folder.path(), &[NO_KERNEL, SYNTHETIC, sections].concat())?;
        node.join(&binaries, &collector)?;
        Ok(Self { folder, binaries, collector, node })
    }
}

/// Posts an event of this user, as the ancestor's scripts do; returns its id.
fn post(agent: &Agent, user: &str) -> anyhow::Result<String> {
    let event = json!({ "event_type": "user_login", "action_result": "SUCCESS", "user_id": user });
    let answer = agent.ask("POST", "/generate_event", &event.to_string())?.json()?;
    Ok(answer["event_id"].as_str().context("an id")?.to_owned())
}

fn health(agent: &Agent) -> anyhow::Result<Value> {
    agent.ask("GET", "/healthz", "")?.json()
}

#[test]
fn a_stop_keeps_what_was_taken_and_ends_with_0() -> anyhow::Result<()> {
    let scene = Scene::set("")?;
    let agent = scene.node.start(&scene.binaries)?;
    let mut posted = (0..200).map(|_| post(&agent, "drained")).collect::<anyhow::Result<Vec<_>>>()?;
    let status = agent.stop()?;
    ensure!(status.success(), "the agent ended with {status}");
    // What did not go out before the end is in the spool, and goes out now.
    let agent = scene.node.start(&scene.binaries)?;
    posted.push(post(&agent, "drained")?);
    posted.sort_unstable();
    let stored = until("the last event is stored", || {
        let stored = scene.collector.events("user=drained")?;
        Ok(Some(stored).filter(|stored| stored.len() >= posted.len()))
    })?;
    let id = |event: &Value| event["event_id"].as_str().unwrap_or_default().to_owned();
    let mut stored: Vec<String> = stored.iter().map(id).collect();
    stored.sort_unstable();
    ensure!(stored == posted, "{} of {} events are stored", stored.len(), posted.len());
    let status = scene.collector.stop()?;
    ensure!(status.success(), "the collector ended with {status}");
    Ok(())
}

/// Lets two signals arrive while the program stands still, so that it finds both when it goes on.
fn signal_twice(signal: impl Fn(Signal) -> anyhow::Result<()>) -> anyhow::Result<()> {
    [Signal::SIGSTOP, Signal::SIGTERM, Signal::SIGINT, Signal::SIGCONT].into_iter().try_for_each(signal)
}

#[test]
fn a_second_signal_ends_either_program_at_once() -> anyhow::Result<()> {
    let scene = Scene::set("")?;
    let agent = scene.node.start(&scene.binaries)?;
    signal_twice(|signal| agent.signal(signal))?;
    let code = agent.wait()?.code();
    ensure!(matches!(code, Some(130 | 143)), "the agent ended with {code:?}");
    signal_twice(|signal| scene.collector.signal(signal))?;
    let code = scene.collector.wait()?.code();
    ensure!(matches!(code, Some(130 | 143)), "the collector ended with {code:?}");
    Ok(())
}

#[test]
fn sighup_puts_a_changed_edge_rule_in_force() -> anyhow::Result<()> {
    let rules = tempfile::tempdir()?;
    let scene = Scene::set(&format!("[rules]\ndirs = [{:?}]\n", rules.path().display().to_string()))?;
    let agent = scene.node.start(&scene.binaries)?;
    let version = |agent: &Agent| -> anyhow::Result<Value> {
        Ok(agent.ask("GET", "/status", "")?.json()?["rules"]["version"].clone())
    };
    let before = version(&agent)?;
    let rule = "title: Drop one user\nid: 6c1f6e37-58a1-4d0a-9d0c-000000000001\naction: drop\n\
                logsource: { product: auditflow }\ndetection:\n  it: { user.name: dropped }\n  condition: it\n";
    fs::write(rules.path().join("drop.yml"), rule)?;
    agent.signal(Signal::SIGHUP)?;
    until("another set is in force", || Ok((version(&agent)? != before).then_some(())))?;
    post(&agent, "dropped")?;
    let kept = post(&agent, "kept")?;
    let stored = until("the kept event is stored", || {
        let stored = scene.collector.events("type=user_login")?;
        Ok(stored.iter().any(|event| event["event_id"] == *kept).then_some(stored))
    })?;
    ensure!(!stored.iter().any(|event| event["user"]["name"] == "dropped"), "{stored:#?}");

    // A bad file leaves the good set in force, and the health says so.
    let good = version(&agent)?;
    fs::write(rules.path().join("drop.yml"), "title: [")?;
    agent.signal(Signal::SIGHUP)?;
    until("the bad file is told", || Ok((health(&agent)?["parts"]["rules"]["state"] != "up").then_some(())))?;
    assert_eq!(version(&agent)?, good);
    fs::remove_file(rules.path().join("drop.yml"))?;
    agent.signal(Signal::SIGHUP)?;
    until("all is well again", || Ok((health(&agent)?["parts"]["rules"]["state"] == "up").then_some(())))?;
    assert_eq!(version(&agent)?, before);
    Ok(())
}

#[test]
fn the_log_level_changes_at_run_time_in_both_programs() -> anyhow::Result<()> {
    type Ask<'a> = &'a dyn Fn(&str, &str, &str) -> anyhow::Result<auditflow_tests::http::Answer>;
    let scene = Scene::set("")?;
    let agent = scene.node.start(&scene.binaries)?;
    let (collector, log) = (&scene.collector, scene.folder.path());
    let programs: [(&str, Ask<'_>); 2] = [
        ("agent.log", &|method, path, body| agent.ask(method, path, body)),
        ("collector.log", &|method, path, body| collector.ask(method, path, body)),
    ];
    for (file, ask) in programs {
        let says = |what: &str| fs::read_to_string(log.join(file)).map(|text| text.contains(what));
        assert_eq!(ask("GET", "/log-level", "")?.json()?["level"], "info");
        for level in ["warn", "debug", "error"] {
            let answer = ask("PUT", "/log-level", &json!({ "level": level }).to_string())?.json()?;
            assert_eq!(answer["level"], level);
            assert_eq!(ask("GET", "/log-level", "")?.json()?["level"], level);
        }
        assert_eq!(ask("PUT", "/log-level", r#"{"level":"loud,,=="}"#)?.status, 400);
        // The change itself is told at level info: it shows which levels are in force.
        ensure!(says("log level is now debug")?, "{file} is silent at debug");
        for quiet in ["warn", "error"] {
            ensure!(!says(&format!("log level is now {quiet}"))?, "{file} speaks at {quiet}");
        }
    }
    Ok(())
}

#[test]
fn an_agent_whose_collector_is_down_starts_degraded_and_heals() -> anyhow::Result<()> {
    let scene = Scene::set("")?;
    let Scene { folder, binaries, collector, node } = scene;
    let (agents, page) = collector.addresses();
    ensure!(collector.stop()?.success());
    let agent = node.start(&binaries)?;
    let id = post(&agent, "patient")?;
    let degraded = until("the agent says that its collector is down", || {
        let health = health(&agent)?;
        Ok((health["parts"]["collector"]["state"] == "down").then_some(health))
    })?;
    assert_eq!(degraded["ready"], true);
    ensure!(degraded["status"] != "up", "{degraded:#}");
    ensure!(degraded["parts"]["collector"]["reason"].is_string(), "{degraded:#}");

    let data = folder.path().join("collector");
    let collector = Collector::start_again(&binaries, &data, (&agents, &page))?;
    until("the event has arrived", || {
        let stored = collector.events("user=patient")?;
        Ok(stored.iter().any(|event| event["event_id"] == *id).then_some(()))
    })?;
    until("all is well", || Ok((health(&agent)?["status"] == "up").then_some(())))?;
    Ok(())
}

#[test]
fn a_bad_configuration_is_named_line_by_line_and_opens_nothing() -> anyhow::Result<()> {
    let binaries = Binaries::find()?;
    let programs = [
        (&binaries.agent, "node", "[spool]\nmax_bytes = \"many\"\n\n[sources.kernel_audit]\nmodes = 1\n"),
        (&binaries.collector, "storage", "[listen]\nweb = \"nowhere\"\n\n[auth]\nsessions = 1\n"),
    ];
    for (program, section, bad) in programs {
        for command in ["check", "run"] {
            let folder = tempfile::tempdir()?;
            let (config, data) = (folder.path().join("bad.toml"), folder.path().join("data"));
            fs::write(&config, format!("[{section}]\ndata_dir = {:?}\n{bad}", data.display().to_string()))?;
            let outcome = Outcome::of(Command::new(program).arg(command).arg("--config").arg(&config))?;
            let told = format!("{} {command}: {outcome:?}", program.display());
            assert_eq!(outcome.status.code(), Some(78), "{told}");
            for line in ["bad.toml:4:", "bad.toml:7:"] {
                ensure!(outcome.stderr.contains(line), "{line} is not named by {told}");
            }
            ensure!(!data.exists(), "{told} made its data directory");
        }
    }
    Ok(())
}

#[test]
fn the_printed_default_configuration_passes_the_check() -> anyhow::Result<()> {
    let binaries = Binaries::find()?;
    let folder = tempfile::tempdir()?;
    for program in [&binaries.agent, &binaries.collector] {
        let config = folder.path().join("default.toml");
        let printed = Outcome::of(Command::new(program).args(["config", "default"]))?.success()?;
        fs::write(&config, printed.stdout)?;
        Outcome::of(Command::new(program).arg("check").arg("--config").arg(&config))?.success()?;
    }
    Ok(())
}

#[test]
fn a_command_whose_reader_has_left_ends_quietly() -> anyhow::Result<()> {
    let scene = Scene::set("")?;
    let agent = scene.node.start(&scene.binaries)?;
    let config = scene.node.config.display().to_string();
    let data = scene.folder.path().join("collector").display().to_string();
    let spool = scene.node.data.join("spool").display().to_string();
    let log = scene.folder.path().join("audit.log");
    fs::write(
        &log,
        "type=USER_LOGIN msg=audit(1795413050.319:1): pid=1 uid=0 msg='op=login res=success'\n".repeat(9),
    )?;
    let log = log.display().to_string();
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../rules/edge/10-auditflow.rules");
    let node = Node::id(&agent)?;
    let (program, collector) = (&scene.binaries.agent, &scene.binaries.collector);
    let commands: &[(&Path, &[&str])] = &[
        (program, &["config", "default"]),
        (program, &["check", "--config", &config]),
        (program, &["decode", &log]),
        (program, &["status", "--config", &config]),
        (program, &["status", "--json", "--config", &config]),
        (program, &["reference", "metrics"]),
        (program, &["reference", "events"]),
        (program, &["reference", "openapi"]),
        (program, &["load-rules", "--dry-run", rules]),
        (program, &["spool", "inspect", &spool]),
        (program, &["spool", "verify", &spool]),
        (program, &["--help"]),
        (collector, &["config", "default"]),
        (collector, &["token", "create", "--data", &data]),
        (collector, &["keys", "--node", &node, "--data", &data]),
        (collector, &["verify", "--node", &node, "--data", &data]),
        (collector, &["--help"]),
    ];
    let mut loud = Vec::new();
    for (program, arguments) in commands {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut child = Command::new(program)
            .args(*arguments)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        child.stderr.take().context("it is piped")?.read_to_string(&mut said)?;
        let status = child.wait()?;
        let is_quiet = !said.to_lowercase().contains("pipe") && !said.contains("panicked");
        if !(status.success() && is_quiet) {
            loud.push(format!("{} {arguments:?}: {status}: {said}", program.display()));
        }
    }
    ensure!(loud.is_empty(), "{}", loud.join("\n"));
    Ok(())
}

#[test]
fn nobody_else_reads_either_data_directory() -> anyhow::Result<()> {
    // Both programs started with a umask that takes nothing away.
    let folder = tempfile::tempdir()?;
    let found = Binaries::find()?;
    let open = |name: &str, program: &Path| -> anyhow::Result<_> {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\numask 000\nexec {:?} \"$@\"\n", program.display().to_string()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    };
    let binaries = Binaries {
        agent: open("agent.sh", &found.agent)?,
        collector: open("collector.sh", &found.collector)?,
    };
    let collector = Collector::start(&binaries, &folder.path().join("collector"))?;
    let node = Node::make(folder.path(), &[NO_KERNEL, SYNTHETIC].concat())?;
    node.join(&binaries, &collector)?;
    let agent = node.start(&binaries)?;
    let id = post(&agent, "private")?;
    until("the event is stored", || {
        let stored = collector.events("user=private")?;
        Ok(stored.iter().any(|event| event["event_id"] == *id).then_some(()))
    })?;
    collector.run(&["backup", &folder.path().join("collector/backup").display().to_string()])?.success()?;

    let mut open = Vec::new();
    let mut seen = 0;
    let mut ahead = vec![node.data.clone(), node.socket.clone(), folder.path().join("collector")];
    while let Some(path) = ahead.pop() {
        let metadata = fs::symlink_metadata(&path)?;
        seen += 1;
        if metadata.permissions().mode() & 0o077 != 0 {
            open.push(format!("{:o} {}", metadata.permissions().mode() & 0o7777, path.display()));
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(&path)? {
                ahead.push(entry?.path());
            }
        }
    }
    ensure!(seen > 10, "only {seen} files were looked at");
    ensure!(open.is_empty(), "others may get at\n{}", open.join("\n"));
    Ok(())
}
