//! Everything at once: both programs are killed, and the way between them is cut, slow, corrupt or loses answers.

use std::thread;
use std::time::Duration;

use auditflow_tests::Fault;

use crate::stored::Copies;
use crate::world::{Settings, World};

const ROUNDS: usize = 80;

#[test]
fn what_the_log_holds_is_stored_once_whatever_befalls_programs_and_connection() -> anyhow::Result<()> {
    const FAULTS: [Fault; 5] = [Fault::None, Fault::Cut, Fault::Slow, Fault::Corrupt, Fault::LoseAnswers];
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let appending = world.audit_log(&node)?.append_steadily();
        node.start()?;
        for _ in 0..ROUNDS {
            let fault = *world.random.pick(&FAULTS);
            world.proxy.set(fault);
            thread::sleep(world.random.up_to(Duration::from_millis(200)));
            if world.random.one_in(2) {
                node.kill()?;
                node.launch()?;
            }
            if world.random.one_in(2) {
                world.kill_collector()?;
                world.launch_collector()?;
            }
            thread::sleep(world.random.up_to(Duration::from_millis(200)));
        }
        world.proxy.set(Fault::None);
        let mut log = appending.stop()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_batch_whose_acknowledgement_is_lost_is_sent_again_and_stored_once() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings::default())?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        for _ in 0..3 {
            log.append(50)?;
            world.until_stored(&node, &log)?;
            world.proxy.set(Fault::LoseAnswers);
            log.append(50)?;
            // Stored, and the agent can't know: it sends these again after its connection is cut.
            thread::sleep(world.random.up_to(Duration::from_millis(400)));
            world.proxy.set(Fault::None);
        }
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}
