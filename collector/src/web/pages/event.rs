//! One event by its place, with the proof of its batch.

use askama::Template;
use axum::Extension;
use axum::extract::State;

use super::digest::{self, Digest};
use super::{Frame, Page, html};
use crate::store::EventRef;
use crate::web::AppState;
use crate::web::access::Principal;
use crate::web::api::Named;
use crate::web::api::alerts::Evidence;
use crate::web::api::events::open;
use crate::web::proof::{self, Proof};

#[derive(Template)]
#[template(path = "event.html")]
struct EventPage {
    frame: Frame,
    at: Evidence,
    digest: Digest,
    proof: Vec<Proof>,
}

pub(super) async fn show(
    State(state): State<AppState>,
    Extension(who): Extension<Principal>,
    Named((node, epoch, seq, index)): Named<(String, String, u64, u32)>,
) -> Page {
    let found = open(&state, &node, &epoch, seq, index).await?;
    let reference: Option<EventRef> = serde_json::to_value(&found.at).and_then(serde_json::from_value).ok();
    let proof = proof::of(&state.store, &state.site_keys.get(), reference.as_slice()).await?;
    let value = serde_json::from_str(found.event.get()).unwrap_or_default();
    let digest = digest::of(&value);
    Ok(html(&EventPage { frame: Frame::new("Event", "events", &who), at: found.at, digest, proof }))
}
