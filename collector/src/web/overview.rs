//! How it stands, in one line and in a few lists: what the first page and `/api/v1/summary` show.
//!
//! The judging functions are pure: rows and the time in, words out.

use auditflow_event::Timestamp;
use auditflow_service::health::{HealthReport, PartState};
use serde::Serialize;
use utoipa::ToSchema;

use super::api::nodes::{breaks_chain, is_wanted};
use super::state::now;
use super::{AppState, show};
use crate::store::{AlertCounts, NodeRow, NodeStatus, RatePoint, Result};

/// A node that was not heard for this long is silent: idle agents send too. Seconds.
const SILENT_AFTER: i64 = 300;
/// Batches that a node may owe, and seconds that its newest event may lie back, while it is only sending.
const ON_THE_WAY: u64 = 8;
const BEHIND_AFTER: i64 = 60;
/// How far back rates and the noisiest rules go.
const MINUTES: i64 = 60;
const DAY: i64 = 86_400;
const MICROS: i64 = 1_000_000;
/// Noisiest rules shown.
const NOISIEST: usize = 8;
/// Things to do shown.
const ADVICE: usize = 8;

/// How it stands.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Summary {
    /// When this was said (RFC 3339, UTC).
    pub at: String,
    /// In one line.
    pub verdict: Verdict,
    /// Nodes that may send.
    pub nodes: u64,
    /// Those of them whose data is complete.
    pub complete: u64,
    /// Open alerts by severity, worst first.
    pub open_alerts: Vec<SeverityCount>,
    /// Rules by the alerts that they raised in the last 24 hours, noisiest first.
    pub noisiest_rules: Vec<RuleCount>,
    /// Events stored per minute over the last hour, oldest first.
    pub events_per_minute: Vec<Rate>,
    /// What to do next, most urgent first.
    pub next: Vec<Advice>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Verdict {
    /// How bad.
    pub level: VerdictLevel,
    /// The line.
    pub text: String,
}

/// How bad it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictLevel {
    /// Everything is here.
    Good,
    /// Something is late or waits for somebody.
    Attention,
    /// Something is gone for good, or was tampered with.
    Bad,
}

impl VerdictLevel {
    /// The name in the API and as a class.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Attention => "attention",
            Self::Bad => "bad",
        }
    }
}

/// Open alerts of one severity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SeverityCount {
    /// `CRITICAL`, `WARNING` or `INFO`.
    pub severity: String,
    /// How many.
    pub alerts: u64,
}

/// A rule's alerts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RuleCount {
    /// The rule's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// How many.
    pub alerts: u64,
}

impl SeverityCount {
    /// For people.
    pub fn shown(&self) -> String {
        show::number(self.alerts)
    }
}

impl RuleCount {
    /// For people.
    pub fn shown(&self) -> String {
        show::number(self.alerts)
    }
}

/// Events stored in one minute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rate {
    /// The minute's start.
    pub minute: String,
    /// How many.
    pub events: u64,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Advice {
    /// What, and why.
    pub text: String,
    /// A command for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// A page for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// The summary, and the rows that it was made from.
pub struct Overview {
    /// For programs and people.
    pub summary: Summary,
    /// Every node.
    pub nodes: Vec<NodeRow>,
    /// When.
    pub now: Timestamp,
}

/// How it stands now.
pub async fn of(state: &AppState) -> Result<Overview> {
    let now = now();
    let before = |seconds: i64| Timestamp::from_micros(now.as_micros() - seconds * MICROS);
    let nodes = state.store.nodes().await?;
    let counts = state.store.alert_counts(before(DAY)).await?;
    let rates = state.store.rates(before(MINUTES * 60), now).await?;
    let open_alerts = by_severity(&counts);
    let verdict = verdict(&nodes, &open_alerts, now);
    let active = || nodes.iter().filter(|node| node.status == NodeStatus::Active);
    let noisiest = counts.rules.iter().take(NOISIEST);
    let summary = Summary {
        at: now.to_string(),
        verdict,
        nodes: active().count() as u64,
        complete: active().filter(|node| is_complete(node, now)).count() as u64,
        next: advice(&nodes, &open_alerts, &state.health.report(), &state.option, now),
        open_alerts,
        noisiest_rules: noisiest
            .map(|(id, name, alerts)| RuleCount { id: id.clone(), name: name.clone(), alerts: *alerts })
            .collect(),
        events_per_minute: every_minute(&rates, now),
    };
    Ok(Overview { summary, nodes, now })
}

/// Whether everything of a node is here as far as can be known: also that it was heard lately.
pub fn is_complete(node: &NodeRow, now: Timestamp) -> bool {
    let heard = node.last_seen.is_some() && silent_since(node, now).is_none();
    heard && node.lost == 0 && node.flags.is_empty() && !is_behind(node, now)
}

/// Whether a node owes more than what is just on its way.
pub fn is_behind(node: &NodeRow, now: Timestamp) -> bool {
    let owed = node.owed + node.holes;
    let newest = node.last_event.or(node.last_seen);
    owed > ON_THE_WAY || (owed > 0 && newest.is_some_and(|newest| show::seconds(newest, now) > BEHIND_AFTER))
}

/// Since when a node that was heard once has been silent.
pub fn silent_since(node: &NodeRow, now: Timestamp) -> Option<Timestamp> {
    node.last_seen.filter(|seen| show::seconds(*seen, now) > SILENT_AFTER)
}

/// The one line.
pub fn verdict(nodes: &[NodeRow], open: &[SeverityCount], now: Timestamp) -> Verdict {
    let active: Vec<&NodeRow> = nodes.iter().filter(|node| node.status == NodeStatus::Active).collect();
    let pending = nodes.iter().filter(|node| node.status == NodeStatus::Pending).count();
    let complete = active.iter().filter(|node| is_complete(node, now)).count();
    let mut parts = vec![match (active.len(), complete) {
        (0, _) => "No node has joined yet".to_owned(),
        (1, 1) => "The only node is complete".to_owned(),
        (all, complete) if all == complete => format!("All {all} nodes complete"),
        (all, complete) => format!("{complete} of {all} nodes complete"),
    }];
    let issues = issues(&active, now);
    let mut level =
        if active.is_empty() || pending > 0 { VerdictLevel::Attention } else { VerdictLevel::Good };
    for (worse, issue) in issues {
        level = level.max(worse);
        parts.push(issue);
    }
    if pending > 0 {
        parts.push(format!("{pending} {} for approval", if pending == 1 { "waits" } else { "wait" }));
    }
    let mut text = parts.join(", ");
    let critical = open.iter().find(|count| count.severity == "CRITICAL").map_or(0, |count| count.alerts);
    if critical > 0 {
        level = level.max(VerdictLevel::Attention);
        text.push_str("; ");
        text.push_str(&show::count(critical, "critical alert open", "critical alerts open"));
    }
    Verdict { level, text }
}

/// What is wrong with nodes, each kind in a few words.
fn issues(nodes: &[&NodeRow], now: Timestamp) -> Vec<(VerdictLevel, String)> {
    let mut issues = Vec::new();
    let since = |times: Vec<Option<Timestamp>>| {
        let earliest = times.into_iter().flatten().min();
        earliest.map_or_else(String::new, |time| format!(" since {}", show::minute(time, now)))
    };
    let owing: Vec<_> = nodes.iter().filter(|node| is_behind(node, now)).collect();
    if !owing.is_empty() {
        let batches = owing.iter().map(|node| node.owed + node.holes).sum();
        let verb = if owing.len() == 1 { "owes" } else { "owe" };
        let since = since(owing.iter().map(|node| node.last_event.or(node.last_seen)).collect());
        let text = format!("{} {verb} {}{since}", owing.len(), show::count(batches, "batch", "batches"));
        issues.push((VerdictLevel::Attention, text));
    }
    let losing: Vec<_> = nodes.iter().filter(|node| node.lost > 0).collect();
    if !losing.is_empty() {
        let batches = losing.iter().map(|node| node.lost).sum();
        let text = format!("{} lost {} for good", losing.len(), show::count(batches, "batch", "batches"));
        issues.push((VerdictLevel::Bad, text));
    }
    let broken =
        nodes.iter().filter(|node| node.flags.iter().any(|flag| breaks_chain(flag.flag.kind))).count();
    if broken > 0 {
        let verb = if broken == 1 { "has a broken chain" } else { "have broken chains" };
        issues.push((VerdictLevel::Bad, format!("{broken} {verb}")));
    }
    let silent: Vec<_> = nodes.iter().filter_map(|node| silent_since(node, now)).collect();
    if !silent.is_empty() {
        let since = since(silent.iter().copied().map(Some).collect());
        issues.push((VerdictLevel::Attention, format!("{} silent{since}", silent.len())));
    }
    let unheard = nodes.iter().filter(|node| node.last_seen.is_none()).count();
    if unheard > 0 {
        issues.push((VerdictLevel::Attention, format!("{unheard} not heard yet")));
    }
    issues
}

fn advice(
    nodes: &[NodeRow],
    open: &[SeverityCount],
    health: &HealthReport,
    option: &str,
    now: Timestamp,
) -> Vec<Advice> {
    let mut advice = Vec::new();
    let mut add = |text: String, command: Option<String>, link: Option<String>| {
        if advice.len() < ADVICE {
            advice.push(Advice { text, command, link });
        }
    };
    let critical = open.iter().find(|count| count.severity == "CRITICAL").map_or(0, |count| count.alerts);
    if critical > 0 {
        let text =
            format!("Look at {}", show::count(critical, "open critical alert", "open critical alerts"));
        add(text, None, Some("/view/alerts?severity=CRITICAL&status=open".to_owned()));
    }
    for (name, part) in &health.parts {
        if matches!(part.state, PartState::Down | PartState::Degraded) {
            let reason = part.reason.as_deref().unwrap_or("no reason given");
            add(format!("The collector's {name} is not well: {reason}"), None, Some("/healthz".to_owned()));
        }
    }
    for node in nodes {
        let page = Some(format!("/view/nodes/{}", node.id));
        let host = &node.hostname;
        match node.status {
            NodeStatus::Pending => add(format!("{host} waits for approval"), None, page.clone()),
            NodeStatus::Revoked => continue,
            NodeStatus::Active => {}
        }
        if let Some(flag) = node.flags.first() {
            let command = format!("auditflow-collector verify{option} --node {}", node.id);
            add(format!("{host}: {}. Prove what is stored", flag.flag.detail), Some(command), page.clone());
        }
        if let Some(since) = silent_since(node, now) {
            let command = "systemctl status auditflow-agent".to_owned();
            let text = format!("{host} has been silent since {}. On it, look at", show::minute(since, now));
            add(text, Some(command), page.clone());
        } else if is_behind(node, now) {
            let text = format!(
                "{host} owes {}. On it, ask why",
                show::count(node.owed + node.holes, "batch", "batches")
            );
            add(text, Some("auditflow-agent status".to_owned()), page.clone());
        }
        for (source, said) in &node.coverage {
            if matches!(&*said.state, "unavailable" | "degraded") {
                let reason = said.reason.as_deref().unwrap_or("no reason given");
                add(
                    format!("{host}: {} is {}: {reason}", show::words(source), said.state),
                    None,
                    page.clone(),
                );
            }
        }
        let lately = |at: Timestamp| show::seconds(at, now) < DAY;
        for loss in node.losses.iter().filter(|loss| !is_wanted(&loss.reason) && lately(loss.last_at)) {
            let lost = if loss.count == 0 && loss.unknown > 0 {
                "an unknown number of events".to_owned()
            } else {
                show::count(loss.count, "event", "events")
            };
            let why = format!("{}, {}", show::words(&loss.source), show::words(&loss.reason));
            add(format!("{host} declared {lost} lost ({why})"), None, page.clone());
        }
    }
    advice
}

/// Worst first; severities without an open alert too.
fn by_severity(counts: &AlertCounts) -> Vec<SeverityCount> {
    let of = |name: &str| {
        counts.open.iter().find(|(severity, _)| severity == name).map_or(0, |(_, alerts)| *alerts)
    };
    ["CRITICAL", "WARNING", "INFO"]
        .map(|severity| SeverityCount { severity: severity.to_owned(), alerts: of(severity) })
        .to_vec()
}

/// One point for each of the last minutes that are over, and the one that runs.
fn every_minute(rates: &[RatePoint], now: Timestamp) -> Vec<Rate> {
    const MINUTE: i64 = 60 * MICROS;
    let current = now.as_micros().div_euclid(MINUTE);
    let points = (current - MINUTES + 1)..=current;
    points
        .map(|minute| {
            let start = Timestamp::from_micros(minute * MINUTE);
            let events = rates.iter().find(|rate| rate.minute == start).map_or(0, |rate| rate.events);
            Rate { minute: start.to_string(), events }
        })
        .collect()
}

#[cfg(test)]
mod tests;
