//! Tracked tasks: each has a name, none is dropped, none fails unheard.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Whether a task may end before it is asked to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Term {
    UntilStopped,
    UntilDone,
}

/// Spawns tasks and watches over them. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    stopping: CancellationToken,
    dropping: CancellationToken,
    tracker: TaskTracker,
    running: Mutex<BTreeMap<u64, (&'static str, AbortHandle)>>,
    next_id: AtomicU64,
    failure: OnceLock<String>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        let shared = Shared {
            stopping: CancellationToken::new(),
            dropping: CancellationToken::new(),
            tracker: TaskTracker::new(),
            running: Mutex::default(),
            next_id: AtomicU64::new(0),
            failure: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Spawns a task that lives until the program stops. If it ends before, with or without an error, the program
    /// stops and exits with a failure.
    pub fn spawn<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.watch(name, Term::UntilStopped, tokio::spawn(task));
    }

    /// Spawns a task that may end when its work is done. Only an error or a panic of it stops the program.
    pub fn spawn_job<F, E>(&self, name: &'static str, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.watch(name, Term::UntilDone, tokio::spawn(task));
    }

    /// Like [`Tasks::spawn`] for work that blocks, on a thread of its own. It can't be aborted: it must heed
    /// [`Tasks::stopping`] itself.
    pub fn spawn_blocking<F, E>(&self, name: &'static str, work: F)
    where
        F: FnOnce() -> Result<(), E> + Send + 'static,
        E: Display + Send + 'static,
    {
        self.watch(name, Term::UntilStopped, tokio::task::spawn_blocking(work));
    }

    /// Cancelled when tasks are to finish what they do and end.
    pub fn stopping(&self) -> CancellationToken {
        self.shared.stopping.clone()
    }

    /// Cancelled when tasks are to end at once, whatever they do.
    pub fn dropping(&self) -> CancellationToken {
        self.shared.dropping.clone()
    }

    /// Stops the program in order, as SIGTERM does.
    pub fn stop(&self) {
        self.shared.stopping.cancel();
    }

    /// Stops the program in order and lets it exit with a failure; the first reason is kept.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        tracing::error!("stopping: {reason}");
        // Only the first failure is the cause; later ones follow from it.
        let _ = self.shared.failure.set(reason);
        self.stop();
    }

    /// Names of the tasks that run now.
    pub fn running(&self) -> Vec<&'static str> {
        self.lock().values().map(|(name, _)| *name).collect()
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.shared.failure.get().map(String::as_str)
    }

    pub(super) fn close(&self) {
        self.shared.tracker.close();
    }

    pub(super) async fn all_ended_within(&self, grace: Duration) -> bool {
        tokio::time::timeout(grace, self.shared.tracker.wait()).await.is_ok()
    }

    pub(super) fn abort_all(&self) {
        for (_, abort) in self.lock().values() {
            abort.abort();
        }
    }

    fn watch<E: Display + Send + 'static>(
        &self,
        name: &'static str,
        term: Term,
        task: JoinHandle<Result<(), E>>,
    ) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(id, (name, task.abort_handle()));
        let tasks = self.clone();
        // What waits for the task is what is tracked: so the program's end waits for the judgement too.
        self.shared.tracker.spawn(async move {
            let ended = task.await;
            tasks.lock().remove(&id);
            if let Some(reason) = tasks.why_failed(name, term, ended) {
                tasks.fail(reason);
            }
        });
    }

    fn why_failed<E: Display>(
        &self,
        name: &str,
        term: Term,
        ended: Result<Result<(), E>, JoinError>,
    ) -> Option<String> {
        match ended {
            Ok(Ok(())) if term == Term::UntilDone || self.shared.stopping.is_cancelled() => None,
            Ok(Ok(())) => Some(format!("task {name} ended without being asked to")),
            Ok(Err(error)) => Some(format!("task {name} failed: {error}")),
            Err(error) if error.is_panic() => Some(format!("task {name} panicked")),
            Err(_) => Some(format!("task {name} was aborted")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (&'static str, AbortHandle)>> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
