//! What changed, told between processes: each tells the others what it committed, over `NOTIFY`, and listens to them.
//!
//! After the commit and by a transaction of its own, many changes at a time: a transaction that notifies takes turns with
//! every other that does, and storing must not. So a change may go untold where a process or the database dies in between,
//! as a receiver may be told that it missed some: the channel is a hint, the store is the truth. Whenever a process begins
//! to listen, its own listeners and the others' are told that they may have missed some.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use auditflow_event::NodeId;
use auditflow_service::backoff::Backoff;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::PostgresStore;
use super::error::failed;
use crate::store::{Change, Result, StoreError};

/// The name that is listened to.
const CHANNEL: &str = "auditflow";
/// Changes told at once: as many as fit into what PostgreSQL passes on, which is less than 8,000 bytes.
const TOGETHER: usize = 100;
/// Delays between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

impl PostgresStore {
    /// Tells other processes what changes here, and listeners here what changes there, until stopped.
    pub async fn exchange(self: Arc<Self>, stop: CancellationToken) {
        let mut retry = Backoff::new(RETRY.0, RETRY.1, std::process::id().into());
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.exchange_until_it_fails(&mut retry) => ended,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "changes are not exchanged with other processes; trying again");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(retry.failed()) => {}
            }
        }
    }

    async fn exchange_until_it_fails(&self, retry: &mut Backoff) -> Result<()> {
        let attempt = "exchanging changes";
        self.ensure_here()?;
        // A pool of its own, of one: to listen occupies a connection for good.
        let options = (*self.pool.connect_options()).clone();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(super::ACQUIRE)
            .connect_lazy_with(options.clone());
        let mut listener = PgListener::connect_with(&pool).await.map_err(failed(attempt))?;
        listener.listen(CHANNEL).await.map_err(failed(attempt))?;
        // Nothing is lost that could not be read again, so nothing waits for the disk.
        let options = options.options([("synchronous_commit", "off")]);
        let mut speaker = PgConnection::connect_with(&options).await.map_err(failed(attempt))?;
        let mut telling = self.telling.lock().await;
        let origin = Uuid::new_v4();
        self.tell_here(Change::Missed);
        let mut changes = vec![Change::Missed];
        loop {
            if !changes.is_empty() {
                let text = write(origin, &changes);
                sqlx::query("SELECT pg_notify($1, $2)")
                    .bind(CHANNEL)
                    .bind(text)
                    .execute(&mut speaker)
                    .await
                    .map_err(failed(attempt))?;
                changes.clear();
                retry.succeeded();
            }
            tokio::select! {
                heard = listener.try_recv() => match heard.map_err(failed(attempt))? {
                    Some(notice) => read(origin, notice.payload()).into_iter().for_each(|change| self.tell_here(change)),
                    None => return Err(StoreError::Away),
                },
                _ = telling.recv_many(&mut changes, TOGETHER) => {}
            }
        }
    }
}

/// Who tells, then each change by a letter and what it is of.
fn write(origin: Uuid, changes: &[Change]) -> String {
    let mut text = origin.simple().to_string();
    for change in changes {
        // Writing to a string never fails.
        let _ = match change {
            Change::AlertOpened(id) => write!(text, " o{}", id.simple()),
            Change::AlertChanged(id) => write!(text, " c{}", id.simple()),
            Change::NodeChanged(node) => write!(text, " n{node}"),
            Change::BatchStored { node, events, .. } => write!(text, " b{node}:{events}"),
            Change::Missed => write!(text, " m"),
        };
    }
    text
}

/// What another process told. What this release does not know is a change all the same.
fn read(own: Uuid, text: &str) -> Vec<Change> {
    let mut words = text.split(' ');
    if words.next().and_then(|origin| origin.parse().ok()) == Some(own) {
        return Vec::new();
    }
    words.map(|word| read_change(word).unwrap_or(Change::Missed)).collect()
}

fn read_change(word: &str) -> Option<Change> {
    let (kind, of) = word.split_at_checked(1)?;
    let node = |of: &str| of.parse::<NodeId>().ok();
    match kind {
        "o" => Some(Change::AlertOpened(of.parse().ok()?)),
        "c" => Some(Change::AlertChanged(of.parse().ok()?)),
        "n" => Some(Change::NodeChanged(node(of)?)),
        "b" => {
            let (of, events) = of.split_once(':')?;
            Some(Change::BatchStored { node: node(of)?, events: events.parse().ok()?, here: false })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_heard_and_fits_into_a_notice() {
        let node = NodeId::from_bytes([0xab; 16]);
        let kinds = [
            Change::AlertOpened(Uuid::from_u128(1)),
            Change::AlertChanged(Uuid::max()),
            Change::NodeChanged(node),
            Change::BatchStored { node, events: u32::MAX, here: false },
            Change::Missed,
        ];
        let changes: Vec<Change> = kinds.iter().cycle().take(TOGETHER).cloned().collect();
        let (own, other) = (Uuid::from_u128(7), Uuid::from_u128(8));
        assert_eq!(read(own, &write(other, &changes)), changes);
        assert!(read(own, &write(own, &changes)).is_empty(), "one's own is known already");
        let longest = vec![Change::BatchStored { node, events: u32::MAX, here: false }; TOGETHER];
        assert!(write(other, &longest).len() < 8000);
    }

    #[test]
    fn what_is_not_known_is_a_change_all_the_same() {
        for word in ["", "x", "zoo", "o", "o12", "bff:1", "ü"] {
            assert_eq!(read(Uuid::nil(), &format!("elsewhere {word}")), [Change::Missed], "{word}");
        }
        assert!(read(Uuid::nil(), "elsewhere").is_empty());
    }
}
