//! The RabbitMQ of the test run, and the part of it that is a test's own.

use anyhow::{Context, bail};
use data_encoding::BASE64;
use serde_json::Value;
use tempfile::TempDir;

use super::{ADMINISTRATOR, RabbitMqServer, VARIABLE, definitions};
use crate::http::{self, Answer};
use crate::wait::until;

/// A RabbitMQ that others may use at the same time: nothing of it is for one test to kill or to set.
#[derive(Debug)]
pub struct RabbitMq {
    /// `host:port` of the management plugin.
    address: String,
    /// What it is asked with.
    authorization: String,
    amqp: u16,
    /// The server and its folder, if it is this test's own.
    _own: Option<(RabbitMqServer, TempDir)>,
}

/// Two vhosts of a test's own with all that `rabbitmq/definitions.json` has in `auditflow` and in `/`; they go when this is
/// dropped.
#[derive(Debug)]
pub struct Vhost<'r> {
    rabbitmq: &'r RabbitMq,
    name: String,
    ancestor: String,
}

impl RabbitMq {
    /// The one whose management plugin `AUDITFLOW_TEST_RABBITMQ` names, as `http://USER:PASSWORD@HOST:PORT`, else one of the
    /// test's own; `None`, said aloud, where there is no RabbitMQ.
    pub fn of_this_run() -> anyhow::Result<Option<Self>> {
        if let Ok(management) = std::env::var(VARIABLE) {
            return Self::at(&management, None).map(Some);
        }
        let folder = tempfile::tempdir()?;
        let Some(mut server) = RabbitMqServer::make(folder.path(), &definitions::shipped()?, None)? else {
            return Ok(None);
        };
        server.start()?;
        Self::at(&server.management(), Some((server, folder))).map(Some)
    }

    pub(super) fn at(management: &str, own: Option<(RabbitMqServer, TempDir)>) -> anyhow::Result<Self> {
        let rest = management.strip_prefix("http://").and_then(|rest| rest.rsplit_once('@'));
        let (user, address) =
            rest.context("the management plugin's address is http://USER:PASSWORD@HOST:PORT")?;
        let authorization = format!("Basic {}", BASE64.encode(user.as_bytes()));
        let mut rabbitmq = Self { address: address.to_owned(), authorization, amqp: 0, _own: own };
        let overview = until("rabbitmq's management answers", || {
            Ok(Some(rabbitmq.ask("GET", "/api/overview", "")?).filter(|answer| answer.status == 200))
        })?;
        let listeners = overview.json()?["listeners"].clone();
        let amqp = listeners.as_array().and_then(|all| all.iter().find(|one| one["protocol"] == "amqp"));
        let port = amqp.and_then(|one| one["port"].as_u64()).context("rabbitmq listens for AMQP")?;
        rabbitmq.amqp = u16::try_from(port)?;
        Ok(rabbitmq)
    }

    /// A part of it that is the caller's alone.
    pub fn vhost(&self) -> anyhow::Result<Vhost<'_>> {
        let number = crate::Random::announced("vhost").number();
        let (name, ancestor) = (format!("test-{number:016x}"), format!("test-{number:016x}-ancestor"));
        let vhost = Vhost { rabbitmq: self, name, ancestor };
        let shipped = definitions::elsewhere(definitions::shipped()?, &vhost.name, &vhost.ancestor);
        let all = definitions::with_administrator(shipped, ADMINISTRATOR.0, ADMINISTRATOR.1);
        self.tell("POST", "/api/definitions", &all)?;
        Ok(vhost)
    }

    /// Asks the management plugin.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        http::ask(&self.address, method, path, &[("Authorization", &self.authorization)], body)
    }

    /// Has the management plugin do something.
    pub fn tell(&self, method: &str, path: &str, body: &Value) -> anyhow::Result<()> {
        let answer = self.ask(method, path, &body.to_string())?;
        if !(200..300).contains(&answer.status) {
            bail!("{method} {path}: status {}: {}", answer.status, answer.body);
        }
        Ok(())
    }
}

impl Vhost<'_> {
    /// Where one of the users that `rabbitmq/definitions.json` names finds what is in vhost `auditflow` there.
    pub fn url(&self, user: &str) -> String {
        self.url_of(user, &self.name)
    }

    /// The same for what is in vhost `/`.
    pub fn ancestor_url(&self, user: &str) -> String {
        self.url_of(user, &self.ancestor)
    }

    /// Its name in the place of `auditflow`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its name in the place of `/`.
    pub fn ancestor_name(&self) -> &str {
        &self.ancestor
    }

    fn url_of(&self, user: &str, vhost: &str) -> String {
        format!("amqp://{user}:{}@127.0.0.1:{}/{vhost}", definitions::PASSWORD, self.rabbitmq.amqp)
    }
}

impl Drop for Vhost<'_> {
    fn drop(&mut self) {
        for name in [&self.name, &self.ancestor] {
            // What can't be removed goes with the server, at the end of the run.
            let _ = self.rabbitmq.ask("DELETE", &format!("/api/vhosts/{name}"), "");
        }
    }
}
