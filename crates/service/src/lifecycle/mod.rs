//! The one owner of the program's life: its signals, its tasks, its end.
//!
//! SIGTERM or SIGINT asks every task to stop ([`Tasks::stopping`]); who has not ended within the grace is told to
//! drop everything ([`Tasks::dropping`]) and is then aborted by name. A second signal ends the process at once.
//! SIGHUP asks for a reload. A task that fails, panics or ends without being asked to ends the program in order:
//! half a program that looks alive is worse than one that its supervisor starts again. Everything of `sd_notify(3)`
//! happens here as well.

mod notify;
mod reload;
mod signals;
mod tasks;

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use crate::args::Exit;
use crate::health::{Health, Phase};

pub use reload::{Reload, ReloadTrigger, Reloads};
pub use tasks::Tasks;

/// How long tasks may take to notice that they are to drop everything.
const DROP_GRACE: Duration = Duration::from_secs(1);

/// The life of the program, from `start` to `run_until_stopped`.
pub struct Lifecycle {
    grace: Duration,
    health: Health,
    tasks: Tasks,
    reloads: Reloads,
    signals: AbortOnDropHandle<()>,
    watchdog: Option<AbortOnDropHandle<()>>,
}

impl Lifecycle {
    /// Begins: from now on signals are handled, also while the program is still being built. `grace` is how long
    /// tasks may take to end; give systemd's `TimeoutStopSec` a few seconds more. Call it inside the runtime.
    pub fn start(grace: Duration, health: Health) -> io::Result<Self> {
        let tasks = Tasks::new();
        let reloads = Reloads::new();
        let signals = signals::listen(tasks.clone(), reloads.trigger())?;
        let watchdog = notify::keep_watchdog(health.clone());
        Ok(Self { grace, health, tasks, reloads, signals, watchdog })
    }

    /// Where tasks are spawned; cheap to clone and to hand to whoever spawns later.
    pub fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    /// Requests for a reload; for the one task that reloads.
    pub fn reloads(&self) -> Reloads {
        self.reloads.clone()
    }

    /// What asks for a reload from inside, as SIGHUP does from outside.
    pub fn reload_trigger(&self) -> ReloadTrigger {
        self.reloads.trigger()
    }

    /// The program's parts are built: tells systemd READY with a status line, and the health that it runs.
    pub fn ready(&self, status: &str) {
        self.health.enter(Phase::Running);
        notify::ready(status);
    }

    /// Waits until a signal or a failed task ends the program and every task has ended, or had to be aborted.
    ///
    /// [`Exit::Ok`] only if nothing failed and nothing had to be aborted.
    pub async fn run_until_stopped(self) -> Exit {
        self.tasks.stopping().cancelled().await;
        self.health.enter(Phase::Stopping);
        notify::stopping();
        self.tasks.close();
        let in_time = self.tasks.all_ended_within(self.grace).await;
        if !in_time {
            self.drop_the_rest().await;
        }
        drop((self.signals, self.watchdog));
        match self.tasks.failure() {
            None if in_time => {
                tracing::info!("stopped");
                Exit::Ok
            }
            _ => Exit::Failure,
        }
    }

    async fn drop_the_rest(&self) {
        let late = self.tasks.running().join(", ");
        let grace = self.grace.as_secs_f64();
        tracing::warn!(
            task.names = late,
            "still running {grace} s after the stop, dropping what they do: {late}"
        );
        self.tasks.dropping().cancel();
        if !self.tasks.all_ended_within(DROP_GRACE).await {
            let deaf = self.tasks.running().join(", ");
            tracing::error!(task.names = deaf, "aborted, because they did not end: {deaf}");
            self.tasks.abort_all();
        }
    }
}

/// Tells systemd what the program is doing, in one line for `systemctl status`.
pub fn status(text: &str) {
    notify::status(text);
}

/// Runs the program's async part on a runtime with one thread per core, and ends even if a blocking task hangs.
pub fn block_on<F: Future>(program: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let output = runtime.block_on(program);
    runtime.shutdown_background();
    Ok(output)
}
