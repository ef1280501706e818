//! Small file systems of a test's own, in a mount namespace that ends with the test's thread: nothing stays mounted,
//! whatever becomes of the test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context, anyhow, bail};
use nix::sched::{CloneFlags, unshare};

use crate::programs::Outcome;

/// Runs a test that mounts. Without the right to it the test is skipped, aloud; in CI as root that is a failure.
pub fn with_mounts(test: fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let name = thread::current().name().unwrap_or("delivery").to_owned();
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIPPED: {name} has to be root to mount a file system");
        return Ok(());
    }
    let own = thread::Builder::new().name(name.clone()).spawn(move || {
        let separate = unshare(CloneFlags::CLONE_NEWNS)
            .context("cannot have mounts of one's own")
            .and_then(|()| run("mount", &["--make-rprivate", "/"]));
        match separate {
            Ok(()) => test(),
            Err(error) if std::env::var_os("CI").is_some_and(|ci| ci == "true") => Err(error),
            Err(error) => {
                eprintln!("SKIPPED: {name}: {error:#}");
                Ok(())
            }
        }
    })?;
    own.join().map_err(|_| anyhow!("the test panicked"))?
}

/// A file system that is mounted; unmounted when this is dropped.
#[derive(Debug)]
pub struct Mount {
    place: PathBuf,
}

impl Mount {
    /// One in memory, of so many bytes.
    pub fn in_memory(place: &Path, bytes: u64) -> anyhow::Result<Self> {
        run("mount", &["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs", text(place)?])?;
        Ok(Self { place: place.to_owned() })
    }

    /// The one in this image, a file. What is on that disk when the power fails is what the image holds.
    pub fn image(place: &Path, image: &Path) -> anyhow::Result<Self> {
        run("mount", &["-o", "loop", text(image)?, text(place)?])?;
        Ok(Self { place: place.to_owned() })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a process that a failed test left may still have files open.
        if let Err(error) = text(&self.place).and_then(|place| run("umount", &["-l", place])) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let outcome = Outcome::of(Command::new(program).args(arguments))?;
    if outcome.status.success() {
        return Ok(());
    }
    bail!("{program} {} ended with {}: {}", arguments.join(" "), outcome.status, outcome.stderr.trim())
}

/// A path as an argument.
pub fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path in UTF-8")
}
