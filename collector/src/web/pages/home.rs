//! The first page: how it stands, and what to do next.

use askama::Template;
use auditflow_event::Timestamp;
use axum::Extension;
use axum::extract::State;

use super::{Frame, Page, html};
use crate::store::{AlertFilter, AlertStatus, NodeRow, NodeStatus};
use crate::web::access::Principal;
use crate::web::api::alerts::Brief;
use crate::web::api::nodes::{breaks_chain, is_wanted};
use crate::web::overview::{self, Overview, Summary};
use crate::web::{AppState, show};

/// Newest open alerts shown.
const NEWEST: usize = 4;
/// The chart's own units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 96.0;

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    frame: Frame,
    summary: Summary,
    open: String,
    newest: Vec<AlertLine>,
    nodes: Vec<NodeLine>,
    chart: Chart,
    join: Option<Join>,
    at: String,
}

/// An alert in a list.
pub(super) struct AlertLine {
    pub alert: Brief,
    /// What it says besides the rule's name.
    pub detail: String,
    pub when: String,
    pub ago: String,
}

impl AlertLine {
    pub(super) fn of(alert: Brief, now: Timestamp) -> Self {
        let time = alert.timestamp.parse().unwrap_or(now);
        let detail = detail(&alert).to_owned();
        Self { when: show::second(time), ago: show::ago(time, now), detail, alert }
    }
}

/// An alert's description without the rule's name, which stands above it.
pub(super) fn detail(alert: &Brief) -> &str {
    let rest = alert.description.strip_prefix(&alert.rule_name).and_then(|rest| rest.strip_prefix(": "));
    rest.unwrap_or(&alert.description)
}

/// A node in the table.
struct NodeLine {
    id: String,
    hostname: String,
    /// The beginning of its id, where another has the same name.
    hint: String,
    state: &'static str,
    state_class: &'static str,
    coverage: Vec<SourceMark>,
    lag: String,
    owed: String,
    losses: String,
    chain: &'static str,
    chain_class: &'static str,
    version: String,
    seen: String,
}

/// A source in the coverage column.
struct SourceMark {
    name: String,
    state: String,
    class: &'static str,
    reason: String,
}

/// The bars of the rate chart.
struct Chart {
    bars: Vec<Bar>,
    label: String,
    peak: String,
    now: String,
    total: String,
    from: String,
    to: String,
}

struct Bar {
    x: String,
    y: String,
    width: String,
    height: String,
    title: String,
}

/// How the first node joins.
struct Join {
    on_collector: String,
    on_node: String,
    start: String,
}

pub(super) async fn show(State(state): State<AppState>, Extension(who): Extension<Principal>) -> Page {
    let Overview { summary, nodes, now } = overview::of(&state).await?;
    let filter = AlertFilter { status: Some(AlertStatus::Open), ..AlertFilter::default() };
    let newest = state.store.alerts(filter, None, 0, NEWEST).await?;
    let join = nodes.is_empty().then(|| Join {
        on_collector: format!("auditflow-collector token create{}", state.option),
        on_node: format!("auditflow-agent join https://COLLECTOR:{} TOKEN", state.agents_port),
        start: "systemctl enable --now auditflow-agent".to_owned(),
    });
    Ok(html(&HomePage {
        frame: Frame::new("Overview", "overview", &who),
        open: show::number(summary.open_alerts.iter().map(|count| count.alerts).sum()),
        newest: newest.iter().map(|row| AlertLine::of(Brief::of(row), now)).collect(),
        nodes: nodes.iter().map(|row| line(row, &nodes, now)).collect(),
        chart: chart(&summary),
        join,
        at: show::second(now),
        summary,
    }))
}

fn line(row: &NodeRow, all: &[NodeRow], now: Timestamp) -> NodeLine {
    let twins = all.iter().filter(|other| other.hostname == row.hostname).count();
    let (state, state_class) = match row.status {
        NodeStatus::Pending => ("waits for approval", "attention"),
        NodeStatus::Revoked => ("revoked", "off"),
        NodeStatus::Active if overview::is_complete(row, now) => ("complete", "good"),
        NodeStatus::Active if row.last_seen.is_none() => ("not heard yet", "attention"),
        NodeStatus::Active if overview::silent_since(row, now).is_some() => ("silent", "attention"),
        NodeStatus::Active if row.lost > 0 => ("lost batches", "bad"),
        NodeStatus::Active if overview::is_behind(row, now) => ("owes batches", "attention"),
        NodeStatus::Active => ("flagged", "bad"),
    };
    let broken = row.flags.iter().any(|flag| breaks_chain(flag.flag.kind));
    let (chain, chain_class) = if broken { ("broken", "bad") } else { ("sound", "good") };
    let lag = row.lag.map(|micros| micros / 1_000_000);
    NodeLine {
        id: row.id.to_string(),
        hostname: row.hostname.clone(),
        hint: if twins > 1 { show::short(&row.id.to_string()).to_owned() } else { String::new() },
        state,
        state_class,
        coverage: marks(row),
        lag: lag.map_or_else(
            || "–".to_owned(),
            |seconds| if seconds < 2 { "none".into() } else { show::duration(seconds) },
        ),
        owed: show::number(row.owed + row.holes),
        losses: losses(row),
        chain,
        chain_class,
        version: row.version.clone(),
        seen: row.last_seen.map_or_else(|| "never".to_owned(), |seen| show::ago(seen, now)),
    }
}

fn marks(row: &NodeRow) -> Vec<SourceMark> {
    let mark = |(source, said): (&String, &crate::store::Coverage)| SourceMark {
        name: show::words(source),
        state: show::words(&said.state),
        class: state_class(&said.state),
        reason: said.reason.clone().unwrap_or_default(),
    };
    row.coverage.iter().map(mark).collect()
}

/// How a source's state looks.
pub(super) fn state_class(state: &str) -> &'static str {
    match state {
        "running" => "good",
        "not_applicable" => "off",
        "unavailable" => "bad",
        _ => "attention",
    }
}

/// Losses that nobody wanted, in one cell.
fn losses(row: &NodeRow) -> String {
    let unwanted = || row.losses.iter().filter(|loss| !is_wanted(&loss.reason));
    let events = unwanted().fold(0_u64, |sum, loss| sum.saturating_add(loss.count));
    let unknown = unwanted().any(|loss| loss.unknown > 0);
    match (row.lost, events, unknown) {
        (0, 0, false) => "none".to_owned(),
        (0, 0, true) => "some, not counted".to_owned(),
        (0, events, unknown) => {
            format!("{}{}", show::count(events, "event", "events"), if unknown { " or more" } else { "" })
        }
        (lost, _, _) => show::count(lost, "batch", "batches"),
    }
}

fn chart(summary: &Summary) -> Chart {
    let rates = &summary.events_per_minute;
    let peak = rates.iter().map(|rate| rate.events).max().unwrap_or_default();
    let total: u64 = rates.iter().map(|rate| rate.events).sum();
    let step = WIDTH / rates.len().max(1) as f64;
    let clock = |text: &str| text.get(11..16).unwrap_or(text).to_owned();
    let bars = rates.iter().enumerate().map(|(index, rate)| {
        let share = rate.events as f64 / peak.max(1) as f64;
        // What is there is seen, however little.
        let height = if rate.events == 0 { 0.0 } else { (share * HEIGHT).max(1.5) };
        Bar {
            x: format!("{:.1}", index as f64 * step + 1.0),
            y: format!("{:.1}", HEIGHT - height),
            width: format!("{:.1}", step - 2.0),
            height: format!("{height:.1}"),
            title: format!("{}: {}", clock(&rate.minute), show::count(rate.events, "event", "events")),
        }
    });
    // The running minute is not over: the one before it says how it goes.
    let last = rates.iter().rev().nth(1).map_or(0, |rate| rate.events);
    Chart {
        label: format!(
            "Events stored per minute over the last hour: {} in the last full minute, at most {}, {} in all",
            show::number(last),
            show::number(peak),
            show::number(total)
        ),
        bars: bars.collect(),
        peak: show::number(peak),
        now: show::number(last),
        total: show::number(total),
        from: rates.first().map_or_else(String::new, |rate| clock(&rate.minute)),
        to: rates.last().map_or_else(String::new, |rate| clock(&rate.minute)),
    }
}
