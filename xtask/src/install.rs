//! Programs that tests use and cargo does not bring: found on PATH, else installed from Debian's packages where
//! root may, else named with the command that installs them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use crate::workspace::run;

/// A program that some tests need.
struct Tool {
    program: &'static str,
    package: &'static str,
    used_for: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool { program: "chromium", package: "chromium", used_for: "the test that looks at the page" },
    Tool { program: "chromedriver", package: "chromium-driver", used_for: "leading chromium" },
    Tool { program: "auditctl", package: "auditd", used_for: "comparing how kernel audit rules are loaded" },
    Tool { program: "zstd", package: "zstd", used_for: "unpacking recorded audit logs" },
    Tool {
        program: "setpriv",
        package: "util-linux",
        used_for: "kernel audit tests under a uid of their own",
    },
    Tool { program: "systemd-analyze", package: "systemd", used_for: "checking the unit files" },
    Tool { program: "mosquitto", package: "mosquitto", used_for: "delivery over a broker" },
    Tool { program: "redis-server", package: "redis-server", used_for: "the tests of windows in Redis" },
    Tool { program: "rabbitmq-server", package: "rabbitmq-server", used_for: "delivery over RabbitMQ" },
    Tool {
        program: "mkfs.ext4",
        package: "e2fsprogs",
        used_for: "the test on a filesystem that is really full",
    },
    // The server's own programs are on nobody's path.
    Tool {
        program: "pg_ctlcluster",
        package: "postgresql",
        used_for: "the tests of the store in PostgreSQL",
    },
];

/// What a cluster runs on.
const SERVERS: &[&str] = &["rabbitmq-server", "pg_ctlcluster", "redis-server"];

/// Makes every tool available that can be. What is still missing is said aloud; in CI it is an error.
pub(crate) fn tools() -> anyhow::Result<()> {
    install(TOOLS.iter())
}

/// The same for the servers of a cluster alone.
pub(crate) fn servers() -> anyhow::Result<()> {
    install(TOOLS.iter().filter(|tool| SERVERS.contains(&tool.program)))
}

fn install(wanted: impl Iterator<Item = &'static Tool>) -> anyhow::Result<()> {
    let missing: Vec<&Tool> = wanted.filter(|tool| !on_path(tool.program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if is_root() && on_path("apt-get") {
        println!("installing {}", packages.join(", "));
        let _held = NoServices::hold()?;
        apt(&["update", "-qq"])?;
        apt(&[&["install", "-qq", "--yes", "--no-install-recommends"][..], &packages].concat())?;
        NoServices::disable(&packages);
        return Ok(());
    }
    for tool in &missing {
        println!("{} is missing ({}): install Debian package {}", tool.program, tool.used_for, tool.package);
    }
    if std::env::var_os("CI").is_some() {
        anyhow::bail!("in CI nothing may be skipped: install {}", packages.join(" "));
    }
    Ok(())
}

/// Keeps packages from starting the services that they bring: tests start their own. What is put in place for that goes
/// when this is dropped; what an operator has in that place holds.
struct NoServices {
    made: bool,
}

/// Asked by Debian's packages before they start a service; 101 is no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn hold() -> anyhow::Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self { made: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, Permissions::from_mode(0o755))?;
        Ok(Self { made: true })
    }

    /// Nor are they to start at the next boot.
    fn disable(packages: &[&str]) {
        if Path::new("/run/systemd/system").is_dir() {
            // Most of the packages bring none, which is an error that says nothing.
            for package in packages {
                let _ = Command::new("systemctl").args(["--quiet", "disable", package]).output();
            }
        }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(POLICY);
        }
    }
}

/// Whether `program` can be run by its bare name.
pub(crate) fn on_path(program: &str) -> bool {
    let system = ["/usr/sbin", "/sbin"].iter().map(Into::into);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(system).any(|folder| is_file(&folder.join(program)))
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

/// Whether this is root.
pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null()))
}
