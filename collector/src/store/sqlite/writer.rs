//! The one thread that writes.
//!
//! Fed by every call of the store that changes something; each is a closure that runs inside a transaction it shares
//! with whatever else is waiting (group commit: under load many requests pay for one sync, alone each gets its own at
//! once). A closure that fails is rolled back to its own savepoint and harms no other. Answers go out only after the
//! commit, which is durable (`synchronous = FULL`); so do the changes that the page is told of.

use std::path::Path;
use std::thread::JoinHandle;

use auditflow_event::Timestamp;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::{broadcast, mpsc, oneshot};

use super::error::failed;
use super::partitions::{self, Files, OpenPartitions, PartitionId};
use super::schema;
use crate::store::{Change, Result, StoreError};

/// Calls that may wait for the writer. What they hold in memory is bounded by ingest's own limits.
const QUEUE: usize = 256;
/// Calls that may share a transaction.
const GROUP: usize = 64;
/// Payload bytes after which a transaction takes no more calls in.
const GROUP_BYTES: usize = 8 << 20;
/// Payload files held open for writing: today's, and an older one that is being read again after an upgrade.
const OPEN_PARTITIONS: std::num::NonZeroUsize = std::num::NonZeroUsize::new(2).unwrap();

/// The writer's handle: hands closures over, ends the thread when dropped.
pub(super) struct Writer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// What a closure may touch.
pub(super) struct Unit<'a> {
    /// The ledger's database, inside the transaction.
    pub main: &'a Connection,
    /// The payload files, inside a transaction each as soon as they are written to.
    pub partitions: &'a mut Partitions,
    /// Told to everybody after the commit.
    pub changes: Vec<Change>,
}

/// The writer's own payload files.
pub(super) struct Partitions {
    open: OpenPartitions,
    /// Which of them have a transaction open.
    begun: Vec<PartitionId>,
}

type Reply = Box<dyn FnOnce(Result<(), &StoreError>) + Send>;

/// Runs a closure; says whether it succeeded and how to answer.
type Run = Box<dyn FnOnce(&mut Unit<'_>) -> (bool, Reply) + Send>;

struct Job {
    bytes: usize,
    run: Run,
}

impl Writer {
    /// Opens `DIR/collector.db`, which is migrated already, and starts the thread.
    pub(super) fn spawn(directory: &Path, changes: broadcast::Sender<Change>) -> Result<Self> {
        let main = directory.join("collector.db");
        let mut file = open_main(&main)?;
        let mut partitions = Partitions {
            open: OpenPartitions::new(directory.join("payload"), OPEN_PARTITIONS),
            begun: Vec::new(),
        };
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                while let Some(first) = queue.blocking_recv() {
                    if let Err(Broken) = run_group(&mut file, &mut partitions, first, &mut queue, &changes) {
                        // Whatever state the connections are in, new ones start from what is durable.
                        partitions.forget();
                        match open_main(&main) {
                            Ok(fresh) => file = fresh,
                            Err(error) => tracing::error!(%error, "cannot reopen the store; trying again"),
                        }
                    }
                }
            })
            .map_err(|error| StoreError::Failed {
                attempt: "starting the store's writer",
                source: error.into(),
            })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs `work` in a transaction and returns when it is durable. `bytes` is what it will write, roughly.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&mut Unit<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, answer) = oneshot::channel();
        let run = Box::new(move |unit: &mut Unit<'_>| {
            let result = work(unit);
            let done = result.is_ok();
            let reply: Reply = Box::new(move |commit: Result<(), &StoreError>| {
                let result = match commit {
                    Err(error) if done => Err(again(error)),
                    _ => result,
                };
                // Whoever asked may have gone; the write stands all the same.
                let _ = sender.send(result);
            });
            (done, reply)
        });
        let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
        jobs.try_send(Job { bytes, run }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StoreError::Busy,
            mpsc::error::TrySendError::Closed(_) => StoreError::Closed,
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // What was handed over is still written: the thread ends when the queue is empty and nobody can add to it.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Partitions {
    /// The partition's files inside this group's transaction.
    pub(super) fn begin(&mut self, partition: PartitionId) -> Result<&Files> {
        let files = self.open.write(partition)?;
        if !self.begun.contains(&partition) {
            for file in [&files.payloads, &files.index] {
                file.execute_batch("BEGIN IMMEDIATE").map_err(failed("writing a payload file"))?;
            }
            self.begun.push(partition);
        }
        Ok(files)
    }

    /// Closes a file that is about to be removed, unless this very group writes to it.
    pub(super) fn release(&mut self, partition: PartitionId) {
        if !self.begun.contains(&partition) {
            self.open.release(partition);
        }
    }

    /// Closes every file: some are about to be removed.
    pub(super) fn forget(&mut self) {
        self.begun.clear();
        self.open.close();
    }

    fn commit(&mut self) -> Result<()> {
        for partition in std::mem::take(&mut self.begun) {
            let files = self.open.write(partition)?;
            for file in [&files.payloads, &files.index] {
                file.execute_batch("COMMIT").map_err(failed("committing payloads"))?;
            }
        }
        self.open.trim();
        Ok(())
    }
}

/// The connections can't be trusted any more.
struct Broken;

/// One transaction: `first` and what else is waiting.
fn run_group(
    file: &mut Connection,
    partitions: &mut Partitions,
    first: Job,
    queue: &mut mpsc::Receiver<Job>,
    listeners: &broadcast::Sender<Change>,
) -> Result<(), Broken> {
    let mut replies = Vec::new();
    let mut changes = Vec::new();
    let outcome =
        file.execute_batch("BEGIN IMMEDIATE").map_err(failed("beginning a transaction")).and_then(|()| {
            let mut next = Some(first);
            let mut bytes = 0;
            while let Some(job) = next {
                bytes += job.bytes;
                run_job(file, partitions, job, &mut replies, &mut changes)?;
                let room = replies.len() < GROUP && bytes < GROUP_BYTES;
                next = if room { queue.try_recv().ok() } else { None };
            }
            partitions.commit()?;
            file.execute_batch("COMMIT").map_err(failed("committing to the ledger"))
        });
    let answer = match &outcome {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::error!(%error, "the store could not write");
            Err(error)
        }
    };
    for reply in replies {
        reply(answer);
    }
    if outcome.is_err() {
        return Err(Broken);
    }
    for change in changes {
        // Nobody listening is fine.
        let _ = listeners.send(change);
    }
    Ok(())
}

fn run_job(
    file: &Connection,
    partitions: &mut Partitions,
    job: Job,
    replies: &mut Vec<Reply>,
    changes: &mut Vec<Change>,
) -> Result<()> {
    let attempt = "setting a savepoint";
    file.execute_batch("SAVEPOINT call").map_err(failed(attempt))?;
    let mut unit = Unit { main: file, partitions, changes: Vec::new() };
    let (done, reply) = (job.run)(&mut unit);
    let said = unit.changes;
    replies.push(reply);
    if done {
        changes.extend(said);
        file.execute_batch("RELEASE call").map_err(failed(attempt))
    } else {
        // Payloads that the call wrote stay behind, under ids that the ledger does not know or that the next one takes.
        file.execute_batch("ROLLBACK TO call; RELEASE call").map_err(failed(attempt))
    }
}

/// A group's error, for each of its calls.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Full(source) => StoreError::Full(source.to_string().into()),
        StoreError::Busy => StoreError::Busy,
        StoreError::Closed => StoreError::Closed,
        other => StoreError::Failed { attempt: "storing", source: other.to_string().into() },
    }
}

fn open_main(path: &Path) -> Result<Connection> {
    let file = partitions::open(path, OpenFlags::empty())?;
    schema::MAIN.check(&file)?;
    partitions::make_durable(&file)?;
    Ok(file)
}

/// Now, by the collector's clock: for rows that only this implementation dates.
pub(super) fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}
