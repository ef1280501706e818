//! The keys that nodes sign with, in SQLite: added at enrolment, followed from one to the next.

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{NodeKeys, NodePublicKey, SignedNodeRotation};
use rusqlite::{Connection, params};
use serde_json::json;

use super::error::{damaged, failed};
use super::trail;
use super::writer::Unit;
use crate::store::{Act, Action, Actor, By, Change, KeyOutcome, MAX_NODE_KEYS, Result};

/// Adds a key.
pub(super) fn add(connection: &Connection, node: NodeId, key: &NodePublicKey, at: Timestamp) -> Result<()> {
    connection
        .execute(
            "INSERT INTO node_key (node, key_id, public_key, added_at) VALUES (?1, ?2, ?3, ?4)",
            params![node.as_bytes(), key.id().as_bytes(), key.as_bytes(), at.as_micros()],
        )
        .map_err(failed("adding a node's key"))?;
    Ok(())
}

/// A node's keys, oldest first, and how each gave way to the next.
pub(super) fn read(connection: &Connection, node: NodeId) -> Result<NodeKeys> {
    let rows: Vec<([u8; 32], Option<Vec<u8>>)> = connection
        .prepare_cached("SELECT public_key, rotation FROM node_key WHERE node = ?1 ORDER BY added_at")
        .and_then(|mut query| {
            query.query_map([node.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
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
pub(super) fn is_retired(connection: &Connection, key: &NodePublicKey) -> Result<bool> {
    connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM node_key WHERE public_key = ?1 AND retired_at IS NOT NULL)",
            [key.as_bytes()],
            |row| row.get(0),
        )
        .map_err(failed("looking for a retired key"))
}

/// Follows rotations, all or none of them.
pub(super) fn rotate(
    unit: &mut Unit<'_>,
    node: NodeId,
    rotations: &[SignedNodeRotation],
    now: Timestamp,
) -> Result<KeyOutcome> {
    let mut keys = read(unit.main, node)?;
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
    for rotation in new {
        let next = &rotation.unverified().next;
        add(unit.main, node, next, now)?;
        unit.main
            .execute(
                "UPDATE node_key SET retired_at = ?3, rotation = ?4 WHERE node = ?1 AND key_id = ?2",
                params![node.as_bytes(), rotation.key().as_bytes(), now.as_micros(), rotation.as_bytes()],
            )
            .map_err(failed("retiring a node's key"))?;
        let by = By { actor: Actor::Node(node), origin: None };
        let detail = json!({ "before": rotation.key().to_string(), "after": next.id().to_string() });
        trail::append(unit.main, &Act::done(now, by, Action::NodeRotateKey, node.to_string(), detail))?;
        unit.changes.push(Change::NodeChanged(node));
    }
    // Every key that gave way has a successor.
    keys.current().copied().map(KeyOutcome::Current).ok_or_else(|| damaged("node key")("none is in use"))
}
