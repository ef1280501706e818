//! The life of a real process: this test binary runs itself as the child, and speaks to it as systemd does, by
//! signals and a real notification socket.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the functions around the tests are tests too"
)]

use std::convert::Infallible;
use std::future::pending;
use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::task::Poll;
use std::time::Duration;

use auditflow_service::args::Exit;
use auditflow_service::health::Health;
use auditflow_service::lifecycle::{Lifecycle, block_on, status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SCENARIO: &str = "AUDITFLOW_TEST_SCENARIO";
/// Never waited for unless something is broken.
const DEADLINE: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_hours(1);

/// Not a test of its own: the child's side, which does nothing unless a test below starts it.
#[test]
fn child() {
    let Ok(scenario) = std::env::var(SCENARIO) else { return };
    let exit = block_on(live(&scenario)).unwrap();
    std::process::exit(i32::from(exit.code()));
}

async fn live(scenario: &str) -> Exit {
    let health = Health::requiring(&[]);
    let grace = if matches!(scenario, "late" | "deaf" | "hung_thread") { SHORT } else { LONG };
    // Silent from the start: it beats once it is told to reload.
    let heart = (scenario == "hung").then(|| health.heartbeat("pipeline", Duration::ZERO));
    let lifecycle = Lifecycle::start(grace, health.clone()).unwrap();
    let tasks = lifecycle.tasks();
    let (stopping, dropping) = (tasks.stopping(), tasks.dropping());
    match scenario {
        "drains" => tasks.spawn("drainer", async move {
            stopping.cancelled().await;
            println!("drained");
            Ok::<_, Infallible>(())
        }),
        "deaf" | "stubborn" => tasks.spawn("deaf", pending::<Result<(), Infallible>>()),
        "late" => tasks.spawn("late", async move {
            dropping.cancelled().await;
            println!("dropped");
            Ok::<_, Infallible>(())
        }),
        "hung_thread" => tasks.spawn_blocking("thread", || -> Result<(), Infallible> {
            loop {
                std::thread::park();
            }
        }),
        "thread" => tasks.spawn_blocking("thread", move || -> Result<(), Infallible> {
            tokio::runtime::Handle::current().block_on(stopping.cancelled());
            println!("drained");
            Ok(())
        }),
        "panics" => tasks.spawn(
            "panicking",
            std::future::poll_fn(|_| -> Poll<Result<(), Infallible>> { panic!("on purpose") }),
        ),
        "ends" => tasks.spawn("ending", async { Ok::<_, Infallible>(()) }),
        "fails" => tasks.spawn_job("failing", async { Err("disk on fire") }),
        "job" => tasks.spawn_job("job", async { Ok::<_, Infallible>(()) }),
        "reloads" | "hung" => {
            let mut reloads = lifecycle.reloads();
            tasks.spawn("reload", async move {
                loop {
                    tokio::select! {
                        () = stopping.cancelled() => return Ok::<_, Infallible>(()),
                        reload = reloads.next() => {
                            status("reading\nrules");
                            if let Some(heart) = heart.clone() {
                                heart.end();
                            }
                            drop(reload);
                        }
                    }
                }
            });
        }
        "slow_start" => {
            status("building");
            lifecycle.tasks().stopping().cancelled().await;
        }
        other => panic!("unknown scenario {other}"),
    }
    lifecycle.ready("watching 3 sources");
    lifecycle.run_until_stopped().await
}

/// The parent's side: the child and the socket on which it notifies.
struct Supervised {
    child: Child,
    socket: UnixDatagram,
    _directory: tempfile::TempDir,
}

impl Supervised {
    fn start(scenario: &str) -> Self {
        Self::start_with(scenario, &[])
    }

    fn start_with(scenario: &str, environment: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(SCENARIO, scenario)
            .env("NOTIFY_SOCKET", &path)
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, socket, _directory: directory }
    }

    /// The next notification, its assignments one per line.
    fn notified(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a notification");
        String::from_utf8(buffer[..length].to_vec()).unwrap().trim_end().to_owned()
    }

    fn wait_ready(&self) {
        assert_eq!(self.notified(), "READY=1\nSTATUS=watching 3 sources");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Exit status and what the child's tasks printed.
    fn ended(mut self) -> (Option<i32>, String) {
        let mut printed = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
        (self.child.wait().unwrap().code(), printed)
    }
}

#[test]
fn first_signal_lets_tasks_drain_and_exits_0() {
    for (scenario, signal) in
        [("drains", Signal::SIGTERM), ("drains", Signal::SIGINT), ("thread", Signal::SIGTERM)]
    {
        let program = Supervised::start(scenario);
        program.wait_ready();
        program.signal(signal);
        assert_eq!(program.notified(), "STOPPING=1");
        let (code, printed) = program.ended();
        assert_eq!(code, Some(0), "{scenario} {signal}");
        assert!(printed.contains("drained"), "{printed}");
    }
}

#[test]
fn second_signal_exits_at_once() {
    let program = Supervised::start("stubborn");
    program.wait_ready();
    program.signal(Signal::SIGTERM);
    assert_eq!(program.notified(), "STOPPING=1");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.ended().0, Some(128 + 15));
}

#[test]
fn task_that_outlives_the_grace_is_told_to_drop_everything_and_the_exit_says_so() {
    let program = Supervised::start("late");
    program.wait_ready();
    program.signal(Signal::SIGTERM);
    let (code, printed) = program.ended();
    assert_eq!(code, Some(1));
    assert!(printed.contains("dropped"), "{printed}");
}

#[test]
fn task_or_thread_that_never_ends_does_not_keep_the_process() {
    for scenario in ["deaf", "hung_thread"] {
        let program = Supervised::start(scenario);
        program.wait_ready();
        program.signal(Signal::SIGTERM);
        assert_eq!(program.ended().0, Some(1), "{scenario}");
    }
}

#[test]
fn task_that_panics_fails_or_ends_unasked_ends_the_process_in_order() {
    for scenario in ["panics", "ends", "fails"] {
        let program = Supervised::start(scenario);
        program.wait_ready();
        assert_eq!(program.notified(), "STOPPING=1", "{scenario}");
        assert_eq!(program.ended().0, Some(1), "{scenario}");
    }
}

#[test]
fn job_may_end_without_ending_the_process() {
    let program = Supervised::start("job");
    program.wait_ready();
    program.signal(Signal::SIGTERM);
    assert_eq!(program.notified(), "STOPPING=1");
    assert_eq!(program.ended().0, Some(0));
}

#[test]
fn signal_during_the_start_is_obeyed() {
    let program = Supervised::start("slow_start");
    assert_eq!(program.notified(), "STATUS=building");
    program.signal(Signal::SIGTERM);
    program.wait_ready();
    assert_eq!(program.notified(), "STOPPING=1");
    assert_eq!(program.ended().0, Some(0));
}

#[test]
fn hangup_reloads_and_systemd_hears_begin_and_end() {
    let program = Supervised::start("reloads");
    program.wait_ready();
    for _ in 0..2 {
        program.signal(Signal::SIGHUP);
        let begun = program.notified();
        let monotonic = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&begun);
        assert!(monotonic.parse::<u64>().unwrap() > 0);
        assert_eq!(program.notified(), "STATUS=reading rules");
        assert_eq!(program.notified(), "READY=1");
    }
    program.signal(Signal::SIGTERM);
    assert_eq!(program.notified(), "STOPPING=1");
    assert_eq!(program.ended().0, Some(0));
}

#[test]
fn watchdog_is_fed_while_alive() {
    let program = Supervised::start_with("drains", &[("WATCHDOG_USEC", "40000")]);
    for _ in 0..3 {
        while program.notified() != "WATCHDOG=1" {}
    }
    program.signal(Signal::SIGTERM);
    assert_eq!(program.ended().0, Some(0));
}

#[test]
fn watchdog_is_not_fed_while_a_part_hangs() {
    let program = Supervised::start_with("hung", &[("WATCHDOG_USEC", "4000")]);
    program.wait_ready();
    program.signal(Signal::SIGHUP);
    assert!(program.notified().starts_with("RELOADING=1"), "nothing before the part lives again");
    assert!((0..4).any(|_| program.notified() == "WATCHDOG=1"), "fed once it does");
    program.signal(Signal::SIGTERM);
    assert_eq!(program.ended().0, Some(0));
}
