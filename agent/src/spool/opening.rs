//! Opening a spool: finding what the last run left, setting aside what is damaged, beginning a new epoch.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use auditflow_service::file::{DirectoryLock, LockError, create_private_directory};
use auditflow_wire::{
    AckSeen, Decoder, Encoder, EpochId, Link, Loss, LossReason, LossSource, RuleSetVersion,
    UnknownPredecessor,
};

use super::clock::{ClockWatch, Now};
use super::database::Database;
use super::epoch::Epoch;
use super::error::{Attempt, SpoolError};
use super::mirror::{Found, Mirror};
use super::quota::Quota;
use super::{
    Counters, Cursors, CursorsFrom, Keys, Opening, Options, Reader, Spool, cursors, eviction, files,
    integrity, losses,
};

/// What a database says before a new epoch begins in it.
struct Before {
    link: Link,
    cursors: Cursors,
    cursors_from: CursorsFrom,
    gap: bool,
}

impl Spool {
    /// Opens the spool in `dir`, which is made if need be, and begins a new epoch in it. A damaged spool is set
    /// aside. What the last run committed and did not seal is sealed first.
    pub fn open(
        dir: &Path,
        options: Options,
        keys: Keys,
        now: Now,
    ) -> Result<(Self, Reader, Opening), SpoolError> {
        create_private_directory(dir).map_err(|error| SpoolError::io("make the directory", &error))?;
        let lock = DirectoryLock::acquire(dir).map_err(|error| match error {
            LockError::Held { .. } => SpoolError::InUse { path: dir.to_owned() },
            LockError::Io { source, .. } => SpoolError::io("lock the directory", &source),
        })?;
        let mirror = Mirror::read(dir);
        let quota = Quota::new(options.max_bytes);
        let (database, mut damage) = open_or_set_aside(dir, quota, &now)?;
        let mut spool = Self::around(dir, options, keys, now, (database, lock))?;
        match spool.prepare() {
            Err(SpoolError::Damaged { what }) => {
                spool.close_and_set_aside(&what, &now)?;
                spool.database = Database::open(dir, quota)?;
                damage = spool.broken.take().and_then(Broken::noticed);
            }
            prepared => prepared?,
        }
        let before = match spool.found()? {
            Some(before) => before,
            None => without(mirror, damage.is_some()),
        };
        let opening = spool.begin(before, damage, &now)?;
        let reader = Reader::new(dir, Arc::clone(&spool.published), Arc::clone(&spool.generation));
        Ok((spool, reader, opening))
    }

    /// Sets the database aside and begins anew, during a run. What of this fails is gone on with by the next call.
    pub(super) fn begin_anew(&mut self, what: &str, now: Now) -> Result<(), SpoolError> {
        if self.broken.as_ref().is_none_or(|broken| broken.set_aside.is_none()) {
            self.close_and_set_aside(what, &now)?;
        }
        if self.database.is_closed() {
            self.database = Database::open(&self.dir, Quota::new(self.options.max_bytes))?;
        }
        let why = UnknownPredecessor::SpoolCorrupt;
        let before = Before {
            link: Link::Unknown { why, epoch: Some(self.epoch.id) },
            cursors: self.cursors.clone(),
            cursors_from: CursorsFrom::Spool,
            gap: true,
        };
        let damage = self.broken.clone().and_then(Broken::noticed);
        let opening = self.begin(before, damage, &now)?;
        self.broken = None;
        self.reopened = Some(opening);
        Ok(())
    }

    /// Begins an epoch: its first batch says what came before, and is written with the epoch's row.
    pub(super) fn begin_epoch(&mut self, link: Link, now: &Now) -> Result<(), SpoolError> {
        let latest = Epoch::latest(&self.database.connection)?;
        let ordinal = latest.map_or(1, |latest| latest.ordinal + 1);
        let id = EpochId::generate().map_err(|error| SpoolError::wire("begin an epoch", error))?;
        let mut epoch = Epoch::new(ordinal, id, self.keys.node, now.boot);
        let content = self.empty(now);
        self.write_batch(&mut epoch, content, Some(link))?;
        self.sealed_in_current(epoch, now)
    }

    fn around(
        dir: &Path,
        options: Options,
        keys: Keys,
        now: Now,
        (database, lock): (Database, DirectoryLock),
    ) -> Result<Self, SpoolError> {
        let unusable = |error| SpoolError::wire("set up compression", error);
        // Stands in until the first batch is sealed, and is never written.
        let epoch = Epoch::new(0, EpochId::from_bytes([0; EpochId::LEN]), keys.node, now.boot);
        Ok(Self {
            dir: dir.to_owned(),
            options,
            published: Arc::new(RwLock::new(keys.clone())),
            keys,
            database,
            epoch,
            clocks: ClockWatch::start(now),
            waiting: Vec::new(),
            losses_since: (None, None),
            last_sealed: now.boottime,
            last_ack: None,
            rule_set: RuleSetVersion::NONE,
            cursors: BTreeMap::new(),
            mirrored: (now.boottime, false),
            fold_at: eviction::FOLD_AT,
            encoder: Encoder::new().map_err(unusable)?,
            decoder: Decoder::new().map_err(unusable)?,
            generation: Arc::new(AtomicU64::new(0)),
            broken: None,
            reopened: None,
            counters: Counters::default(),
            _lock: lock,
        })
    }

    /// Checks what is there and seals what the last run did not, each in its own epoch's chain.
    fn prepare(&mut self) -> Result<(), SpoolError> {
        integrity::check_rows(&self.database.connection)?;
        let epochs = Epoch::all(&self.database.connection)?;
        if let Some(other) = epochs.iter().find(|epoch| epoch.node != self.keys.node) {
            return Err(SpoolError::damaged(format!("it belongs to node {}", other.node)));
        }
        self.last_ack = epochs.iter().rev().find_map(|epoch| {
            let acked = epoch.acked?;
            Some(AckSeen { epoch: epoch.id, number: acked.number, digest: acked.digest })
        });
        for epoch in epochs {
            self.seal_leftovers(epoch)?;
        }
        // A cap that was lowered is kept from here on.
        self.make_room(0, auditflow_event::Priority::High)?;
        self.database.shrink()
    }

    /// What the last run left; `None` if no epoch ever began here.
    fn found(&self) -> Result<Option<Before>, SpoolError> {
        let connection = &self.database.connection;
        let Some(Epoch { id, head: Some(head), acked, .. }) = Epoch::latest(connection)? else {
            return Ok(None);
        };
        let heads = [head].into_iter().chain(acked.filter(|acked| *acked != head)).collect();
        let link = Link::Successor { epoch: id, heads };
        let cursors = cursors::load(connection)?;
        Ok(Some(Before { link, cursors, cursors_from: CursorsFrom::Spool, gap: false }))
    }

    fn begin(
        &mut self,
        before: Before,
        damage: Option<(String, PathBuf)>,
        now: &Now,
    ) -> Result<Opening, SpoolError> {
        if before.gap {
            self.declare_gap()?;
        }
        if before.cursors_from != CursorsFrom::Nowhere {
            self.keep_cursors(&before.cursors)?;
        }
        self.begin_epoch(before.link.clone(), now)?;
        self.cursors.clone_from(&before.cursors);
        self.mirrored.1 = true;
        // It says which epoch is current; it is tried again after the next commit.
        let _ = self.mirror_cursors(*now, true);
        let Before { link, cursors, cursors_from, .. } = before;
        Ok(Opening { epoch: self.epoch.id, link, set_aside: damage, cursors, cursors_from })
    }

    /// Nobody can say what was in a spool that cannot be read.
    fn declare_gap(&mut self) -> Result<(), SpoolError> {
        let transaction = self.database.begin()?;
        let (reason, source) = (LossReason::Unknown, LossSource::Agent);
        losses::add(&transaction, &[Loss { reason, source, count: None, times: None, serials: None }])?;
        transaction.commit().attempt("declare the gap")
    }

    fn keep_cursors(&mut self, cursors: &Cursors) -> Result<(), SpoolError> {
        let transaction = self.database.begin()?;
        for (source, cursor) in cursors {
            cursors::save(&transaction, source, cursor)?;
        }
        transaction.commit().attempt("keep the cursors")
    }

    fn close_and_set_aside(&mut self, what: &str, now: &Now) -> Result<(), SpoolError> {
        self.broken = Some(Broken { what: what.to_owned(), set_aside: None });
        // SQLite removes a log by its name when it closes a database: the old one must be closed before its name is
        // free for the new one.
        self.database.close()?;
        self.generation.fetch_add(1, Ordering::Release);
        let set_aside = set_aside(&self.dir, now)?;
        self.waiting.clear();
        self.losses_since = (None, None);
        self.counters.set_aside += 1;
        self.broken = Some(Broken { what: what.to_owned(), set_aside: Some(set_aside) });
        Ok(())
    }
}

/// A spool that was found damaged and is not replaced yet.
#[derive(Debug, Clone)]
pub(super) struct Broken {
    pub(super) what: String,
    set_aside: Option<PathBuf>,
}

impl Broken {
    fn noticed(self) -> Option<(String, PathBuf)> {
        Some((self.what, self.set_aside?))
    }
}

fn set_aside(dir: &Path, now: &Now) -> Result<PathBuf, SpoolError> {
    files::set_aside(dir, now.wall.as_micros())
        .map_err(|error| SpoolError::io("set the damaged spool aside", &error))
}

fn open_or_set_aside(
    dir: &Path,
    quota: Quota,
    now: &Now,
) -> Result<(Database, Option<(String, PathBuf)>), SpoolError> {
    match Database::open(dir, quota) {
        Err(SpoolError::Damaged { what }) => {
            let set_aside = set_aside(dir, now)?;
            Ok((Database::open(dir, quota)?, Some((what, set_aside))))
        }
        opened => Ok((opened?, None)),
    }
}

/// What is known without a database: the mirror's word, if there is one.
fn without(mirror: Found, damaged: bool) -> Before {
    let why = match (&mirror, damaged) {
        (_, true) => UnknownPredecessor::SpoolCorrupt,
        (Found::Nothing, false) => UnknownPredecessor::FirstStart,
        (Found::Mirror(_) | Found::Unreadable, false) => UnknownPredecessor::SpoolMissing,
    };
    let gap = why != UnknownPredecessor::FirstStart;
    match mirror {
        Found::Mirror(Mirror { epoch, cursors }) => Before {
            link: Link::Unknown { why, epoch: Some(epoch) },
            cursors,
            cursors_from: CursorsFrom::Mirror,
            gap,
        },
        Found::Nothing | Found::Unreadable => Before {
            link: Link::Unknown { why, epoch: None },
            cursors: Cursors::new(),
            cursors_from: CursorsFrom::Nowhere,
            gap,
        },
    }
}
