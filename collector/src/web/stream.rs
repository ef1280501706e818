//! What has changed, as numbered notices that a listener can take up again where it left off.
//!
//! Fed by the store's changes; feeds `GET /api/v1/stream`. A notice tells of a change, the store is the truth: whoever
//! can't be told everything (too old an id, too slow a reader) is told to reload. Stored batches are added up and told
//! once a second, so that a fleet at full speed makes as many notices as a quiet one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use auditflow_event::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::api::alerts::Brief;
use crate::store::{Change, Store};

/// Notices kept for those who come back.
const KEPT: usize = 1024;
/// Notices that a slow reader may be behind.
const BEHIND: usize = 256;
/// How often stored events are told of.
const TALLY: Duration = Duration::from_secs(1);

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Notice {
    /// An alert that was not there before.
    AlertOpened {
        /// The alert.
        alert: Box<Brief>,
    },
    /// An alert's state or evidence is another.
    AlertChanged {
        /// The alert as it is now.
        alert: Box<Brief>,
    },
    /// A node enrolled, was approved or revoked, or a flag on it was raised or closed.
    NodeChanged {
        /// Its id.
        node: String,
    },
    /// Events were stored in the last second.
    EventsStored {
        /// How many.
        events: u64,
        /// In how many batches.
        batches: u64,
    },
    /// More changed than can be told: read everything anew.
    Reload,
}

impl Notice {
    /// The name under which a stream sends it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::AlertOpened { .. } => "alert_opened",
            Self::AlertChanged { .. } => "alert_changed",
            Self::NodeChanged { .. } => "node_changed",
            Self::EventsStored { .. } => "events_stored",
            Self::Reload => "reload",
        }
    }
}

/// A notice's place: which run of the collector, and which of its notices. Text: `<micros>-<number>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoticeId {
    run: i64,
    number: u64,
}

impl std::fmt::Display for NoticeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.run, self.number)
    }
}

impl NoticeId {
    /// Reads one; none if the text is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (run, number) = text.rsplit_once('-')?;
        Some(Self { run: run.parse().ok()?, number: number.parse().ok()? })
    }
}

/// A numbered notice.
pub(super) type Numbered = (NoticeId, Arc<Notice>);

/// What a listener gets: what it has missed, then what comes.
pub(super) struct Listening {
    /// Where it stands before anything of `missed`.
    pub at: NoticeId,
    /// What it missed, oldest first; none: too much, it has to reload.
    pub missed: Option<Vec<Numbered>>,
    /// What comes.
    pub coming: broadcast::Receiver<Numbered>,
}

/// Keeps the last notices and passes new ones on.
pub struct Hub {
    run: i64,
    inner: Mutex<Inner>,
}

struct Inner {
    next: u64,
    kept: VecDeque<Numbered>,
    sender: broadcast::Sender<Numbered>,
}

impl Hub {
    /// A hub of a run that began then.
    pub fn new(begin: Timestamp) -> Self {
        let inner = Inner { next: 1, kept: VecDeque::new(), sender: broadcast::channel(BEHIND).0 };
        Self { run: begin.as_micros(), inner: Mutex::new(inner) }
    }

    /// Listens from now on, or from after the notice that was last heard.
    pub(super) fn listen(&self, last: Option<NoticeId>) -> Listening {
        let inner = self.lock();
        let at = NoticeId { run: self.run, number: inner.next - 1 };
        let coming = inner.sender.subscribe();
        let Some(last) = last else { return Listening { at, missed: Some(Vec::new()), coming } };
        let oldest = inner.kept.front().map_or(inner.next, |(id, _)| id.number);
        let known = last.run == self.run && last.number < inner.next && last.number + 1 >= oldest;
        let missed = known.then(|| {
            inner.kept.iter().filter(|(id, _)| id.number > last.number).cloned().collect::<Vec<_>>()
        });
        Listening { at, missed, coming }
    }

    /// Tells everybody.
    pub fn tell(&self, notice: Notice) {
        let mut inner = self.lock();
        let numbered = (NoticeId { run: self.run, number: inner.next }, Arc::new(notice));
        inner.next += 1;
        if inner.kept.len() >= KEPT {
            inner.kept.pop_front();
        }
        inner.kept.push_back(numbered.clone());
        // Nobody listening is no failure.
        let _ = inner.sender.send(numbered);
    }

    /// Tells of what changes in the store until stopped.
    pub async fn follow(
        &self,
        store: &dyn Store,
        mut changes: broadcast::Receiver<Change>,
        stop: &CancellationToken,
    ) {
        let mut tally = tokio::time::interval(TALLY);
        tally.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut events, mut batches) = (0, 0);
        loop {
            let change = tokio::select! {
                () = stop.cancelled() => return,
                _ = tally.tick() => {
                    if batches > 0 {
                        self.tell(Notice::EventsStored { events, batches });
                        (events, batches) = (0, 0);
                    }
                    continue;
                }
                change = changes.recv() => change,
            };
            match change {
                Ok(Change::BatchStored { events: stored, .. }) => {
                    events += u64::from(stored);
                    batches += 1;
                }
                Ok(Change::NodeChanged(node)) => self.tell(Notice::NodeChanged { node: node.to_string() }),
                Ok(Change::AlertOpened(id)) => self.tell_of_alert(store, id, true).await,
                Ok(Change::AlertChanged(id)) => self.tell_of_alert(store, id, false).await,
                Ok(Change::Missed) | Err(RecvError::Lagged(_)) => self.tell(Notice::Reload),
                Err(RecvError::Closed) => return stop.cancelled().await,
            }
        }
    }

    async fn tell_of_alert(&self, store: &dyn Store, id: uuid::Uuid, opened: bool) {
        match store.alert(id).await {
            Ok(Some(row)) => {
                let alert = Box::new(Brief::of(&row));
                self.tell(if opened {
                    Notice::AlertOpened { alert }
                } else {
                    Notice::AlertChanged { alert }
                });
            }
            Ok(None) => {}
            Err(_) => self.tell(Notice::Reload),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(events: u64) -> Notice {
        Notice::EventsStored { events, batches: 1 }
    }

    fn hub() -> Hub {
        Hub::new(Timestamp::from_micros(7))
    }

    fn id(text: &str) -> Option<NoticeId> {
        let id = NoticeId::parse(text);
        assert!(id.is_some(), "{text}");
        id
    }

    fn missed(hub: &Hub, last: &str) -> Option<Vec<String>> {
        Some(hub.listen(id(last)).missed?.iter().map(|(id, _)| id.to_string()).collect())
    }

    #[test]
    fn whoever_comes_back_hears_what_was_missed_and_no_more() {
        let hub = hub();
        for events in 1..=3 {
            hub.tell(stored(events));
        }
        assert_eq!(missed(&hub, "7-1"), Some(vec!["7-2".to_owned(), "7-3".to_owned()]));
        assert_eq!(missed(&hub, "7-3"), Some(vec![]));
        assert_eq!(missed(&hub, "7-0").map(|missed| missed.len()), Some(3));
    }

    #[test]
    fn an_id_that_is_too_old_or_of_another_run_or_not_given_yet_means_reload() {
        let hub = hub();
        for events in 0..KEPT as u64 + 5 {
            hub.tell(stored(events));
        }
        assert_eq!(missed(&hub, "7-4"), None);
        assert_eq!(missed(&hub, "7-5").map(|missed| missed.len()), Some(KEPT));
        assert_eq!(missed(&hub, "6-1000"), None);
        assert_eq!(missed(&hub, "7-99999"), None);
        assert_eq!(hub.lock().kept.len(), KEPT);
    }

    #[test]
    fn what_is_told_after_listening_comes_once() {
        let hub = hub();
        hub.tell(stored(1));
        let mut listening = hub.listen(None);
        assert_eq!(listening.at.to_string(), "7-1");
        hub.tell(stored(2));
        assert_eq!(*listening.coming.try_recv().unwrap().1, stored(2));
        assert!(listening.coming.try_recv().is_err());
    }

    #[test]
    fn text_that_is_no_id_is_none() {
        for text in ["", "7", "a-b", "7-", "-1-x", "7-99999999999999999999"] {
            assert_eq!(NoticeId::parse(text), None, "{text}");
        }
    }
}
