//! Where a group's recent detections are read from: the store, or Redis in front of it.
//!
//! Fed by `analyse` with what a batch's findings changed; read by [`super::group`] when a group is computed anew. The
//! store is the truth in either case: a window is believed only if it is of the revision that the store says the group
//! has, so that whatever Redis forgets, mixes up or never heard of costs time and nothing else. See docs/adr/0019.

mod redis;
mod server;
mod stored;
#[cfg(test)]
mod tests;

use async_trait::async_trait;

use crate::store::{DetectionPoint, GroupKey, Regrouped, Result, Revision};

pub use redis::{InRedis, WindowMetrics};
pub use server::{Options, Server, SetupError, parse};
pub use stored::Stored;

/// Detections of one group that are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Whose.
    pub key: &'a GroupKey,
    /// All that were there at this revision are wanted; none: all that are there.
    pub revision: Option<Revision>,
    /// The correlation's timespan, milliseconds.
    pub timespan: i64,
    /// Event times from here, milliseconds since the Unix epoch, inclusive.
    pub from: i64,
    /// Up to here.
    pub to: i64,
}

/// Where detections are read.
#[async_trait]
pub trait Windows: Send + Sync {
    /// Those asked for, in no order: all that the store had when the group was of that revision, and perhaps some that
    /// came since.
    async fn detections(&self, asked: Asked<'_>) -> Result<Vec<DetectionPoint>>;

    /// Is told, after the store has it, how a group of a correlation with this timespan (milliseconds) changed. It may be
    /// told late, twice or never.
    async fn changed(&self, regrouped: &Regrouped, timespan: i64);
}
