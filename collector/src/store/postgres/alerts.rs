//! Alerts in PostgreSQL.

use std::borrow::Cow;

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::error::{damaged, failed};
use super::unit::{Unit, now, reading, writing};
use super::{PostgresStore, column, outbox, rows_at_most, text, trail};
use crate::store::{
    Act, Action, AlertCounts, AlertCursor, AlertFilter, AlertRow, AlertStatus, AlertStore, By, Change,
    Machine, NewAlert, Result, StatusChange,
};

#[async_trait]
impl AlertStore for PostgresStore {
    async fn insert_alerts(&self, alerts: Vec<NewAlert>) -> Result<Vec<Uuid>> {
        let alerts: Vec<&NewAlert> = alerts.iter().collect();
        writing!(self, unit => async {
            let opened = insert(unit.sql(), &alerts, now()).await?;
            outbox::add(unit.sql(), &self.announces, &opened).await?;
            unit.changes.extend(opened.iter().copied().map(Change::AlertOpened));
            Ok(opened)
        })
    }

    async fn alerts(
        &self,
        filter: AlertFilter,
        after: Option<AlertCursor>,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<AlertRow>> {
        reading!(self, sql => list(sql, &filter, after, offset, limit))
    }

    async fn count_alerts(&self, filter: AlertFilter) -> Result<u64> {
        reading!(self, sql => count(sql, &filter))
    }

    async fn alert(&self, id: Uuid) -> Result<Option<AlertRow>> {
        reading!(self, sql => get(sql, id))
    }

    async fn alerts_of_group(&self, rule_id: &str, group: &str) -> Result<Vec<AlertRow>> {
        reading!(self, sql => async {
            sqlx::query(
                "SELECT * FROM alert WHERE rule_id = $1 AND md5(grp) = md5($2) AND grp = $2
                 ORDER BY timestamp, alert_id",
            )
            .bind(text(rule_id))
            .bind(text(group))
            .fetch_all(sql)
            .await
            .map_err(failed("reading a group's alerts"))?
            .iter()
            .map(read_row)
            .collect()
        })
    }

    async fn alert_counts(&self, since: Timestamp) -> Result<AlertCounts> {
        reading!(self, sql => counts(sql, since))
    }

    async fn set_alert_status(&self, id: Uuid, change: StatusChange, by: By, now: Timestamp) -> Result<bool> {
        writing!(self, unit => set_status(unit, id, &change, by.clone(), now))
    }

    async fn delete_alert(&self, id: Uuid, by: By, now: Timestamp) -> Result<bool> {
        writing!(self, unit => delete(unit, id, by.clone(), now))
    }
}

/// What writing an alert's machine part did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Opened,
    Amended,
    Unchanged,
}

/// What a filter lets through, its values bound by `bind_filter`. A NULL parameter is no condition: one statement,
/// whatever is asked.
macro_rules! matching {
    () => {
        "($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR severity = $2)
            AND ($3::text IS NULL OR rule_id = $3) AND ($4::bytea IS NULL OR node = $4)
            AND ($5::text IS NULL OR server_hostname = $5) AND timestamp >= $6 AND timestamp <= $7
            AND ($8 OR machine IN ('standing', 'amended')) AND ($9 OR deleted_at IS NULL)
            AND ($10::text IS NULL OR alert_type = $10) AND ($11::text IS NULL OR actor_id = $11)
            AND ($12::text IS NULL OR position(lower($12) IN lower(concat_ws(E'\\n', description, rule, server_hostname,
                action_observed, triggered_by, impacted_resource))) > 0)"
    };
}

macro_rules! bind_filter {
    ($query:expr, $filter:expr) => {
        $query
            .bind($filter.status.map(AlertStatus::name))
            .bind($filter.severity.as_deref().map(text))
            .bind($filter.rule_id.as_deref().map(text))
            .bind($filter.node.as_ref().map(|node: &NodeId| node.as_bytes().as_slice()))
            .bind($filter.server_hostname.as_deref().map(text))
            .bind($filter.from.map_or(i64::MIN, Timestamp::as_micros))
            .bind($filter.to.map_or(i64::MAX, Timestamp::as_micros))
            .bind($filter.include_retracted)
            .bind($filter.include_deleted)
            .bind($filter.alert_type.as_deref().map(text))
            .bind($filter.user.as_deref().map(text))
            .bind($filter.text.as_deref().map(text))
    };
}

/// Alerts written by one statement.
const TOGETHER: usize = 256;

/// Writes alerts that are not there, and says which these are.
pub(super) async fn insert(
    connection: &mut PgConnection,
    alerts: &[&NewAlert],
    now: Timestamp,
) -> Result<Vec<Uuid>> {
    let mut inserted = Vec::new();
    for some in alerts.chunks(TOGETHER) {
        inserted.extend(insert_some(connection, some, now).await?);
    }
    Ok(inserted)
}

async fn insert_some(
    connection: &mut PgConnection,
    alerts: &[&NewAlert],
    now: Timestamp,
) -> Result<Vec<Uuid>> {
    macro_rules! column {
        ($alert:ident => $value:expr) => {
            alerts.iter().map(|$alert| $value).collect::<Vec<_>>()
        };
    }
    let rows: Vec<[u8; 16]> = sqlx::query_scalar(
        "INSERT INTO alert (alert_id, correlation_id, fingerprint, rule, rule_id, rule_name, timestamp, severity,
            alert_type, triggered_by, actor_id, impacted_resource, action_observed, source_service_name,
            server_hostname, node, description, evidence, events, metadata, grp, stamp, received_at, changed_at, machine)
         SELECT *, $23, $23, 'standing' FROM UNNEST($1::bytea[], $2::text[], $3::text[], $4::text[], $5::text[],
            $6::text[], $7::bigint[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
            $14::text[], $15::text[], $16::bytea[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
            $22::bigint[])
         ON CONFLICT (alert_id) DO NOTHING RETURNING alert_id",
    )
    .bind(column!(alert => alert.alert_id.as_bytes().as_slice()))
    .bind(column!(alert => text(&alert.correlation_id)))
    .bind(column!(alert => text(&alert.fingerprint)))
    .bind(column!(alert => json(&alert.rule)))
    .bind(column!(alert => text(&alert.rule.id)))
    .bind(column!(alert => text(&alert.rule.name)))
    .bind(column!(alert => alert.timestamp.as_micros()))
    .bind(column!(alert => text(&alert.severity)))
    .bind(column!(alert => text(&alert.alert_type)))
    .bind(column!(alert => json(&alert.triggered_by)))
    .bind(column!(alert => actor(alert)))
    .bind(column!(alert => json(&alert.impacted_resource)))
    .bind(column!(alert => text(&alert.action_observed)))
    .bind(column!(alert => text(&alert.source_service_name)))
    .bind(column!(alert => text(&alert.server_hostname)))
    .bind(column!(alert => alert.node.as_ref().map(|node| node.as_bytes().as_slice())))
    .bind(column!(alert => text(&alert.description)))
    .bind(column!(alert => json(&alert.evidence)))
    .bind(column!(alert => json(&alert.events)))
    .bind(column!(alert => json(&alert.metadata)))
    .bind(column!(alert => alert.group.as_deref().map(text)))
    .bind(column!(alert => alert.stamp.map(Timestamp::as_micros)))
    .bind(now.as_micros())
    .fetch_all(connection)
    .await
    .map_err(failed("writing alerts"))?;
    Ok(rows.into_iter().map(Uuid::from_bytes).collect())
}

fn actor(alert: &NewAlert) -> Option<Cow<'_, str>> {
    alert.triggered_by.get("actor_id").and_then(|actor| actor.as_str()).map(text)
}

/// Writes an alert's machine part: new, amended, or as it was. Human state is not touched.
pub(super) async fn put(connection: &mut PgConnection, alert: &NewAlert, now: Timestamp) -> Result<Written> {
    // Tried first: who finds it written by another then also sees it.
    if !insert(connection, &[alert], now).await?.is_empty() {
        return Ok(Written::Opened);
    }
    let Some(known) = get(connection, alert.alert_id).await? else { return Ok(Written::Unchanged) };
    if known.machine.stands() && (known.alert == *alert || known.alert == as_kept(alert)) {
        return Ok(Written::Unchanged);
    }
    sqlx::query(
        "UPDATE alert SET correlation_id = $2, fingerprint = $3, rule = $4, rule_id = $5, rule_name = $6, timestamp = $7,
            severity = $8, alert_type = $9, triggered_by = $10, actor_id = $11, impacted_resource = $12,
            action_observed = $13, source_service_name = $14, server_hostname = $15, node = $16, description = $17,
            evidence = $18, events = $19, metadata = $20, changed_at = $21, machine = 'amended', superseded_by = NULL
         WHERE alert_id = $1",
    )
    .bind(alert.alert_id.as_bytes().as_slice())
    .bind(text(&alert.correlation_id))
    .bind(text(&alert.fingerprint))
    .bind(json(&alert.rule))
    .bind(text(&alert.rule.id))
    .bind(text(&alert.rule.name))
    .bind(alert.timestamp.as_micros())
    .bind(text(&alert.severity))
    .bind(text(&alert.alert_type))
    .bind(json(&alert.triggered_by))
    .bind(actor(alert))
    .bind(json(&alert.impacted_resource))
    .bind(text(&alert.action_observed))
    .bind(text(&alert.source_service_name))
    .bind(text(&alert.server_hostname))
    .bind(alert.node.as_ref().map(|node| node.as_bytes().as_slice()))
    .bind(text(&alert.description))
    .bind(json(&alert.evidence))
    .bind(json(&alert.events))
    .bind(json(&alert.metadata))
    .bind(now.as_micros())
    .execute(connection)
    .await
    .map_err(failed("amending an alert"))?;
    Ok(Written::Amended)
}

/// An alert as it reads back: without NULs in its text.
fn as_kept(alert: &NewAlert) -> NewAlert {
    let mut kept = alert.clone();
    for field in [
        &mut kept.correlation_id,
        &mut kept.fingerprint,
        &mut kept.severity,
        &mut kept.alert_type,
        &mut kept.action_observed,
        &mut kept.source_service_name,
        &mut kept.server_hostname,
        &mut kept.description,
    ] {
        *field = text(field).into_owned();
    }
    kept.group = kept.group.map(|group| text(&group).into_owned());
    kept
}

/// Marks an alert superseded or withdrawn. False: it was so already, or there is none.
pub(super) async fn retract(
    connection: &mut PgConnection,
    id: Uuid,
    by: Option<Uuid>,
    now: Timestamp,
) -> Result<bool> {
    let changed = sqlx::query(
        "UPDATE alert SET machine = $2, superseded_by = $3, changed_at = $4
         WHERE alert_id = $1 AND (machine <> $2 OR superseded_by IS DISTINCT FROM $3)",
    )
    .bind(id.as_bytes().as_slice())
    .bind(if by.is_some() { "superseded" } else { "withdrawn" })
    .bind(by.as_ref().map(|by| by.as_bytes().as_slice()))
    .bind(now.as_micros())
    .execute(connection)
    .await
    .map_err(failed("retracting an alert"))?;
    Ok(changed.rows_affected() == 1)
}

/// Gives an alert its predecessor's human state, unless a person has touched it already.
pub(super) async fn inherit(connection: &mut PgConnection, old: Uuid, new: Uuid) -> Result<()> {
    sqlx::query(
        "UPDATE alert SET status = old.status, assignee = old.assignee, note = old.note
         FROM (SELECT status, assignee, note FROM alert WHERE alert_id = $1) AS old
         WHERE alert_id = $2 AND alert.status = 'open' AND alert.assignee IS NULL AND alert.note IS NULL",
    )
    .bind(old.as_bytes().as_slice())
    .bind(new.as_bytes().as_slice())
    .execute(connection)
    .await
    .map_err(failed("handing an alert's state on"))?;
    Ok(())
}

/// One alert by its id.
async fn get(connection: &mut PgConnection, id: Uuid) -> Result<Option<AlertRow>> {
    let row = sqlx::query("SELECT * FROM alert WHERE alert_id = $1")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(connection)
        .await
        .map_err(failed("reading an alert"))?;
    row.as_ref().map(read_row).transpose()
}

async fn list(
    connection: &mut PgConnection,
    filter: &AlertFilter,
    after: Option<AlertCursor>,
    offset: u64,
    limit: usize,
) -> Result<Vec<AlertRow>> {
    let (before, id) =
        after.map_or((i64::MAX, Uuid::max()), |cursor| (cursor.received_at.as_micros(), cursor.alert_id));
    let query = sqlx::query(concat!(
        "SELECT * FROM alert WHERE ",
        matching!(),
        " AND (received_at, alert_id) < ($13, $14) ORDER BY received_at DESC, alert_id DESC LIMIT $15 OFFSET $16"
    ));
    bind_filter!(query, filter)
        .bind(before)
        .bind(id.as_bytes().as_slice())
        .bind(rows_at_most(limit))
        .bind(i64::try_from(offset).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await
        .map_err(failed("reading alerts"))?
        .iter()
        .map(read_row)
        .collect()
}

async fn count(connection: &mut PgConnection, filter: &AlertFilter) -> Result<u64> {
    let query = sqlx::query_scalar(concat!("SELECT count(*) FROM alert WHERE ", matching!()));
    let counted: i64 =
        bind_filter!(query, filter).fetch_one(connection).await.map_err(failed("counting alerts"))?;
    Ok(counted.unsigned_abs())
}

async fn set_status(
    unit: &mut Unit<'_>,
    id: Uuid,
    change: &StatusChange,
    by: By,
    now: Timestamp,
) -> Result<bool> {
    let changed = sqlx::query(
        "UPDATE alert SET status = coalesce($2, status),
            assignee = CASE WHEN $3::text IS NULL THEN assignee ELSE nullif($3, '') END,
            note = CASE WHEN $4::text IS NULL THEN note ELSE nullif($4, '') END, changed_at = $5
         WHERE alert_id = $1",
    )
    .bind(id.as_bytes().as_slice())
    .bind(change.status.map(AlertStatus::name))
    .bind(change.assignee.as_deref().map(text))
    .bind(change.note.as_deref().map(text))
    .bind(now.as_micros())
    .execute(unit.sql())
    .await
    .map_err(failed("setting an alert's status"))?;
    if changed.rows_affected() == 0 {
        return Ok(false);
    }
    let detail =
        serde_json::json!({ "status": change.status, "assignee": change.assignee, "note": change.note });
    tell(unit, id, Act::done(now, by, Action::AlertChange, id.to_string(), detail)).await?;
    Ok(true)
}

async fn delete(unit: &mut Unit<'_>, id: Uuid, by: By, now: Timestamp) -> Result<bool> {
    let deleted = sqlx::query(
        "UPDATE alert SET deleted_at = $2, changed_at = $2 WHERE alert_id = $1 AND deleted_at IS NULL",
    )
    .bind(id.as_bytes().as_slice())
    .bind(now.as_micros())
    .execute(unit.sql())
    .await
    .map_err(failed("deleting an alert"))?;
    if deleted.rows_affected() == 0 {
        return get(unit.sql(), id).await.map(|found| found.is_some());
    }
    tell(unit, id, Act::done(now, by, Action::AlertDelete, id.to_string(), serde_json::json!({}))).await?;
    Ok(true)
}

/// Writes the audit trail of what a person did to an alert.
async fn tell(unit: &mut Unit<'_>, id: Uuid, act: Act) -> Result<()> {
    unit.changes.push(Change::AlertChanged(id));
    trail::append(unit.sql(), &act).await
}

async fn counts(connection: &mut PgConnection, since: Timestamp) -> Result<AlertCounts> {
    let attempt = "counting alerts";
    let open: Vec<(String, i64)> = sqlx::query_as(
        "SELECT severity, count(*) FROM alert WHERE status = 'open' AND deleted_at IS NULL
            AND machine IN ('standing', 'amended') GROUP BY severity ORDER BY severity COLLATE \"C\"",
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(failed(attempt))?;
    let rules: Vec<(String, String, i64)> = sqlx::query_as(
        "SELECT rule_id, max(rule_name), count(*) AS alerts FROM alert
            WHERE received_at >= $1 AND deleted_at IS NULL AND machine IN ('standing', 'amended')
            GROUP BY rule_id ORDER BY alerts DESC, rule_id COLLATE \"C\" LIMIT 100",
    )
    .bind(since.as_micros())
    .fetch_all(connection)
    .await
    .map_err(failed(attempt))?;
    Ok(AlertCounts {
        open: open.into_iter().map(|(severity, count)| (severity, count.unsigned_abs())).collect(),
        rules: rules.into_iter().map(|(id, name, count)| (id, name, count.unsigned_abs())).collect(),
    })
}

pub(super) fn read_row(row: &PgRow) -> Result<AlertRow> {
    let what = "alert";
    let words = |name| column::<String>(row, name, what);
    let perhaps = |name| column::<Option<String>>(row, name, what);
    let time = |name| Ok(Timestamp::from_micros(column(row, name, what)?));
    let perhaps_time = |name| Ok(column::<Option<i64>>(row, name, what)?.map(Timestamp::from_micros));
    let superseded_by = row.try_get::<Option<[u8; 16]>, _>("superseded_by").map_err(damaged(what))?;
    let alert = NewAlert {
        alert_id: Uuid::from_bytes(column(row, "alert_id", what)?),
        correlation_id: words("correlation_id")?,
        fingerprint: words("fingerprint")?,
        rule: from_json(&words("rule")?)?,
        group: perhaps("grp")?,
        stamp: perhaps_time("stamp")?,
        timestamp: time("timestamp")?,
        severity: words("severity")?,
        alert_type: words("alert_type")?,
        triggered_by: from_json(&words("triggered_by")?)?,
        impacted_resource: from_json(&words("impacted_resource")?)?,
        action_observed: words("action_observed")?,
        source_service_name: words("source_service_name")?,
        server_hostname: words("server_hostname")?,
        node: column::<Option<[u8; 16]>>(row, "node", what)?.map(NodeId::from_bytes),
        description: words("description")?,
        evidence: from_json(&words("evidence")?)?,
        events: from_json(&words("events")?)?,
        metadata: from_json(&words("metadata")?)?,
    };
    Ok(AlertRow {
        alert,
        received_at: time("received_at")?,
        changed_at: time("changed_at")?,
        machine: Machine::of(&words("machine")?, superseded_by.map(Uuid::from_bytes)),
        status: AlertStatus::from_name(&words("status")?).unwrap_or(AlertStatus::Open),
        assignee: perhaps("assignee")?,
        note: perhaps("note")?,
        deleted_at: perhaps_time("deleted_at")?,
    })
}

/// JSON text of what always has one: maps and structs of strings, numbers and values.
pub(super) fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// What a JSON column holds.
pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(damaged("json column"))
}
