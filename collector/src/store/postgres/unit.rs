//! A unit of work: one transaction, tried again where that is sound.
//!
//! Every call of the store that writes is one transaction and may be run again from its beginning: before the commit
//! nothing of it has happened, and a commit whose answer was lost leaves rows that the second run meets. Batches are
//! then duplicates, findings are recorded already, a flag or a trail entry may stand twice. So lost connections,
//! deadlocks and serialization failures cost a few tries; nothing else does.

use std::time::Duration;

use auditflow_event::Timestamp;
use sqlx::{PgConnection, Postgres, Transaction};

use super::PostgresStore;
use super::error::{failed, given_up, is_transient};
use crate::store::{Change, Result, StoreError};

/// How often a call is run at most.
const TRIES: u32 = 4;
/// How long the first pause is; each is twice the one before it.
const PAUSE: Duration = Duration::from_millis(20);

/// An open transaction. It is rolled back unless [`Unit::commit`] succeeds, also when it is dropped half-way.
pub(super) struct Unit<'s> {
    store: &'s PostgresStore,
    transaction: Transaction<'static, Postgres>,
    /// Told to everybody after the commit.
    pub changes: Vec<Change>,
}

impl PostgresStore {
    /// Opens a transaction that sees what is committed, statement by statement: what must not change under it, it locks.
    pub(super) async fn begin(&self) -> Result<Unit<'_>> {
        self.ensure_here()?;
        let transaction = self.pool.begin().await.map_err(failed("beginning a transaction"))?;
        Ok(Unit { store: self, transaction, changes: Vec::new() })
    }
}

impl Unit<'_> {
    /// Where statements go.
    pub(super) fn sql(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }

    /// Makes all of it durable, and tells.
    pub(super) async fn commit(self) -> Result<()> {
        self.transaction.commit().await.map_err(failed("committing"))?;
        for change in self.changes {
            self.store.tell(change);
        }
        Ok(())
    }
}

/// The tries of one call.
#[derive(Default)]
pub(super) struct Tries {
    done: u32,
}

impl Tries {
    /// After a failure: waits and says yes if the call is to be run again, else gives the error that it ends with.
    pub(super) async fn again(&mut self, error: StoreError) -> Result<()> {
        self.done += 1;
        if self.done >= TRIES || !is_transient(&error) {
            return Err(given_up(error));
        }
        tracing::debug!(%error, "the store tries again");
        tokio::time::sleep(PAUSE * (1 << self.done)).await;
        Ok(())
    }
}

/// Runs `$work`, a future of a `Result` that uses the transaction `$unit`, and commits; again where that may help.
/// A macro, for a closure whose future borrows both its argument and what it captured can't be said to be `Send`.
macro_rules! writing {
    ($store:expr, $unit:ident => $work:expr) => {{
        let mut tries = $crate::store::postgres::unit::Tries::default();
        loop {
            let outcome: $crate::store::Result<_> = async {
                let mut unit = $store.begin().await?;
                let $unit = &mut unit;
                let value = $work.await?;
                unit.commit().await?;
                Ok(value)
            }
            .await;
            match outcome {
                Ok(value) => break Ok(value),
                Err(error) => {
                    if let Err(error) = tries.again(error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}

/// Runs `$work`, a future of a `Result` that reads through the connection `$sql`; again where that may help. What has
/// to fit together is read by one statement.
macro_rules! reading {
    ($store:expr, $sql:ident => $work:expr) => {{
        let mut tries = $crate::store::postgres::unit::Tries::default();
        loop {
            let outcome: $crate::store::Result<_> = async {
                let mut connection = $store.acquire().await?;
                let $sql: &mut sqlx::PgConnection = &mut connection;
                $work.await
            }
            .await;
            match outcome {
                Ok(value) => break Ok(value),
                Err(error) => {
                    if let Err(error) = tries.again(error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}

pub(super) use {reading, writing};

/// Now, by the collector's clock: for rows that only the implementation dates.
pub(super) fn now() -> Timestamp {
    Timestamp::from_micros(chrono::Utc::now().timestamp_micros())
}
