//! How fast the spool takes events with every commit synced, and how fast it seals them.
//!
//! The directory is made under `AUDITFLOW_BENCH_DIR` (default: the system's temporary directory): what is measured is
//! that disk.

#![allow(clippy::unwrap_used, missing_docs, reason = "a bench, read by nobody but its runner")]

use std::path::PathBuf;
use std::time::Duration;

use auditflow_agent::spool::{Clock, Commit, Keys, Now, Options, Spool};
use auditflow_audit_record::{AuditEvent, Completion, Record};
use auditflow_event::{Event, NodeId};
use auditflow_wire::{NodeFacts, NodeKey, SiteKey, SitePins};
use divan::Bencher;
use divan::counter::ItemsCount;

const NODE: NodeId = NodeId::from_bytes([3; 16]);

fn main() {
    divan::main();
}

/// One commit of so many events, on disk when it returns.
#[divan::bench(args = [1, 25, 100, 1000], sample_count = 20)]
fn commit_synced(bencher: Bencher<'_, '_>, events: u32) {
    let mut world = World::new();
    let mut serial = 0;
    bencher.counter(ItemsCount::new(events)).with_inputs(|| batch(&mut serial, events)).bench_local_values(
        |commit| {
            world.spool.commit(&commit, world.now).unwrap();
        },
    );
}

/// Commits of 1,000 events, sealed into batches whenever one is full: what a busy node does all the time.
#[divan::bench(sample_count = 20)]
fn commit_and_seal(bencher: Bencher<'_, '_>) {
    let mut world = World::new();
    let mut serial = 0;
    bencher
        .counter(ItemsCount::new(10_000_u32))
        .with_inputs(|| (0..10).map(|_| batch(&mut serial, 1000)).collect::<Vec<_>>())
        .bench_local_values(|commits| {
            for commit in &commits {
                world.spool.commit(commit, world.now).unwrap();
                while world.spool.seal(world.now).unwrap().is_some() {}
            }
        });
}

struct World {
    spool: Spool,
    now: Now,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let base = std::env::var_os("AUDITFLOW_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::tempdir_in(base).unwrap();
        let site = Some(SitePins { current: SiteKey::from_seed(&[9; 32]).public(), next: None });
        let keys = Keys { node: NODE, key: NodeKey::from_seed(&[4; 32]), site, about: NodeFacts::default() };
        let options = Options { seal_interval: Duration::from_hours(1), ..Options::default() };
        let now = Clock::open().now();
        let (spool, _reader, _opening) = Spool::open(dir.path(), options, keys, now).unwrap();
        Self { spool, now, _dir: dir }
    }
}

fn batch(serial: &mut u32, events: u32) -> Commit {
    let events = (0..events)
        .map(|_| {
            *serial += 1;
            execution(*serial)
        })
        .collect();
    Commit { events, ..Commit::default() }
}

/// An `execve` as the kernel reports it.
fn execution(serial: u32) -> Event {
    let pid = 1000 + serial % 30_000;
    let lines = [
        format!(
            "type=SYSCALL msg=audit(1795413050.{:03}:{serial}): arch=c000003e syscall=59 success=yes exit=0 a0=55d0c7a0{serial:04x} a1=55d0c7a1 a2=55d0c7a2 a3=8 items=2 ppid={} pid={pid} auid=1000 uid=1000 gid=1000 euid=1000 suid=1000 fsuid=1000 egid=1000 sgid=1000 fsgid=1000 tty=pts0 ses=3 comm=\"grep\" exe=\"/usr/bin/grep\" subj=unconfined key=\"exec\"",
            serial % 1000,
            pid - 1
        ),
        format!(
            "type=EXECVE msg=audit(1795413050.{:03}:{serial}): argc=3 a0=\"grep\" a1=\"-q\" a2=\"pattern{serial}\"",
            serial % 1000
        ),
        format!(
            "type=CWD msg=audit(1795413050.{:03}:{serial}): cwd=\"/home/someone/{}\"",
            serial % 1000,
            serial % 50
        ),
        format!(
            "type=PATH msg=audit(1795413050.{:03}:{serial}): item=0 name=\"/usr/bin/grep\" inode=393 dev=08:01 mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0",
            serial % 1000
        ),
    ];
    let records: Vec<Record> = lines.iter().map(|line| Record::from_line(line.as_bytes()).unwrap()).collect();
    let stamp = records[0].stamp;
    Event::audit(Some(NODE), AuditEvent { stamp, node: None, records, completion: Completion::Proctitle })
}
