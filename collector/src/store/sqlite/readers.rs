//! Connections that read: a few, each used by one call at a time on a blocking thread.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use auditflow_wire::Decoder;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::error::failed;
use super::partitions::{self, OpenPartitions};
use super::schema;
use crate::store::{Result, StoreError};

/// How many calls read at once; more wait.
const READERS: usize = 4;
/// Payload files that each holds open.
const OPEN_PARTITIONS: NonZeroUsize = NonZeroUsize::new(8).unwrap();

/// The pool.
pub(super) struct Readers {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    free: Mutex<Vec<Reader>>,
    turns: Semaphore,
    /// Rises when payload files are removed: who holds an older number closes its own.
    removed: AtomicU64,
}

/// One reader: the ledger's database and some payload files.
pub(super) struct Reader {
    /// The ledger's database.
    pub main: Connection,
    /// Payload files.
    pub partitions: OpenPartitions,
    decoder: Option<Decoder>,
    removed: u64,
}

impl Reader {
    /// Opens payloads; made at the first use.
    pub(super) fn decoder(&mut self) -> Result<&mut Decoder> {
        if self.decoder.is_none() {
            let failed = |error: auditflow_wire::payload::PayloadError| StoreError::Failed {
                attempt: "making a decoder",
                source: error.into(),
            };
            self.decoder = Some(Decoder::new().map_err(failed)?);
        }
        self.decoder.as_mut().ok_or(StoreError::Closed)
    }
}

impl Readers {
    /// Opens nothing yet.
    pub(super) fn new(directory: &Path) -> Self {
        let shared = Shared {
            directory: directory.to_owned(),
            free: Mutex::new(Vec::new()),
            turns: Semaphore::new(READERS),
            removed: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Runs `work` with a reader, in one snapshot of the ledger's database.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let _turn = self.shared.turns.acquire().await.map_err(|_| StoreError::Closed)?;
        let task = tokio::task::spawn_blocking(move || {
            let mut reader = shared.take()?;
            reader.main.execute_batch("BEGIN").map_err(failed("beginning to read"))?;
            let result = work(&mut reader);
            // A reader that can't end its snapshot is dropped, not used again.
            if reader.main.execute_batch("COMMIT").is_ok() {
                shared.give_back(reader);
            }
            result
        });
        task.await.map_err(|error| StoreError::Failed { attempt: "reading", source: error.into() })?
    }

    /// Lets go of every payload file that no call is using; the others follow when their calls end.
    pub(super) fn forget_partitions(&self) {
        self.shared.removed.fetch_add(1, Ordering::SeqCst);
        self.shared.free().clear();
    }
}

impl Shared {
    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<Reader> {
        if let Some(reader) = self.free().pop() {
            return Ok(reader);
        }
        let main = partitions::open(&self.directory.join("collector.db"), OpenFlags::empty())?;
        schema::MAIN.check(&main)?;
        main.execute_batch("PRAGMA query_only = ON").map_err(failed("opening the store for reading"))?;
        Ok(Reader {
            main,
            partitions: OpenPartitions::new(self.directory.join("payload"), OPEN_PARTITIONS),
            decoder: None,
            removed: self.removed.load(Ordering::SeqCst),
        })
    }

    fn give_back(&self, reader: Reader) {
        if reader.removed == self.removed.load(Ordering::SeqCst) {
            self.free().push(reader);
        }
    }
}
