//! The bound on alerts of single events, in SQLite; see [`crate::store::storm`].

use std::collections::BTreeMap;

use auditflow_event::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::alerts::{self, Written};
use super::error::failed;
use super::writer::now;
use crate::store::storm::{ALERTS_PER_HOUR, Slot};
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

/// One slot while a batch is written.
struct Count<'a> {
    matched: u64,
    like: &'a NewAlert,
}

/// Writes a batch's alerts. One that is there is amended if `rewrite`, which counts nothing a second time.
pub(super) fn raise(connection: &Connection, batch: &[NewAlert], rewrite: bool) -> Result<Raised> {
    let mut raised = Raised::default();
    let mut counts: BTreeMap<Slot, Count<'_>> = BTreeMap::new();
    for alert in batch {
        if let Some(stands) = alerts::stands(connection, alert.alert_id)? {
            if rewrite && stands {
                raised.amend(connection, alert)?;
            }
            continue;
        }
        let Some(slot) = Slot::of(alert) else {
            raised.open(connection, alert)?;
            continue;
        };
        if !counts.contains_key(&slot) {
            let matched = matched(connection, &slot)?;
            counts.insert(slot.clone(), Count { matched, like: alert });
        }
        let Some(count) = counts.get_mut(&slot) else { continue };
        if count.matched < ALERTS_PER_HOUR || raised.displaces_the_last(connection, &slot, alert)? {
            raised.open(connection, alert)?;
        }
        if !rewrite {
            *raised.beyond.entry(slot.rule).or_default() += u64::from(count.matched >= ALERTS_PER_HOUR);
            count.matched += 1;
        }
    }
    if !rewrite {
        for (slot, count) in counts {
            raised.keep(connection, &slot, &count)?;
        }
    }
    Ok(raised)
}

impl Raised {
    fn open(&mut self, connection: &Connection, alert: &NewAlert) -> Result<()> {
        if alerts::insert(connection, alert, now())? {
            self.opened.push(alert.alert_id);
            self.changes.push(Change::AlertOpened(alert.alert_id));
        }
        Ok(())
    }

    fn amend(&mut self, connection: &Connection, alert: &NewAlert) -> Result<()> {
        if alerts::put(connection, alert, now())? == Written::Amended {
            self.changes.push(Change::AlertChanged(alert.alert_id));
        }
        Ok(())
    }

    /// Whether `alert` comes before the last that stands in a full slot, which then gives way.
    fn displaces_the_last(&mut self, connection: &Connection, slot: &Slot, alert: &NewAlert) -> Result<bool> {
        let last = connection
            .prepare_cached(
                "SELECT stamp, alert_id FROM alert WHERE rule_id = ?1 AND node = ?2 AND stamp >= ?3 AND stamp < ?4
                    AND machine IN ('standing', 'amended') ORDER BY stamp DESC, alert_id DESC LIMIT 1",
            )
            .and_then(|mut statement| {
                let (from, until) = (slot.from().as_micros(), slot.until().as_micros());
                statement
                    .query_row(params![slot.rule, slot.node.as_bytes(), from, until], |row| {
                        Ok((Timestamp::from_micros(row.get(0)?), Uuid::from_bytes(row.get(1)?)))
                    })
                    .optional()
            })
            .map_err(failed("looking for a rule's last alert"))?;
        let Some((stamp, id)) = last else { return Ok(true) };
        if (Some(stamp), id) <= (alert.stamp, alert.alert_id) {
            return Ok(false);
        }
        if alerts::retract(connection, id, Some(slot.alert_id()), now())? {
            self.changes.push(Change::AlertChanged(id));
        }
        Ok(true)
    }

    /// Writes down how many a slot has now, and tells of those beyond the bound.
    fn keep(&mut self, connection: &Connection, slot: &Slot, count: &Count<'_>) -> Result<()> {
        connection
            .prepare_cached(
                "INSERT INTO storm (rule_id, node, hour, matched) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (rule_id, node, hour) DO UPDATE SET matched = excluded.matched",
            )
            .and_then(|mut statement| {
                let matched = i64::try_from(count.matched).unwrap_or(i64::MAX);
                statement.execute(params![slot.rule, slot.node.as_bytes(), slot.hour, matched])
            })
            .map_err(failed("counting alerts"))?;
        if count.matched <= ALERTS_PER_HOUR {
            return Ok(());
        }
        let told = slot.alert(count.like, count.matched);
        match alerts::put(connection, &told, now())? {
            Written::Opened => {
                self.opened.push(told.alert_id);
                self.changes.push(Change::AlertOpened(told.alert_id));
            }
            Written::Amended => self.changes.push(Change::AlertChanged(told.alert_id)),
            Written::Unchanged => {}
        }
        Ok(())
    }
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
