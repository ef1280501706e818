//! laurel: found, or installed below `target`, and run as its documentation says.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use auditflow_tests::bench::{Cost, Missing, RECORDED};

const VERSION: &str = "0.8.2";

/// What building it needs from Debian.
const PACKAGES: [&str; 2] = ["libclang-dev", "libacl1-dev"];

pub(crate) struct Laurel(PathBuf);

/// The one on PATH or from an earlier time, if it has the right version, else a freshly installed one.
pub(crate) fn find() -> anyhow::Result<Laurel> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/laurel");
    let installed = root.join("bin/laurel");
    for program in [Path::new("laurel"), &installed] {
        if has_version(program) {
            return Ok(Laurel(program.to_owned()));
        }
    }
    install(&root)?;
    ensure!(has_version(&installed), "laurel {VERSION} was installed, yet does not run");
    Ok(Laurel(installed))
}

fn has_version(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).output();
    output.is_ok_and(|output| output.stdout.starts_with(VERSION.as_bytes()))
}

fn install(root: &Path) -> anyhow::Result<()> {
    println!("installing laurel {VERSION} in {}", root.display());
    let is_root = nix::unistd::geteuid().is_root();
    if is_root {
        // What is there already stays; a failure shows below.
        let _ = Command::new("apt-get")
            .args(["install", "-qq", "--yes", "--no-install-recommends"])
            .args(PACKAGES)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null())
            .status();
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let install = ["install", "--quiet", "laurel", "--version", VERSION, "--locked", "--root"];
    let is_installed =
        Command::new(cargo).args(install).arg(root).status().is_ok_and(|status| status.success());
    if is_installed {
        return Ok(());
    }
    let how = format!(
        "no laurel {VERSION}: install Debian packages {}, then `cargo {} {}`",
        PACKAGES.join(" and "),
        install.join(" "),
        root.display()
    );
    Err(Missing(how).into())
}

impl Laurel {
    /// Lets it turn the records into JSON in a file below `folder`.
    pub(crate) fn run(&self, records: &Path, folder: &Path) -> anyhow::Result<Cost> {
        let output = folder.join("laurel");
        if output.exists() {
            fs::remove_dir_all(&output)?;
        }
        fs::create_dir(&output)?;
        let config = folder.join("laurel.toml");
        // As root it would become another user; the size keeps it from rotating.
        let user = if nix::unistd::geteuid().is_root() { "user = \"root\"\n" } else { "" };
        let directory = output.display().to_string();
        fs::write(
            &config,
            format!(
                "directory = {directory:?}\n{user}[auditlog]\nfile = \"audit.log\"\nsize = 2000000000\ngenerations = 2\n"
            ),
        )?;
        let mut command = Command::new(&self.0);
        command
            .arg("-c")
            .arg(&config)
            .stdin(File::open(records)?)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let cost = Cost::of(&mut command)?;
        let lines = count_lines(&output.join("audit.log"))?;
        ensure!(lines == RECORDED.1, "laurel made {lines} events of {}", RECORDED.1);
        Ok(cost)
    }
}

/// Copies an audit log, adding after each event's last record the end mark that the kernel sends and auditd leaves out.
pub(crate) fn add_end_marks(log: &Path, marked: &Path) -> anyhow::Result<()> {
    let log = fs::read(log)?;
    let lines = || log.split_inclusive(|&byte| byte == b'\n').enumerate();
    let mut last_of = HashMap::new();
    for (number, line) in lines() {
        last_of.insert(stamp(line)?, number);
    }
    let mut output = BufWriter::new(File::create(marked)?);
    for (number, line) in lines() {
        output.write_all(line)?;
        let stamp = stamp(line)?;
        if last_of.get(stamp) == Some(&number) {
            output.write_all(&[b"type=EOE msg=audit(", stamp, b"): \n"].concat())?;
        }
    }
    Ok(output.flush()?)
}

fn stamp(line: &[u8]) -> anyhow::Result<&[u8]> {
    const BEFORE: &[u8] = b"audit(";
    let begin = line.windows(BEFORE.len()).position(|text| text == BEFORE).map(|at| at + BEFORE.len());
    let text = begin.and_then(|begin| line.get(begin..)).context("a record without a stamp")?;
    Ok(text.split(|&byte| byte == b')').next().unwrap_or_default())
}

/// How many lines a file has.
pub(crate) fn count_lines(file: &Path) -> anyhow::Result<u64> {
    let mut lines = BufReader::new(File::open(file)?).split(b'\n');
    Ok(lines.try_fold(0, |count, line| line.map(|_| count + 1))?)
}
