//! The servers that AuditFlow works with, started privately: on free ports of the loopback, with their data in a folder of
//! the caller's, and ended with everything that they started when their value is dropped. Nothing of the machine's own
//! servers is touched.
//!
//! Each server has a file here with the same three things:
//!
//! - its **server** (`RabbitMqServer`, `Mosquitto`): a process of the caller's own, which it may kill, pause and start again;
//! - where starting one takes long, its **shared form** (`RabbitMq`): the one that the whole test run has, found by an
//!   environment variable that `cargo xtask test` sets, else a server of the test's own (plain `cargo nextest run`);
//! - a **part** of the shared one (`Vhost`) that is the test's alone, made from what the project ships and gone with its value.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use auditflow_tests::services::RabbitMq;
//! // None: there is no RabbitMQ here, which was said aloud, and is an error where CI=true.
//! let Some(rabbitmq) = RabbitMq::of_this_run()? else { return Ok(()) };
//! let vhost = rabbitmq.vhost()?;
//! let url = vhost.url("auditflow-analyzer");
//! # Ok(()) }
//! ```
//!
//! A further service is a file beside these, one line in [`Services::launch`], [`Services::until_ready`] and
//! [`Services::environment`] each, and its Debian package in `xtask/src/install.rs`. Mosquitto and Redis are not shared: they
//! start in no time.

mod mosquitto;
mod postgres;
mod rabbitmq;
mod redis;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::wait::until;

pub use self::redis::RedisServer;
pub use mosquitto::{Access, Mosquitto};
pub use postgres::PostgresServer;
pub use rabbitmq::{Mqtt, RabbitMq, RabbitMqServer, Vhost, definitions};

/// Where Debian puts programs that a user's PATH may not name. Those of RabbitMQ on PATH change to another user.
const SYSTEM: [&str; 2] = ["/usr/lib/rabbitmq/bin", "/usr/sbin"];

/// One of each service, for a whole test run.
#[derive(Debug)]
pub struct Services {
    rabbitmq: Option<RabbitMqServer>,
}

impl Services {
    /// Starts what can be started, below `folder`, and doesn't wait for it. What is missing is said aloud, and is an error
    /// where `CI` is `true`.
    pub fn launch(folder: &Path) -> anyhow::Result<Self> {
        let rabbitmq = RabbitMqServer::make(&folder.join("rabbitmq"), &definitions::shipped()?, None)?;
        let mut services = Self { rabbitmq };
        if let Some(rabbitmq) = &mut services.rabbitmq {
            rabbitmq.launch()?;
        }
        Ok(services)
    }

    /// Waits until each answers.
    pub fn until_ready(&mut self) -> anyhow::Result<()> {
        self.rabbitmq.iter_mut().try_for_each(RabbitMqServer::until_ready)
    }

    /// How the tests are told where they are.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        self.rabbitmq.iter().map(|server| (rabbitmq::VARIABLE, server.management())).collect()
    }
}

/// A port that nobody listens on.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where a program is; without it the test is skipped, aloud, and where `CI` is `true` that is a failure.
pub fn find(program: &str, package: &str) -> anyhow::Result<Option<PathBuf>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = SYSTEM.iter().map(PathBuf::from).chain(std::env::split_paths(&path));
    let found = folders.map(|folder| folder.join(program)).find(|path| path.is_file());
    if found.is_none() {
        let missing = format!("{program} is missing: install Debian package {package}");
        if std::env::var_os("CI").is_some_and(|ci| ci == "true") {
            bail!("{missing}");
        }
        eprintln!("SKIPPED: {}: {missing}", std::thread::current().name().unwrap_or("a test"));
    }
    Ok(found)
}

/// Waits until somebody listens there, and asks meanwhile whether it still can come to that.
fn until_listening(port: u16, mut check: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    until(&format!("the server listens on {port}"), || {
        check()?;
        Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
    })
}

/// What `broker-certificate` wrote into `folder`.
fn certificate_files(folder: &Path) -> [String; 3] {
    ["ca.pem", "broker.pem", "broker.key.pem"].map(|name| folder.join(name).display().to_string())
}
