//! Nodes in PostgreSQL: enrolment, flags, and the sums that the page shows.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::{BatchSeq, BootId, EpochId, Head, NodeFacts, NodeKeys, SignedNodeRotation};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::postgres::PgRow;

use super::alerts::{from_json, json as to_json};
use super::error::failed;
use super::store::{epoch_ledger, lock_nodes};
use super::unit::{Unit, reading, writing};
use super::{PostgresStore, column, ledger, node_keys, people, rows_at_most, text, trail};
use crate::store::tally::{Arrived, merge_coverage};
use crate::store::{
    Act, Action, Actor, By, Change, ClockShift, Coverage, EnrolOutcome, Enrolment, FlagKind, FlagRow,
    KeyOutcome, LossRow, NewFlag, NodeRow, NodeStatus, NodeStore, RatePoint, Result,
};

/// Flags of a node that the page lists.
const FLAGS_SHOWN: usize = 50;
const MINUTE: i64 = 60_000_000;

#[async_trait]
impl NodeStore for PostgresStore {
    async fn enrol(&self, enrolment: Enrolment) -> Result<EnrolOutcome> {
        writing!(self, unit => enrol(unit, &enrolment))
    }

    async fn rotate_node_key(
        &self,
        node: NodeId,
        rotations: Vec<SignedNodeRotation>,
        now: Timestamp,
    ) -> Result<KeyOutcome> {
        writing!(self, unit => node_keys::rotate(unit, node, &rotations, now))
    }

    async fn node_access(&self, node: NodeId) -> Result<Option<(NodeStatus, NodeKeys)>> {
        reading!(self, sql => async {
            let status: Option<String> = sqlx::query_scalar("SELECT status FROM node WHERE id = $1")
                .bind(node.as_bytes())
                .fetch_optional(&mut *sql)
                .await
                .map_err(failed("reading a node's status"))?;
            let Some(status) = status else { return Ok(None) };
            let status = NodeStatus::from_name(&status).unwrap_or(NodeStatus::Revoked);
            Ok(Some((status, node_keys::read(sql, node).await?)))
        })
    }

    async fn node_keys(&self, node: NodeId) -> Result<NodeKeys> {
        reading!(self, sql => node_keys::read(sql, node))
    }

    async fn set_node_status(
        &self,
        node: NodeId,
        status: NodeStatus,
        by: By,
        now: Timestamp,
    ) -> Result<bool> {
        writing!(self, unit => set_status(unit, node, status, by.clone(), now))
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>> {
        reading!(self, sql => rows(sql, None))
    }

    async fn node(&self, id: NodeId) -> Result<Option<NodeRow>> {
        reading!(self, sql => async { Ok(rows(sql, Some(id)).await?.pop()) })
    }

    async fn set_coverage(&self, node: NodeId, source: &str, coverage: Coverage) -> Result<()> {
        let said = [(source.to_owned(), coverage)];
        writing!(self, unit => async {
            lock_nodes(unit.sql(), [node]).await?;
            cover(unit.sql(), node, &said).await
        })
    }

    async fn raise_flag(&self, flag: NewFlag) -> Result<()> {
        writing!(self, unit => async {
            unit.changes.push(Change::NodeChanged(flag.node));
            lock_nodes(unit.sql(), [flag.node]).await?;
            raise(unit.sql(), &flag).await
        })
    }

    async fn flags(&self, node: Option<NodeId>, open_only: bool, limit: usize) -> Result<Vec<FlagRow>> {
        reading!(self, sql => flags(sql, node, open_only, limit))
    }

    async fn close_flag(&self, id: i64, by: By, now: Timestamp) -> Result<bool> {
        writing!(self, unit => close(unit, id, by.clone(), now))
    }

    async fn clock_shift(&self, node: NodeId, boot: BootId) -> Result<Option<ClockShift>> {
        reading!(self, sql => clock_shift(sql, node, boot))
    }

    async fn rates(&self, from: Timestamp, to: Timestamp) -> Result<Vec<RatePoint>> {
        reading!(self, sql => async {
            let rows: Vec<(i64, i64)> = sqlx::query_as(
                "SELECT minute, sum(events)::bigint FROM arrival WHERE minute BETWEEN $1 AND $2
                 GROUP BY minute ORDER BY minute",
            )
            .bind(minute_of(from))
            .bind(minute_of(to))
            .fetch_all(sql)
            .await
            .map_err(failed("reading arrivals"))?;
            let point = |(minute, events): (i64, i64)| RatePoint {
                minute: Timestamp::from_micros(minute.saturating_mul(MINUTE)),
                events: events.unsigned_abs(),
            };
            Ok(rows.into_iter().map(point).collect())
        })
    }
}

fn minute_of(time: Timestamp) -> i64 {
    time.as_micros().div_euclid(MINUTE)
}

/// A count as a column holds it.
pub(super) fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Nodes were heard.
pub(super) async fn seen(
    connection: &mut PgConnection,
    nodes: impl IntoIterator<Item = NodeId>,
    at: Timestamp,
) -> Result<()> {
    let nodes: BTreeSet<NodeId> = nodes.into_iter().collect();
    let nodes: Vec<&[u8]> = nodes.iter().map(|node| &node.as_bytes()[..]).collect();
    sqlx::query("UPDATE node SET last_seen = greatest(last_seen, $2) WHERE id = ANY($1)")
        .bind(nodes)
        .bind(at.as_micros())
        .execute(connection)
        .await
        .map_err(failed("noting that a node was heard"))?;
    Ok(())
}

/// Takes what a node says of itself now. An empty host name says nothing: the one of its enrolment stays.
pub(super) async fn about(connection: &mut PgConnection, node: NodeId, about: &NodeFacts) -> Result<()> {
    let labels: BTreeMap<&str, &str> = about.labels.iter().map(|(name, value)| (&**name, &**value)).collect();
    sqlx::query(
        "UPDATE node SET hostname = coalesce(nullif($2, ''), hostname), labels = $3, version = $4, kernel = $5,
            architecture = $6 WHERE id = $1",
    )
    .bind(node.as_bytes())
    .bind(text(&about.host_name))
    .bind(to_json(&labels))
    .bind(text(&about.agent_version))
    .bind(text(&about.kernel))
    .bind(text(&about.architecture))
    .execute(connection)
    .await
    .map_err(failed("noting what a node says of itself"))?;
    Ok(())
}

/// Batches of a node arrived.
pub(super) async fn arrived(connection: &mut PgConnection, node: NodeId, arrived: Arrived) -> Result<()> {
    sqlx::query(
        "UPDATE node SET batches = batches + $2, owed = greatest(owed - $2, 0),
            lag = CASE WHEN $3 > coalesce(last_event, $3 - 1) THEN greatest($4 - $3, 0) ELSE lag END,
            last_event = greatest(last_event, $3)
         WHERE id = $1",
    )
    .bind(node.as_bytes())
    .bind(arrived.batches)
    .bind(arrived.newest.map(|(time, _)| time.as_micros()))
    .bind(arrived.newest.map(|(_, at)| at.as_micros()))
    .execute(connection)
    .await
    .map_err(failed("counting arrivals"))?;
    Ok(())
}

/// Sources said something of themselves. The node is locked.
pub(super) async fn cover(
    connection: &mut PgConnection,
    node: NodeId,
    said: &[(String, Coverage)],
) -> Result<()> {
    if said.is_empty() {
        return Ok(());
    }
    let attempt = "noting a source's state";
    let known: Option<String> = sqlx::query_scalar("SELECT coverage FROM node WHERE id = $1")
        .bind(node.as_bytes())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed(attempt))?;
    let Some(known) = known else { return Ok(()) };
    let mut known = from_json(&known)?;
    merge_coverage(&mut known, said);
    sqlx::query("UPDATE node SET coverage = $2 WHERE id = $1")
        .bind(node.as_bytes())
        .bind(to_json(&known))
        .execute(connection)
        .await
        .map_err(failed(attempt))?;
    Ok(())
}

/// Raises a flag or counts it again.
pub(super) async fn raise(connection: &mut PgConnection, flag: &NewFlag) -> Result<()> {
    sqlx::query(
        "INSERT INTO flag (node, epoch, seq, kind, detail, raised_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (node, epoch, seq, kind) DO UPDATE SET count = flag.count + 1, detail = excluded.detail,
            raised_at = CASE WHEN flag.closed_at IS NULL THEN flag.raised_at ELSE excluded.raised_at END,
            closed_at = NULL, closed_by = NULL",
    )
    .bind(flag.node.as_bytes())
    .bind(flag.epoch.as_bytes())
    .bind(flag.seq.map_or(0, BatchSeq::as_i64))
    .bind(flag.kind.name())
    .bind(text(&flag.detail))
    .bind(flag.at.as_micros())
    .execute(connection)
    .await
    .map_err(failed("raising a flag"))?;
    Ok(())
}

/// The step of a boot's clock at its first synchronisation, if it had run unsynchronised before.
pub(super) async fn clock_shift(
    connection: &mut PgConnection,
    node: NodeId,
    boot: BootId,
) -> Result<Option<ClockShift>> {
    let found: Option<(i64, i64)> = sqlx::query_as(
        "SELECT synced_at + unsynced, synced - unsynced FROM clock
         WHERE node = $1 AND boot = $2 AND unsynced_at < synced_at AND synced <> unsynced",
    )
    .bind(node.as_bytes())
    .bind(boot.as_bytes())
    .fetch_optional(connection)
    .await
    .map_err(failed("reading a clock"))?;
    Ok(found.map(|(before, micros)| ClockShift { before: Timestamp::from_micros(before), micros }))
}

async fn set_status(
    unit: &mut Unit<'_>,
    node: NodeId,
    status: NodeStatus,
    by: By,
    at: Timestamp,
) -> Result<bool> {
    let changed = sqlx::query("UPDATE node SET status = $2 WHERE id = $1")
        .bind(node.as_bytes())
        .bind(status.name())
        .execute(unit.sql())
        .await
        .map_err(failed("changing a node's status"))?
        .rows_affected();
    if changed == 1 {
        let detail = json!({ "status": status.name() });
        let act = Act::done(at, by, Action::NodeSetStatus, node.to_string(), detail);
        trail::append(unit.sql(), &act).await?;
        unit.changes.push(Change::NodeChanged(node));
    }
    Ok(changed == 1)
}

async fn enrol(unit: &mut Unit<'_>, enrolment: &Enrolment) -> Result<EnrolOutcome> {
    let attempt = "enrolling a node";
    if node_keys::is_retired(unit.sql(), &enrolment.key).await? {
        return Ok(EnrolOutcome::KeyRetired);
    }
    // Uses are counted, and two that ask with one key at a time are one node: whoever enrols with a token takes turns.
    let token = people::join_token(unit.sql(), &enrolment.token, people::Lock::Yes).await?;
    // Asked again after an answer that was lost on the way: the same key on the same hardware is the same node.
    let known: Option<([u8; 16], bool)> = sqlx::query_as(
        "SELECT n.id, n.status = 'pending' FROM node_key k JOIN node n ON n.id = k.node
         WHERE k.public_key = $1 AND n.fingerprint = $2",
    )
    .bind(enrolment.key.as_bytes())
    .bind(text(&enrolment.fingerprint))
    .fetch_optional(unit.sql())
    .await
    .map_err(failed(attempt))?;
    let valid =
        token.filter(|token| token.expires_at > enrolment.now && (token.uses_left > 0 || known.is_some()));
    if valid.is_none() {
        return Ok(EnrolOutcome::TokenRefused);
    }
    if let Some((known, pending)) = known {
        return Ok(EnrolOutcome::Known(NodeId::from_bytes(known), pending));
    }
    let status = if enrolment.former.is_some() { NodeStatus::Pending } else { NodeStatus::Active };
    sqlx::query("UPDATE join_token SET uses_left = uses_left - 1 WHERE secret_hash = $1")
        .bind(enrolment.token)
        .execute(unit.sql())
        .await
        .map_err(failed(attempt))?;
    sqlx::query(
        "INSERT INTO node (id, hostname, version, fingerprint, status, enrolled_at) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(enrolment.node.as_bytes())
    .bind(text(&enrolment.hostname))
    .bind(text(&enrolment.version))
    .bind(text(&enrolment.fingerprint))
    .bind(status.name())
    .bind(enrolment.now.as_micros())
    .execute(unit.sql())
    .await
    .map_err(failed(attempt))?;
    node_keys::add(unit.sql(), enrolment.node, &enrolment.key, enrolment.now).await?;
    let detail = json!({
        "hostname": enrolment.hostname, "status": status.name(),
        "former": enrolment.former.map(|former| former.to_string()),
        "join_token": people::join_token_name(&enrolment.token),
    });
    let by = By { actor: Actor::Node(enrolment.node), origin: enrolment.origin };
    let act = Act::done(enrolment.now, by, Action::NodeEnrol, enrolment.node.to_string(), detail);
    trail::append(unit.sql(), &act).await?;
    unit.changes.push(Change::NodeChanged(enrolment.node));
    Ok(if status == NodeStatus::Pending { EnrolOutcome::Pending } else { EnrolOutcome::Active })
}

async fn rows(connection: &mut PgConnection, only: Option<NodeId>) -> Result<Vec<NodeRow>> {
    let found = sqlx::query(
        "SELECT n.*,
            (SELECT coalesce(sum(e.owed), 0)::bigint FROM epoch e WHERE e.node = n.id) AS holes,
            (SELECT coalesce(sum(l.last - l.first + 1), 0)::bigint FROM lost_range l WHERE l.node = n.id) AS lost
         FROM node n WHERE $1::bytea IS NULL OR id = $1 ORDER BY hostname COLLATE \"C\", id",
    )
    .bind(only.as_ref().map(|node| node.as_bytes().as_slice()))
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("reading nodes"))?;
    let mut nodes = Vec::new();
    for row in &found {
        nodes.push(node(connection, row).await?);
    }
    Ok(nodes)
}

async fn node(connection: &mut PgConnection, row: &PgRow) -> Result<NodeRow> {
    let what = "node";
    let id = NodeId::from_bytes(column(row, "id", what)?);
    let words = |name| column::<String>(row, name, what);
    let sum = |name| column::<i64>(row, name, what).map(|count| count.max(0).unsigned_abs());
    let time = |name| Ok(column::<Option<i64>>(row, name, what)?.map(Timestamp::from_micros));
    Ok(NodeRow {
        id,
        hostname: words("hostname")?,
        labels: from_json(&words("labels")?)?,
        version: words("version")?,
        kernel: words("kernel")?,
        architecture: words("architecture")?,
        status: NodeStatus::from_name(&words("status")?).unwrap_or(NodeStatus::Revoked),
        enrolled_at: time("enrolled_at")?.unwrap_or(Timestamp::EPOCH),
        last_seen: time("last_seen")?,
        last_event: time("last_event")?,
        lag: column(row, "lag", what)?,
        stored_through: through(connection, id).await?,
        holes: sum("holes")?,
        owed: sum("owed")?,
        lost: sum("lost")?,
        batches: sum("batches")?,
        losses: losses(connection, id).await?,
        flags: flags(connection, Some(id), true, FLAGS_SHOWN).await?,
        coverage: from_json(&words("coverage")?)?,
    })
}

async fn through(connection: &mut PgConnection, node: NodeId) -> Result<Option<(EpochId, Option<Head>)>> {
    let newest: Option<([u8; 16], Vec<u8>)> = sqlx::query_as(
        "SELECT epoch, state FROM epoch WHERE node = $1 ORDER BY last_seen DESC, first_seen DESC LIMIT 1",
    )
    .bind(node.as_bytes())
    .fetch_optional(connection)
    .await
    .map_err(failed("reading a node's newest epoch"))?;
    newest.map(|(epoch, state)| Ok((EpochId::from_bytes(epoch), epoch_ledger(&state)?.through()))).transpose()
}

async fn losses(connection: &mut PgConnection, node: NodeId) -> Result<Vec<LossRow>> {
    let rows: Vec<(String, String, i64, i64, i64)> = sqlx::query_as(
        "SELECT source, reason, count, unknown, last_at FROM loss WHERE node = $1
         ORDER BY source COLLATE \"C\", reason COLLATE \"C\"",
    )
    .bind(node.as_bytes())
    .fetch_all(connection)
    .await
    .map_err(failed("reading losses"))?;
    let read = |(source, reason, count, unknown, last_at): (String, String, i64, i64, i64)| LossRow {
        source,
        reason,
        count: count.unsigned_abs(),
        unknown: unknown.unsigned_abs(),
        last_at: Timestamp::from_micros(last_at),
    };
    Ok(rows.into_iter().map(read).collect())
}

async fn flags(
    connection: &mut PgConnection,
    node: Option<NodeId>,
    open_only: bool,
    limit: usize,
) -> Result<Vec<FlagRow>> {
    let rows = sqlx::query(
        "SELECT * FROM flag WHERE ($1::bytea IS NULL OR node = $1) AND (NOT $2 OR closed_at IS NULL)
         ORDER BY raised_at DESC, id DESC LIMIT $3",
    )
    .bind(node.as_ref().map(|node| node.as_bytes().as_slice()))
    .bind(open_only)
    .bind(rows_at_most(limit))
    .fetch_all(connection)
    .await
    .map_err(failed("reading flags"))?;
    let what = "flag";
    let read = |row: &PgRow| {
        let closed_at: Option<i64> = column(row, "closed_at", what)?;
        let closed_by: Option<String> = column(row, "closed_by", what)?;
        Ok(FlagRow {
            id: column(row, "id", what)?,
            flag: NewFlag {
                node: NodeId::from_bytes(column(row, "node", what)?),
                epoch: EpochId::from_bytes(column(row, "epoch", what)?),
                seq: ledger::number(column(row, "seq", what)?).ok(),
                kind: FlagKind::from_name(column(row, "kind", what)?).unwrap_or(FlagKind::Unreadable),
                detail: column(row, "detail", what)?,
                at: Timestamp::from_micros(column(row, "raised_at", what)?),
            },
            count: column::<i64>(row, "count", what)?.unsigned_abs(),
            closed: closed_at.map(|at| (Timestamp::from_micros(at), closed_by.unwrap_or_default())),
        })
    };
    rows.iter().map(read).collect()
}

async fn close(unit: &mut Unit<'_>, id: i64, by: By, at: Timestamp) -> Result<bool> {
    let closed: Option<([u8; 16], String)> = sqlx::query_as(
        "UPDATE flag SET closed_at = $2, closed_by = $3 WHERE id = $1 AND closed_at IS NULL RETURNING node, kind",
    )
    .bind(id)
    .bind(at.as_micros())
    .bind(text(&by.actor.to_string()))
    .fetch_optional(unit.sql())
    .await
    .map_err(failed("closing a flag"))?;
    let Some((node, kind)) = closed else { return Ok(false) };
    let node = NodeId::from_bytes(node);
    let detail = json!({ "kind": kind, "flag": id });
    trail::append(unit.sql(), &Act::done(at, by, Action::FlagClose, node.to_string(), detail)).await?;
    unit.changes.push(Change::NodeChanged(node));
    Ok(true)
}
