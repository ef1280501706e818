//! Keeps what was compiled from rule directories up to date while the program runs.
//!
//! Fed by file-system notifications and by [`Reloader::reload`] (SIGHUP, an operator's request), all through one
//! channel; feeds whoever holds a [`Current`]. Guarantees: a set is compiled and tested whole before it is swapped in
//! whole; one that is refused changes nothing and its reasons are kept; changes that come together are one reload.
//! Files may be written in place, renamed over, or swapped behind a symlink (as a `ConfigMap` mount does).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use crate::rule::LoadError;

/// What came of one reload.
#[derive(Debug)]
pub enum Outcome<T> {
    /// The new set is in force.
    Swapped(Arc<T>),
    /// The old set stays in force, for these reasons.
    Refused(Arc<LoadError>),
}

impl<T> Clone for Outcome<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Swapped(set) => Self::Swapped(Arc::clone(set)),
            Self::Refused(error) => Self::Refused(Arc::clone(error)),
        }
    }
}

/// What health shows about reloading.
#[derive(Clone, Debug, Default)]
pub struct ReloadState {
    /// Why the newest files are not in force; `None` when they are.
    pub refused: Option<Arc<LoadError>>,
    /// Why changes are not noticed by themselves; `None` when they are.
    pub not_watching: Option<String>,
    /// Sets swapped in since the start.
    pub swapped_total: u64,
    /// Sets refused since the start.
    pub refused_total: u64,
}

/// A cheap handle on the set in force.
#[derive(Debug)]
pub struct Current<T>(Arc<ArcSwap<T>>);

impl<T> Clone for Current<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Current<T> {
    /// A handle on a set that never changes.
    pub fn fixed(set: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(set)))
    }

    /// The set in force. Take it once per batch: a batch is judged by one set.
    pub fn get(&self) -> Arc<T> {
        self.0.load_full()
    }
}

/// Owns the watcher and the thread that reloads. Dropping it stops both; the set in force stays with its holders.
#[derive(Debug)]
pub struct Reloader<T> {
    current: Current<T>,
    shared: Arc<Shared>,
    funnel: Sender<Signal>,
    worker: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    refused: Mutex<Option<Arc<LoadError>>>,
    not_watching: Mutex<Option<String>>,
    swapped: AtomicU64,
    refusals: AtomicU64,
}

enum Signal {
    /// A file changed: wait until the changes settle.
    Changed,
    /// Somebody asked: now.
    Asked,
    Stop,
}

impl<T: Send + Sync + 'static> Reloader<T> {
    /// Starts watching `dirs`, with `initial` in force. A change is acted on once nothing has changed for `settle`
    /// (or after twenty times that). `compile` makes a set from the directories, and tests it; `told` hears of every
    /// outcome, on the reloading thread.
    ///
    /// What changes after `initial` was loaded and before this is called goes unnoticed: call [`Reloader::reload`] once
    /// if that matters. A directory that cannot be watched is no error but a state: [`ReloadState::not_watching`].
    pub fn start(
        initial: T,
        dirs: &[PathBuf],
        settle: Duration,
        compile: impl Fn(&[PathBuf]) -> Result<T, LoadError> + Send + 'static,
        told: impl FnMut(&Outcome<T>) + Send + 'static,
    ) -> io::Result<Self> {
        let current = Current::fixed(initial);
        let shared = Arc::new(Shared::default());
        let (funnel, signals) = mpsc::channel();
        let watch = Watch::start(dirs, funnel.clone(), &shared);
        let job = Job {
            current: current.clone(),
            shared: Arc::clone(&shared),
            dirs: dirs.to_vec(),
            settle,
            watch,
            compile: Box::new(compile),
            told: Box::new(told),
        };
        let worker =
            std::thread::Builder::new().name("rules-reload".into()).spawn(move || job.run(&signals))?;
        Ok(Self { current, shared, funnel, worker: Some(worker) })
    }

    /// A handle on the set in force.
    pub fn current(&self) -> Current<T> {
        self.current.clone()
    }

    /// Asks for a reload now, whether or not a file changed.
    pub fn reload(&self) {
        // The worker only ends when this is dropped, so there is always a receiver.
        let _ = self.funnel.send(Signal::Asked);
    }

    /// What health shows.
    pub fn state(&self) -> ReloadState {
        ReloadState {
            refused: lock(&self.shared.refused).clone(),
            not_watching: lock(&self.shared.not_watching).clone(),
            swapped_total: self.shared.swapped.load(Ordering::Relaxed),
            refused_total: self.shared.refusals.load(Ordering::Relaxed),
        }
    }
}

impl<T> Drop for Reloader<T> {
    fn drop(&mut self) {
        let _ = self.funnel.send(Signal::Stop);
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

struct Job<T> {
    current: Current<T>,
    shared: Arc<Shared>,
    dirs: Vec<PathBuf>,
    settle: Duration,
    watch: Watch,
    compile: Compile<T>,
    told: Told<T>,
}

type Compile<T> = Box<dyn Fn(&[PathBuf]) -> Result<T, LoadError> + Send>;
type Told<T> = Box<dyn FnMut(&Outcome<T>) + Send>;

impl<T> Job<T> {
    fn run(mut self, signals: &Receiver<Signal>) {
        while let Ok(signal) = signals.recv() {
            let go_on = match signal {
                Signal::Changed => settled(signals, self.settle),
                Signal::Asked => true,
                Signal::Stop => false,
            };
            if !go_on {
                return;
            }
            // Watches first: what changes from here on is either read below or noticed.
            self.watch.renew(&self.shared);
            let outcome = match (self.compile)(&self.dirs) {
                Ok(set) => {
                    let set = Arc::new(set);
                    self.current.0.store(Arc::clone(&set));
                    *lock(&self.shared.refused) = None;
                    self.shared.swapped.fetch_add(1, Ordering::Relaxed);
                    Outcome::Swapped(set)
                }
                Err(error) => {
                    let error = Arc::new(error);
                    *lock(&self.shared.refused) = Some(Arc::clone(&error));
                    self.shared.refusals.fetch_add(1, Ordering::Relaxed);
                    Outcome::Refused(error)
                }
            };
            (self.told)(&outcome);
        }
    }
}

/// Waits until no change came for `settle`. False: stop instead of reloading.
fn settled(signals: &Receiver<Signal>, settle: Duration) -> bool {
    let latest = Instant::now() + settle * 20;
    loop {
        match signals.recv_timeout(settle.min(latest.saturating_duration_since(Instant::now()))) {
            Ok(Signal::Changed) if Instant::now() < latest => {}
            Ok(Signal::Changed | Signal::Asked) | Err(RecvTimeoutError::Timeout) => return true,
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}

/// The watched directories. Each one's parent is watched as well, because a directory that is renamed over or created
/// anew takes its own watch with it.
struct Watch {
    watcher: Option<RecommendedWatcher>,
    dirs: Vec<PathBuf>,
}

impl Watch {
    fn start(dirs: &[PathBuf], funnel: Sender<Signal>, shared: &Shared) -> Self {
        let dirs: Vec<PathBuf> =
            dirs.iter().map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone())).collect();
        let watched = dirs.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| concerns(&event, &watched)) {
                let _ = funnel.send(Signal::Changed);
            }
        });
        let mut watch = Self { watcher: None, dirs };
        match watcher {
            Ok(watcher) => {
                watch.watcher = Some(watcher);
                watch.renew(shared);
            }
            Err(error) => *lock(&shared.not_watching) = Some(reason(&error)),
        }
        watch
    }

    /// Sets every watch anew, so that a directory that was replaced is watched again.
    fn renew(&mut self, shared: &Shared) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut failed = None;
        for dir in &self.dirs {
            let _ = watcher.unwatch(dir);
            if let Err(error) = watcher.watch(dir, RecursiveMode::Recursive) {
                failed = Some(format!("{}: {}", dir.display(), reason(&error)));
            }
        }
        for parent in self.dirs.iter().filter_map(|dir| dir.parent()) {
            // The directory itself is what counts; without its parent only a replaced directory goes unnoticed.
            if !self.dirs.iter().any(|dir| dir == parent) {
                let _ = watcher.watch(parent, RecursiveMode::NonRecursive);
            }
        }
        *lock(&shared.not_watching) = failed;
    }
}

fn reason(error: &notify::Error) -> String {
    format!("cannot watch for changes: {error}; send SIGHUP after changing rules")
}

/// Whether an event means that rule files changed. Opening and reading them (which reloading does) does not.
fn concerns(event: &notify::Event, dirs: &[PathBuf]) -> bool {
    let change = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    let within = |path: &PathBuf| dirs.iter().any(|dir| path.starts_with(dir as &Path));
    change && (event.paths.is_empty() || event.paths.iter().any(within))
}

fn lock<V>(mutex: &Mutex<V>) -> std::sync::MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, ModifyKind, RenameMode};

    use super::*;

    /// Otherwise every reload would be taken for a change, and reload for ever.
    #[test]
    fn reading_rule_files_is_no_change() {
        let dirs = [PathBuf::from("/etc/rules")];
        let changes = |kind, path: &str| concerns(&notify::Event::new(kind).add_path(path.into()), &dirs);
        for kind in
            [AccessKind::Open(AccessMode::Read), AccessKind::Close(AccessMode::Read), AccessKind::Read]
        {
            assert!(!changes(EventKind::Access(kind), "/etc/rules/a.yml"), "{kind:?}");
        }
        for kind in [
            EventKind::Access(AccessKind::Close(AccessMode::Write)),
            EventKind::Create(CreateKind::File),
            EventKind::Modify(ModifyKind::Data(DataChange::Any)),
            EventKind::Modify(ModifyKind::Name(RenameMode::To)),
        ] {
            assert!(changes(kind, "/etc/rules/a.yml"), "{kind:?}");
            assert!(changes(kind, "/etc/rules"), "{kind:?}");
            assert!(!changes(kind, "/etc/rules.d/a.yml"), "{kind:?}");
        }
        assert!(concerns(&notify::Event::new(EventKind::Other), &dirs));
    }
}
