//! Detections and dirty groups in SQLite.

use std::sync::Arc;

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BatchSeq, EpochId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::error::{damaged, failed};
use super::writer::{Unit, now};
use super::{SqliteStore, alerts, checkpoints, ledger, outbox, storm};
use crate::store::{
    AlertChanges, BatchFindings, BatchKey, Change, DetectionPoint, DetectionRow, DetectionStore, DirtyGroup,
    EventRef, Finished, GroupKey, Match, Pass, Recorded, Result,
};

#[async_trait]
impl DetectionStore for SqliteStore {
    async fn take_unanalysed(
        &self,
        _now: Timestamp,
        _until: Timestamp,
        limit: usize,
    ) -> Result<Vec<BatchKey>> {
        self.readers()
            .read(move |reader| {
                let sql = "SELECT node, epoch, seq FROM ledger WHERE analysed <> 1 AND unread = 0 ORDER BY id LIMIT ?1";
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut statement| statement.query_map([limit], |row| ledger::key(row, 0))?.collect())
                    .map_err(failed("looking for unanalysed batches"))
            })
            .await
    }

    async fn record_detections(&self, batch: BatchKey, findings: BatchFindings) -> Result<Recorded> {
        let announces = Arc::clone(&self.announces);
        let work = move |unit: &mut Unit<'_>| {
            let recorded = record(unit, batch, &findings)?;
            outbox::add(unit.main, &announces, &recorded.opened)?;
            Ok(recorded)
        };
        self.writer().write(0, work).await
    }

    async fn take_dirty(&self, now: Timestamp, until: Timestamp) -> Result<Option<DirtyGroup>> {
        // Most calls find nothing: those must not cost a transaction that syncs.
        let waiting = self
            .readers()
            .read(move |reader| {
                let sql = "SELECT 1 FROM dirty_group WHERE locked_until <= ?1 LIMIT 1";
                alerts::optional::<i64>(&reader.main, sql, &[&now.as_micros()])
            })
            .await?;
        if waiting.is_none() {
            return Ok(None);
        }
        self.writer().write(0, move |unit| take(unit.main, now, until)).await
    }

    async fn detections_of_group(
        &self,
        correlation: &str,
        group: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<DetectionPoint>> {
        let (correlation, group) = (correlation.to_owned(), group.to_owned());
        self.readers().read(move |reader| points(&reader.main, &correlation, &group, from, to)).await
    }

    async fn finish_group(&self, group: DirtyGroup, changes: AlertChanges) -> Result<Finished> {
        let announces = Arc::clone(&self.announces);
        let work = move |unit: &mut Unit<'_>| {
            let finished = finish(unit, &group, &changes)?;
            outbox::add(unit.main, &announces, &finished.opened)?;
            Ok(finished)
        };
        self.writer().write(0, work).await
    }

    async fn mark_dirty(&self, group: GroupKey, from: Timestamp, to: Timestamp) -> Result<()> {
        self.writer().write(0, move |unit| touch(unit.main, &group, from, to)).await
    }

    async fn expire_detections(&self, before: Timestamp) -> Result<u64> {
        self.writer()
            .write(0, move |unit| {
                storm::expire(unit.main, before)?;
                let gone = unit
                    .main
                    .execute("DELETE FROM detection WHERE time_to < ?1", [before.as_micros()])
                    .map_err(failed("expiring detections"))?;
                checkpoints::release(unit.main)?;
                Ok(gone as u64)
            })
            .await
    }
}

fn record(unit: &mut Unit<'_>, batch: BatchKey, findings: &BatchFindings) -> Result<Recorded> {
    let refused = Recorded::default();
    let sql = "SELECT id, analysed FROM ledger WHERE node = ?1 AND epoch = ?2 AND seq = ?3";
    let found = unit
        .main
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement
                .query_row(ledger::key_parameters(&batch), |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
                })
                .optional()
        })
        .map_err(failed("finding a batch"))?;
    let Some((id, analysed)) = found else { return Ok(refused) };
    // Priming adds to what was found: to a batch that is still due, judging it will do.
    if (findings.pass == Pass::First && analysed == 1) || (findings.pass == Pass::Prime && analysed != 1) {
        return Ok(refused);
    }
    let rewrite = findings.pass == Pass::Rewrite || analysed == 2;
    if rewrite {
        remove(unit.main, id)?;
    }
    for detection in &findings.detections {
        add(unit.main, id, detection, &findings.rule_set)?;
    }
    for group in &findings.dirty {
        touch(unit.main, group, Timestamp::MIN, Timestamp::MAX)?;
    }
    let raised = match findings.pass {
        Pass::Prime => storm::Raised::default(),
        Pass::First | Pass::Rewrite => storm::raise(unit.main, &findings.alerts, rewrite)?,
    };
    unit.changes.extend(raised.changes);
    unit.main
        .prepare_cached("UPDATE ledger SET analysed = 1 WHERE id = ?1")
        .and_then(|mut statement| statement.execute([id]))
        .map_err(failed("marking a batch analysed"))?;
    Ok(Recorded { fresh: true, opened: raised.opened, beyond: raised.beyond, regrouped: Vec::new() })
}

/// Removes a batch's detections; the groups they were in have to be looked at again.
fn remove(connection: &Connection, batch: i64) -> Result<()> {
    let attempt = "replacing detections";
    let touched: Vec<(GroupKey, i64, i64)> = connection
        .prepare_cached("SELECT correlation, grp, time_from, time_to FROM detection WHERE batch = ?1")
        .and_then(|mut statement| {
            let read = |row: &Row<'_>| {
                Ok((GroupKey { correlation: row.get(0)?, group: row.get(1)? }, row.get(2)?, row.get(3)?))
            };
            statement.query_map([batch], read)?.collect()
        })
        .map_err(failed(attempt))?;
    for (group, from, to) in touched {
        touch(connection, &group, Timestamp::from_micros(from), Timestamp::from_micros(to))?;
    }
    connection.execute("DELETE FROM detection WHERE batch = ?1", [batch]).map_err(failed(attempt))?;
    Ok(())
}

fn add(connection: &Connection, batch: i64, detection: &DetectionRow, rule_set: &str) -> Result<()> {
    let times = detection.matches.iter().map(|found| found.time);
    let (Some(from), Some(to)) = (times.clone().min(), times.max()) else { return Ok(()) };
    let added = connection
        .prepare_cached(
            "INSERT INTO detection (batch, correlation, rule, grp, rule_set, time_from, time_to, points)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (batch, correlation, rule, grp) DO NOTHING",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                batch,
                detection.group.correlation,
                detection.rule,
                detection.group.group,
                rule_set,
                from.as_micros(),
                to.as_micros(),
                alerts::json(&detection.matches),
            ])
        })
        .map_err(failed("writing a detection"))?;
    if added == 1 { touch(connection, &detection.group, from, to) } else { Ok(()) }
}

fn touch(connection: &Connection, group: &GroupKey, from: Timestamp, to: Timestamp) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO dirty_group (correlation, grp, touched, marked_at, time_from, time_to)
             VALUES (?1, ?2, 1, ?5, ?3, ?4)
             ON CONFLICT (correlation, grp) DO UPDATE SET touched = touched + 1,
                time_from = min(time_from, excluded.time_from), time_to = max(time_to, excluded.time_to)",
        )
        .and_then(|mut statement| {
            let marked_at = now().as_micros();
            statement.execute(params![
                group.correlation,
                group.group,
                from.as_micros(),
                to.as_micros(),
                marked_at
            ])
        })
        .map_err(failed("marking a group dirty"))?;
    Ok(())
}

fn take(connection: &Connection, now: Timestamp, until: Timestamp) -> Result<Option<DirtyGroup>> {
    let sql = "UPDATE dirty_group SET locked_until = ?2 WHERE (correlation, grp) =
            (SELECT correlation, grp FROM dirty_group WHERE locked_until <= ?1 ORDER BY marked_at LIMIT 1)
        RETURNING correlation, grp, time_from, time_to, touched";
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement
                .query_row([now.as_micros(), until.as_micros()], |row| {
                    Ok(DirtyGroup {
                        key: GroupKey { correlation: row.get(0)?, group: row.get(1)? },
                        from: Timestamp::from_micros(row.get(2)?),
                        to: Timestamp::from_micros(row.get(3)?),
                        touched: row.get(4)?,
                        until,
                        revision: None,
                    })
                })
                .optional()
        })
        .map_err(failed("taking a group"))
}

fn points(
    connection: &Connection,
    correlation: &str,
    group: &str,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<DetectionPoint>> {
    let attempt = "reading detections";
    let sql = "SELECT l.node, l.epoch, l.seq, d.rule, d.rule_set, d.points FROM detection d
        JOIN ledger l ON l.id = d.batch
        WHERE d.correlation = ?1 AND d.grp = ?2 AND d.time_from <= ?4 AND d.time_to >= ?3";
    let mut statement = connection.prepare_cached(sql).map_err(failed(attempt))?;
    let mut rows = statement
        .query(params![correlation, group, from.as_micros(), to.as_micros()])
        .map_err(failed(attempt))?;
    let mut points = Vec::new();
    while let Some(row) = rows.next().map_err(failed(attempt))? {
        let key = ledger::key(row, 0).map_err(damaged("detection"))?;
        let text = |column| row.get::<_, String>(column).map_err(damaged("detection"));
        let (rule, rule_set) = (text(3)?, text(4)?);
        let matches: Vec<Match> = alerts::from_json(&text(5)?)?;
        points.extend(matches.into_iter().filter(|found| (from..=to).contains(&found.time)).map(|found| {
            let BatchKey { node, epoch, seq } = key;
            DetectionPoint {
                at: EventRef { node, epoch, seq, index: found.index, event_id: found.event_id },
                rule: rule.clone(),
                rule_set: rule_set.clone(),
                time: found.time,
                order: found.order,
                fields: found.fields,
            }
        }));
    }
    let place = |point: &DetectionPoint| -> (Timestamp, NodeId, u64, EpochId, BatchSeq, u32) {
        (point.time, point.at.node, point.order, point.at.epoch, point.at.seq, point.at.index)
    };
    points.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.rule.cmp(&b.rule)));
    Ok(points)
}

fn finish(unit: &mut Unit<'_>, group: &DirtyGroup, changes: &AlertChanges) -> Result<Finished> {
    let attempt = "finishing a group";
    let key = params![group.key.correlation, group.key.group, group.until.as_micros()];
    let touched = unit
        .main
        .query_row(
            "SELECT touched FROM dirty_group WHERE correlation = ?1 AND grp = ?2 AND locked_until = ?3",
            key,
            |row| row.get::<_, i64>(0),
        )
        .optional()
        .map_err(failed(attempt))?;
    let Some(touched) = touched else { return Ok(Finished::default()) };
    let mut finished = apply(unit, changes)?;
    finished.held = true;
    let clear = if touched == group.touched {
        "DELETE FROM dirty_group WHERE correlation = ?1 AND grp = ?2 AND locked_until = ?3"
    } else {
        // To the end of the queue: a busy group must not starve the others.
        "UPDATE dirty_group SET locked_until = 0, marked_at = cast(unixepoch('subsec') * 1000000 AS INTEGER) WHERE correlation = ?1 AND grp = ?2 AND locked_until = ?3"
    };
    unit.main.execute(clear, key).map_err(failed(attempt))?;
    Ok(finished)
}

fn apply(unit: &mut Unit<'_>, changes: &AlertChanges) -> Result<Finished> {
    let at = now();
    let mut finished = Finished::default();
    for alert in &changes.standing {
        match alerts::put(unit.main, alert, at)? {
            alerts::Written::Opened => finished.opened.push(alert.alert_id),
            alerts::Written::Amended => finished.changed.push(alert.alert_id),
            alerts::Written::Unchanged => {}
        }
    }
    for (old, new) in &changes.superseded {
        if alerts::retract(unit.main, *old, Some(*new), at)? {
            alerts::inherit(unit.main, *old, *new)?;
            finished.changed.push(*old);
        }
    }
    for id in &changes.withdrawn {
        if alerts::retract(unit.main, *id, None, at)? {
            finished.changed.push(*id);
        }
    }
    unit.changes.extend(finished.opened.iter().copied().map(Change::AlertOpened));
    unit.changes.extend(finished.changed.iter().copied().map(Change::AlertChanged));
    Ok(finished)
}
