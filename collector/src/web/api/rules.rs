//! Rules: what is looked for, what it found lately, and what can't be found.

use std::collections::HashMap;
use std::sync::Arc;

use auditflow_event::Timestamp;
use auditflow_rules::{Missing, Rule as Loaded, RuleId, RuleSet};
use auditflow_service::problem::Problem;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Named, none, problem};
use crate::web::AppState;
use crate::web::state::now;

/// What "lately" is: a week, in microseconds.
pub const LATELY_MICROS: i64 = 7 * 86_400 * 1_000_000;

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get))
}

/// The rules in force.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rules {
    /// Digest of what the set says.
    pub version: String,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Rules that `enabled: false` switched off.
    pub disabled: Vec<String>,
    /// What loads but is probably not meant so.
    pub warnings: Vec<String>,
}

/// A rule.
#[derive(Debug, Serialize, ToSchema)]
pub struct Rule {
    /// Its id.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// Sigma's level.
    pub level: String,
    /// What it looks for and why it matters.
    pub description: String,
    /// Who wrote it.
    pub author: String,
    /// `detection` or `correlation`.
    pub kind: &'static str,
    /// The log source, `product/category/service`; empty for a correlation.
    pub logsource: String,
    /// Tags, `attack.t1059.004` among them.
    pub tags: Vec<String>,
    /// Known causes of harmless matches.
    pub false_positives: Vec<String>,
    /// Whether a match raises an alert by itself.
    pub alerts: bool,
    /// Alerts that it raised in the last seven days (0 also for rules beyond the hundred noisiest).
    pub alerts_lately: u64,
    /// Why it can't match, or not wholly; absent: it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
    /// The file and the line that it stands at.
    pub file: String,
}

/// A rule with its text.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleText {
    /// The rule.
    #[serde(flatten)]
    pub rule: Rule,
    /// Links to background.
    pub references: Vec<String>,
    /// Correlations that count its matches.
    pub counted_by: Vec<String>,
    /// The document as written (YAML).
    pub source: String,
}

impl Rule {
    fn of(set: &RuleSet, rule: &Loaded, lately: &HashMap<String, u64>) -> Self {
        let gap = set.gaps().iter().find(|gap| gap.rule == rule.id).map(|gap| match &gap.missing {
            Missing::Source(name) => format!("nothing feeds its log source {name}"),
            Missing::Fields(names) => format!("no event has the fields {}", names.join(", ")),
            Missing::OneValue(selection) => {
                format!("its selection {selection} wants several whole values of one value")
            }
        });
        let texts = |texts: &[Box<str>]| texts.iter().map(ToString::to_string).collect();
        Self {
            id: rule.id.to_string(),
            title: rule.title.to_string(),
            level: rule.level.as_str().to_owned(),
            description: rule.description.to_string(),
            author: rule.author.to_string(),
            kind: if set.correlations().iter().any(|known| *known.id() == rule.id) {
                "correlation"
            } else {
                "detection"
            },
            logsource: rule.logsource.to_string(),
            tags: texts(&rule.tags),
            false_positives: texts(&rule.false_positives),
            alerts: rule.alerts,
            alerts_lately: lately.get(rule.id.as_str()).copied().unwrap_or_default(),
            gap,
            file: format!("{}:{}", rule.file.display(), rule.line),
        }
    }
}

/// The rules in force with their counts; also what the page shows.
pub async fn all(state: &AppState) -> Result<Rules, Problem> {
    let lately = lately(state).await?;
    let rules = state.rules.get();
    let set = rules.set();
    Ok(Rules {
        version: set.version().to_string(),
        rules: set.rules().iter().map(|rule| Rule::of(set, rule, &lately)).collect(),
        disabled: set.disabled().iter().map(ToString::to_string).collect(),
        warnings: set.warnings().iter().map(ToString::to_string).collect(),
    })
}

/// One rule; also what the page shows.
pub async fn open(state: &AppState, id: &str) -> Result<RuleText, Problem> {
    let lately = lately(state).await?;
    let rules = state.rules.get();
    let (set, id) = (rules.set(), RuleId::from(id));
    let rule: &Arc<Loaded> = set.rule(&id).ok_or_else(|| none("rule in force"))?;
    Ok(RuleText {
        rule: Rule::of(set, rule, &lately),
        references: rule.references.iter().map(ToString::to_string).collect(),
        counted_by: set.parents(&id).iter().map(|parent| parent.id().to_string()).collect(),
        source: rule.source.to_string(),
    })
}

async fn lately(state: &AppState) -> Result<HashMap<String, u64>, Problem> {
    let since = Timestamp::from_micros(now().as_micros() - LATELY_MICROS);
    let counts = state.store.alert_counts(since).await.map_err(|error| problem(&error))?;
    Ok(counts.rules.into_iter().map(|(id, _, alerts)| (id, alerts)).collect())
}

/// The rules in force, what they found lately, and those that can't find anything
#[utoipa::path(get, operation_id = "list_rules", path = "/api/v1/rules", tag = "rules", responses(
    (status = 200, description = "The rules", body = Rules),
))]
async fn list(State(state): State<AppState>) -> Result<Json<Rules>, Problem> {
    all(&state).await.map(Json)
}

/// One rule with its text
#[utoipa::path(get, operation_id = "get_rule", path = "/api/v1/rules/{rule}", tag = "rules",
    params(("rule" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The rule", body = RuleText),
        (status = 404, description = "There is none of that id in force", body = Problem, content_type = "application/problem+json"),
    ))]
async fn get(State(state): State<AppState>, Named(id): Named<String>) -> Result<Json<RuleText>, Problem> {
    open(&state, &id).await.map(Json)
}
