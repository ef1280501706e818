//! Batches that an older release stored unread: judged now, if this release can read them.
//!
//! Runs once at start, again if the store fails it; a release doesn't learn a version while it runs.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use auditflow_service::backoff::Backoff;
use tokio_util::sync::CancellationToken;

use crate::store::{Payload, Store, StoreError};

use super::open::{Contents, Opener};

/// Batches looked at per round.
const ROUND: usize = 64;
/// Delays between attempts.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Reads what can be read now, however often it takes; ends when it is done or stopped.
pub async fn run(store: Arc<dyn Store>, stop: CancellationToken) -> Result<(), Infallible> {
    let mut retry = Backoff::new(RETRY.0, RETRY.1, std::process::id().into());
    while let Err(error) = read_unread(&store).await {
        tracing::warn!(%error, "batches of newer agents were not looked at; trying again");
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(retry.failed()) => {}
        }
    }
    Ok(())
}

/// Reads what can be read now; returns how many batches that were.
pub async fn read_unread(store: &Arc<dyn Store>) -> Result<u64, StoreError> {
    let (mut after, mut read) = (None, 0);
    loop {
        let round = store.unread(after, ROUND).await?;
        let Some((last, _)) = round.last() else { break };
        after = Some(*last);
        for (_, key) in round {
            let Some(batch) = store.batch(key).await? else { continue };
            let Payload::Present(payload) = batch.payload else { continue };
            let signed = batch.signed;
            let contents = tokio::task::spawn_blocking(move || Opener::default().contents(&signed, &payload));
            let Ok(Contents { terms, coverage, unread: false, .. }) = contents.await else { continue };
            store.mark_read(key, terms, coverage).await?;
            read += 1;
        }
    }
    if read > 0 {
        tracing::info!(batches = read, "batches of a newer agent can be read now and will be analysed");
    }
    Ok(read)
}
