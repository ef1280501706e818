//! The spool against single facts; [`model`] has it against random sequences.

mod about;
mod forks;
mod model;

pub(crate) mod collector;
pub(crate) mod world;

use std::fs;
use std::time::Duration;

use auditflow_event::{Priority, Timestamp};
use auditflow_wire::{
    Ack, Answer, BatchSeq, Head, Link, Loss, LossReason, LossSource, NodeKeys, Signed, SiteKey,
    UnknownPredecessor,
};
use rusqlite::Connection;

use super::*;
use collector::Collector;
use world::{NODE, Read, World, event, files, keys, now_at, options};

const SMALL: Read = Read { events: 5, len: 40, priority: Priority::Normal, urgent: false };
const LARGE: Read = Read { events: 20, len: 900, priority: Priority::Normal, urgent: false };
const MIB: u64 = 1 << 20;

fn held_rows(world: &mut World) -> u64 {
    let dir = world.dir.clone();
    inspect(&dir).unwrap().epochs.iter().map(|epoch| epoch.batches + epoch.evicted).sum()
}

#[test]
fn batch_is_sealed_when_it_is_full_or_old_and_not_before() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    let now = world.now;
    assert_eq!(world.spool().seal(now).unwrap(), None);
    assert_eq!(world.spool().next_deadline(), now.boottime + Duration::from_secs(5));
    world.now = now_at(105);
    let now = world.now;
    assert_eq!(world.spool().seal(now).unwrap().map(|sealed| sealed.events), Some(5));
    for _ in 0..13 {
        world.commit(SMALL).unwrap();
    }
    assert_eq!(world.spool().next_deadline(), Duration::ZERO);
    assert_eq!(world.spool().seal(now).unwrap().map(|sealed| sealed.events), Some(60));
    assert_eq!(world.spool().seal(now).unwrap(), None);
}

#[test]
fn urgent_events_are_sealed_at_once_and_the_rest_of_their_commit_waits() {
    let mut world = World::new(8 * MIB);
    let now = world.now;
    let events =
        vec![event(1, 10, Priority::Normal), event(2, 10, Priority::High), event(3, 10, Priority::Low)];
    world.spool().commit(&Commit { events, urgent: true, ..Commit::default() }, now).unwrap();
    let sealed = world.spool().seal(now).unwrap().unwrap();
    assert_eq!((sealed.events, sealed.urgent), (1, true));
    assert_eq!(world.spool().seal(now).unwrap(), None);
    world.deliver_all();
    assert_eq!(world.collector.events().len(), 3);
}

#[test]
fn silence_is_sealed_and_so_are_losses_alone() {
    let mut world = World::new(8 * MIB);
    world.now = now_at(401);
    let now = world.now;
    let idle = world.spool().seal(now).unwrap().unwrap();
    assert_eq!((idle.events, idle.number.get()), (0, 2));
    let loss =
        |reason| Loss { reason, source: LossSource::KernelAudit, count: Some(3), times: None, serials: None };
    let lost = |reason| Commit { losses: vec![loss(reason)], ..Commit::default() };
    world.spool().commit(&lost(LossReason::Filtered), now).unwrap();
    assert_eq!(world.spool().next_deadline(), now.boottime + Duration::from_mins(5));
    world.spool().commit(&lost(LossReason::KernelLost), now).unwrap();
    assert_eq!(world.spool().next_deadline(), now.boottime + Duration::from_secs(5));
    world.deliver_all();
    assert_eq!(world.collector.losses(), [loss(LossReason::Filtered), loss(LossReason::KernelLost)]);
}

#[test]
fn what_a_crash_left_unsealed_is_sealed_into_its_own_epoch_with_its_own_clocks() {
    let mut world = World::new(8 * MIB);
    let first_epoch = world.spool().epoch();
    world.commit(SMALL).unwrap();
    let committed_at = world.now;
    world.crash();
    world.now = Now { boot: auditflow_wire::BootId::from_bytes([8; 16]), ..now_at(20) };
    world.start();
    let Some(Opening { link: Link::Successor { epoch, heads }, .. }) = world.opening.clone() else {
        panic!("{:?}", world.opening)
    };
    assert_eq!((epoch, heads[0].number.get()), (first_epoch, 2));
    world.deliver_all();
    world.check_delivery();
    let clocks = world.collector.clocks_of(first_epoch, 2);
    assert_eq!(clocks.boot, committed_at.boot);
    assert_eq!(clocks.facts[0].wall, committed_at.wall);
}

#[test]
fn clock_step_seals_what_was_before_it_with_the_clocks_of_before() {
    let mut world = World::new(8 * MIB);
    let epoch = world.spool().epoch();
    world.commit(SMALL).unwrap();
    let before = world.now;
    let wall = Timestamp::from_micros(before.wall.as_micros() + 3_600_000_000);
    world.now = Now { wall, boottime: before.boottime + Duration::from_secs(1), ..before };
    world.commit(SMALL).unwrap();
    world.seal();
    world.deliver_all();
    let facts = |number| world.collector.clocks_of(epoch, number).facts;
    assert_eq!(facts(2).iter().map(|fact| fact.wall).collect::<Vec<_>>(), [before.wall]);
    let causes: Vec<_> = facts(3).iter().map(|fact| fact.cause).collect();
    assert_eq!(causes, [auditflow_wire::ClockCause::Step, auditflow_wire::ClockCause::Seal]);
}

#[test]
fn batch_is_let_go_of_only_on_a_valid_signature_over_its_own_digest() {
    let mut world = World::new(8 * MIB);
    let now = world.now;
    let epoch = world.spool().epoch();
    let Loaded::Frame(frame) = world.reader().load(RowId(1)).unwrap() else { panic!("nothing to send") };
    let good = world.collector.receive(&frame).remove(0);
    let through = good.unverified().through.unwrap();
    let ack = |node, digest| Ack {
        node,
        epoch,
        time: Timestamp::EPOCH,
        answer: Answer::Stored,
        through: Some(Head { number: BatchSeq::FIRST, digest }),
        above: Vec::new(),
    };
    let stranger = Signed::sign(ack(NODE, through.digest), &SiteKey::from_seed(&[66; 32]));
    let other_node = world.collector.sign(ack(NodeId::from_bytes([5; 16]), through.digest));
    for void in [stranger, other_node] {
        let outcome = world.spool().acknowledge(&void, now).unwrap();
        assert!(matches!(outcome, Acknowledged::Void(_)), "{outcome:?}");
        assert_eq!(held_rows(&mut world), 1);
    }
    assert_eq!(world.spool().acknowledge(&good, now).unwrap(), Acknowledged::Released { batches: 1 });
    assert_eq!(world.spool().acknowledge(&good, now).unwrap(), Acknowledged::Released { batches: 0 });
    assert_eq!(held_rows(&mut world), 0);
}

#[test]
fn batch_that_overtook_others_frees_them_when_stored_through_names_it() {
    let mut world = World::new(8 * MIB);
    for _ in 0..3 {
        world.commit(LARGE).unwrap();
        world.now = now_at(world.now.boottime.as_secs() + 6);
        world.seal();
    }
    let mut frames = Vec::new();
    for id in 1..=4 {
        let Loaded::Frame(frame) = world.reader().load(RowId(id)).unwrap() else { panic!("nothing to send") };
        frames.push(frame);
    }
    let mut through_four = Vec::new();
    for (frame, left) in [(3, 3), (0, 2), (2, 1)] {
        through_four = world.collector.receive(&frames[frame]);
        world.acknowledge(&through_four);
        assert_eq!(held_rows(&mut world), left);
    }
    through_four.extend(world.collector.receive(&frames[1]));
    // Number 4 was let go of long ago, and its digest is still compared.
    world.acknowledge(&through_four[1..]);
    assert_eq!(held_rows(&mut world), 0);
    world.check_delivery();
}

#[test]
fn full_spool_evicts_the_lowest_priority_first_and_says_so() {
    let mut world = World::new(MIB);
    let worth = |priority| Read { priority, ..LARGE };
    world.commit(worth(Priority::High)).unwrap();
    for _ in 0..100 {
        for priority in [Priority::Low, Priority::Normal] {
            world.commit(worth(priority)).unwrap();
            world.seal();
            world.check_cap();
        }
    }
    assert!(world.spool().counters().evicted_events > 1000);
    world.deliver_all();
    world.check_delivery();
    let delivered = world.collector.events();
    let high: Vec<_> = (0..20).map(|number| event(number, 900, Priority::High).id).collect();
    assert!(high.iter().all(|id| delivered.contains(id)), "what matters most was evicted");
    let low = (20..40).map(|number| event(number, 900, Priority::Low).id);
    assert!(low.into_iter().all(|id| !delivered.contains(&id)), "the oldest of the lowest was kept");
}

#[test]
fn node_that_is_offline_for_long_folds_headers_and_stays_within_its_cap() {
    let mut world = World::new(MIB);
    for turn in 0..1500 {
        world
            .commit(Read { events: 2, len: 900, priority: Priority::Normal, urgent: turn % 7 == 0 })
            .unwrap();
        world.now = now_at(world.now.boottime.as_secs() + 6);
        world.seal();
        if turn % 100 == 0 {
            world.check_cap();
            if turn % 300 == 0 {
                world.crash();
                world.start();
            }
        }
    }
    assert!(held_rows(&mut world) < 900, "nothing was folded");
    world.deliver_all();
    world.check_delivery();
}

#[test]
fn newer_schema_is_refused_and_left_untouched() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    world.stop();
    let path = world.dir.join("spool.db");
    let connection = Connection::open(&path).unwrap();
    database::set_version(&connection, 99).unwrap();
    drop(connection);
    let before = world.copy();
    let refused = Spool::open(&world.dir, options(8 * MIB), keys(), world.now).err().unwrap();
    assert!(matches!(refused, SpoolError::Newer { found: 99, .. }), "{refused}");
    assert!(matches!(inspect(&world.dir), Err(SpoolError::Newer { .. })));
    assert!(world.copy() == before, "a refused spool was changed");
}

#[test]
fn schema_version_with_a_flipped_bit_is_damage_and_not_a_newer_schema() {
    for bit in 0..32 {
        let mut world = World::new(8 * MIB);
        world.commit(SMALL).unwrap();
        world.stop();
        let connection = Connection::open(world.dir.join("spool.db")).unwrap();
        connection.pragma_update(None, "user_version", (database::SCHEMA ^ (1 << bit)) as i32).unwrap();
        drop(connection);
        assert!(matches!(inspect(&world.dir), Err(SpoolError::Damaged { .. })));
        let (_, _, opening) = Spool::open(&world.dir, options(8 * MIB), keys(), world.now).unwrap();
        assert!(opening.set_aside.is_some(), "bit {bit}");
    }
}

#[test]
fn older_schema_is_migrated_with_all_that_it_holds() {
    let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spool/tests/fixtures/schema_1.sql");
    let dir = tempfile::tempdir().unwrap();
    let connection = Connection::open(dir.path().join("spool.db")).unwrap();
    connection.execute_batch(&fs::read_to_string(fixture).unwrap()).unwrap();
    drop(connection);
    let (mut spool, mut reader, opening) =
        Spool::open(dir.path(), options(8 * MIB), keys(), now_at(500)).unwrap();
    assert_eq!(opening.cursors_from, CursorsFrom::Spool);
    assert_eq!(opening.cursors["audit_log"], [2, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(opening.link, Link::Successor { .. }));
    let mut collector = Collector::new(NODE, keys().key.public());
    let mut after = RowId(0);
    while let Some(next) = reader.next_above(false, after).unwrap() {
        let Loaded::Frame(frame) = reader.load(next.id).unwrap() else { panic!("nothing to send") };
        for ack in collector.receive(&frame) {
            spool.acknowledge(&ack, now_at(500)).unwrap();
        }
        after = next.id;
    }
    assert_eq!(collector.events().len(), 10);
    assert_eq!(collector.verify().first_bad(), None);
    assert_eq!(reader.next_above(false, RowId(0)).unwrap(), None);
}

#[test]
fn spool_is_opened_by_one_process_at_a_time() {
    let world = World::new(8 * MIB);
    let second = Spool::open(&world.dir, options(8 * MIB), keys(), world.now).err().unwrap();
    assert!(matches!(second, SpoolError::InUse { .. }), "{second}");
}

#[test]
fn another_nodes_spool_is_set_aside() {
    let mut world = World::new(8 * MIB);
    world.stop();
    let other = Keys { node: NodeId::from_bytes([77; 16]), ..keys() };
    let (_, _, opening) = Spool::open(&world.dir, options(8 * MIB), other, world.now).unwrap();
    let (why, _) = opening.set_aside.unwrap();
    assert!(why.contains(&NODE.to_string()), "{why}");
}

#[test]
fn missing_spool_is_noticed_by_its_mirror_and_sources_go_on_from_there() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    world.stop();
    let epoch = inspect(&world.dir).unwrap().epochs[0].epoch;
    for name in ["spool.db", "spool.db-wal", "spool.db-shm"] {
        let _ = fs::remove_file(world.dir.join(name));
    }
    world.start();
    let opening = world.opening.clone().unwrap();
    assert_eq!(opening.link, Link::Unknown { why: UnknownPredecessor::SpoolMissing, epoch: Some(epoch) });
    assert_eq!(opening.cursors_from, CursorsFrom::Mirror);
    assert_eq!(opening.cursors["audit_log"], 1_u64.to_le_bytes());
    world.deliver_all();
    world.check_delivery();
}

#[test]
fn commit_cut_anywhere_in_the_log_is_whole_or_did_not_happen() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    let before = world.copy();
    world.commit(LARGE).unwrap();
    let after = world.copy();
    world.open = None;
    let (short, long) = (before["spool.db-wal"].len(), after["spool.db-wal"].len());
    assert!(before["spool.db"] == after["spool.db"], "a checkpoint came between");
    for cut in (short..=long).step_by(97).chain([long]) {
        for garbled in [false, true] {
            let mut files = after.clone();
            let log = files.get_mut("spool.db-wal").unwrap();
            log.truncate(cut);
            if garbled {
                log.resize(long + 4096, 0xA5);
            }
            world.replace(&files);
            let (spool, _, opening) = Spool::open(&world.dir, options(8 * MIB), keys(), now_at(200)).unwrap();
            assert_eq!(opening.set_aside, None, "cut at {cut}");
            let commits = u64::from_le_bytes(opening.cursors["audit_log"][..].try_into().unwrap());
            assert_eq!(commits, if cut == long { 2 } else { 1 }, "cut at {cut}");
            drop(spool);
            let sealed: u64 = inspect(&world.dir).unwrap().epochs.iter().map(|epoch| epoch.events).sum();
            assert_eq!(sealed, if cut == long { 25 } else { 5 }, "cut at {cut}");
        }
    }
}

#[test]
fn damage_during_a_run_is_set_aside_and_the_run_goes_on() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    let old = world.spool().epoch();
    let now = world.now;
    world.spool().give_up("a test says so", now).unwrap();
    world.commit(SMALL).unwrap();
    assert_ne!(world.spool().epoch(), old);
    assert!(world.gap_declared);
    assert!(files(&world.dir).any(|(name, _)| name.starts_with("spool.db.damaged-")));
    world.deliver_all();
    world.check_delivery();
    world.stop();
    world.start();
    assert!(matches!(world.opening, Some(Opening { link: Link::Successor { .. }, .. })));
}

#[test]
fn altered_payload_is_signed_away_and_its_batch_keeps_its_place() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    world.stop();
    let connection = Connection::open(world.dir.join("spool.db")).unwrap();
    let changed = connection
        .execute("UPDATE batch SET payload = zeroblob(length(payload)) WHERE events > 0", ())
        .unwrap();
    assert_eq!(changed, 1);
    drop(connection);
    assert_eq!(verify(&world.dir, Some(&NodeKeys::from_iter([keys().key.public()]))).unwrap().len(), 1);
    world.start();
    world.deliver_all();
    assert_eq!(world.collector.evicted(), 5);
    world.check_delivery();
}

/// A small file system of its own, for as long as this lives.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(dir.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn full_disk_refuses_a_commit_and_keeps_everything_as_it_was() {
    let Some(disk) = SmallDisk::mount("3m") else {
        eprintln!("SKIPPED: a small file system can only be mounted as root");
        return;
    };
    let mut world = World::in_dir(&disk.0.path().join("spool"), 64 * MIB);
    world.commit(SMALL).unwrap();
    let filler = disk.0.path().join("filler");
    let mut refused = 0;
    fs::write(&filler, vec![1; 1 << 20]).unwrap();
    for _ in 0..200 {
        match world.commit(LARGE) {
            Ok(()) => {}
            Err(error @ SpoolError::Disk { .. }) if error.is_passing() => refused += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refused > 0, "the disk never filled up");
    assert_eq!(world.spool().counters().refusals, refused);
    fs::remove_file(&filler).unwrap();
    world.commit(LARGE).unwrap();
    world.deliver_all();
    world.check_delivery();
    assert_eq!(world.opening.as_ref().unwrap().set_aside, None);
}

#[test]
fn lowered_cap_shrinks_the_file() {
    let mut world = World::new(8 * MIB);
    for _ in 0..150 {
        world.commit(LARGE).unwrap();
    }
    world.stop();
    assert!(files(&world.dir).map(|(_, len)| len).sum::<u64>() > MIB);
    world.max_bytes = MIB;
    world.start();
    world.check_cap();
    world.deliver_all();
    world.check_delivery();
}

#[test]
fn export_holds_what_the_spool_holds_and_nothing_that_it_doesnt() {
    let mut world = World::new(8 * MIB);
    for _ in 0..5 {
        world.commit(LARGE).unwrap();
        world.now = now_at(world.now.boottime.as_secs() + 6);
        world.seal();
    }
    world.ship(2, true);
    let mut file = Vec::new();
    let exported = export(&world.dir, &mut file).unwrap();
    assert_eq!((exported.rows, exported.damaged), (4, 0));
    let mut rest = file.strip_prefix(&auditflow_wire::export::MAGIC).unwrap();
    let mut collector = Collector::new(NODE, keys().key.public());
    while let Some((prefix, after)) = rest.split_first_chunk() {
        let (frame, after) = after.split_at(auditflow_wire::export::frame_len(*prefix).unwrap());
        collector.receive(frame);
        rest = after;
    }
    assert_eq!(collector.events().len(), 80);
    assert!(verify(&world.dir, Some(&NodeKeys::from_iter([keys().key.public()]))).unwrap().is_empty());
}
