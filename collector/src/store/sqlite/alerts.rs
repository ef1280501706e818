//! Alerts in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::error::{damaged, failed};
use super::writer::now;
use super::{SqliteStore, outbox, trail};
use crate::store::{
    Act, Action, AlertCounts, AlertCursor, AlertFilter, AlertRow, AlertRule, AlertStatus, AlertStore, By,
    Change, Machine, NewAlert, Result, StatusChange,
};

const COLUMNS: &str =
    "alert_id, correlation_id, fingerprint, rule, grp, stamp, timestamp, received_at, changed_at, severity,
    alert_type, triggered_by, impacted_resource, action_observed, source_service_name, server_hostname, node,
    description, evidence, events, metadata, machine, superseded_by, status, assignee, note, deleted_at";

#[async_trait]
impl AlertStore for SqliteStore {
    async fn insert_alerts(&self, alerts: Vec<NewAlert>) -> Result<Vec<Uuid>> {
        let announces = Arc::clone(&self.announces);
        self.writer()
            .write(0, move |unit| {
                let now = now();
                let mut opened = Vec::new();
                for alert in &alerts {
                    if insert(unit.main, alert, now)? {
                        opened.push(alert.alert_id);
                    }
                }
                outbox::add(unit.main, &announces, &opened)?;
                unit.changes.extend(opened.iter().copied().map(Change::AlertOpened));
                Ok(opened)
            })
            .await
    }

    async fn alerts(
        &self,
        filter: AlertFilter,
        after: Option<AlertCursor>,
        offset: u64,
        limit: usize,
    ) -> Result<Vec<AlertRow>> {
        self.readers().read(move |reader| list(&reader.main, &filter, after, offset, limit)).await
    }

    async fn count_alerts(&self, filter: AlertFilter) -> Result<u64> {
        self.readers().read(move |reader| count(&reader.main, &filter)).await
    }

    async fn alert(&self, id: Uuid) -> Result<Option<AlertRow>> {
        self.readers().read(move |reader| get(&reader.main, id)).await
    }

    async fn alerts_of_group(&self, rule_id: &str, group: &str) -> Result<Vec<AlertRow>> {
        let (rule_id, group) = (rule_id.to_owned(), group.to_owned());
        self.readers()
            .read(move |reader| {
                let order = "ORDER BY timestamp, alert_id";
                let sql = format!("SELECT {COLUMNS} FROM alert WHERE rule_id = ?1 AND grp = ?2 {order}");
                rows(&reader.main, &sql, &[&rule_id, &group])
            })
            .await
    }

    async fn alert_counts(&self, since: Timestamp) -> Result<AlertCounts> {
        self.readers().read(move |reader| counts(&reader.main, since)).await
    }

    async fn set_alert_status(&self, id: Uuid, change: StatusChange, by: By, now: Timestamp) -> Result<bool> {
        self.writer()
            .write(0, move |unit| {
                let done = set_status(unit.main, id, &change, now)?;
                if done {
                    let detail = serde_json::json!({
                        "status": change.status, "assignee": change.assignee, "note": change.note,
                    });
                    let act = Act::done(now, by, Action::AlertChange, id.to_string(), detail);
                    trail::append(unit.main, &act)?;
                    unit.changes.push(Change::AlertChanged(id));
                }
                Ok(done)
            })
            .await
    }

    async fn delete_alert(&self, id: Uuid, by: By, now: Timestamp) -> Result<bool> {
        self.writer()
            .write(0, move |unit| {
                let deleted = unit
                    .main
                    .execute(
                        "UPDATE alert SET deleted_at = ?2, changed_at = ?2 WHERE alert_id = ?1 AND deleted_at IS NULL",
                        params![id.as_bytes(), now.as_micros()],
                    )
                    .map_err(failed("deleting an alert"))?;
                if deleted == 0 {
                    return get(unit.main, id).map(|found| found.is_some());
                }
                let act =
                    Act::done(now, by, Action::AlertDelete, id.to_string(), serde_json::json!({}));
                trail::append(unit.main, &act)?;
                unit.changes.push(Change::AlertChanged(id));
                Ok(true)
            })
            .await
    }
}

/// What writing an alert's machine part did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Opened,
    Amended,
    Unchanged,
}

/// Writes an alert only if it is not there.
pub(super) fn insert(connection: &Connection, alert: &NewAlert, now: Timestamp) -> Result<bool> {
    let sql = "INSERT INTO alert (alert_id, correlation_id, fingerprint, rule, rule_id, grp, timestamp, received_at,
            changed_at, severity, alert_type, triggered_by, impacted_resource, action_observed, source_service_name,
            server_hostname, node, description, evidence, events, metadata, stamp, machine)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20,
            ?21, 'standing')
        ON CONFLICT (alert_id) DO NOTHING";
    let written = connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![
                alert.alert_id.as_bytes(),
                alert.correlation_id,
                alert.fingerprint,
                json(&alert.rule),
                alert.rule.id,
                alert.group,
                alert.timestamp.as_micros(),
                now.as_micros(),
                alert.severity,
                alert.alert_type,
                json(&alert.triggered_by),
                json(&alert.impacted_resource),
                alert.action_observed,
                alert.source_service_name,
                alert.server_hostname,
                alert.node.as_ref().map(NodeId::as_bytes),
                alert.description,
                json(&alert.evidence),
                json(&alert.events),
                json(&alert.metadata),
                alert.stamp.map(Timestamp::as_micros),
            ])
        })
        .map_err(failed("writing an alert"))?;
    Ok(written == 1)
}

/// Writes an alert's machine part: new, amended, or as it was. Human state is not touched.
pub(super) fn put(connection: &Connection, alert: &NewAlert, now: Timestamp) -> Result<Written> {
    let Some(known) = get(connection, alert.alert_id)? else {
        insert(connection, alert, now)?;
        return Ok(Written::Opened);
    };
    if known.machine.stands() && known.alert == *alert {
        return Ok(Written::Unchanged);
    }
    connection
        .prepare_cached(
            "UPDATE alert SET correlation_id = ?2, fingerprint = ?3, rule = ?4, timestamp = ?5, changed_at = ?6,
                severity = ?7, alert_type = ?8, triggered_by = ?9, impacted_resource = ?10, action_observed = ?11,
                source_service_name = ?12, server_hostname = ?13, node = ?14, description = ?15, evidence = ?16,
                events = ?17, metadata = ?18, machine = 'amended', superseded_by = NULL WHERE alert_id = ?1",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                alert.alert_id.as_bytes(),
                alert.correlation_id,
                alert.fingerprint,
                json(&alert.rule),
                alert.timestamp.as_micros(),
                now.as_micros(),
                alert.severity,
                alert.alert_type,
                json(&alert.triggered_by),
                json(&alert.impacted_resource),
                alert.action_observed,
                alert.source_service_name,
                alert.server_hostname,
                alert.node.as_ref().map(NodeId::as_bytes),
                alert.description,
                json(&alert.evidence),
                json(&alert.events),
                json(&alert.metadata),
            ])
        })
        .map_err(failed("amending an alert"))?;
    Ok(Written::Amended)
}

/// Marks an alert superseded or withdrawn. False: it was so already, or there is none.
pub(super) fn retract(connection: &Connection, id: Uuid, by: Option<Uuid>, now: Timestamp) -> Result<bool> {
    let machine = if by.is_some() { "superseded" } else { "withdrawn" };
    let sql = "UPDATE alert SET machine = ?2, superseded_by = ?3, changed_at = ?4
        WHERE alert_id = ?1 AND (machine <> ?2 OR superseded_by IS NOT ?3)";
    let by = by.as_ref().map(Uuid::as_bytes);
    let changed = connection
        .execute(sql, params![id.as_bytes(), machine, by, now.as_micros()])
        .map_err(failed("retracting an alert"))?;
    Ok(changed == 1)
}

/// Gives an alert its predecessor's human state, unless a person has touched it already.
pub(super) fn inherit(connection: &Connection, old: Uuid, new: Uuid) -> Result<()> {
    connection
        .execute(
            "UPDATE alert SET (status, assignee, note) =
                (SELECT status, assignee, note FROM alert WHERE alert_id = ?1)
             WHERE alert_id = ?2 AND status = 'open' AND assignee IS NULL AND note IS NULL
                AND EXISTS (SELECT 1 FROM alert WHERE alert_id = ?1)",
            params![old.as_bytes(), new.as_bytes()],
        )
        .map_err(failed("handing an alert's state on"))?;
    Ok(())
}

/// Whether an alert stands; none: there is none of that id.
pub(super) fn stands(connection: &Connection, id: Uuid) -> Result<Option<bool>> {
    let sql = "SELECT machine IN ('standing', 'amended') FROM alert WHERE alert_id = ?1";
    optional(connection, sql, &[id.as_bytes()])
}

/// One alert by its id.
pub(super) fn get(connection: &Connection, id: Uuid) -> Result<Option<AlertRow>> {
    let sql = format!("SELECT {COLUMNS} FROM alert WHERE alert_id = ?1");
    Ok(rows(connection, &sql, &[id.as_bytes()])?.pop())
}

fn list(
    connection: &Connection,
    filter: &AlertFilter,
    after: Option<AlertCursor>,
    offset: u64,
    limit: usize,
) -> Result<Vec<AlertRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM alert WHERE {MATCHING} AND (received_at, alert_id) < (?13, ?14)
         ORDER BY received_at DESC, alert_id DESC LIMIT ?15 OFFSET ?16"
    );
    let (before, id) =
        after.map_or((i64::MAX, Uuid::max()), |cursor| (cursor.received_at.as_micros(), cursor.alert_id));
    let page: [&dyn ToSql; 4] = [
        &before,
        id.as_bytes(),
        &i64::try_from(limit).unwrap_or(i64::MAX),
        &i64::try_from(offset).unwrap_or(i64::MAX),
    ];
    matching(filter, |parameters| rows(connection, &sql, &[&parameters[..], &page].concat()))
}

fn count(connection: &Connection, filter: &AlertFilter) -> Result<u64> {
    let counted: i64 = matching(filter, |parameters| {
        connection
            .prepare_cached(&format!("SELECT count(*) FROM alert WHERE {MATCHING}"))
            .and_then(|mut statement| statement.query_row(&parameters[..], |row| row.get(0)))
            .map_err(failed("counting alerts"))
    })?;
    Ok(counted.unsigned_abs())
}

/// What a filter lets through, its values bound as `matching` has them. A NULL parameter is no condition: one statement,
/// planned once, whatever is asked.
const MATCHING: &str = "(?1 IS NULL OR status = ?1) AND (?2 IS NULL OR severity = ?2)
    AND (?3 IS NULL OR rule_id = ?3) AND (?4 IS NULL OR node = ?4) AND (?5 IS NULL OR server_hostname = ?5)
    AND timestamp >= ?6 AND timestamp <= ?7 AND (?8 OR machine IN ('standing', 'amended'))
    AND (?9 OR deleted_at IS NULL) AND (?10 IS NULL OR alert_type = ?10)
    AND (?11 IS NULL OR triggered_by ->> '$.actor_id' = ?11)
    AND (?12 IS NULL OR instr(lower(description || char(10) || rule || char(10) || server_hostname || char(10) ||
        action_observed || char(10) || triggered_by || char(10) || impacted_resource), lower(?12)) > 0)";

fn matching<T>(filter: &AlertFilter, with: impl FnOnce([&dyn ToSql; 12]) -> T) -> T {
    with([
        &filter.status.map(AlertStatus::name),
        &filter.severity,
        &filter.rule_id,
        &filter.node.as_ref().map(NodeId::as_bytes),
        &filter.server_hostname,
        &filter.from.map_or(i64::MIN, Timestamp::as_micros),
        &filter.to.map_or(i64::MAX, Timestamp::as_micros),
        &filter.include_retracted,
        &filter.include_deleted,
        &filter.alert_type,
        &filter.user,
        &filter.text,
    ])
}

fn set_status(connection: &Connection, id: Uuid, change: &StatusChange, now: Timestamp) -> Result<bool> {
    let changed = connection
        .execute(
            "UPDATE alert SET status = coalesce(?2, status),
                assignee = CASE WHEN ?3 IS NULL THEN assignee ELSE nullif(?3, '') END,
                note = CASE WHEN ?4 IS NULL THEN note ELSE nullif(?4, '') END, changed_at = ?5
             WHERE alert_id = ?1",
            params![
                id.as_bytes(),
                change.status.map(AlertStatus::name),
                change.assignee,
                change.note,
                now.as_micros()
            ],
        )
        .map_err(failed("setting an alert's status"))?;
    Ok(changed == 1)
}

fn counts(connection: &Connection, since: Timestamp) -> Result<AlertCounts> {
    let attempt = "counting alerts";
    let open = connection
        .prepare_cached(
            "SELECT severity, count(*) FROM alert WHERE status = 'open' AND deleted_at IS NULL
                AND machine IN ('standing', 'amended') GROUP BY severity ORDER BY severity",
        )
        .and_then(|mut statement| {
            statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?.collect()
        })
        .map_err(failed(attempt))?;
    let rules = connection
        .prepare_cached(
            "SELECT rule_id, max(rule ->> '$.name'), count(*) AS alerts FROM alert
                WHERE received_at >= ?1 AND deleted_at IS NULL AND machine IN ('standing', 'amended')
                GROUP BY rule_id ORDER BY alerts DESC, rule_id LIMIT 100",
        )
        .and_then(|mut statement| {
            let row = |row: &Row<'_>| {
                Ok((
                    row.get(0)?,
                    row.get::<_, Option<String>>(1)?.unwrap_or_default(),
                    row.get::<_, i64>(2)? as u64,
                ))
            };
            statement.query_map([since.as_micros()], row)?.collect()
        })
        .map_err(failed(attempt))?;
    Ok(AlertCounts { open, rules })
}

fn rows(connection: &Connection, sql: &str, parameters: &[&dyn ToSql]) -> Result<Vec<AlertRow>> {
    let attempt = "reading alerts";
    let mut statement = connection.prepare_cached(sql).map_err(failed(attempt))?;
    let mut rows = statement.query(parameters).map_err(failed(attempt))?;
    let mut alerts = Vec::new();
    while let Some(row) = rows.next().map_err(failed(attempt))? {
        alerts.push(read(row)?);
    }
    Ok(alerts)
}

fn read(row: &Row<'_>) -> Result<AlertRow> {
    let bad = || damaged::<rusqlite::Error>("alert");
    let text = |column: &str| row.get::<_, String>(column).map_err(bad());
    let optional = |column: &str| row.get::<_, Option<String>>(column).map_err(bad());
    let time = |column: &str| row.get(column).map(Timestamp::from_micros).map_err(bad());
    let uuid = |column: &str| row.get(column).map(Uuid::from_bytes).map_err(bad());
    let superseded_by = row.get::<_, Option<[u8; 16]>>("superseded_by").map_err(bad())?.map(Uuid::from_bytes);
    let machine = Machine::of(&text("machine")?, superseded_by);
    let alert = NewAlert {
        alert_id: uuid("alert_id")?,
        correlation_id: text("correlation_id")?,
        fingerprint: text("fingerprint")?,
        rule: from_json::<AlertRule>(&text("rule")?)?,
        group: optional("grp")?,
        stamp: row.get::<_, Option<i64>>("stamp").map_err(bad())?.map(Timestamp::from_micros),
        timestamp: time("timestamp")?,
        severity: text("severity")?,
        alert_type: text("alert_type")?,
        triggered_by: from_json(&text("triggered_by")?)?,
        impacted_resource: from_json(&text("impacted_resource")?)?,
        action_observed: text("action_observed")?,
        source_service_name: text("source_service_name")?,
        server_hostname: text("server_hostname")?,
        node: row.get::<_, Option<[u8; 16]>>("node").map_err(bad())?.map(NodeId::from_bytes),
        description: text("description")?,
        evidence: from_json(&text("evidence")?)?,
        events: from_json(&text("events")?)?,
        metadata: from_json(&text("metadata")?)?,
    };
    Ok(AlertRow {
        alert,
        received_at: time("received_at")?,
        changed_at: time("changed_at")?,
        machine,
        status: AlertStatus::from_name(&text("status")?).unwrap_or(AlertStatus::Open),
        assignee: optional("assignee")?,
        note: optional("note")?,
        deleted_at: row.get::<_, Option<i64>>("deleted_at").map_err(bad())?.map(Timestamp::from_micros),
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

/// A single value, if there is a row.
pub(super) fn optional<T: rusqlite::types::FromSql>(
    connection: &Connection,
    sql: &str,
    parameters: &[&dyn ToSql],
) -> Result<Option<T>> {
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| statement.query_row(parameters, |row| row.get(0)).optional())
        .map_err(failed("reading the store"))
}
