//! What changes, as it changes: server-sent events.
//!
//! Each has an id; who comes back with `Last-Event-ID` hears what was missed, or `reload` if that is too much. A stream
//! ends after a while, so that whoever may not listen any more stops listening; a browser comes back by itself.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt as _};
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::web::AppState;
use crate::web::serve::later;
use crate::web::stream::{Listening, Notice, NoticeId, Numbered};

/// How long a stream lasts.
const LIFE: Duration = Duration::from_mins(15);
/// How often a silent stream says that it lives.
const ALIVE: Duration = Duration::from_secs(15);

pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(listen))
}

/// What changes, as server-sent events
///
/// Event names are the notices' kinds: `alert_opened`, `alert_changed`, `node_changed`, `events_stored` (at most once a
/// second), and `reload` when what was missed can't be told. The data is the notice as JSON.
#[utoipa::path(get, operation_id = "listen", path = "/api/v1/stream", tag = "stream",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event heard")),
    responses(
        (status = 200, description = "A stream without end", content_type = "text/event-stream", body = Notice),
        (status = 503, description = "Too many are listening"),
    ))]
async fn listen(State(state): State<AppState>, headers: HeaderMap) -> Response {
    let Ok(turn) = Arc::clone(&state.listeners).try_acquire_owned() else {
        return later("too many browsers are listening");
    };
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    // An id that is none was not given by us: its bearer has to reload as well.
    let listening = match last.map(NoticeId::parse) {
        Some(None) => Listening { missed: None, ..state.hub.listen(None) },
        Some(known) => state.hub.listen(known),
        None => state.hub.listen(None),
    };
    let events = events(listening, state.stop.clone(), turn);
    Sse::new(events).keep_alive(KeepAlive::new().interval(ALIVE)).into_response()
}

struct Listener {
    coming: tokio::sync::broadcast::Receiver<Numbered>,
    stop: CancellationToken,
    end: Instant,
    _turn: OwnedSemaphorePermit,
}

fn events(
    listening: Listening,
    stop: CancellationToken,
    turn: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let Listening { at, missed, coming } = listening;
    let first = match missed {
        // Says where the stream begins, so that who comes back before anything happened has an id to come back with.
        Some(missed) if missed.is_empty() => vec![Event::default().id(at.to_string()).comment("listening")],
        Some(missed) => missed.iter().map(written).collect(),
        None => vec![written(&(at, Arc::new(Notice::Reload)))],
    };
    let listener = Listener { coming, stop, end: Instant::now() + LIFE, _turn: turn };
    let coming = stream::unfold(listener, |mut listener| async move {
        let heard = tokio::select! {
            () = listener.stop.cancelled() => return None,
            () = tokio::time::sleep_until(listener.end) => return None,
            heard = listener.coming.recv() => heard,
        };
        match heard {
            Ok(numbered) => Some((written(&numbered), listener)),
            // What was missed is told by coming back with the last id.
            Err(RecvError::Lagged(_) | RecvError::Closed) => None,
        }
    });
    stream::iter(first).chain(coming).map(Ok)
}

fn written((id, notice): &Numbered) -> Event {
    // A notice is a plain structure, which always has JSON.
    let data = serde_json::to_string(&**notice).unwrap_or_default();
    Event::default().id(id.to_string()).event(notice.name()).data(data)
}
