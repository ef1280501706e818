//! A test's node: a spool in a temporary directory, clocks that the test moves, a source that can be read again, and
//! the oracle over it all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use auditflow_event::{Event, EventId, NodeId, Priority, Timestamp};
use auditflow_wire::{BootId, LossReason, NodeFacts, NodeKey, SiteKey, SitePins};

use super::collector::Collector;
use crate::spool::{
    Acknowledged, Commit, CursorsFrom, Keys, Loaded, Now, Opening, Options, Reader, RowId, Spool, SpoolError,
    Waiting,
};

pub(crate) const NODE: NodeId = NodeId::from_bytes([3; 16]);
const SOURCE: &str = "audit_log";

pub(crate) fn keys() -> Keys {
    let site = Some(SitePins { current: SiteKey::from_seed(&[9; 32]).public(), next: None });
    Keys { node: NODE, key: NodeKey::from_seed(&[4; 32]), site, about: NodeFacts::default() }
}

pub(crate) fn options(max_bytes: u64) -> Options {
    Options { max_bytes, batch_events: 64, batch_bytes: 32 << 10, ..Options::default() }
}

/// Text that hardly compresses, the same for the same number.
pub(crate) fn noise(number: u64, len: usize) -> String {
    let mut text = String::new();
    let mut block = blake3::hash(&number.to_le_bytes());
    while text.len() < len {
        text.push_str(&block.to_hex());
        block = blake3::hash(block.as_bytes());
    }
    text.truncate(len);
    text
}

pub(crate) fn event(number: u64, len: usize, priority: Priority) -> Event {
    let text = format!(
        r#"{{"event_type":"user_login","timestamp":"2026-11-23T08:00:00Z","number":{number},"noise":"{}"}}"#,
        noise(number, len)
    );
    Event { priority, ..Event::synthetic(Some(NODE), [1; 16], number, &text).unwrap() }
}

pub(crate) fn now_at(seconds: u64) -> Now {
    Now {
        wall: Timestamp::from_micros(1_700_000_000_000_000 + seconds as i64 * 1_000_000),
        boottime: Duration::from_secs(seconds),
        boot: BootId::from_bytes([7; 16]),
        synchronised: true,
    }
}

/// What one commit of the source holds: the same whenever it is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read {
    pub(crate) events: u64,
    pub(crate) len: usize,
    pub(crate) priority: Priority,
    pub(crate) urgent: bool,
}

pub(crate) struct World {
    _root: Option<tempfile::TempDir>,
    pub(crate) dir: PathBuf,
    pub(crate) max_bytes: u64,
    pub(crate) now: Now,
    pub(crate) open: Option<(Spool, Reader)>,
    pub(crate) opening: Option<Opening>,
    pub(crate) collector: Collector,
    /// What the source holds, commit by commit.
    source: Vec<(Read, Vec<EventId>)>,
    /// How many of them the spool says it has.
    read: usize,
    next_event: u64,
    sent: BTreeSet<RowId>,
    /// Whether the spool itself said that it does not know what was lost.
    pub(crate) gap_declared: bool,
    /// Whether an older copy was put in place: what was declared since may be undone with the rest.
    pub(crate) restored: bool,
    /// Whether a commit was undone by damage or by an older copy: what is then sent twice may be evicted twice.
    pub(crate) undone: bool,
}

impl World {
    pub(crate) fn new(max_bytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let world = Self::in_dir(&root.path().join("spool"), max_bytes);
        Self { _root: Some(root), ..world }
    }

    pub(crate) fn in_dir(dir: &Path, max_bytes: u64) -> Self {
        let mut world = Self {
            _root: None,
            dir: dir.to_owned(),
            max_bytes,
            now: now_at(100),
            open: None,
            opening: None,
            collector: Collector::new(NODE, keys().key.public()),
            source: Vec::new(),
            read: 0,
            next_event: 0,
            sent: BTreeSet::new(),
            gap_declared: false,
            restored: false,
            undone: false,
        };
        world.start();
        world
    }

    pub(crate) fn spool(&mut self) -> &mut Spool {
        &mut self.open.as_mut().unwrap().0
    }

    pub(crate) fn reader(&mut self) -> &mut Reader {
        &mut self.open.as_mut().unwrap().1
    }

    pub(crate) fn start(&mut self) {
        assert!(self.open.is_none());
        let (spool, reader, opening) =
            Spool::open(&self.dir, options(self.max_bytes), keys(), self.now).unwrap();
        self.open = Some((spool, reader));
        self.sent.clear();
        self.resume(&opening);
        self.opening = Some(opening);
    }

    /// The source goes on where the cursor says.
    fn resume(&mut self, opening: &Opening) {
        let read = opening
            .cursors
            .get(SOURCE)
            .map_or(0, |cursor| usize::try_from(u64::from_le_bytes(cursor[..].try_into().unwrap())).unwrap());
        assert!(read <= self.source.len(), "a cursor from nowhere");
        if opening.cursors_from != CursorsFrom::Spool && opening.link.predecessor().is_some()
            || opening.set_aside.is_some()
        {
            self.gap_declared = true;
        }
        if read < self.read {
            self.undone = true;
        }
        self.read = read;
    }

    /// Ends without a word, as by SIGKILL: the files stay as they are on the disk.
    pub(crate) fn crash(&mut self) {
        let copy = self.copy();
        self.open = None;
        self.replace(&copy);
    }

    pub(crate) fn stop(&mut self) {
        let now = self.now;
        self.spool().drain(now).unwrap();
        self.open = None;
    }

    /// The files as they are, with the log and without its index, which a crash leaves to be made again.
    pub(crate) fn copy(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if matches!(name.as_str(), "spool.db" | "spool.db-wal" | "cursors.json") {
                files.insert(name, fs::read(entry.path()).unwrap());
            }
        }
        files
    }

    pub(crate) fn replace(&self, files: &BTreeMap<String, Vec<u8>>) {
        for name in ["spool.db", "spool.db-wal", "spool.db-shm", "cursors.json"] {
            let _ = fs::remove_file(self.dir.join(name));
        }
        for (name, bytes) in files {
            fs::write(self.dir.join(name), bytes).unwrap();
        }
    }

    /// Reads the next of the source (again, if a cursor went back) and commits it.
    pub(crate) fn commit(&mut self, new: Read) -> Result<(), SpoolError> {
        let (read, ids) = match self.source.get(self.read) {
            Some((read, ids)) => (*read, Some(ids.clone())),
            None => (new, None),
        };
        let first = match &ids {
            Some(_) => self.source[..self.read].iter().map(|(read, _)| read.events).sum(),
            None => self.next_event,
        };
        let events: Vec<Event> =
            (first..first + read.events).map(|number| event(number, read.len, read.priority)).collect();
        if ids.is_none() {
            self.next_event += read.events;
            self.source.push((read, events.iter().map(|event| event.id).collect()));
        }
        let cursor = (self.read as u64 + 1).to_le_bytes().to_vec();
        let commit = Commit {
            events,
            cursors: vec![(SOURCE.to_owned(), cursor)],
            urgent: read.urgent,
            ..Commit::default()
        };
        let now = self.now;
        let outcome = self.spool().commit(&commit, now);
        self.notice_reopening();
        if outcome.is_ok() {
            self.read += 1;
        }
        outcome
    }

    /// Seals what is due.
    pub(crate) fn seal(&mut self) {
        let now = self.now;
        while self.spool().seal(now).unwrap().is_some() {}
        self.notice_reopening();
    }

    fn next_above(&mut self, after: RowId) -> Result<Option<Waiting>, SpoolError> {
        let urgent = self.reader().next_above(true, after)?;
        let bulk = self.reader().next_above(false, after)?;
        Ok(urgent.into_iter().chain(bulk).min_by_key(|waiting| waiting.id))
    }

    /// What the pipeline does when the shipper reports damage.
    fn give_up(&mut self, error: SpoolError) {
        let SpoolError::Damaged { what } = error else { panic!("{error}") };
        let now = self.now;
        self.spool().give_up(&what, now).unwrap();
        self.notice_reopening();
    }

    /// Sends up to `count` batches that were not sent since the start; acknowledgements may get lost.
    pub(crate) fn ship(&mut self, count: usize, acks_arrive: bool) -> usize {
        let mut shipped = 0;
        let mut after = RowId(0);
        while shipped < count {
            let now = self.now;
            let next = match self.next_above(after) {
                Ok(Some(next)) => next,
                Ok(None) => break,
                Err(error) => {
                    self.give_up(error);
                    after = RowId(0);
                    shipped += 1;
                    continue;
                }
            };
            after = next.id;
            if !self.sent.insert(next.id) {
                continue;
            }
            match self.reader().load(next.id) {
                Ok(Loaded::Frame(frame)) => {
                    let acks = self.collector.receive(&frame);
                    if acks_arrive {
                        self.acknowledge(&acks);
                    }
                }
                Ok(Loaded::PayloadDamaged) => {
                    self.spool().give_up_payload(next.id, now).unwrap();
                    self.sent.remove(&next.id);
                    after = RowId(next.id.0 - 1);
                }
                Ok(Loaded::Gone) => {}
                Err(error) => {
                    self.give_up(error);
                    after = RowId(0);
                }
            }
            self.notice_reopening();
            shipped += 1;
        }
        shipped
    }

    /// Sends several batches at once; they and their answers arrive in an order that `order` chooses.
    pub(crate) fn ship_together(&mut self, count: usize, mut order: u64, acks_arrive: bool) {
        let (mut frames, mut after) = (Vec::new(), RowId(0));
        while frames.len() < count {
            let urgent = self.reader().next_above(true, after).unwrap();
            let bulk = self.reader().next_above(false, after).unwrap();
            let Some(next) = urgent.into_iter().chain(bulk).min_by_key(|waiting| waiting.id) else { break };
            after = next.id;
            if let Ok(Loaded::Frame(frame)) = self.reader().load(next.id)
                && self.sent.insert(next.id)
            {
                frames.push(frame);
            }
        }
        let mut pick = |left: usize| {
            let chosen = order as usize % left;
            order /= left as u64;
            chosen
        };
        let mut answers = Vec::new();
        while !frames.is_empty() {
            let frame = frames.remove(pick(frames.len()));
            answers.push(self.collector.receive(&frame));
        }
        while acks_arrive && !answers.is_empty() {
            let acks = answers.remove(pick(answers.len()));
            self.acknowledge(&acks);
        }
    }

    pub(crate) fn acknowledge(&mut self, acks: &[auditflow_wire::SignedAck]) {
        let now = self.now;
        for ack in acks {
            let outcome = self.spool().acknowledge(ack, now).unwrap();
            assert!(!matches!(outcome, Acknowledged::Refused(_)), "{outcome:?}");
        }
        self.notice_reopening();
    }

    pub(crate) fn send_state(&mut self) {
        let now = self.now;
        let frame = self.reader().state(&now).unwrap();
        let acks = self.collector.receive(&frame);
        self.acknowledge(&acks);
    }

    /// Seals and sends everything, again and again, until nothing is left.
    pub(crate) fn deliver_all(&mut self) {
        for _ in 0..20 {
            let now = self.now;
            self.spool().drain(now).unwrap();
            self.notice_reopening();
            self.sent.clear();
            while self.ship(100, true) > 0 {}
            self.send_state();
            let left = self.reader().next_above(true, RowId(0)).unwrap();
            let left = left.or(self.reader().next_above(false, RowId(0)).unwrap());
            if left.is_none() {
                return;
            }
        }
        panic!("something is never acknowledged");
    }

    /// Every event that the cursors say was read is stored, or was declared lost; and the chain holds.
    pub(crate) fn check_delivery(&mut self) {
        let delivered = self.collector.events();
        let committed: BTreeSet<EventId> =
            self.source[..self.read].iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        let issued: BTreeSet<EventId> = self.source.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
        assert!(delivered.is_subset(&issued), "an event that nobody committed");
        let missing = committed.difference(&delivered).count() as u64;
        let evicted = self.collector.evicted();
        let unknown = self.collector.losses().iter().any(|loss| loss.reason == LossReason::Unknown);
        assert!(!unknown || self.gap_declared, "a gap was declared that nobody saw");
        assert!(unknown || !self.gap_declared || self.restored, "a gap was not declared");
        if !unknown {
            if self.undone {
                assert!(missing <= evicted, "{missing} events missing, {evicted} declared");
            } else {
                assert_eq!(missing, evicted, "missing and declared");
                assert_eq!(self.collector.owed(), 0);
            }
        }
        // Only a rolled-back spool has a number twice, which the collector notices by a link at the latest.
        assert!(self.collector.broken == 0 || self.undone, "a link is broken");
        let bad = self.collector.verify().first_bad().map(|bad| bad.reason);
        assert!(bad.is_none() || self.collector.broken > 0, "{bad:?}");
    }

    pub(crate) fn check_cap(&self) {
        let on_disk: u64 =
            files(&self.dir).filter(|(name, _)| !name.contains("damaged")).map(|(_, len)| len).sum();
        assert!(on_disk <= self.max_bytes, "{on_disk} bytes on the disk, {} allowed", self.max_bytes);
    }

    fn notice_reopening(&mut self) {
        if let Some(opening) = self.spool().take_reopening() {
            self.gap_declared = true;
            self.sent.clear();
            assert!(self.reader().was_replaced());
            let _ = opening;
        }
    }
}

pub(crate) fn files(dir: &Path) -> impl Iterator<Item = (String, u64)> {
    fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len())
    })
}
