//! One alert: its events, its rule, why it fired, the proof, and what people make of it.

use askama::Template;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect};
use axum::{Extension, Form};
use serde::Deserialize;
use serde_json::Value;

use super::digest::{self, Digest};
use super::{Frame, Page, check_form, html};
use crate::store::AlertRow;
use crate::web::access::Principal;
use crate::web::api::alerts::{Brief, Change, Evidence, open, successor};
use crate::web::api::{Named, none, problem, rules};
use crate::web::proof::Proof;
use crate::web::state::now;
use crate::web::{AppState, show};

/// Places of events that are listed.
const PLACES: usize = 50;

#[derive(Template)]
#[template(path = "alert.html")]
struct AlertPage {
    frame: Frame,
    alert: Brief,
    when: String,
    ago: String,
    changed: String,
    detail: String,
    facts: Vec<(&'static str, String)>,
    rule_description: String,
    rule_set: String,
    rule_link: String,
    rule_source: Option<String>,
    tags: Vec<String>,
    matched: Vec<Matched>,
    grouped: Vec<(String, String)>,
    episode: Vec<(&'static str, String)>,
    events: Vec<Digest>,
    places: Vec<Evidence>,
    more_places: usize,
    proof: Vec<Proof>,
    verified: Verified,
    successor: Option<String>,
    note: String,
    assignee: String,
    deleted: Option<String>,
}

/// A field that made the rule match.
struct Matched {
    selection: String,
    field: String,
    value: String,
}

/// The proof in a few words.
struct Verified {
    class: &'static str,
    text: String,
}

/// What a form says.
#[derive(Deserialize)]
pub(super) struct StatusForm {
    #[serde(default)]
    csrf: String,
    status: Option<String>,
    assignee: Option<String>,
    note: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct DeleteForm {
    #[serde(default)]
    csrf: String,
}

pub(super) async fn show(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
) -> Page {
    let (row, proof) = open(&state, &id).await?;
    let successor = successor(&state, &row).await?;
    // The rule may have gone since: what the alert keeps of it is enough to read.
    let rule_source = rules::open(&state, &row.alert.rule.id).await.ok().map(|rule| rule.source);
    Ok(html(&page(&who, row, proof, successor.map(|id| id.to_string()), rule_source)))
}

fn page(
    who: &Principal,
    row: AlertRow,
    proof: Vec<Proof>,
    successor: Option<String>,
    rule_source: Option<String>,
) -> AlertPage {
    let alert = Brief::of(&row);
    let facts = facts(&row);
    let AlertRow { alert: kept, changed_at, note, assignee, deleted_at, .. } = row;
    let now = now();
    let metadata = &kept.metadata;
    AlertPage {
        frame: Frame::new(alert.rule_name.clone(), "alerts", who),
        when: show::second(kept.timestamp),
        ago: show::ago(kept.timestamp, now),
        changed: show::ago(changed_at, now),
        detail: super::home::detail(&alert).to_owned(),
        facts,
        rule_link: super::rules::link(&kept.rule.id),
        tags: texts(metadata.get("tags")),
        matched: matched(metadata.get("matched")),
        grouped: grouped(metadata.get("group_by")),
        episode: episode(metadata.get("episode")),
        events: kept.events.iter().map(digest::of).collect(),
        more_places: kept.evidence.len().saturating_sub(PLACES),
        places: kept.evidence.iter().take(PLACES).map(Evidence::of).collect(),
        verified: verified(&proof, !kept.evidence.is_empty()),
        rule_description: kept.rule.description,
        rule_set: kept.rule.version,
        rule_source,
        proof,
        successor,
        note: note.unwrap_or_default(),
        assignee: assignee.unwrap_or_default(),
        deleted: deleted_at.map(show::second),
        alert,
    }
}

pub(super) async fn set_status(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
    Form(form): Form<StatusForm>,
) -> Page {
    check_form(&who, &form.csrf)?;
    let change = Change { status: form.status, assignee: form.assignee, note: form.note }.checked()?;
    let alert = crate::web::api::parsed("id", Some(&id), "a UUID")?.ok_or_else(|| none("alert"))?;
    let done = state.store.set_alert_status(alert, change, who.by(), now()).await;
    if !done.map_err(|error| problem(&error))? {
        return Err(none("alert").into());
    }
    Ok(Redirect::to(&format!("/view/alerts/{alert}")).into_response())
}

pub(super) async fn delete(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named(id): Named<String>,
    Form(form): Form<DeleteForm>,
) -> Page {
    check_form(&who, &form.csrf)?;
    let alert = crate::web::api::parsed("id", Some(&id), "a UUID")?.ok_or_else(|| none("alert"))?;
    if !state.store.delete_alert(alert, who.by(), now()).await? {
        return Err(none("alert").into());
    }
    Ok(Redirect::to("/view/alerts").into_response())
}

/// Who, what and where, as far as known.
fn facts(row: &AlertRow) -> Vec<(&'static str, String)> {
    let alert = &row.alert;
    let by = |key: &str| digest::text(alert.triggered_by.get(key));
    let on = |key: &str| digest::text(alert.impacted_resource.get(key));
    let facts = [
        ("Who", by("actor_id")),
        ("From", by("client_ip")),
        ("Did", Some(alert.action_observed.clone())),
        ("To", on("resource_id")),
        ("On host", Some(alert.server_hostname.clone())),
        ("Service", Some(alert.source_service_name.clone())),
    ];
    let known = facts.into_iter().filter_map(|(name, value)| Some((name, value?)));
    known.filter(|(_, value)| !value.is_empty()).collect()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    let values = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    values.iter().filter_map(|value| digest::text(Some(value))).collect()
}

fn matched(value: Option<&Value>) -> Vec<Matched> {
    let fields = value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let matched = |field: &Value| Matched {
        selection: digest::text(field.get("selection")).unwrap_or_default(),
        field: digest::text(field.get("field")).unwrap_or_default(),
        value: digest::text(field.get("value")).unwrap_or_default(),
    };
    fields.iter().map(matched).collect()
}

fn grouped(value: Option<&Value>) -> Vec<(String, String)> {
    let pairs = value.and_then(Value::as_object).into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), digest::text(Some(value)).unwrap_or_default())).collect()
}

fn episode(value: Option<&Value>) -> Vec<(&'static str, String)> {
    let Some(extent) = value else { return Vec::new() };
    let parts = [
        ("First event", "begin"),
        ("Threshold reached", "first_match"),
        ("Last", "last_match"),
        ("Events", "events"),
        ("Different values", "different_values"),
    ];
    parts.into_iter().filter_map(|(name, key)| Some((name, digest::text(extent.get(key))?))).collect()
}

fn verified(proof: &[Proof], rests_on_events: bool) -> Verified {
    let broken = proof.iter().filter(|proof| !proof.holds()).count();
    let gone = proof.iter().filter(|proof| proof.payload != "verified").count();
    let replaced = proof.iter().filter(|proof| proof.checkpointed_at.is_some()).count();
    match (proof.len(), broken, gone) {
        (0, ..) if !rests_on_events => {
            Verified { class: "good", text: "none: it is a count, not single events".to_owned() }
        }
        (0, ..) => Verified { class: "attention", text: "the batches are not in the store".to_owned() },
        (_, 0, 0) => Verified { class: "good", text: "verified just now".to_owned() },
        (_, 0, gone) => {
            let mut text = format!(
                "signatures verified just now; {} not kept any more",
                show::count(gone as u64, "payload is", "payloads are")
            );
            if replaced > 0 {
                text += &format!(
                    ", and the site’s checkpoint stands for {}",
                    show::count(replaced as u64, "header", "headers")
                );
            }
            Verified { class: "attention", text }
        }
        (_, broken, _) => Verified {
            class: "bad",
            text: format!(
                "{} not what the node signed",
                show::count(broken as u64, "batch is", "batches are")
            ),
        },
    }
}
