//! Two histories of one node: an older copy of the spool, or a collector that knows another one.

use auditflow_event::{Priority, Timestamp};
use auditflow_wire::{Ack, Answer, BatchSeq, Digest, Head, Link};

use super::world::{NODE, Read, World, keys, now_at, options};
use super::{LARGE, MIB, SMALL};
use crate::spool::{Acknowledged, Loaded, Opening, RowId, Spool, inspect};

#[test]
fn acknowledgement_with_another_digest_frees_nothing_and_seals_anew() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    let (now, epoch) = (world.now, world.spool().epoch());
    let through = Some(Head { number: BatchSeq::FIRST, digest: Digest::from_bytes([1; 32]) });
    let (time, answer, above) = (Timestamp::EPOCH, Answer::Stored, Vec::new());
    let foreign = world.collector.sign(Ack { node: NODE, epoch, time, answer, through, above });
    let outcome = world.spool().acknowledge(&foreign, now).unwrap();
    assert_eq!(outcome, Acknowledged::Forked { epoch: world.spool().epoch(), resealed: 2 });
    assert_ne!(world.spool().epoch(), epoch);
    world.deliver_all();
    world.check_delivery();
}

#[test]
fn fork_answer_seals_everything_unacknowledged_anew_in_a_new_epoch() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    world.stop();
    let older = world.copy();
    world.start();
    world.commit(LARGE).unwrap();
    world.deliver_all();
    world.open = None;
    world.replace(&older);
    world.start();
    world.commit(SMALL).unwrap();
    world.deliver_all();
    assert!(world.collector.forks > 0);
    world.check_delivery();
    assert!(matches!(world.opening, Some(Opening { link: Link::Successor { .. }, .. })));
    world.stop();
    world.start();
    world.deliver_all();
    world.check_delivery();
}

#[test]
fn batch_that_overtakes_one_whose_number_is_taken_does_not_free_it() {
    let mut world = World::new(8 * MIB);
    for priority in [Priority::Normal, Priority::Low] {
        world.commit(Read { priority, ..SMALL }).unwrap();
    }
    let older = world.copy();
    world.commit(Read { priority: Priority::High, urgent: true, ..SMALL }).unwrap();
    world.seal();
    assert_eq!(world.ship(2, false), 2);
    world.open = None;
    world.replace(&older);
    world.undone = true;
    // Number 2 is now of events of normal priority, and 3 of those of low priority, which arrives first.
    world.start();
    let frames = [3, 2].map(|row| match world.reader().load(RowId(row)).unwrap() {
        Loaded::Frame(frame) => frame,
        other => panic!("{other:?}"),
    });
    for frame in frames {
        let acks = world.collector.receive(&frame);
        world.acknowledge(&acks);
    }
    assert_eq!(world.collector.broken, 1);
    world.deliver_all();
    world.check_delivery();
}

#[test]
fn acknowledgement_beyond_the_head_shows_an_older_copy_and_seals_it_anew() {
    let mut world = World::new(8 * MIB);
    world.commit(SMALL).unwrap();
    let older = world.copy();
    world.commit(LARGE).unwrap();
    world.stop();
    world.start();
    assert_eq!(world.ship(2, false), 2);
    world.open = None;
    world.replace(&older);
    world.start();
    world.deliver_all();
    world.check_delivery();
}

#[test]
fn crash_at_any_commit_of_sealing_anew_costs_nothing() {
    let mut world = World::new(8 * MIB);
    world.stop();
    let older = world.copy();
    world.start();
    world.deliver_all();
    world.open = None;
    world.replace(&older);
    world.start();
    for _ in 0..3 {
        world.commit(LARGE).unwrap();
        world.now = now_at(world.now.boottime.as_secs() + 6);
        world.seal();
    }
    let epoch = world.spool().epoch();
    // Of this epoch's four, the third overtook the others: it is stored, and they are not.
    let mut own = Vec::new();
    while let Some(next) = world.reader().next_above(false, *own.last().unwrap_or(&RowId(0))).unwrap() {
        own.push(next.id);
    }
    let own = own.split_off(own.len() - 4);
    let frame = |world: &mut World, id| match world.reader().load(id).unwrap() {
        Loaded::Frame(frame) => frame,
        other => panic!("{other:?}"),
    };
    let overtaking = frame(&mut world, own[2]);
    let acks = world.collector.receive(&overtaking);
    world.acknowledge(&acks);
    let before = world.copy();
    let first = frame(&mut world, own[0]);
    let fork = world.collector.receive(&first);
    let now = world.now;
    let outcome = world.spool().acknowledge(&fork[0], now).unwrap();
    assert!(matches!(outcome, Acknowledged::Forked { resealed: 3, .. }), "{outcome:?}");
    assert_ne!(world.spool().epoch(), epoch);
    let after = world.copy();
    world.open = None;
    let (short, long) = (before["spool.db-wal"].len(), after["spool.db-wal"].len());
    assert!(before["spool.db"] == after["spool.db"], "a checkpoint came between");
    for cut in (short..=long).step_by(4096 + 24) {
        let mut files = after.clone();
        files.get_mut("spool.db-wal").unwrap().truncate(cut);
        world.replace(&files);
        let (_, _, opening) = Spool::open(&world.dir, options(8 * MIB), keys(), now_at(200)).unwrap();
        assert_eq!(opening.set_aside, None, "cut at {cut}");
        let held: u64 = inspect(&world.dir).unwrap().epochs.iter().map(|epoch| epoch.events).sum();
        assert_eq!(held, 40, "cut at {cut}");
    }
}
