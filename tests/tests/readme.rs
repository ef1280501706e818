//! The README's first five minutes, lived as they are written: every command of that section is run, in its order.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail, ensure};
use auditflow_tests::node::{NO_KERNEL, Node};
use auditflow_tests::programs::{Agent, Binaries, Collector, Outcome};

/// The commands of a section, without their comments.
fn commands(readme: &str, section: &str) -> Vec<String> {
    let lines = readme.lines().skip_while(|line| *line != section).skip(1);
    let commands = lines.take_while(|line| !line.starts_with("## ")).filter_map(|line| {
        let command = line.strip_prefix("    ")?;
        Some(command.split(" # ").next().unwrap_or(command).trim().to_owned())
    });
    commands.collect()
}

/// Somebody who has both programs and types what is written.
struct Stranger {
    binaries: Binaries,
    folder: tempfile::TempDir,
    node: Node,
    collector: Option<Collector>,
    agent: Option<Agent>,
    token: Option<String>,
    password: Option<String>,
}

impl Stranger {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        Ok(Self {
            binaries: Binaries::find()?,
            node: Node::make(folder.path(), NO_KERNEL)?,
            folder,
            collector: None,
            agent: None,
            token: None,
            password: None,
        })
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("collector")
    }

    /// A word as it is on this machine: places of its own, free ports, what was printed before.
    fn word(&self, word: &str) -> anyhow::Result<String> {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../rules");
        Ok(match word {
            "/var/lib/auditflow-collector" => self.data().display().to_string(),
            "0.0.0.0:7443" => "127.0.0.1:0".to_owned(),
            "https://COLLECTOR:7443" => {
                format!("https://{}", self.collector.as_ref().context("the collector runs")?.agents)
            }
            "TOKEN" => self.token.clone().context("a token was printed")?,
            word => word.replace("/usr/share/auditflow/rules", rules),
        })
    }

    fn types(&mut self, command: &str) -> anyhow::Result<()> {
        let words =
            command.split_whitespace().map(|word| self.word(word)).collect::<anyhow::Result<Vec<_>>>()?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let config = self.node.config.display().to_string();
        match words[..] {
            ["auditflow-collector", "run", ..] => {
                let words = [&words[1..], &["--listen-web", "127.0.0.1:0"]].concat();
                self.collector = Some(Collector::start_as(&self.binaries, &self.data(), &words)?);
            }
            ["auditflow-collector", "admin", ..] => self.password = Some(self.first_line(&words)?),
            ["auditflow-collector", "token", "create", ..] => self.token = Some(self.first_line(&words)?),
            // What the kernel records is the whole machine's: reading the rules has to do.
            ["auditflow-agent", "load-rules", ..] => {
                self.first_line(&[&words[..], &["--dry-run"]].concat())?;
            }
            ["auditflow-agent", "run"] => self.agent = Some(self.node.start(&self.binaries)?),
            ["auditflow-agent", "join", ..] | ["auditflow-agent", "test-alert"] => {
                self.first_line(&[&words[..], &["--config", &config]].concat())?;
            }
            _ => bail!("the README has a command that this test does not know: teach it"),
        }
        Ok(())
    }

    /// The first line that a command prints.
    fn first_line(&self, words: &[&str]) -> anyhow::Result<String> {
        let program = match words[0] {
            "auditflow-agent" => &self.binaries.agent,
            _ => &self.binaries.collector,
        };
        let outcome = Outcome::of(Command::new(program).args(&words[1..]))?.success()?;
        Ok(outcome.stdout.lines().next().unwrap_or_default().to_owned())
    }
}

#[test]
fn the_first_five_minutes_go_as_the_readme_says() -> anyhow::Result<()> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"))?;
    let mut stranger = Stranger::new()?;
    for command in commands(&readme, "## The first five minutes") {
        stranger.types(&command).with_context(|| command)?;
    }
    ensure!(stranger.password.is_some_and(|password| password.len() >= 20));
    let collector = stranger.collector.context("the README starts a collector")?;
    let alerts = collector.json("/alerts")?;
    ensure!(alerts[0]["alert_name"] == "Test Alert", "{alerts}");
    ensure!(stranger.agent.context("the README starts an agent")?.stop()?.success());
    ensure!(collector.stop()?.success());
    Ok(())
}
