//! The spool's files: damaged while the agent is away.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_collector::store::FlagKind;
use auditflow_tests::{Fault, Random, until};
use auditflow_wire::LossReason;

use crate::log::AuditLog;
use crate::stored::{Copies, Stored};
use crate::world::{Node, Settings, World};

const DAMAGES: usize = 24;
const TORN_TAILS: usize = 40;

#[test]
fn a_spool_with_flipped_bytes_costs_at_most_what_it_alone_held_and_says_so() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let mut log = world.audit_log(&node)?;
        for round in 0..DAMAGES {
            let delivered = round % 2 == 0;
            node.start()?;
            let (before, declared) = (log.len(), declared(&world.stored(&node)?));
            if !delivered {
                world.proxy.set(Fault::Cut);
            }
            log.append(20)?;
            if delivered {
                world.until_stored_after(before, &node, &log)?;
            } else {
                until("the events are in the spool", || {
                    let status = node.ask("/status")?;
                    Ok((status["spool"]["events"].as_u64() >= Some(20)).then_some(()))
                })?;
            }
            if world.random.one_in(2) {
                node.stop()?;
            } else {
                node.kill()?;
            }
            // What the log holds of a page hides the database's: damage to that shows after a checkpoint alone.
            let file = if world.random.one_in(2) {
                checkpoint(&node.spool())?;
                flip_bits(&node.spool(), "spool.db", &mut world.random)?
            } else {
                let file = *world.random.pick(&["spool.db-wal", "spool.db-wal", "spool.db", "cursors.json"]);
                flip_bits(&node.spool(), file, &mut world.random)?
            };
            world.proxy.set(Fault::None);
            node.start()?;
            until("every event is stored, or its loss declared", || {
                let stored = world.stored(&node)?;
                let missing = stored.missing_after(before, &log);
                ensure!(missing == 0 || !delivered, "{missing} events that had been stored are missing");
                Ok((missing == 0 || self::declared(&stored) != declared).then_some(()))
            })
            .with_context(|| format!("after damage to {file}"))?;
            ensure_alive_after_damage(world, &mut node, &mut log)
                .with_context(|| format!("after damage to {file}"))?;
            node.kill()?;
        }
        let set_aside = fs::read_dir(node.spool())?.flatten();
        let set_aside =
            set_aside.filter(|entry| entry.file_name().to_string_lossy().contains("damaged")).count();
        ensure!(set_aside > 0, "no damage was noticed");
        node.start()?;
        ensure_alive_after_damage(world, &mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_genuine(&[&log], Copies::Same)?;
        ensure!(self::declared(&stored).0 > 0, "no gap was declared though the spool was set aside");
        Ok(())
    })
}

/// New events arrive. Damage that shows only now costs at most those that the spool holds by then, and is declared.
fn ensure_alive_after_damage(world: &mut World, node: &mut Node, log: &mut AuditLog) -> anyhow::Result<()> {
    let (before, said) = (log.len(), declared(&world.stored(node)?));
    log.append(3)?;
    let declared = until("new events are stored, or their loss declared", || {
        let stored = world.stored(node)?;
        let declared = declared(&stored) != said;
        Ok((declared || stored.missing_after(before, log) == 0).then_some(declared))
    })?;
    if declared { world.ensure_alive(node, log) } else { Ok(()) }
}

/// What the node has said of losses: gaps of unknown size, events whose bytes were damaged.
fn declared(stored: &Stored) -> (usize, u64) {
    (stored.declared(LossReason::Unknown).1, stored.damaged)
}

#[test]
fn a_log_of_the_spool_that_ends_in_garbage_is_read_up_to_its_last_commit() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let appending = world.audit_log(&node)?.append_steadily();
        for _ in 0..TORN_TAILS {
            node.launch()?;
            thread::sleep(world.random.up_to(Duration::from_millis(400)));
            node.kill()?;
            // What the disk may hold of a write that a power cut interrupted.
            let tail = node.spool().join("spool.db-wal");
            if tail.exists() {
                let bytes: Vec<u8> =
                    (0..world.random.below(20_000)).map(|_| world.random.number() as u8).collect();
                File::options().append(true).open(tail)?.write_all(&bytes)?;
            }
        }
        let mut log = appending.stop()?;
        node.start()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_log_of_the_spool_that_lost_what_was_not_synced_is_as_if_it_had_not_been_written() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let appending = world.audit_log(&node)?.append_steadily();
        let mut hit = 0;
        for round in 0..TORN_TAILS / 2 {
            node.start()?;
            thread::sleep(world.random.up_to(Duration::from_millis(400)));
            let unsynced = node.kill_in_the_middle_of_a_write()?;
            hit += usize::from(!unsynced.is_empty());
            let from = unsynced.start + world.random.below(unsynced.end - unsynced.start + 1);
            let log = node.spool().join("spool.db-wal");
            tear(&log, from..unsynced.end, round % 2 == 0, &mut world.random)?;
        }
        let mut log = appending.stop()?;
        eprintln!("{hit} of {} kills were in the middle of a write", TORN_TAILS / 2);
        ensure!(hit > 0, "no kill was in the middle of a write");
        node.start()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_log_of_the_spool_whose_tail_is_lost_or_garbled_costs_no_event() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let appending = world.audit_log(&node)?.append_steadily();
        let copy = world.folder("copy")?.join("spool");
        for round in 0..TORN_TAILS / 2 {
            node.start()?;
            thread::sleep(world.random.up_to(Duration::from_millis(400)));
            node.copy_spool(&copy)?;
            node.kill()?;
            let tail = copy.join("spool.db-wal");
            let length = fs::metadata(&tail).map_or(0, |metadata| metadata.len());
            let from = length - world.random.below(length / 5 + 1);
            tear(&tail, from..length, round % 2 == 0, &mut world.random)?;
            node.restore_spool(&copy)?;
            fs::remove_dir_all(&copy)?;
        }
        let mut log = appending.stop()?;
        node.start()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        // A disk that lies about what it has synced rolls history back: the collector may see a fork or, where a batch
        // was stored before the one below it was sealed anew, a link to a batch that never came. Nobody sees a loss.
        let (stored, verdict) = world.stop_and_ask_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::Same)?;
        if verdict != "sound" {
            ensure!(verdict.ends_with("broken link to the batch before"), "verify says {verdict}");
            let flagged = |kind| stored.row.flags.iter().any(|flag| flag.flag.kind == kind);
            ensure!(flagged(FlagKind::BrokenLink), "verify says {verdict}, and nothing is flagged");
        }
        Ok(())
    })
}

/// Cuts a write-ahead log, or garbles a part of it.
fn tear(path: &Path, part: Range<u64>, cut: bool, random: &mut Random) -> anyhow::Result<()> {
    let Ok(file) = File::options().write(true).open(path) else { return Ok(()) };
    if cut {
        return Ok(file.set_len(part.start)?);
    }
    let start = part.start;
    let garbage: Vec<u8> = part.map(|_| random.number() as u8).collect();
    Ok(file.write_all_at(&garbage, start)?)
}

/// Brings everything from the write-ahead log into the database.
fn checkpoint(spool: &Path) -> anyhow::Result<()> {
    let connection = rusqlite::Connection::open(spool.join("spool.db"))?;
    Ok(connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))?)
}

/// Flips one to some hundred bits of a file, if it is there, and returns its name.
fn flip_bits(spool: &Path, name: &'static str, random: &mut Random) -> anyhow::Result<&'static str> {
    let file = spool.join(name);
    let Ok(mut bytes) = fs::read(&file) else { return Ok(name) };
    for _ in 0..1 << random.below(10) {
        if !bytes.is_empty() {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
    }
    fs::write(&file, bytes)?;
    Ok(name)
}
