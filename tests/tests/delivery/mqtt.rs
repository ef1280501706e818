//! Over a broker: one that dies, one that forgets, one that denies; and from one way to the other.

use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_tests::services::{Access, Mosquitto, Mqtt, RabbitMqServer, definitions, free_port};
use auditflow_tests::until;
use serde_json::Value;

use crate::stored::Copies;
use crate::world::{Node, Settings, Way, World};

const BROKER_KILLS: usize = 6;
const SWITCHES: usize = 6;

/// Runs a test with a Mosquitto that runs and a collector that is subscribed to it.
fn with_mosquitto(
    test: impl FnOnce(&mut World, &mut Mosquitto, Way) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let port = free_port()?;
    World::run_with_broker(port, |world| {
        let folder = world.folder("broker")?;
        let Some(mut broker) = Mosquitto::make(&folder, &world.certificates()?, port)? else { return Ok(()) };
        broker.start()?;
        test(world, &mut broker, Way::broker(port))
    })
}

fn over(way: Way) -> Settings {
    Settings { way, ..Settings::default() }
}

/// Waits until the way is down for a reason that says this.
fn until_down(node: &mut Node, why: &str) -> anyhow::Result<()> {
    until(&format!("the way is down: {why}"), || {
        let link = link(node)?;
        let reason = link["reason"].as_str().unwrap_or_default().to_owned();
        ensure!(reason.contains(why), "link: {link}");
        Ok(Some(()))
    })
}

fn link(node: &mut Node) -> anyhow::Result<Value> {
    Ok(node.ask("/status")?["link"].clone())
}

fn frames(node: &mut Node) -> anyhow::Result<u64> {
    link(node)?["frames"].as_u64().context("the link counts frames")
}

fn released(node: &mut Node) -> anyhow::Result<u64> {
    node.ask("/status")?["spool"]["released"].as_u64().context("the spool counts what was delivered")
}

#[test]
fn what_is_published_is_stored_once_and_acknowledged() -> anyhow::Result<()> {
    with_mosquitto(|world, _broker, way| {
        let mut node = world.join("node", &over(way))?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        for _ in 0..5 {
            log.append(100)?;
            world.until_stored(&node, &log)?;
        }
        until("all that is sealed is acknowledged", || {
            let spool = node.ask("/status")?["spool"].clone();
            Ok((spool["batches"] == spool["released"]).then_some(()))
        })?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn what_the_log_holds_is_stored_once_though_the_broker_is_killed_again_and_again() -> anyhow::Result<()> {
    with_mosquitto(|world, broker, way| {
        let mut node = world.join("node", &over(way))?;
        let appending = world.audit_log(&node)?.append_steadily();
        node.start()?;
        for round in 0..BROKER_KILLS {
            if round % 3 != 0 {
                // While batches flow; sooner than that, the pauses between attempts grow.
                let before = released(&mut node)?;
                until("batches flow", || Ok((released(&mut node)? > before).then_some(())))?;
            }
            std::thread::sleep(world.random.up_to(Duration::from_millis(300)));
            broker.kill()?;
            std::thread::sleep(world.random.up_to(Duration::from_millis(300)));
            broker.start()?;
        }
        let mut log = appending.stop()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_broker_that_acknowledges_and_forgets_costs_no_event_and_no_storm() -> anyhow::Result<()> {
    with_mosquitto(|world, broker, way| {
        let mut node = world.join("node", &over(way))?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        log.append(20)?;
        world.until_stored(&node, &log)?;
        // The broker keeps what comes for the collector, says that it has it, and dies.
        world.stop_collector()?;
        let before = frames(&mut node)?;
        for _ in 0..3 {
            let sent = frames(&mut node)?;
            log.append(20)?;
            until("a batch goes out", || Ok((frames(&mut node)? > sent).then_some(())))?;
        }
        broker.kill()?;
        broker.start()?;
        world.start_collector()?;
        world.until_stored(&node, &log)?;
        let sent = frames(&mut node)? - before;
        ensure!(sent < 60, "{sent} frames for three batches");
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_publish_that_mosquitto_denies_in_silence_is_noticed_and_backed_off_from() -> anyhow::Result<()> {
    with_mosquitto(|world, broker, way| {
        broker.set_access(Access::NoBatches)?;
        let mut node = world.join("node", &over(way))?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        log.append(50)?;
        until_down(&mut node, "no collector answers")?;
        ensure!(world.metric("auditflow_ingest_events_total")? < 1.0, "something was let through");
        let sent = frames(&mut node)?;
        ensure!(sent < 10, "{sent} frames into the void");
        broker.set_access(Access::Proper)?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_batch_larger_than_the_broker_takes_is_counted_and_holds_nothing_up() -> anyhow::Result<()> {
    with_mosquitto(|world, _broker, way| {
        let Way::Mqtt { port, .. } = way else { return Ok(()) };
        let mut node = world.join("node", &over(Way::Mqtt { port, max_message: 64 << 10 }))?;
        let mut log = world.audit_log(&node)?.with_large_events(6_000);
        node.start()?;
        let small = log.len();
        // Sealed as one batch of some hundred kilobytes that hardly compress.
        log.append(60)?;
        until("a batch is too large", || {
            Ok((link(&mut node)?["too_large"].as_u64() > Some(0)).then_some(()))
        })?;
        let (large, mut log) = (log.len() - small, log.with_large_events(100));
        for _ in 0..8 {
            log.append(5)?;
            world.until_stored_after(large, &node, &log)?;
        }
        // Whatever the broker does not take goes the other way.
        node.stop()?;
        node.travel(Way::Https)?;
        node.start()?;
        world.until_stored(&node, &log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn going_from_one_way_to_the_other_and_back_loses_and_repeats_nothing() -> anyhow::Result<()> {
    with_mosquitto(|world, _broker, way| {
        let mut node = world.join("node", &over(way))?;
        let appending = world.audit_log(&node)?.append_steadily();
        node.start()?;
        for switch in 0..SWITCHES {
            std::thread::sleep(world.random.up_to(Duration::from_millis(800)));
            // With batches under way that only the other way's answers will let go of.
            if world.random.one_in(2) {
                node.kill()?;
            } else {
                node.stop()?;
            }
            node.travel(if switch % 2 == 0 { Way::Https } else { way })?;
            node.start()?;
        }
        let mut log = appending.stop()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_node_changes_its_key_and_goes_on_over_the_broker_with_its_new_certificate() -> anyhow::Result<()> {
    with_mosquitto(|world, _broker, way| {
        let mut node = world.join("node", &over(way))?;
        let appending = world.audit_log(&node)?.append_steadily();
        node.start()?;
        for _ in 0..5 {
            std::thread::sleep(world.random.up_to(Duration::from_millis(300)));
            node.rotate_key()?;
        }
        let mut log = appending.stop()?;
        world.until_stored(&node, &log)?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn rabbitmq_that_is_killed_and_that_denies_costs_no_event_and_no_storm() -> anyhow::Result<()> {
    let port = free_port()?;
    World::run_with_broker(port, |world| {
        let mut node = world.join("node", &over(Way::broker(port)))?;
        let (folder, certificates) = (world.folder("broker")?, world.certificates()?);
        let nodes = [node.id.to_string()];
        let (begin, mqtt) =
            (definitions::without_queues(&nodes), Mqtt { certificates: &certificates, port, rights: None });
        let Some(mut broker) = RabbitMqServer::make(&folder, &begin, Some(mqtt))? else { return Ok(()) };
        broker.start()?;
        let mut log = world.audit_log(&node)?;
        node.start()?;
        log.append(100)?;
        world.until_stored(&node, &log)?;

        broker.kill()?;
        log.append(100)?;
        broker.start()?;
        world.until_stored(&node, &log)?;

        // It closes the connection of whoever publishes what is denied.
        broker.allow_batches(&nodes[0], false)?;
        node.stop()?;
        node.start()?;
        log.append(100)?;
        until_down(&mut node, "broke")?;
        std::thread::sleep(Duration::from_secs(3));
        let sent = frames(&mut node)?;
        ensure!(sent < 12, "{sent} frames against a closed door");
        broker.allow_batches(&nodes[0], true)?;
        world.until_stored(&node, &log)?;

        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}
