//! The spool's disk: full, too small by decree, or losing its power.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_audit_record::Limits;
use auditflow_tests::{Fault, until};
use auditflow_wire::LossReason;

use crate::stored::Copies;
use crate::world::{Node, Settings, World};
use auditflow_tests::mounts::{Mount, run, text, with_mounts};

const POWER_CUTS: usize = 25;

#[test]
fn a_full_disk_makes_sources_wait_and_everything_arrives_once_there_is_room() -> anyhow::Result<()> {
    with_mounts(|| World::run(full_disk))
}

fn full_disk(world: &mut World) -> anyhow::Result<()> {
    let place = world.folder("disk")?;
    let _disk = Mount::in_memory(&place, 6 << 20)?;
    let data = Some(place.join("data"));
    let mut node = world.join("node", &Settings { data, ..Settings::default() })?;
    let mut log = world.audit_log(&node)?;
    node.start()?;
    log.append(100)?;
    world.until_stored(&node, &log)?;

    world.proxy.set(Fault::Cut);
    fill(&place.join("filler"))?;
    log.append(2000)?;
    until("the agent says that its disk is full", || {
        let health = node.ask("/healthz")?;
        Ok((health["parts"]["spool"]["state"] != "up").then_some(()))
    })?;
    // Posted while nothing can be written: what is accepted has to arrive as well.
    let posted = post_until_refused(&mut node)?;
    log.append(2000)?;
    // Longer than an event waits for its end: half of one may have been read, the rest is in the file.
    thread::sleep(Limits::default().timeout + world.random.up_to(Duration::from_secs(1)));
    node.agent()?.ensure_running()?;

    fs::remove_file(place.join("filler"))?;
    world.proxy.set(Fault::None);
    world.until_stored(&node, &log)?;
    world.ensure_alive(&mut node, &mut log)?;
    let stored = world.stop_and_verify(&mut node)?;
    stored.ensure_complete(&[&log], Copies::One)?;
    stored.ensure_unblemished()?;
    for id in posted {
        ensure!(
            stored.events.iter().any(|event| event.id.to_string() == id),
            "event {id} was accepted and lost"
        );
    }
    Ok(())
}

/// Writes until there is no room for another page.
fn fill(path: &Path) -> anyhow::Result<()> {
    let mut file = File::create(path)?;
    let mut size = 1 << 20;
    while size >= 512 {
        if file.write_all(&vec![0; size]).is_err() {
            size /= 2;
        }
    }
    Ok(())
}

/// Posts events, which nobody can write, and returns the ids of those that were accepted all the same.
fn post_until_refused(node: &mut Node) -> anyhow::Result<Vec<String>> {
    let mut accepted = Vec::new();
    for number in 0..200 {
        let event = format!(r#"{{"event_type": "user_login", "user_id": "user{number}"}}"#);
        let answer = node.agent()?.ask("POST", "/generate_event", &event)?;
        if answer.status == 503 {
            break;
        }
        let id = answer.json()?["event_id"].as_str().context("an id")?.to_owned();
        accepted.push(id);
    }
    Ok(accepted)
}

#[test]
fn what_a_small_spool_evicts_is_counted_and_with_what_is_stored_makes_up_the_whole() -> anyhow::Result<()> {
    World::run(|world| {
        let mut node = world.join("node", &Settings { spool_max_bytes: "8MiB", ..Settings::default() })?;
        let mut log = world.audit_log(&node)?.with_large_events(16 << 10);
        world.proxy.set(Fault::Cut);
        node.start()?;
        while node.ask("/status")?["spool"]["evicted_events"].as_u64().unwrap_or_default() < 500 {
            log.append(50)?;
            ensure!(log.len() < 20_000, "the spool holds more than it may");
        }
        log.append(200)?;
        // The last ones are worth as much as any and newer: they stay.
        until("the agent has read the log", || {
            let status = node.ask("/status")?;
            let written = status["spool"]["events"].as_u64().context("a count")?;
            Ok((written >= log.len() as u64).then_some(()))
        })?;
        let spool_bytes: u64 = fs::read_dir(node.spool())?
            .map(|entry| Ok(entry?.metadata()?.len()))
            .sum::<anyhow::Result<u64>>()?;
        ensure!(spool_bytes <= 8 << 20, "the spool takes {spool_bytes} bytes");

        world.proxy.set(Fault::None);
        world.ensure_alive(&mut node, &mut log)?;
        let spool = node.ask("/status")?["spool"].clone();
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_genuine(&[&log], Copies::One)?;
        stored.ensure_flags(&[])?;
        let count = |name: &str| spool[name].as_u64().context("a count");
        let (direct, unknown) = stored.declared(LossReason::Evicted);
        ensure!(unknown == 0 && stored.declared(LossReason::Unknown) == (0, 0), "{:?}", stored.losses);
        ensure!(
            stored.evicted + direct == count("evicted_events")?,
            "{} + {direct}: {spool}",
            stored.evicted
        );
        // States of sources are events as well: the log's are the rest.
        let accounted = stored.events.len() as u64 + stored.evicted + direct;
        let extra = accounted.checked_sub(log.len() as u64);
        ensure!(
            extra.is_some_and(|extra| extra <= 16),
            "{accounted} events are stored or declared, the log has {}; {spool}",
            log.len()
        );
        let missing = stored.missing(&log) as u64;
        ensure!(missing > 0 && missing <= stored.evicted + direct, "{missing} are missing; {spool}");
        Ok(())
    })
}

#[test]
fn a_power_cut_takes_nothing_that_was_committed_sent_or_acknowledged() -> anyhow::Result<()> {
    with_mounts(|| World::run(power_cuts))
}

/// The disk is an image in a file: what was synced is in it, what only the kernel's memory holds is not. A copy of it
/// is the disk after a power cut.
fn power_cuts(world: &mut World) -> anyhow::Result<()> {
    let folder = world.folder("disk")?;
    let (place, image, after) = (folder.join("mounted"), folder.join("image"), folder.join("after"));
    fs::create_dir(&place)?;
    File::create(&image)?.set_len(48 << 20)?;
    run("mkfs.ext4", &["-q", "-F", text(&image)?])?;
    let mut disk = match Mount::image(&place, &image) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("SKIPPED: power cuts need a loop device: {error:#}");
            return Ok(());
        }
    };
    let data = Some(place.join("data"));
    let mut node = world.join("node", &Settings { data, ..Settings::default() })?;
    run("sync", &["-f", text(&place)?])?;
    let appending = world.audit_log(&node)?.append_steadily();
    for round in 0..POWER_CUTS {
        node.launch()?;
        if round % 2 == 0 {
            node.agent()?.wait_until_ready()?;
        }
        thread::sleep(world.random.up_to(Duration::from_millis(600)));
        node.agent()?.freeze()?;
        fs::copy(&image, &after)?;
        node.kill()?;
        drop(disk);
        fs::rename(&after, &image)?;
        disk = Mount::image(&place, &image)?;
    }
    let mut log = appending.stop()?;
    node.start()?;
    world.until_stored(&node, &log)?;
    world.ensure_alive(&mut node, &mut log)?;
    let stored = world.stop_and_verify(&mut node)?;
    drop(disk);
    stored.ensure_complete(&[&log], Copies::One)?;
    stored.ensure_unblemished()
}
