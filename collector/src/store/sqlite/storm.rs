//! The bound on alerts of single events, in SQLite; see [`crate::store::storm`].

use std::collections::BTreeMap;

use auditflow_event::Timestamp;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::alerts::{self, Written};
use super::error::failed;
use super::writer::now;
use crate::store::storm::{Filled, Slot, plan};
use crate::store::{Change, NewAlert, Result};

/// What writing alerts within the bound did.
#[derive(Debug, Default)]
pub(super) struct Raised {
    /// Alerts that were not there before.
    pub(super) opened: Vec<Uuid>,
    /// For the page and the event stream.
    pub(super) changes: Vec<Change>,
    /// By rule, how many are beyond the bound.
    pub(super) beyond: BTreeMap<String, u64>,
}

/// Writes a batch's alerts. One that is there is amended if `rewrite`, which counts nothing a second time.
pub(super) fn raise(connection: &Connection, batch: &[NewAlert], rewrite: bool) -> Result<Raised> {
    let mut raised = Raised::default();
    let (mut known, mut filled) = (BTreeMap::new(), BTreeMap::new());
    for alert in batch {
        if let Some(stands) = alerts::stands(connection, alert.alert_id)? {
            known.insert(alert.alert_id, stands);
        } else if let Some(slot) = Slot::of(alert)
            && !filled.contains_key(&slot)
        {
            let state = filled_of(connection, &slot, batch.len())?;
            filled.insert(slot, state);
        }
    }
    let plan = plan(batch, &known, filled, rewrite);
    for alert in plan.open {
        if alerts::insert(connection, alert, now())? {
            raised.opened.push(alert.alert_id);
            raised.changes.push(Change::AlertOpened(alert.alert_id));
        }
    }
    for alert in plan.amend {
        if alerts::put(connection, alert, now())? == Written::Amended {
            raised.changes.push(Change::AlertChanged(alert.alert_id));
        }
    }
    for (id, by) in plan.displace {
        if alerts::retract(connection, id, Some(by), now())? {
            raised.changes.push(Change::AlertChanged(id));
        }
    }
    for (slot, matched) in &plan.counts {
        keep(connection, slot, *matched)?;
    }
    for told in &plan.told {
        match alerts::put(connection, told, now())? {
            Written::Opened => {
                raised.opened.push(told.alert_id);
                raised.changes.push(Change::AlertOpened(told.alert_id));
            }
            Written::Amended => raised.changes.push(Change::AlertChanged(told.alert_id)),
            Written::Unchanged => {}
        }
    }
    raised.beyond = plan.beyond;
    Ok(raised)
}

/// Writes down how many a slot has now.
fn keep(connection: &Connection, slot: &Slot, matched: u64) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO storm (rule_id, node, hour, matched) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (rule_id, node, hour) DO UPDATE SET matched = excluded.matched",
        )
        .and_then(|mut statement| {
            let matched = i64::try_from(matched).unwrap_or(i64::MAX);
            statement.execute(params![slot.rule, slot.node.as_bytes(), slot.hour, matched])
        })
        .map_err(failed("counting alerts"))?;
    Ok(())
}

/// What stands of a slot: its count, and at most so many of its last alerts.
fn filled_of(connection: &Connection, slot: &Slot, most: usize) -> Result<Filled> {
    let last = connection
        .prepare_cached(
            "SELECT stamp, alert_id FROM alert WHERE rule_id = ?1 AND node = ?2 AND stamp >= ?3 AND stamp < ?4
                AND machine IN ('standing', 'amended') ORDER BY stamp DESC, alert_id DESC LIMIT ?5",
        )
        .and_then(|mut statement| {
            let (from, until) = (slot.from().as_micros(), slot.until().as_micros());
            let most = i64::try_from(most).unwrap_or(i64::MAX);
            let read = |row: &rusqlite::Row<'_>| {
                Ok((Timestamp::from_micros(row.get(0)?), Uuid::from_bytes(row.get(1)?)))
            };
            statement.query_map(params![slot.rule, slot.node.as_bytes(), from, until, most], read)?.collect()
        })
        .map_err(failed("looking for a rule's last alerts"))?;
    Ok(Filled { matched: matched(connection, slot)?, last })
}

/// Forgets the counts of hours before `before`; a slot that is met again is counted anew from what stands.
pub(super) fn expire(connection: &Connection, before: Timestamp) -> Result<()> {
    let hour = before.as_micros().div_euclid(3_600_000_000);
    connection
        .execute("DELETE FROM storm WHERE hour < ?1", [hour])
        .map(drop)
        .map_err(failed("expiring counts of alerts"))
}

fn matched(connection: &Connection, slot: &Slot) -> Result<u64> {
    let sql = "SELECT matched FROM storm WHERE rule_id = ?1 AND node = ?2 AND hour = ?3";
    let node = slot.node.as_bytes();
    let counted = alerts::optional::<i64>(connection, sql, &[&slot.rule, node, &slot.hour])?;
    if let Some(counted) = counted {
        return Ok(counted.unsigned_abs());
    }
    let sql = "SELECT count(*) FROM alert WHERE rule_id = ?1 AND node = ?2 AND stamp >= ?3 AND stamp < ?4
        AND machine IN ('standing', 'amended')";
    let (from, until) = (slot.from().as_micros(), slot.until().as_micros());
    let standing = alerts::optional::<i64>(connection, sql, &[&slot.rule, node, &from, &until])?;
    Ok(standing.unwrap_or_default().unsigned_abs())
}
