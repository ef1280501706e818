//! Either program is killed, again and again, at moments that nobody chose.

use std::thread;
use std::time::Duration;

use auditflow_tests::until;

use crate::stored::Copies;
use crate::world::{Settings, World};

const AGENT_KILLS: usize = 200;
const COLLECTOR_KILLS: usize = 50;

#[test]
fn what_the_log_holds_is_stored_once_though_the_agent_is_killed_again_and_again() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let appending = world.audit_log(&node)?.append_steadily();
        for round in 0..AGENT_KILLS {
            node.launch()?;
            // Most kills fall on the start, which is where the spool is checked, sealed and moved to a new epoch.
            if round % 4 == 0 {
                node.agent()?.wait_until_ready()?;
            }
            thread::sleep(world.random.up_to(Duration::from_millis(250)));
            node.kill()?;
        }
        let mut log = appending.stop()?;
        node.start()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()?;
        anyhow::ensure!(stored.epochs.len() > AGENT_KILLS / 4, "the kills left only {:?}", stored.epochs);
        Ok(())
    })
}

#[test]
fn what_the_log_holds_is_stored_once_though_the_collector_is_killed_again_and_again() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let appending = world.audit_log(&node)?.append_steadily();
        node.start()?;
        for round in 0..COLLECTOR_KILLS {
            if round % 5 != 0 {
                // While it takes what the agent sends.
                let before = world.proxy.passed();
                until("the agent sends", || Ok((world.proxy.passed() > before).then_some(())))?;
            }
            thread::sleep(world.random.up_to(Duration::from_millis(300)));
            world.kill_collector()?;
            world.launch_collector()?;
        }
        let mut log = appending.stop()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}
