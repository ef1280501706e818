//! A node changes its key while events flow, both programs are killed, and its past comes back.

use std::time::Duration;

use anyhow::ensure;
use auditflow_collector::store::FlagKind;
use auditflow_tests::until;

use crate::stored::Copies;
use crate::world::{Settings, World};

const ROTATIONS: usize = 60;

#[test]
fn a_node_that_changes_its_key_again_and_again_loses_nothing_though_both_sides_are_killed()
-> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let appending = world.audit_log(&node)?.append_steadily();
        node.start()?;
        for _ in 0..ROTATIONS {
            match world.random.below(4) {
                // The agent dies before, while or after the key gives way.
                0 => {
                    let moment = world.random.up_to(Duration::from_millis(40));
                    node.kill_during(moment, |agent| drop(agent.ask("POST", "/rotate-key", "")))?;
                    node.start()?;
                }
                // Nobody is there to be told.
                1 => {
                    world.kill_collector()?;
                    node.agent()?.ask("POST", "/rotate-key", "")?;
                    world.launch_collector()?;
                }
                // The collector dies while it is being told.
                2 => {
                    let moment = world.random.up_to(Duration::from_millis(20));
                    let agent = &*node.agent()?;
                    std::thread::scope(|threads| {
                        threads.spawn(|| agent.ask("POST", "/rotate-key", ""));
                        std::thread::sleep(moment);
                        world.kill_collector()
                    })?;
                    world.launch_collector()?;
                }
                _ => drop(node.agent()?.ask("POST", "/rotate-key", "")?),
            }
            std::thread::sleep(world.random.up_to(Duration::from_millis(200)));
        }
        let mut log = appending.stop()?;
        world.until_stored(&node, &log)?;
        node.rotate_key()?;
        world.ensure_alive(&mut node, &mut log)?;
        let keys = world.keys_of(&node)?;
        ensure!(keys.rotations().len() > ROTATIONS / 4, "only {} rotations", keys.rotations().len());
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_copy_of_the_node_from_before_its_new_key_adds_nothing_and_is_noticed() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        log.append(50)?;
        world.until_stored(&node, &log)?;
        node.kill()?;
        let mut copy = world.clone_of(&node, "copy")?;
        let mut copys_log = world.audit_log(&copy)?;
        node.start()?;
        node.rotate_key()?;
        copy.start()?;
        copys_log.append(50)?;
        until("the copy is refused", || {
            let link = copy.ask("/status")?["link"]["reason"].to_string();
            Ok(link.contains("retired by a later one").then_some(()))
        })?;
        log.append(50)?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        copy.stop()?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_flags(&[FlagKind::BadSignature])
    })
}

#[test]
fn a_collector_restored_from_before_a_node_s_new_key_is_told_of_it_again() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        log.append(50)?;
        world.until_stored(&node, &log)?;
        let backup = world.back_up_collector()?;
        node.rotate_key()?;
        node.rotate_key()?;
        world.stop_collector()?;
        world.restore_collector(&backup)?;
        world.start_collector()?;
        log.append(50)?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        ensure!(world.keys_of(&node)?.rotations().len() == 2, "the rotations are known again");
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)
    })
}
