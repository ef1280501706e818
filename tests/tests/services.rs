//! The servers of the kit: what of a shared one is a test's own.

use anyhow::ensure;
use auditflow_tests::services::{RabbitMq, Vhost};
use serde_json::Value;

/// The names of what the vhost has of a kind.
fn names(rabbitmq: &RabbitMq, vhost: &str, kind: &str) -> anyhow::Result<Vec<String>> {
    let found = rabbitmq.ask("GET", &format!("/api/{kind}/{vhost}"), "")?.json()?;
    let names = found.as_array().into_iter().flatten().filter_map(|object| object["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn exists(rabbitmq: &RabbitMq, vhost: &str) -> anyhow::Result<bool> {
    Ok(rabbitmq.ask("GET", &format!("/api/vhosts/{vhost}"), "")?.status == 200)
}

#[test]
fn each_vhost_has_all_that_the_project_ships_and_goes_with_its_value() -> anyhow::Result<()> {
    let Some(rabbitmq) = RabbitMq::of_this_run()? else { return Ok(()) };
    let vhosts: [Vhost<'_>; 2] = [rabbitmq.vhost()?, rabbitmq.vhost()?];
    for vhost in &vhosts {
        ensure!(
            names(&rabbitmq, vhost.name(), "queues")?
                == ["alerts.notify", "audit_batches.0", "dead.alerts", "dead.batches"],
            "the queues of auditflow"
        );
        ensure!(
            names(&rabbitmq, vhost.ancestor_name(), "queues")?
                == ["audit_alerts", "audit_events", "dead.events"],
            "the queues of /"
        );
        ensure!(names(&rabbitmq, vhost.name(), "policies")?.len() == 3, "the bounds of auditflow");
    }
    let (first, second) = vhosts.into();
    let gone = [first.name().to_owned(), first.ancestor_name().to_owned()];
    drop(first);
    for name in &gone {
        ensure!(!exists(&rabbitmq, name)?, "{name} is still there");
    }
    ensure!(exists(&rabbitmq, second.name())?, "the other one stays");
    Ok(())
}

#[test]
fn nobody_can_log_in_with_what_the_shipped_definitions_say_of_users() -> anyhow::Result<()> {
    let shipped: Value = serde_json::from_str(include_str!("../../rabbitmq/definitions.json"))?;
    let users = shipped["users"].as_array().map(Vec::as_slice).unwrap_or_default();
    ensure!(users.len() == 5, "{} users", users.len());
    for user in users {
        // An empty hash is no password's. Without any, RabbitMQ would make a hash of something.
        ensure!(user["password_hash"] == "" && user["tags"] == "" && user["password"].is_null(), "{user}");
    }
    Ok(())
}
