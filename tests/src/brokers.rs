//! MQTT brokers of a test's own: Mosquitto, and RabbitMQ with its plugin, each on free ports of the loopback, with its
//! data in the test's folder, killed with everything that it started when its value is dropped.
//!
//! Clients prove themselves with certificates of the collector's site; a certificate's common name is the user's.

mod mosquitto;
mod rabbitmq;

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::wait::until;

pub use mosquitto::{Access, Mosquitto};
pub use rabbitmq::RabbitMq;

/// Where Debian puts programs that a user's PATH may not name.
const SYSTEM: [&str; 2] = ["/usr/sbin", "/usr/lib/rabbitmq/bin"];

/// A port that nobody listens on.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where a program is; without it the test is skipped, aloud, and in CI that is a failure.
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
    until(&format!("the broker listens on {port}"), || {
        check()?;
        Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
    })
}

/// What `broker-certificate` wrote into `folder`.
fn certificate_files(folder: &Path) -> [String; 3] {
    ["ca.pem", "broker.pem", "broker.key.pem"].map(|name| folder.join(name).display().to_string())
}
