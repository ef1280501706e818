//! Through RabbitMQ's queues: its MQTT plugin puts batches there, the collector takes them out as `analyzer`. The server
//! dies, hangs, closes connections, takes nothing, loses its queue; what nobody can take becomes a dead letter.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_tests::services::{Mqtt, RabbitMqServer, definitions, free_port};
use auditflow_tests::until;
use serde_json::Value;

use crate::stored::Copies;
use crate::world::{Besides, Node, Settings, Way, World};

const FAULTS: usize = 8;

/// Runs a test with a RabbitMQ, a collector that takes from its queue, and a node that publishes to it.
pub(crate) fn with_queue(
    test: impl FnOnce(&mut World, &mut RabbitMqServer, &mut Node) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    World::run(|world| {
        let port = free_port()?;
        let way = Way::broker(port);
        let mut node = world.join("node", &Settings { way, ..Settings::default() })?;
        let (folder, certificates) = (world.folder("broker")?, world.certificates()?);
        let begin = definitions::with_certificates(definitions::shipped()?, &[node.id.to_string()]);
        let mqtt = Mqtt { certificates: &certificates, port, rights: None };
        let Some(mut server) = RabbitMqServer::make(&folder, &begin, Some(mqtt))? else { return Ok(()) };
        let password = folder.join("password");
        fs::write(&password, format!("{}\n", definitions::PASSWORD))?;
        // It is there before the broker is, and finds it by itself.
        let user = "auditflow-analyzer";
        let (url, ancestor_url) = (server.url(user), server.ancestor_url(user));
        world.restart_with(Besides::Queues { url, ancestor_url, password_file: password })?;
        until_state(world, "down", "amqp://127.0.0.1")?;
        server.start()?;
        until_up(world)?;
        node.start()?;
        test(world, &mut server, &mut node)
    })
}

/// Something happens to the broker or to the collector, a moment from now.
pub(crate) fn disturb(world: &mut World, server: &mut RabbitMqServer) -> anyhow::Result<()> {
    std::thread::sleep(world.random.up_to(Duration::from_millis(800)));
    match world.random.below(4) {
        0 => {
            server.kill()?;
            server.start()
        }
        1 => {
            server.control(&["await_startup"])?;
            server.control(&["close_all_connections", "by a test"]).map(drop)
        }
        2 => {
            world.kill_collector()?;
            world.start_collector()
        }
        _ => {
            world.stop_collector()?;
            world.start_collector()
        }
    }
}

fn until_up(world: &World) -> anyhow::Result<()> {
    until_state(world, "up", "")
}

fn until_state(world: &World, state: &str, why: &str) -> anyhow::Result<()> {
    world.until_state("rabbitmq", state, why)
}

/// Runs `dead-letters` as the operator.
fn dead_letters(world: &World, server: &RabbitMqServer, words: &[&str]) -> anyhow::Result<String> {
    dead_letters_at(world, &server.url("auditflow-operator"), words)
}

/// The same in the vhost of this URL.
pub(crate) fn dead_letters_at(world: &World, url: &str, words: &[&str]) -> anyhow::Result<String> {
    let password = world.existing("broker").join("password");
    let password = password.to_str().context("a path in UTF-8")?;
    let words = [&["dead-letters"], words, &["--url", url, "--password-file", password]].concat();
    Ok(world.collector()?.run(&words)?.success()?.stdout)
}

#[test]
fn what_waits_in_the_queue_is_stored_once_and_acknowledged_whatever_becomes_of_the_broker()
-> anyhow::Result<()> {
    with_queue(|world, server, node| {
        let appending = world.audit_log(node)?.append_steadily();
        for _ in 0..FAULTS {
            disturb(world, server)?;
        }
        let mut log = appending.stop()?;
        world.until_stored(node, &log)?;
        until("all that is sealed is acknowledged", || {
            let spool = node.ask("/status")?["spool"].clone();
            Ok((spool["batches"] == spool["released"]).then_some(()))
        })?;
        world.ensure_alive(node, &mut log)?;
        let stored = world.stop_and_verify(node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_broker_that_takes_nothing_more_still_hands_out_what_it_has_and_is_shown() -> anyhow::Result<()> {
    with_queue(|world, server, node| {
        let mut log = world.audit_log(node)?;
        log.append(50)?;
        world.until_stored(node, &log)?;
        // What is in the queue when the alarm goes off is taken all the same.
        world.stop_collector()?;
        log.append(50)?;
        until(
            "the batches wait in the queue",
            || Ok((server.waiting("audit_batches.0")? > 0).then_some(())),
        )?;
        server.control(&["set_vm_memory_high_watermark", "absolute", "1"])?;
        world.start_collector()?;
        until_state(world, "degraded", "takes nothing")?;
        until("the queue is empty", || Ok((server.waiting("audit_batches.0")? == 0).then_some(())))?;
        server.control(&["set_vm_memory_high_watermark", "0.4"])?;
        until_up(world)?;
        world.until_stored(node, &log)?;
        world.ensure_alive(node, &mut log)?;
        let stored = world.stop_and_verify(node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_queue_that_is_deleted_is_missed_aloud_and_taken_from_again_once_it_is_back() -> anyhow::Result<()> {
    with_queue(|world, server, node| {
        let mut log = world.audit_log(node)?;
        log.append(50)?;
        world.until_stored(node, &log)?;
        server.control(&["delete_queue", "--vhost", "auditflow", "audit_batches.0"])?;
        until_state(world, "down", "audit_batches.0")?;
        // To a broker without the queue what is published is routed nowhere, and acknowledged.
        log.append(50)?;
        server.import_again()?;
        until_up(world)?;
        world.until_stored(node, &log)?;
        world.ensure_alive(node, &mut log)?;
        let stored = world.stop_and_verify(node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn what_nobody_can_take_is_a_dead_letter_that_can_be_seen_and_put_back_and_thrown_away() -> anyhow::Result<()>
{
    with_queue(|world, server, node| {
        let key = format!("audit.{}.batch", node.id);
        server.publish("amq.topic", &key, "no frame at all")?;
        server.publish("amq.topic", "audit.somebody.batch", "of nobody")?;
        until("both are set aside", || Ok((server.waiting("dead.batches")? == 2).then_some(())))?;
        let listed = dead_letters(world, server, &["list", "--json"])?;
        let letters: Vec<Value> = listed.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(letters.len() == 2, "{listed}");
        let of_node = letters.iter().find(|letter| letter["node"] == node.id.to_string());
        let of_node = of_node.context("one is of the node")?;
        ensure!(of_node["finding"].as_str().is_some_and(|text| text.contains("no frame")), "{listed}");
        ensure!(of_node["reason"] == "rejected" && of_node["routing_key"] == key.as_str(), "{listed}");
        let id = of_node["id"].as_str().context("an id")?;
        let out = world.existing("broker").join("letter");
        let out = out.to_str().context("a path in UTF-8")?;
        dead_letters(world, server, &["show", id, "--out", out])?;
        ensure!(fs::read_to_string(out)? == "no frame at all");

        // Put back, it is found as bad as before.
        dead_letters(world, server, &["requeue", id])?;
        until("it is set aside again", || Ok((server.waiting("dead.batches")? == 2).then_some(())))?;
        dead_letters(world, server, &["discard", "--all"])?;
        ensure!(dead_letters(world, server, &["list"])?.starts_with("no dead letters"), "some are left");
        let trail = world.collector()?.run(&["audit", "list"])?.success()?.stdout;
        ensure!(trail.contains("dead_letter.requeue") && trail.contains("dead_letter.discard"), "{trail}");

        let mut log = world.audit_log(node)?;
        world.ensure_alive(node, &mut log)
    })
}
