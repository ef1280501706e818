//! Detections and dirty groups in PostgreSQL.
//!
//! A batch's ledger row is locked while its findings are written: of analysers that race, one finds it due. Rows of
//! `dirty_group` are touched in the order of their keys, so that analysers with groups in common wait, not deadlock.
//! Because the rows stay locked to the commit, the revisions of a group form one chain.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BatchSeq, EpochId};
use sqlx::{PgConnection, Row};

use super::alerts::{self, from_json, json};
use super::error::{damaged, failed};
use super::unit::{Unit, now, reading, writing};
use super::{PostgresStore, checkpoints, column, ledger, outbox, rows_at_most, storm, text};
use crate::store::{
    AlertChanges, BatchFindings, BatchKey, Change, DetectionPoint, DetectionRow, DetectionStore, DirtyGroup,
    EventRef, Finished, GroupKey, Match, Pass, Recorded, Regrouped, Result, Revision,
};

/// How long a group's row stays after it was looked at, where revisions are told.
const SETTLED: Duration = Duration::from_hours(1);

/// A column of bytes that may be empty.
type Bytes = Option<Vec<u8>>;

/// Groups to touch, and how far each is touched.
type Touched = BTreeMap<GroupKey, (i64, i64)>;

/// What a batch's findings change.
#[derive(Default)]
struct Changed {
    touched: Touched,
    /// Groups with additions, and these where somebody is told of them.
    added: BTreeMap<GroupKey, Vec<DetectionPoint>>,
    removed: BTreeSet<GroupKey>,
}

#[async_trait]
impl DetectionStore for PostgresStore {
    async fn take_unanalysed(&self, now: Timestamp, until: Timestamp, limit: usize) -> Result<Vec<BatchKey>> {
        writing!(self, unit => take_unanalysed(unit.sql(), now, until, limit))
    }

    async fn record_detections(&self, batch: BatchKey, findings: BatchFindings) -> Result<Recorded> {
        writing!(self, unit => async {
            let recorded = record(unit, batch, &findings, self.tells_revisions).await?;
            outbox::add(unit.sql(), &self.announces, &recorded.opened).await?;
            Ok(recorded)
        })
    }

    async fn take_dirty(&self, now: Timestamp, until: Timestamp) -> Result<Option<DirtyGroup>> {
        writing!(self, unit => take(unit.sql(), now, until))
    }

    async fn detections_of_group(
        &self,
        correlation: &str,
        group: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<DetectionPoint>> {
        reading!(self, sql => points(sql, correlation, group, (from, to)))
    }

    async fn finish_group(&self, group: DirtyGroup, changes: AlertChanges) -> Result<Finished> {
        writing!(self, unit => async {
            let finished = finish(unit, &group, &changes, self.tells_revisions).await?;
            outbox::add(unit.sql(), &self.announces, &finished.opened).await?;
            Ok(finished)
        })
    }

    async fn mark_dirty(&self, group: GroupKey, from: Timestamp, to: Timestamp) -> Result<()> {
        let touched = Touched::from([(group, (from.as_micros(), to.as_micros()))]);
        let marked = writing!(self, unit => touch(unit.sql(), &touched, &BTreeMap::new()));
        marked.map(drop)
    }

    async fn expire_detections(&self, before: Timestamp) -> Result<u64> {
        writing!(self, unit => async {
            storm::expire(unit.sql(), before).await?;
            let gone = sqlx::query("DELETE FROM detection WHERE time_to < $1")
                .bind(before.as_micros())
                .execute(unit.sql())
                .await
                .map_err(failed("expiring detections"))?;
            forget_settled(unit.sql()).await?;
            checkpoints::release(unit.sql()).await?;
            Ok(gone.rows_affected())
        })
    }
}

/// What a group is indexed by.
fn hash(group: &str) -> [u8; 32] {
    *blake3::hash(group.as_bytes()).as_bytes()
}

async fn take_unanalysed(
    connection: &mut PgConnection,
    now: Timestamp,
    until: Timestamp,
    limit: usize,
) -> Result<Vec<BatchKey>> {
    // Those that somebody is taking, or recording the findings of, right now are passed over.
    let rows = sqlx::query(
        "WITH due AS (SELECT id FROM ledger WHERE analysed <> 1 AND NOT unread AND claimed_until <= $1
            ORDER BY id LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED),
         taken AS (UPDATE ledger l SET claimed_until = $2 FROM due WHERE l.id = due.id
            RETURNING l.node, l.epoch, l.seq, l.id)
         SELECT node, epoch, seq FROM taken ORDER BY id",
    )
    .bind(now.as_micros())
    .bind(until.as_micros())
    .bind(rows_at_most(limit))
    .fetch_all(connection)
    .await
    .map_err(failed("looking for unanalysed batches"))?;
    rows.iter().map(|row| ledger::key(row, 0)).collect()
}

async fn record(
    unit: &mut Unit<'_>,
    batch: BatchKey,
    findings: &BatchFindings,
    tells_revisions: bool,
) -> Result<Recorded> {
    let refused = Recorded::default();
    let found: Option<(i64, i16)> = sqlx::query_as(
        "SELECT id, analysed FROM ledger WHERE node = $1 AND epoch = $2 AND seq = $3 FOR UPDATE",
    )
    .bind(batch.node.as_bytes())
    .bind(batch.epoch.as_bytes())
    .bind(batch.seq.as_i64())
    .fetch_optional(unit.sql())
    .await
    .map_err(failed("finding a batch"))?;
    let Some((id, analysed)) = found else { return Ok(refused) };
    // Priming adds to what was found: to a batch that is still due, judging it will do.
    if (findings.pass == Pass::First && analysed == 1) || (findings.pass == Pass::Prime && analysed != 1) {
        return Ok(refused);
    }
    let rewrite = findings.pass == Pass::Rewrite || analysed == 2;
    let mut changed = Changed::default();
    if rewrite {
        remove(unit.sql(), id, &mut changed).await?;
    }
    for detection in &findings.detections {
        if add(unit.sql(), id, detection, &findings.rule_set, &mut changed).await? && tells_revisions {
            changed.tell(batch, detection, &findings.rule_set);
        }
    }
    // Whoever keeps copies elsewhere has to see that there is something new, also if this process keeps none.
    let revisions = changed.revisions();
    for group in &findings.dirty {
        widen(&mut changed.touched, as_kept(group), (Timestamp::MIN.as_micros(), Timestamp::MAX.as_micros()));
    }
    let raised = match findings.pass {
        Pass::Prime => storm::Raised::default(),
        Pass::First | Pass::Rewrite => storm::raise(unit.sql(), &findings.alerts, rewrite).await?,
    };
    // Last: who waits for a group waits for this transaction.
    let before = touch(unit.sql(), &changed.touched, &revisions).await?;
    unit.changes.extend(raised.changes);
    sqlx::query("UPDATE ledger SET analysed = 1 WHERE id = $1")
        .bind(id)
        .execute(unit.sql())
        .await
        .map_err(failed("marking a batch analysed"))?;
    let regrouped = if tells_revisions { changed.regrouped(revisions, before) } else { Vec::new() };
    Ok(Recorded { fresh: true, opened: raised.opened, beyond: raised.beyond, regrouped })
}

impl Changed {
    /// Says what was added, as it is read back.
    fn tell(&mut self, batch: BatchKey, detection: &DetectionRow, rule_set: &str) {
        let (rule, rule_set) = (text(&detection.rule), text(rule_set));
        let points = detection.matches.iter().cloned().map(|found| point(batch, &rule, &rule_set, found));
        self.added.entry(as_kept(&detection.group)).or_default().extend(points);
    }

    /// A new revision for each group whose detections are other ones now.
    fn revisions(&self) -> BTreeMap<GroupKey, Revision> {
        let changed = self.added.keys().chain(&self.removed);
        changed.map(|group| (group.clone(), Revision::new_v4())).collect()
    }

    fn regrouped(
        mut self,
        revisions: BTreeMap<GroupKey, Revision>,
        mut before: BTreeMap<GroupKey, Revision>,
    ) -> Vec<Regrouped> {
        let regrouped = revisions.into_iter().map(|(key, after)| Regrouped {
            before: before.remove(&key),
            after,
            added: self.added.remove(&key).unwrap_or_default(),
            removed: self.removed.contains(&key),
            key,
        });
        regrouped.collect()
    }
}

fn widen(touched: &mut Touched, group: GroupKey, (from, to): (i64, i64)) {
    let known = touched.entry(group).or_insert((from, to));
    *known = (known.0.min(from), known.1.max(to));
}

/// Removes a batch's detections; the groups they were in have to be looked at again.
async fn remove(connection: &mut PgConnection, batch: i64, changed: &mut Changed) -> Result<()> {
    let rows: Vec<(String, String, i64, i64)> = sqlx::query_as(
        "DELETE FROM detection WHERE batch = $1 RETURNING correlation, grp, time_from, time_to",
    )
    .bind(batch)
    .fetch_all(connection)
    .await
    .map_err(failed("replacing detections"))?;
    for (correlation, group, from, to) in rows {
        let key = GroupKey { correlation, group };
        changed.removed.insert(key.clone());
        widen(&mut changed.touched, key, (from, to));
    }
    Ok(())
}

/// Whether it was not there.
async fn add(
    connection: &mut PgConnection,
    id: i64,
    detection: &DetectionRow,
    rule_set: &str,
    changed: &mut Changed,
) -> Result<bool> {
    let times = detection.matches.iter().map(|found| found.time.as_micros());
    let (Some(from), Some(to)) = (times.clone().min(), times.max()) else { return Ok(false) };
    let group = as_kept(&detection.group);
    let added = sqlx::query(
        "INSERT INTO detection (batch, correlation, rule, grp, grp_hash, rule_set, time_from, time_to, points)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (batch, correlation, rule, grp_hash) DO NOTHING",
    )
    .bind(id)
    .bind(&group.correlation)
    .bind(text(&detection.rule))
    .bind(&group.group)
    .bind(hash(&group.group))
    .bind(text(rule_set))
    .bind(from)
    .bind(to)
    .bind(json(&detection.matches))
    .execute(connection)
    .await
    .map_err(failed("writing a detection"))?;
    let is_new = added.rows_affected() == 1;
    if is_new {
        changed.added.entry(group.clone()).or_default();
        widen(&mut changed.touched, group, (from, to));
    }
    Ok(is_new)
}

/// A group as it is read back.
fn as_kept(group: &GroupKey) -> GroupKey {
    GroupKey { correlation: text(&group.correlation).into_owned(), group: text(&group.group).into_owned() }
}

/// Marks groups dirty, those of `revisions` with a new one, and gives the revisions that these had.
async fn touch(
    connection: &mut PgConnection,
    touched: &Touched,
    revisions: &BTreeMap<GroupKey, Revision>,
) -> Result<BTreeMap<GroupKey, Revision>> {
    if touched.is_empty() {
        return Ok(BTreeMap::new());
    }
    let (correlations, groups): (Vec<String>, Vec<String>) =
        touched.keys().map(as_kept).map(|key| (key.correlation, key.group)).unzip();
    let hashes: Vec<[u8; 32]> = groups.iter().map(|group| hash(group)).collect();
    let (from, to): (Vec<i64>, Vec<i64>) = touched.values().copied().unzip();
    let revisions: Vec<Option<[u8; 16]>> =
        touched.keys().map(|group| revisions.get(group).map(|revision| *revision.as_bytes())).collect();
    // A row that was settled begins anew, but for its revision.
    let had: Vec<(String, String, Vec<u8>)> = sqlx::query_as(
        "WITH marked AS (
            INSERT INTO dirty_group (correlation, grp, grp_hash, touched, marked_at, time_from, time_to, revision)
            SELECT correlation, grp, grp_hash, 1, $6, time_from, time_to, revision
            FROM UNNEST($1::text[], $2::text[], $3::bytea[], $4::bigint[], $5::bigint[], $7::bytea[])
                AS new (correlation, grp, grp_hash, time_from, time_to, revision) ORDER BY correlation, grp_hash
            ON CONFLICT (correlation, grp_hash) DO UPDATE SET touched = dirty_group.touched + 1, settled_at = NULL,
                marked_at = CASE WHEN dirty_group.settled_at IS NULL
                    THEN dirty_group.marked_at ELSE excluded.marked_at END,
                time_from = CASE WHEN dirty_group.settled_at IS NULL
                    THEN least(dirty_group.time_from, excluded.time_from) ELSE excluded.time_from END,
                time_to = CASE WHEN dirty_group.settled_at IS NULL
                    THEN greatest(dirty_group.time_to, excluded.time_to) ELSE excluded.time_to END,
                revision_before = CASE WHEN excluded.revision IS NULL
                    THEN dirty_group.revision_before ELSE dirty_group.revision END,
                revision = coalesce(excluded.revision, dirty_group.revision)
            RETURNING correlation, grp, revision_before)
         SELECT correlation, grp, revision_before FROM marked WHERE revision_before IS NOT NULL",
    )
    .bind(correlations)
    .bind(groups)
    .bind(hashes)
    .bind(from)
    .bind(to)
    .bind(now().as_micros())
    .bind(revisions)
    .fetch_all(connection)
    .await
    .map_err(failed("marking groups dirty"))?;
    let had = had.into_iter().map(|(correlation, group, before)| {
        let before = Revision::from_slice(&before).map_err(damaged("revision"))?;
        Ok((GroupKey { correlation, group }, before))
    });
    had.collect()
}

async fn forget_settled(connection: &mut PgConnection) -> Result<()> {
    let kept = i64::try_from(SETTLED.as_micros()).unwrap_or(i64::MAX);
    sqlx::query("DELETE FROM dirty_group WHERE settled_at < $1")
        .bind(now().as_micros().saturating_sub(kept))
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed("forgetting settled groups"))
}

async fn take(connection: &mut PgConnection, now: Timestamp, until: Timestamp) -> Result<Option<DirtyGroup>> {
    // One that another worker is taking right now is passed over.
    let found: Option<(String, String, i64, i64, i64, Bytes)> = sqlx::query_as(
        "UPDATE dirty_group SET locked_until = $2 WHERE (correlation, grp_hash) =
            (SELECT correlation, grp_hash FROM dirty_group WHERE settled_at IS NULL AND locked_until <= $1
             ORDER BY marked_at LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING correlation, grp, time_from, time_to, touched, revision",
    )
    .bind(now.as_micros())
    .bind(until.as_micros())
    .fetch_optional(connection)
    .await
    .map_err(failed("taking a group"))?;
    let Some((correlation, group, from, to, touched, revision)) = found else { return Ok(None) };
    let revision = revision.map(|bytes| Revision::from_slice(&bytes)).transpose();
    Ok(Some(DirtyGroup {
        key: GroupKey { correlation, group },
        from: Timestamp::from_micros(from),
        to: Timestamp::from_micros(to),
        touched,
        until,
        revision: revision.map_err(damaged("revision"))?,
    }))
}

async fn points(
    connection: &mut PgConnection,
    correlation: &str,
    group: &str,
    (from, to): (Timestamp, Timestamp),
) -> Result<Vec<DetectionPoint>> {
    let group = text(group);
    let rows = sqlx::query(
        "SELECT l.node, l.epoch, l.seq, d.rule, d.rule_set, d.points FROM detection d JOIN ledger l ON l.id = d.batch
         WHERE d.correlation = $1 AND d.grp_hash = $2 AND d.time_from <= $4 AND d.time_to >= $3",
    )
    .bind(text(correlation))
    .bind(hash(&group))
    .bind(from.as_micros())
    .bind(to.as_micros())
    .fetch_all(connection)
    .await
    .map_err(failed("reading detections"))?;
    let mut points = Vec::new();
    for row in &rows {
        let what = "detection";
        let batch = ledger::key(row, 0)?;
        let (rule, rule_set): (String, String) = (column(row, "rule", what)?, column(row, "rule_set", what)?);
        let matches: Vec<Match> = from_json(row.try_get(5).map_err(damaged(what))?)?;
        let asked = matches.into_iter().filter(|found| (from..=to).contains(&found.time));
        points.extend(asked.map(|found| point(batch, &rule, &rule_set, found)));
    }
    let place = |point: &DetectionPoint| -> (Timestamp, NodeId, u64, EpochId, BatchSeq, u32) {
        (point.time, point.at.node, point.order, point.at.epoch, point.at.seq, point.at.index)
    };
    points.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.rule.cmp(&b.rule)));
    Ok(points)
}

fn point(batch: BatchKey, rule: &str, rule_set: &str, found: Match) -> DetectionPoint {
    let BatchKey { node, epoch, seq } = batch;
    DetectionPoint {
        at: EventRef { node, epoch, seq, index: found.index, event_id: found.event_id },
        rule: rule.to_owned(),
        rule_set: rule_set.to_owned(),
        time: found.time,
        order: found.order,
        fields: found.fields,
    }
}

async fn finish(
    unit: &mut Unit<'_>,
    group: &DirtyGroup,
    changes: &AlertChanges,
    tells_revisions: bool,
) -> Result<Finished> {
    let attempt = "finishing a group";
    let key = hash(&text(&group.key.group));
    let touched: Option<i64> = sqlx::query_scalar(
        "SELECT touched FROM dirty_group WHERE correlation = $1 AND grp_hash = $2 AND locked_until = $3 FOR UPDATE",
    )
    .bind(text(&group.key.correlation))
    .bind(key)
    .bind(group.until.as_micros())
    .fetch_optional(unit.sql())
    .await
    .map_err(failed(attempt))?;
    let Some(touched) = touched else { return Ok(Finished::default()) };
    let mut finished = apply(unit, changes).await?;
    finished.held = true;
    let clear = match (touched == group.touched, tells_revisions) {
        (true, true) => {
            "UPDATE dirty_group SET locked_until = 0, settled_at = $4
             WHERE correlation = $1 AND grp_hash = $2 AND locked_until = $3"
        }
        (true, false) => {
            "DELETE FROM dirty_group WHERE correlation = $1 AND grp_hash = $2 AND locked_until = $3 AND $4 = $4"
        }
        // To the end of the queue: a busy group must not starve the others.
        (false, _) => {
            "UPDATE dirty_group SET locked_until = 0, marked_at = $4
             WHERE correlation = $1 AND grp_hash = $2 AND locked_until = $3"
        }
    };
    sqlx::query(clear)
        .bind(text(&group.key.correlation))
        .bind(key)
        .bind(group.until.as_micros())
        .bind(now().as_micros())
        .execute(unit.sql())
        .await
        .map_err(failed(attempt))?;
    Ok(finished)
}

async fn apply(unit: &mut Unit<'_>, changes: &AlertChanges) -> Result<Finished> {
    let at = now();
    let mut finished = Finished::default();
    for alert in &changes.standing {
        match alerts::put(unit.sql(), alert, at).await? {
            alerts::Written::Opened => finished.opened.push(alert.alert_id),
            alerts::Written::Amended => finished.changed.push(alert.alert_id),
            alerts::Written::Unchanged => {}
        }
    }
    for (old, new) in &changes.superseded {
        if alerts::retract(unit.sql(), *old, Some(*new), at).await? {
            alerts::inherit(unit.sql(), *old, *new).await?;
            finished.changed.push(*old);
        }
    }
    for id in &changes.withdrawn {
        if alerts::retract(unit.sql(), *id, None, at).await? {
            finished.changed.push(*id);
        }
    }
    unit.changes.extend(finished.opened.iter().copied().map(Change::AlertOpened));
    unit.changes.extend(finished.changed.iter().copied().map(Change::AlertChanged));
    Ok(finished)
}
