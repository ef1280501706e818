//! History that is turned back or told twice: an older copy of the spool, a cloned node, a collector's older backup.

use anyhow::ensure;
use auditflow_collector::store::FlagKind;

use crate::stored::Copies;
use crate::world::{Settings, World};

#[test]
fn a_spool_restored_from_an_older_copy_is_a_fork_that_costs_no_event() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings { seal_interval_ms: 500, ..Settings::default() })?;
        let mut log = world.audit_log(&node)?;
        let copy = world.folder("copy")?.join("spool");
        node.start()?;
        log.append(100)?;
        world.until_stored(&node, &log)?;
        node.copy_spool(&copy)?;
        log.append(100)?;
        world.until_stored(&node, &log)?;
        node.kill()?;
        node.restore_spool(&copy)?;

        log.append(100)?;
        node.start()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::Same)?;
        stored.ensure_flags(&[FlagKind::Fork])
    })
}

#[test]
fn a_spool_copied_with_unsealed_events_and_restored_is_sealed_anew() -> anyhow::Result<()> {
    World::run(|world| {
        // Nothing is sealed for long: the copy holds events that it will seal under numbers that are taken.
        let mut node = world.join("node", &Settings { seal_interval_ms: 3_000, ..Settings::default() })?;
        let mut log = world.audit_log(&node)?;
        let folder = world.folder("copies")?;
        node.start()?;
        for round in 0..3 {
            log.append(40)?;
            auditflow_tests::until("some events are committed", || {
                let status = node.ask("/status")?;
                Ok((status["spool"]["events"].as_u64() >= Some(40)).then_some(()))
            })?;
            let copy = folder.join(round.to_string());
            node.copy_spool(&copy)?;
            log.append(40)?;
            world.until_stored(&node, &log)?;
            node.kill()?;
            node.restore_spool(&copy)?;
            node.start()?;
        }
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::Same)?;
        stored.ensure_flags(&[FlagKind::Fork])
    })
}

#[test]
fn a_cloned_node_is_noticed_and_what_both_saw_is_kept() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        log.append(100)?;
        world.until_stored(&node, &log)?;
        node.kill()?;
        let mut clone = world.clone_of(&node, "clone")?;
        let mut clones_log = world.audit_log(&clone)?;

        node.start()?;
        clone.start()?;
        for _ in 0..5 {
            log.append(40)?;
            clones_log.append(40)?;
            world.until_stored(&node, &log)?;
            world.until_stored(&clone, &clones_log)?;
        }
        world.ensure_alive(&mut node, &mut log)?;
        world.ensure_alive(&mut clone, &mut clones_log)?;
        clone.stop()?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log, &clones_log], Copies::Same)?;
        stored.ensure_flags(&[FlagKind::Fork])
    })
}

#[test]
fn a_collector_restored_from_an_older_backup_records_what_it_lost_and_goes_on() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        log.append(100)?;
        world.until_stored(&node, &log)?;
        let backup = world.back_up_collector()?;
        let before = log.len();
        for _ in 0..5 {
            log.append(40)?;
            world.until_stored(&node, &log)?;
        }
        let lost = log.len() - before;
        world.stop_collector()?;
        world.restore_collector(&backup)?;
        world.start_collector()?;

        let from = log.len();
        log.append(100)?;
        world.until_stored_after(from, &node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_genuine(&[&log], Copies::One)?;
        stored.ensure_flags(&[FlagKind::Gap])?;
        let missing = stored.missing(&log);
        ensure!(missing <= lost, "{missing} are missing, {lost} were stored after the backup");
        ensure!(stored.row.lost > 0 && stored.row.holes == 0, "lost numbers: {:?}", stored.row);
        Ok(())
    })
}
