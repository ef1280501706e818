//! Nodes in SQLite: enrolment, keys, flags, and the sums that the page shows.

use std::collections::BTreeMap;

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BatchSeq, BootId, EpochId, EpochLedger, NodeFacts, NodeKeys, SignedNodeRotation};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde_json::json;

use super::error::{damaged, failed};
use super::writer::Unit;
use super::{SqliteStore, alerts, ledger, node_keys, people, trail};
use crate::store::tally::{Arrived, Lost, merge_coverage};
use crate::store::{
    Act, Action, Actor, By, Change, ClockShift, Coverage, EnrolOutcome, Enrolment, FlagKind, FlagRow,
    KeyOutcome, LossRow, NewFlag, NodeRow, NodeStatus, NodeStore, RatePoint, Result,
};

/// Flags of a node that the page lists.
const FLAGS_SHOWN: usize = 50;

#[async_trait]
impl NodeStore for SqliteStore {
    async fn enrol(&self, enrolment: Enrolment) -> Result<EnrolOutcome> {
        self.writer().write(0, move |unit| enrol(unit, &enrolment)).await
    }

    async fn rotate_node_key(
        &self,
        node: NodeId,
        rotations: Vec<SignedNodeRotation>,
        now: Timestamp,
    ) -> Result<KeyOutcome> {
        self.writer().write(0, move |unit| node_keys::rotate(unit, node, &rotations, now)).await
    }

    async fn node_access(&self, node: NodeId) -> Result<Option<(NodeStatus, NodeKeys)>> {
        self.readers()
            .read(move |reader| {
                let sql = "SELECT status FROM node WHERE id = ?1";
                let status = alerts::optional::<String>(&reader.main, sql, &[node.as_bytes()])?;
                let Some(status) = status else { return Ok(None) };
                let status = NodeStatus::from_name(&status).unwrap_or(NodeStatus::Revoked);
                Ok(Some((status, node_keys::read(&reader.main, node)?)))
            })
            .await
    }

    async fn node_keys(&self, node: NodeId) -> Result<NodeKeys> {
        self.readers().read(move |reader| node_keys::read(&reader.main, node)).await
    }

    async fn set_node_status(
        &self,
        node: NodeId,
        status: NodeStatus,
        by: By,
        now: Timestamp,
    ) -> Result<bool> {
        self.writer()
            .write(0, move |unit| {
                let changed = unit
                    .main
                    .execute(
                        "UPDATE node SET status = ?2 WHERE id = ?1",
                        params![node.as_bytes(), status.name()],
                    )
                    .map_err(failed("changing a node's status"))?;
                if changed == 1 {
                    let detail = json!({ "status": status.name() });
                    let act = Act::done(now, by, Action::NodeSetStatus, node.to_string(), detail);
                    trail::append(unit.main, &act)?;
                    unit.changes.push(Change::NodeChanged(node));
                }
                Ok(changed == 1)
            })
            .await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>> {
        self.readers().read(|reader| rows(&reader.main, None)).await
    }

    async fn node(&self, id: NodeId) -> Result<Option<NodeRow>> {
        self.readers().read(move |reader| Ok(rows(&reader.main, Some(id))?.pop())).await
    }

    async fn set_coverage(&self, node: NodeId, source: &str, coverage: Coverage) -> Result<()> {
        let said = [(source.to_owned(), coverage)];
        self.writer().write(0, move |unit| cover(unit.main, node, &said)).await
    }

    async fn raise_flag(&self, flag: NewFlag) -> Result<()> {
        self.writer()
            .write(0, move |unit| {
                unit.changes.push(Change::NodeChanged(flag.node));
                raise(unit.main, &flag)
            })
            .await
    }

    async fn flags(&self, node: Option<NodeId>, open_only: bool, limit: usize) -> Result<Vec<FlagRow>> {
        self.readers().read(move |reader| flags(&reader.main, node, open_only, limit)).await
    }

    async fn close_flag(&self, id: i64, by: By, now: Timestamp) -> Result<bool> {
        self.writer().write(0, move |unit| close(unit, id, by, now)).await
    }

    async fn clock_shift(&self, node: NodeId, boot: BootId) -> Result<Option<ClockShift>> {
        self.readers().read(move |reader| clock_shift(&reader.main, node, boot)).await
    }

    async fn rates(&self, from: Timestamp, to: Timestamp) -> Result<Vec<RatePoint>> {
        self.readers()
            .read(move |reader| {
                let sql = "SELECT minute, sum(events) FROM arrival WHERE minute BETWEEN ?1 AND ?2
                    GROUP BY minute ORDER BY minute";
                let read = |row: &Row<'_>| {
                    let minute = Timestamp::from_micros(row.get::<_, i64>(0)?.saturating_mul(MINUTE));
                    Ok(RatePoint { minute, events: row.get::<_, i64>(1)? as u64 })
                };
                reader
                    .main
                    .prepare_cached(sql)
                    .and_then(|mut query| query.query_map([minute_of(from), minute_of(to)], read)?.collect())
                    .map_err(failed("reading arrivals"))
            })
            .await
    }
}

const MINUTE: i64 = 60_000_000;

fn minute_of(time: Timestamp) -> i64 {
    time.as_micros().div_euclid(MINUTE)
}

/// A count as a column holds it.
pub(super) fn column(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A node was heard.
pub(super) fn seen(connection: &Connection, node: NodeId, at: Timestamp) -> Result<()> {
    connection
        .prepare_cached("UPDATE node SET last_seen = max(coalesce(last_seen, ?2), ?2) WHERE id = ?1")
        .and_then(|mut statement| statement.execute(params![node.as_bytes(), at.as_micros()]))
        .map_err(failed("noting that a node was heard"))?;
    Ok(())
}

/// Takes what a node says of itself now. An empty host name says nothing: the one of its enrolment stays.
pub(super) fn about(connection: &Connection, node: NodeId, about: &NodeFacts) -> Result<()> {
    let labels: BTreeMap<&str, &str> = about.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    connection
        .prepare_cached(
            "UPDATE node SET hostname = coalesce(nullif(?2, ''), hostname), labels = ?3, version = ?4, kernel = ?5,
                architecture = ?6 WHERE id = ?1",
        )
        .and_then(|mut statement| {
            let NodeFacts { host_name, agent_version, kernel, architecture, .. } = about;
            let labels = alerts::json(&labels);
            statement.execute(params![node.as_bytes(), host_name, labels, agent_version, kernel, architecture])
        })
        .map_err(failed("noting what a node says of itself"))?;
    Ok(())
}

/// Batches of a node arrived.
pub(super) fn arrived(connection: &Connection, node: NodeId, arrived: Arrived) -> Result<()> {
    connection
        .prepare_cached(
            "UPDATE node SET batches = batches + ?4, owed = max(owed - ?4, 0),
                lag = CASE WHEN ?2 > coalesce(last_event, ?2 - 1) THEN max(?3 - ?2, 0) ELSE lag END,
                last_event = CASE WHEN ?2 IS NULL THEN last_event ELSE max(coalesce(last_event, ?2), ?2) END
             WHERE id = ?1",
        )
        .and_then(|mut statement| {
            let (newest, at) = arrived.newest.unzip();
            let [newest, at] = [newest, at].map(|time| time.map(Timestamp::as_micros));
            statement.execute(params![node.as_bytes(), newest, at, arrived.batches])
        })
        .map_err(failed("counting arrivals"))?;
    Ok(())
}

/// Events of a node arrived in a minute.
pub(super) fn count_arrival(connection: &Connection, minute: i64, node: NodeId, events: u64) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO arrival (minute, node, events) VALUES (?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET events = events + excluded.events",
        )
        .and_then(|mut statement| statement.execute(params![minute, node.as_bytes(), column(events)]))
        .map_err(failed("counting arrivals"))?;
    Ok(())
}

/// Losses were declared.
pub(super) fn lose(
    connection: &Connection,
    node: NodeId,
    source: &str,
    reason: &str,
    lost: Lost,
) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO loss (node, source, reason, count, unknown, last_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET unknown = unknown + excluded.unknown, last_at = excluded.last_at,
                count = CASE WHEN count > 9223372036854775807 - excluded.count THEN 9223372036854775807
                        ELSE count + excluded.count END",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                node.as_bytes(),
                source,
                reason,
                lost.count,
                lost.unknown,
                lost.last_at
            ])
        })
        .map_err(failed("adding up losses"))?;
    Ok(())
}

/// Sources said something of themselves.
pub(super) fn cover(connection: &Connection, node: NodeId, said: &[(String, Coverage)]) -> Result<()> {
    if said.is_empty() {
        return Ok(());
    }
    let sql = "SELECT coverage FROM node WHERE id = ?1";
    let Some(text) = alerts::optional::<String>(connection, sql, &[node.as_bytes()])? else { return Ok(()) };
    let mut known: BTreeMap<String, Coverage> = alerts::from_json(&text)?;
    merge_coverage(&mut known, said);
    connection
        .execute(
            "UPDATE node SET coverage = ?2 WHERE id = ?1",
            params![node.as_bytes(), alerts::json(&known)],
        )
        .map_err(failed("noting a source's state"))?;
    Ok(())
}

/// Raises a flag or counts it again.
pub(super) fn raise(connection: &Connection, flag: &NewFlag) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO flag (node, epoch, seq, kind, detail, raised_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (node, epoch, seq, kind) DO UPDATE SET count = count + 1, detail = excluded.detail,
                raised_at = CASE WHEN closed_at IS NULL THEN raised_at ELSE excluded.raised_at END,
                closed_at = NULL, closed_by = NULL",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                flag.node.as_bytes(),
                flag.epoch.as_bytes(),
                flag.seq.map_or(0, BatchSeq::as_i64),
                flag.kind.name(),
                flag.detail,
                flag.at.as_micros()
            ])
        })
        .map_err(failed("raising a flag"))?;
    Ok(())
}

/// Keeps a clock fact if it is the earliest of its kind in the boot.
pub(super) fn clock_fact(
    connection: &Connection,
    node: NodeId,
    boot: BootId,
    synchronised: bool,
    since_boot: i64,
    offset: i64,
) -> Result<()> {
    let sql = if synchronised {
        "INSERT INTO clock (node, boot, synced_at, synced) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
            synced_at = excluded.synced_at, synced = excluded.synced
         WHERE synced_at IS NULL OR synced_at > excluded.synced_at"
    } else {
        "INSERT INTO clock (node, boot, unsynced_at, unsynced) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET
            unsynced_at = excluded.unsynced_at, unsynced = excluded.unsynced
         WHERE unsynced_at IS NULL OR unsynced_at > excluded.unsynced_at"
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut statement| {
            statement.execute(params![node.as_bytes(), boot.as_bytes(), since_boot, offset])
        })
        .map_err(failed("noting a clock"))?;
    Ok(())
}

/// The step of a boot's clock at its first synchronisation, if it had run unsynchronised before.
pub(super) fn clock_shift(connection: &Connection, node: NodeId, boot: BootId) -> Result<Option<ClockShift>> {
    connection
        .prepare_cached(
            "SELECT synced_at + unsynced, synced - unsynced FROM clock
             WHERE node = ?1 AND boot = ?2 AND unsynced_at < synced_at AND synced <> unsynced",
        )
        .and_then(|mut query| {
            query
                .query_row(params![node.as_bytes(), boot.as_bytes()], |row| {
                    Ok(ClockShift { before: Timestamp::from_micros(row.get(0)?), micros: row.get(1)? })
                })
                .optional()
        })
        .map_err(failed("reading a clock"))
}

fn enrol(unit: &mut Unit<'_>, enrolment: &Enrolment) -> Result<EnrolOutcome> {
    let attempt = "enrolling a node";
    let key = enrolment.key.as_bytes();
    if node_keys::is_retired(unit.main, &enrolment.key)? {
        return Ok(EnrolOutcome::KeyRetired);
    }
    // Asked again after an answer that was lost on the way: the same key on the same hardware is the same node.
    let known = unit
        .main
        .query_row(
            "SELECT n.id, n.status = 'pending' FROM node_key k JOIN node n ON n.id = k.node WHERE k.public_key = ?1 AND n.fingerprint = ?2",
            params![key, enrolment.fingerprint],
            |row| Ok((NodeId::from_bytes(row.get(0)?), row.get::<_, bool>(1)?)),
        )
        .optional()
        .map_err(failed(attempt))?;
    let valid = people::join_token(unit.main, &enrolment.token)?
        .filter(|token| token.expires_at > enrolment.now && (token.uses_left > 0 || known.is_some()));
    if valid.is_none() {
        return Ok(EnrolOutcome::TokenRefused);
    }
    if let Some((known, pending)) = known {
        return Ok(EnrolOutcome::Known(known, pending));
    }
    let status = if enrolment.former.is_some() { NodeStatus::Pending } else { NodeStatus::Active };
    let at = enrolment.now.as_micros();
    let node = enrolment.node.as_bytes();
    unit.main
        .execute("UPDATE join_token SET uses_left = uses_left - 1 WHERE secret_hash = ?1", [enrolment.token])
        .map_err(failed(attempt))?;
    unit.main
        .execute(
            "INSERT INTO node (id, hostname, version, fingerprint, status, enrolled_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![node, enrolment.hostname, enrolment.version, enrolment.fingerprint, status.name(), at],
        )
        .map_err(failed(attempt))?;
    node_keys::add(unit.main, enrolment.node, &enrolment.key, enrolment.now)?;
    let detail = json!({
        "hostname": enrolment.hostname, "status": status.name(),
        "former": enrolment.former.map(|former| former.to_string()),
        "join_token": people::join_token_name(&enrolment.token),
    });
    let by = By { actor: Actor::Node(enrolment.node), origin: enrolment.origin };
    let act = Act::done(enrolment.now, by, Action::NodeEnrol, enrolment.node.to_string(), detail);
    trail::append(unit.main, &act)?;
    unit.changes.push(Change::NodeChanged(enrolment.node));
    Ok(if status == NodeStatus::Pending { EnrolOutcome::Pending } else { EnrolOutcome::Active })
}

fn rows(connection: &Connection, only: Option<NodeId>) -> Result<Vec<NodeRow>> {
    let attempt = "reading nodes";
    let sql = "SELECT id, hostname, labels, version, status, enrolled_at, last_seen, last_event, owed, coverage, batches,
            (SELECT coalesce(sum(e.owed), 0) FROM epoch e WHERE e.node = n.id),
            (SELECT coalesce(sum(l.last - l.first + 1), 0) FROM lost_range l WHERE l.node = n.id),
            kernel, architecture, lag
        FROM node n WHERE ?1 IS NULL OR id = ?1 ORDER BY hostname, id";
    let mut query = connection.prepare_cached(sql).map_err(failed(attempt))?;
    let only = only.as_ref().map(NodeId::as_bytes);
    let mut found = query.query([only]).map_err(failed(attempt))?;
    let mut nodes = Vec::new();
    while let Some(row) = found.next().map_err(failed(attempt))? {
        nodes.push(read(connection, row)?);
    }
    Ok(nodes)
}

fn read(connection: &Connection, row: &Row<'_>) -> Result<NodeRow> {
    let bad = || damaged::<rusqlite::Error>("node");
    let id = NodeId::from_bytes(row.get(0).map_err(bad())?);
    let text = |column| row.get::<_, String>(column).map_err(bad());
    let count = |column| row.get::<_, i64>(column).map(|count| count.max(0) as u64).map_err(bad());
    let time = |column| {
        row.get::<_, Option<i64>>(column).map(|time| time.map(Timestamp::from_micros)).map_err(bad())
    };
    Ok(NodeRow {
        id,
        hostname: text(1)?,
        labels: alerts::from_json(&text(2)?)?,
        version: text(3)?,
        kernel: text(13)?,
        architecture: text(14)?,
        status: NodeStatus::from_name(&text(4)?).unwrap_or(NodeStatus::Revoked),
        enrolled_at: time(5)?.unwrap_or(Timestamp::EPOCH),
        last_seen: time(6)?,
        last_event: time(7)?,
        lag: row.get(15).map_err(bad())?,
        stored_through: through(connection, id)?,
        holes: count(11)?,
        owed: count(8)?,
        lost: count(12)?,
        batches: count(10)?,
        losses: losses(connection, id)?,
        flags: flags(connection, Some(id), true, FLAGS_SHOWN)?,
        coverage: alerts::from_json(&text(9)?)?,
    })
}

fn through(connection: &Connection, node: NodeId) -> Result<Option<(EpochId, Option<auditflow_wire::Head>)>> {
    let newest = connection
        .prepare_cached(
            "SELECT epoch, state FROM epoch WHERE node = ?1 ORDER BY last_seen DESC, first_seen DESC LIMIT 1",
        )
        .and_then(|mut query| {
            query
                .query_row([node.as_bytes()], |row| {
                    Ok((EpochId::from_bytes(row.get(0)?), row.get::<_, Vec<u8>>(1)?))
                })
                .optional()
        })
        .map_err(failed("reading a node's newest epoch"))?;
    newest
        .map(|(epoch, state)| {
            let state = EpochLedger::from_bytes(&state).map_err(damaged("epoch ledger"))?;
            Ok((epoch, state.through()))
        })
        .transpose()
}

fn losses(connection: &Connection, node: NodeId) -> Result<Vec<LossRow>> {
    let sql =
        "SELECT source, reason, count, unknown, last_at FROM loss WHERE node = ?1 ORDER BY source, reason";
    let read = |row: &Row<'_>| {
        Ok(LossRow {
            source: row.get(0)?,
            reason: row.get(1)?,
            count: row.get::<_, i64>(2)? as u64,
            unknown: row.get::<_, i64>(3)? as u64,
            last_at: Timestamp::from_micros(row.get(4)?),
        })
    };
    connection
        .prepare_cached(sql)
        .and_then(|mut query| query.query_map([node.as_bytes()], read)?.collect())
        .map_err(failed("reading losses"))
}

fn flags(
    connection: &Connection,
    node: Option<NodeId>,
    open_only: bool,
    limit: usize,
) -> Result<Vec<FlagRow>> {
    let sql = "SELECT id, node, epoch, seq, kind, detail, raised_at, count, closed_at, closed_by FROM flag
        WHERE (?1 IS NULL OR node = ?1) AND (NOT ?2 OR closed_at IS NULL) ORDER BY raised_at DESC, id DESC LIMIT ?3";
    let read = |row: &Row<'_>| {
        let closed_at: Option<i64> = row.get(8)?;
        let closed_by: Option<String> = row.get(9)?;
        Ok(FlagRow {
            id: row.get(0)?,
            flag: NewFlag {
                node: NodeId::from_bytes(row.get(1)?),
                epoch: EpochId::from_bytes(row.get(2)?),
                seq: ledger::seq(row, 3).ok(),
                kind: FlagKind::from_name(&row.get::<_, String>(4)?).unwrap_or(FlagKind::Unreadable),
                detail: row.get(5)?,
                at: Timestamp::from_micros(row.get(6)?),
            },
            count: row.get::<_, i64>(7)? as u64,
            closed: closed_at.map(|at| (Timestamp::from_micros(at), closed_by.unwrap_or_default())),
        })
    };
    let node = node.as_ref().map(NodeId::as_bytes);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let parameters: [&dyn ToSql; 3] = [&node, &open_only, &limit];
    connection
        .prepare_cached(sql)
        .and_then(|mut query| query.query_map(parameters, read)?.collect())
        .map_err(failed("reading flags"))
}

fn close(unit: &mut Unit<'_>, id: i64, by: By, at: Timestamp) -> Result<bool> {
    let sql = "UPDATE flag SET closed_at = ?2, closed_by = ?3 WHERE id = ?1 AND closed_at IS NULL RETURNING node, kind";
    let closed = unit
        .main
        .query_row(sql, params![id, at.as_micros(), by.actor.to_string()], |row| {
            Ok((NodeId::from_bytes(row.get(0)?), row.get::<_, String>(1)?))
        })
        .optional()
        .map_err(failed("closing a flag"))?;
    let Some((node, kind)) = closed else { return Ok(false) };
    let detail = json!({ "kind": kind, "flag": id });
    trail::append(unit.main, &Act::done(at, by, Action::FlagClose, node.to_string(), detail))?;
    unit.changes.push(Change::NodeChanged(node));
    Ok(true)
}
