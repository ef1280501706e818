//! The agent as a process: started, used through its admin interface, reloaded, stopped, started again.

// A test that cannot go on says so by panicking, also in the functions it calls.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use auditflow_agent::admin::{Accepted, Rate};
use auditflow_agent::spool;
use auditflow_agent::status::AgentStatus;
use auditflow_service::admin::Client;
use auditflow_service::health::HealthReport;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);

struct Agent {
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Agent {
    fn new(sources: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        let config = format!(
            "[node]\ndata_dir = \"{root}/data\"\n[admin]\nsocket = \"{root}/admin.sock\"\n[rules]\nshipped = false\ndirs = [\"{root}/rules\"]\n\
             [log]\nformat = \"text\"\n[spool]\ncommit_interval_ms = 50\nseal_interval_ms = 100\n\
             [sources.kernel_audit]\nenabled = false\n[sources.kubernetes_audit]\nrole = \"agent\"\n{sources}"
        );
        fs::create_dir(dir.path().join("rules")).unwrap();
        fs::write(dir.path().join("agent.toml"), config.replace("{root}", &root.to_string())).unwrap();
        Self { dir, child: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn start(&mut self) {
        let child = Command::new(assert_cmd::cargo::cargo_bin!("auditflow-agent"))
            .env_clear()
            .args(["run", "--config"])
            .arg(self.path("agent.toml"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(self.path("log")).unwrap())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().unwrap().id();
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }

    fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.log());
    }

    /// Asks until the answer is as wanted.
    async fn ask<T>(&self, path: &str, wanted: impl Fn(&T) -> bool) -> T
    where
        T: serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let client = Client::new(&self.path("admin.sock"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = client.get::<T>(path).await;
            match answer {
                Ok(answer) if wanted(&answer) => return answer,
                answer => assert!(Instant::now() < deadline, "{path}: {answer:?}\n{}", self.log()),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ready(&self) {
        self.ask("/readyz", |report: &HealthReport| report.ready).await;
    }

    async fn status(&self, wanted: impl Fn(&AgentStatus) -> bool) -> AgentStatus {
        self.ask("/status", wanted).await
    }

    fn client(&self) -> Client {
        Client::new(&self.path("admin.sock"))
    }

    /// Events in the spool, the agent's own words on itself included.
    fn spooled(&self) -> u64 {
        let summary = spool::inspect(&self.path("data/spool")).unwrap();
        summary.epochs.iter().map(|epoch| epoch.events + epoch.waiting).sum()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn event(serial: u32) -> String {
    format!(
        "type=SYSCALL msg=audit(1700000000.000:{serial}): arch=c000003e syscall=2 pid=7 comm=\"a\"\n\
         type=PROCTITLE msg=audit(1700000000.000:{serial}): proctitle=\"a\"\n"
    )
}

const SYNTHETIC: &str = "[sources.synthetic]\nenabled = true\nseed = 1\n";
const AUDIT_LOG: &str = "[sources.audit_log]\nenabled = true\npath = \"{root}/audit.log\"\n";

#[tokio::test]
async fn works_without_a_collector_and_stops_with_0_on_sigterm() {
    let mut agent = Agent::new(SYNTHETIC);
    agent.start();
    agent.ready().await;
    let accepted: Accepted = agent
        .client()
        .post("/generate_event", &json!({"event_type": "user_login", "user_id": "eve"}))
        .await
        .unwrap();
    assert_eq!((accepted.status.as_str(), accepted.event_id.len()), ("success", 36));
    let health: HealthReport = agent.ask("/healthz", |_| true).await;
    assert!(health.parts["collector"].reason.as_ref().unwrap().contains("join"), "{health:?}");
    let status = agent.status(|status| status.spool.events >= 1).await;
    assert_eq!((status.collector, status.link.state.as_str()), (None, "off"));
    agent.stop();
    assert!(agent.spooled() >= 1);
    assert_eq!(spool::verify(&agent.path("data/spool"), None).unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn the_generators_rate_is_changed_while_it_runs() {
    let mut agent = Agent::new(SYNTHETIC);
    agent.start();
    agent.ready().await;
    let client = agent.client();
    agent.ask("/rate", |rate: &Rate| rate.rate == 0).await;
    assert!(client.put::<Rate>("/rate", &Rate { rate: 100_001 }).await.is_err());
    client.put::<Rate>("/rate", &Rate { rate: 2000 }).await.unwrap();
    agent.status(|status| status.spool.events > 500).await;
    client.put::<Rate>("/rate", &Rate { rate: 0 }).await.unwrap();
    assert!(client.post::<Accepted>("/generate_event", &json!({"no": "type"})).await.is_err());
    agent.stop();
}

#[tokio::test]
async fn a_killed_agent_goes_on_where_it_was_without_reading_anything_twice() {
    let mut agent = Agent::new(AUDIT_LOG);
    let log = agent.path("audit.log");
    append(&log, &(0..100).map(event).collect::<String>());
    agent.start();
    // 100 events, and the sources' words on themselves.
    agent.status(|status| status.spool.events >= 100).await;
    agent.signal(Signal::SIGKILL);
    agent.wait();
    fs::rename(&log, agent.path("audit.log.1")).unwrap();
    append(&log, &(100..150).map(event).collect::<String>());
    agent.start();
    agent.status(|status| status.spool.events >= 50).await;
    agent.stop();
    let spool = agent.path("data/spool");
    let states = 2 * 2; // two sources, two starts
    assert!((150..=150 + states).contains(&agent.spooled()), "{}", agent.spooled());
    assert_eq!(spool::verify(&spool, None).unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_log_is_a_state_that_heals_by_itself() {
    let mut agent = Agent::new(AUDIT_LOG);
    agent.start();
    let of = |status: &AgentStatus, state: &str| {
        status.sources.iter().any(|source| source.name == "audit_log" && source.state == state)
    };
    agent.status(|status| of(status, "unavailable")).await;
    append(&agent.path("audit.log"), &event(1));
    agent.status(|status| of(status, "running")).await;
    let status = agent.status(|_| true).await;
    assert!(
        status
            .sources
            .iter()
            .any(|source| source.name == "kubernetes_audit" && source.state == "not_applicable")
    );
    agent.stop();
}

#[tokio::test]
async fn sighup_reloads_rules_and_a_bad_rule_leaves_the_old_ones_in_force() {
    let rule = "title: Drop a\nid: 0b7e9a52-7c3c-4d33-9f2f-3d2a0c1f5e77\nlogsource: { product: linux, service: auditd }\n\
                detection: { selection: { type: SYSCALL, comm: a }, condition: selection }\naction: drop\n";
    let mut agent = Agent::new(AUDIT_LOG);
    agent.start();
    agent.ready().await;
    fs::write(agent.path("rules/a.yml"), rule).unwrap();
    agent.signal(Signal::SIGHUP);
    agent.status(|status| status.rules.rules == 1).await;
    fs::write(agent.path("rules/a.yml"), "nonsense: [").unwrap();
    agent.signal(Signal::SIGHUP);
    let refused = |report: &HealthReport| report.parts["rules"].reason.is_some();
    agent.ask("/healthz", refused).await;
    assert_eq!(agent.status(|_| true).await.rules.rules, 1);
    agent.stop();
}

#[tokio::test]
async fn the_status_command_prints_what_the_agent_says() {
    let mut agent = Agent::new(SYNTHETIC);
    agent.start();
    agent.ready().await;
    let run = |arguments: &[&str]| {
        let output = Command::new(assert_cmd::cargo::cargo_bin!("auditflow-agent"))
            .env_clear()
            .args(arguments)
            .arg("--config")
            .arg(agent.path("agent.toml"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let status: AgentStatus = serde_json::from_str(&run(&["status", "--json"])).unwrap();
    assert!(run(&["status"]).contains(&status.node));
    agent.stop();
}

#[tokio::test]
async fn metrics_and_log_level_are_served_on_the_admin_socket() {
    let mut agent = Agent::new(SYNTHETIC);
    agent.start();
    agent.ready().await;
    let metrics = agent.client().get_text("/metrics").await.unwrap();
    assert!(metrics.contains("auditflow_agent_spool_bytes"), "{metrics}");
    let level: serde_json::Value =
        agent.client().put("/log-level", &json!({"level": "debug"})).await.unwrap();
    assert_eq!(level["level"], "debug");
    agent.stop();
}
