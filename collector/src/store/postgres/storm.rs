//! The bound on alerts of single events, in PostgreSQL; `store::storm` decides.

use std::collections::{BTreeMap, BTreeSet};

use auditflow_event::Timestamp;
use sqlx::PgConnection;
use uuid::Uuid;

use super::alerts::{self, Written};
use super::error::failed;
use super::unit::now;
use super::{rows_at_most, text};
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
pub(super) async fn raise(
    connection: &mut PgConnection,
    batch: &[NewAlert],
    rewrite: bool,
) -> Result<Raised> {
    let mut raised = Raised::default();
    if batch.is_empty() {
        return Ok(raised);
    }
    let slots: BTreeSet<Slot> = batch.iter().filter_map(Slot::of).collect();
    lock(connection, &slots).await?;
    let known = known(connection, batch).await?;
    let mut filled = BTreeMap::new();
    for slot in slots {
        let state = filled_of(connection, &slot, batch.len()).await?;
        filled.insert(slot, state);
    }
    let plan = plan(batch, &known, filled, rewrite);
    raised.opened = alerts::insert(connection, &plan.open, now()).await?;
    raised.changes.extend(raised.opened.iter().copied().map(Change::AlertOpened));
    for alert in plan.amend {
        if alerts::put(connection, alert, now()).await? == Written::Amended {
            raised.changes.push(Change::AlertChanged(alert.alert_id));
        }
    }
    for (id, by) in plan.displace {
        if alerts::retract(connection, id, Some(by), now()).await? {
            raised.changes.push(Change::AlertChanged(id));
        }
    }
    for (slot, matched) in &plan.counts {
        keep(connection, slot, *matched).await?;
    }
    for told in &plan.told {
        match alerts::put(connection, told, now()).await? {
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

/// Forgets the counts of hours before `before`; a slot that is met again is counted anew from what stands.
pub(super) async fn expire(connection: &mut PgConnection, before: Timestamp) -> Result<()> {
    sqlx::query("DELETE FROM storm WHERE hour < $1")
        .bind(before.as_micros().div_euclid(3_600_000_000))
        .execute(connection)
        .await
        .map_err(failed("expiring counts of alerts"))?;
    Ok(())
}

/// Keeps other analysers from these slots until the transaction ends. In one order: slots are sorted.
async fn lock(connection: &mut PgConnection, slots: &BTreeSet<Slot>) -> Result<()> {
    for slot in slots {
        let mut name = slot.node.as_bytes().to_vec();
        name.extend_from_slice(&slot.hour.to_be_bytes());
        name.extend_from_slice(slot.rule.as_bytes());
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('storm', 0) # $1)")
            .bind(i64::from_be_bytes(first_eight(&name)))
            .execute(&mut *connection)
            .await
            .map_err(failed("locking a count of alerts"))?;
    }
    Ok(())
}

fn first_eight(name: &[u8]) -> [u8; 8] {
    let digest = blake3::hash(name);
    std::array::from_fn(|place| digest.as_bytes()[place])
}

/// Which of the alerts are there, and whether they stand.
async fn known(connection: &mut PgConnection, batch: &[NewAlert]) -> Result<BTreeMap<Uuid, bool>> {
    let ids: Vec<&[u8]> = batch.iter().map(|alert| &alert.alert_id.as_bytes()[..]).collect();
    let rows: Vec<([u8; 16], bool)> = sqlx::query_as(
        "SELECT alert_id, machine IN ('standing', 'amended') FROM alert WHERE alert_id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(connection)
    .await
    .map_err(failed("looking alerts up"))?;
    Ok(rows.into_iter().map(|(id, stands)| (Uuid::from_bytes(id), stands)).collect())
}

async fn filled_of(connection: &mut PgConnection, slot: &Slot, most: usize) -> Result<Filled> {
    let attempt = "looking for a rule's last alerts";
    let matched: i64 = sqlx::query_scalar(
        "SELECT coalesce((SELECT matched FROM storm WHERE rule_id = $1 AND node = $2 AND hour = $3),
            (SELECT count(*) FROM alert WHERE rule_id = $1 AND node = $2 AND stamp >= $4 AND stamp < $5
                AND machine IN ('standing', 'amended')))",
    )
    .bind(text(&slot.rule))
    .bind(slot.node.as_bytes())
    .bind(slot.hour)
    .bind(slot.from().as_micros())
    .bind(slot.until().as_micros())
    .fetch_one(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    let last: Vec<(i64, [u8; 16])> = sqlx::query_as(
        "SELECT stamp, alert_id FROM alert WHERE rule_id = $1 AND node = $2 AND stamp >= $3 AND stamp < $4
            AND machine IN ('standing', 'amended') ORDER BY stamp DESC, alert_id DESC LIMIT $5",
    )
    .bind(text(&slot.rule))
    .bind(slot.node.as_bytes())
    .bind(slot.from().as_micros())
    .bind(slot.until().as_micros())
    .bind(rows_at_most(most))
    .fetch_all(connection)
    .await
    .map_err(failed(attempt))?;
    let last = last.into_iter().map(|(stamp, id)| (Timestamp::from_micros(stamp), Uuid::from_bytes(id)));
    Ok(Filled { matched: matched.unsigned_abs(), last: last.collect() })
}

async fn keep(connection: &mut PgConnection, slot: &Slot, matched: u64) -> Result<()> {
    sqlx::query(
        "INSERT INTO storm (rule_id, node, hour, matched) VALUES ($1, $2, $3, $4)
         ON CONFLICT (rule_id, node, hour) DO UPDATE SET matched = excluded.matched",
    )
    .bind(text(&slot.rule))
    .bind(slot.node.as_bytes())
    .bind(slot.hour)
    .bind(super::nodes::count(matched))
    .execute(connection)
    .await
    .map_err(failed("counting alerts"))?;
    Ok(())
}
