//! The keys that nodes sign with, in PostgreSQL: added at enrolment, followed from one to the next.

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{NodeKeys, NodePublicKey, SignedNodeRotation};
use serde_json::json;
use sqlx::PgConnection;

use super::error::{damaged, failed};
use super::store::lock_nodes;
use super::trail;
use super::unit::Unit;
use crate::store::{Act, Action, Actor, By, Change, KeyOutcome, MAX_NODE_KEYS, Result};

/// Adds a key.
pub(super) async fn add(
    connection: &mut PgConnection,
    node: NodeId,
    key: &NodePublicKey,
    at: Timestamp,
) -> Result<()> {
    sqlx::query("INSERT INTO node_key (node, key_id, public_key, added_at) VALUES ($1, $2, $3, $4)")
        .bind(node.as_bytes())
        .bind(&key.id().as_bytes()[..])
        .bind(&key.as_bytes()[..])
        .bind(at.as_micros())
        .execute(connection)
        .await
        .map_err(failed("adding a node's key"))?;
    Ok(())
}

/// A node's keys, oldest first, and how each gave way to the next.
pub(super) async fn read(connection: &mut PgConnection, node: NodeId) -> Result<NodeKeys> {
    let rows: Vec<([u8; 32], Option<Vec<u8>>)> =
        sqlx::query_as("SELECT public_key, rotation FROM node_key WHERE node = $1 ORDER BY added_at, id")
            .bind(node.as_bytes())
            .fetch_all(connection)
            .await
            .map_err(failed("reading a node's keys"))?;
    let (mut keys, mut rotations) = (Vec::new(), Vec::new());
    for (key, rotation) in rows {
        keys.push(NodePublicKey::from_bytes(&key).map_err(damaged("node key"))?);
        if let Some(rotation) = rotation {
            rotations.push(SignedNodeRotation::parse(&rotation).map_err(damaged("rotation"))?);
        }
    }
    Ok(NodeKeys::followed(keys, rotations))
}

/// Whether a key was a node's and is not any more.
pub(super) async fn is_retired(connection: &mut PgConnection, key: &NodePublicKey) -> Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM node_key WHERE public_key = $1 AND retired_at IS NOT NULL)",
    )
    .bind(&key.as_bytes()[..])
    .fetch_one(connection)
    .await
    .map_err(failed("looking for a retired key"))
}

/// Follows rotations, all or none of them.
pub(super) async fn rotate(
    unit: &mut Unit<'_>,
    node: NodeId,
    rotations: &[SignedNodeRotation],
    now: Timestamp,
) -> Result<KeyOutcome> {
    lock_nodes(unit.sql(), [node]).await?;
    let mut keys = read(unit.sql(), node).await?;
    let mut new = Vec::new();
    for rotation in rotations {
        match keys.follow(rotation) {
            Ok(true) => new.push(rotation),
            Ok(false) => {}
            Err(error) => return Ok(KeyOutcome::Refused(error)),
        }
    }
    if keys.all().count() > MAX_NODE_KEYS {
        return Ok(KeyOutcome::TooMany);
    }
    let mut done = Vec::new();
    for rotation in new {
        let next = &rotation.unverified().next;
        add(unit.sql(), node, next, now).await?;
        sqlx::query("UPDATE node_key SET retired_at = $3, rotation = $4 WHERE node = $1 AND key_id = $2")
            .bind(node.as_bytes())
            .bind(&rotation.key().as_bytes()[..])
            .bind(now.as_micros())
            .bind(rotation.as_bytes())
            .execute(unit.sql())
            .await
            .map_err(failed("retiring a node's key"))?;
        let by = By { actor: Actor::Node(node), origin: None };
        let detail = json!({ "before": rotation.key().to_string(), "after": next.id().to_string() });
        done.push(Act::done(now, by, Action::NodeRotateKey, node.to_string(), detail));
        unit.changes.push(Change::NodeChanged(node));
    }
    for act in done {
        trail::append(unit.sql(), &act).await?;
    }
    // Every key that gave way has a successor.
    keys.current().copied().map(KeyOutcome::Current).ok_or_else(|| damaged("node key")("none is in use"))
}
