//! A private PostgreSQL for a test run, and a database of it for a test.
//!
//! The server listens on a Unix socket in a temporary folder only. It is started by the first test that asks, shared by
//! every process of the run (nextest runs each test in one of its own), and ended, folder and all, by a watcher once
//! the run is over, however that ends. `fsync` is off: nothing here has to survive a power cut.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use uuid::Uuid;

/// Where Debian keeps the server's programs, by version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A database that goes with this value.
pub(crate) struct Database {
    socket: PathBuf,
    name: String,
}

impl Database {
    /// Where it is.
    pub(crate) fn url(&self) -> String {
        let socket = self.socket.display().to_string().replace('/', "%2F");
        format!("postgres://auditflow@{socket}/{}", self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        sql(&self.socket, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}

/// An empty database; none where there is no PostgreSQL, which is said aloud, and in CI is a failure.
pub(crate) fn database() -> Option<Database> {
    let Some(programs) = programs() else {
        assert!(
            std::env::var_os("CI").is_none_or(|ci| ci != "true"),
            "in CI nothing may be skipped: install Debian package postgresql"
        );
        eprintln!("SKIPPED: there is no PostgreSQL server: install Debian package postgresql");
        return None;
    };
    let socket = server(&programs);
    let name = format!("t{}", Uuid::new_v4().simple());
    assert!(sql(&socket, &format!("CREATE DATABASE {name} TEMPLATE template0")), "cannot create a database");
    Some(Database { socket, name })
}

/// Waits for a future from within a test's own runtime.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(future))
}

/// The folder of `initdb`, `postgres` and the others: the newest installed, else what is on the path.
fn programs() -> Option<PathBuf> {
    let installed =
        fs::read_dir(DEBIAN).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = installed.collect();
    found.sort();
    found.reverse();
    found.extend(std::env::split_paths(&path));
    found.into_iter().find(|folder| folder.join("initdb").is_file() && folder.join("postgres").is_file())
}

/// The process whose end is the end of the run.
fn run() -> u32 {
    match std::env::var_os("NEXTEST_RUN_ID") {
        Some(_) => std::os::unix::process::parent_id(),
        None => std::process::id(),
    }
}

/// The folder of the run's server, which is up.
fn server(programs: &Path) -> PathBuf {
    let run = run();
    let folder = std::env::temp_dir().join(format!("auditflow-postgres-{run}"));
    let lock = File::create(folder.with_extension("lock")).unwrap();
    lock.lock().unwrap();
    if !folder.join("ready").exists() {
        start(programs, &folder, run);
        File::create(folder.join("ready")).unwrap();
    }
    folder
}

fn start(programs: &Path, folder: &Path, run: u32) {
    let _ = fs::remove_dir_all(folder);
    fs::create_dir(folder).unwrap();
    let (data, log) = (folder.join("data"), folder.join("log"));
    if is_root() {
        // The server refuses to be root.
        done(Command::new("chown").arg("postgres").arg(folder));
    }
    let program = |name: &str| {
        let path = programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
            command
        } else {
            Command::new(path)
        };
        command.current_dir(folder);
        command
    };
    done(
        program("initdb")
            .args([
                "--username=auditflow",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "-D",
            ])
            .arg(&data),
    );
    let options = format!(
        "-c listen_addresses='' -c unix_socket_directories='{}' -c fsync=off -c full_page_writes=off
         -c max_connections=200 -c shared_buffers=64MB",
        folder.display()
    )
    .replace('\n', " ");
    done(
        program("pg_ctl")
            .args(["start", "-w", "-t", "60", "-o", &options, "-D"])
            .arg(&data)
            .arg("-l")
            .arg(&log),
    );
    watch(programs, folder, run);
}

/// Ends the server and removes its folder when the process `run` is gone.
fn watch(programs: &Path, folder: &Path, run: u32) {
    let script = format!(
        "while kill -0 {run} 2>/dev/null; do sleep 1; done
         kill -INT $(head -1 {folder}/data/postmaster.pid)
         while [ -e {folder}/data/postmaster.pid ]; do sleep 0.1; done
         rm -rf {folder} {folder}.lock",
        folder = folder.display(),
    );
    let watcher = Command::new("setsid")
        .args(["--fork", "sh", "-c", &script])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(watcher.is_ok_and(|status| status.success()), "cannot watch over {}", programs.display());
}

fn sql(socket: &Path, statement: &str) -> bool {
    let Some(programs) = programs() else { return false };
    let psql = [programs.join("psql"), PathBuf::from("psql")].into_iter().find(|path| path.exists());
    let status = Command::new(psql.unwrap_or_else(|| "psql".into()))
        .args(["-q", "-X", "-U", "auditflow", "-d", "postgres", "-c", statement, "-h"])
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

fn done(command: &mut Command) {
    let mut output = tempfile::tempfile().unwrap();
    let streams = [output.try_clone().unwrap(), output.try_clone().unwrap()];
    let [out, err] = streams;
    // A file, not a pipe: the server keeps it open.
    let status = command.stdin(Stdio::null()).stdout(out).stderr(err).status();
    if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        let mut said = String::new();
        let _ = std::io::Seek::rewind(&mut output).and_then(|()| output.read_to_string(&mut said));
        panic!("{command:?}: {status:?}: {said}");
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
