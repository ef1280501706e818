//! The store is in PostgreSQL, which is killed, or not there to begin with.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use auditflow_tests::services::PostgresServer;
use auditflow_tests::until;

use crate::stored::Copies;
use crate::world::{Besides, Settings, World};

const DATABASE_KILLS: usize = 10;

#[test]
fn what_the_log_holds_is_stored_once_though_the_database_is_killed_again_and_again() -> anyhow::Result<()> {
    let Some(mut database) = PostgresServer::make()? else { return Ok(()) };
    database.start()?;
    World::run_with(Some(Besides::Database(database.url())), |world| {
        let mut node = world.join("node", &Settings::default())?;
        let appending = world.audit_log(&node)?.append_steadily();
        node.start()?;
        for round in 0..DATABASE_KILLS {
            thread::sleep(world.random.up_to(Duration::from_millis(1500)));
            database.kill()?;
            if round % 3 == 0 {
                // Long enough for the collector to notice, and to turn agents away.
                world.until_health("postgres", "down")?;
            }
            database.start()?;
        }
        let mut log = appending.stop()?;
        world.until_stored(&node, &log)?;
        world.until_health("postgres", "up")?;
        world.ensure_alive(&mut node, &mut log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn a_collector_whose_database_is_not_there_yet_is_up_and_works_once_it_is() -> anyhow::Result<()> {
    let Some(mut database) = PostgresServer::make()? else { return Ok(()) };
    database.start()?;
    World::run_with(Some(Besides::Database(database.url())), |world| {
        let mut node = world.join("node", &Settings::default())?;
        node.start()?;
        world.kill_collector()?;
        database.kill()?;
        world.launch_collector()?;
        // From its first attempt on.
        let report = until("health says why", || {
            let report = world.until_health("postgres", "down")?;
            Ok(report["parts"]["postgres"]["last_error"].is_string().then_some(report))
        })?;
        let part = &report["parts"]["postgres"];
        ensure!(report["ready"] == false, "{report}");
        for said in ["since", "features_lost"] {
            ensure!(!part[said].is_null(), "{said} is not in {part}");
        }
        let mut log = world.audit_log(&node)?;
        log.append(20)?;
        // What an agent brings meanwhile is turned away, and it keeps it.
        let turned_away = world.proxy.passed();
        until("the agent tries", || Ok((world.proxy.passed() > turned_away).then_some(())))?;
        database.start()?;
        world.until_health("postgres", "up")?;
        world.until_health("store", "up")?;
        world.until_stored(&node, &log)?;
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)?;
        stored.ensure_unblemished()
    })
}

#[test]
fn alerts_of_what_an_agent_delivers_are_on_the_api_and_commands_work_beside() -> anyhow::Result<()> {
    let Some(mut database) = PostgresServer::make()? else { return Ok(()) };
    database.start()?;
    World::run_with(Some(Besides::Database(database.url())), |world| {
        let collector = world.collector()?;
        let migrated = collector.run(&["migrate"])?.success()?.stdout;
        ensure!(migrated.starts_with("the database: schema version"), "migrate says {migrated}");
        ensure!(migrated.ends_with("is current\n"), "migrate says {migrated}");
        collector.run(&["admin", "reset-password"])?.success()?;
        let audit = collector.run(&["audit", "list"])?.success()?.stdout;
        ensure!(audit.contains("user.create") && audit.contains("user.change"), "audit says {audit}");
        collector.run(&["audit", "verify"])?.success()?;
        let mut node = world.join("node", &Settings::default())?;
        node.start()?;
        let mut log = world.audit_log(&node)?;
        // Users that are added, among other things.
        log.append(60)?;
        world.until_stored(&node, &log)?;
        let collector = world.collector()?;
        until("there is an alert", || {
            let alerts = collector.json("/alerts?limit=10")?;
            Ok(alerts.as_array().is_some_and(|alerts| !alerts.is_empty()).then_some(()))
        })?;
        let id = node.id.to_string();
        let keys = collector.run(&["keys", "--node", &id])?.success()?.stdout;
        ensure!(keys.contains("node"), "keys says {keys}");
        let folder = world.folder("copies")?;
        let place =
            |name: &str| Ok::<_, anyhow::Error>(folder.join(name).to_str().context("UTF-8")?.to_owned());
        let collector = world.collector()?;
        collector.run(&["export", "--node", &id, &place("node.export")?])?.success()?;
        let backup = collector.run(&["backup", &place("backup")?])?.success()?.stdout;
        ensure!(backup.contains("pg_dump"), "backup says {backup}");
        let stored = world.stop_and_verify(&mut node)?;
        stored.ensure_complete(&[&log], Copies::One)
    })
}
