//! Windows without a copy: every question goes to the store.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Asked, Windows};
use crate::correlate::row;
use crate::store::{DetectionPoint, Regrouped, Result, Store};

/// The store itself.
pub struct Stored(pub Arc<dyn Store>);

#[async_trait]
impl Windows for Stored {
    async fn detections(&self, asked: Asked<'_>) -> Result<Vec<DetectionPoint>> {
        let (from, to) = (row::start_of(asked.from), row::end_of(asked.to));
        self.0.detections_of_group(&asked.key.correlation, &asked.key.group, from, to).await
    }

    async fn changed(&self, _: &Regrouped, _: i64) {}
}
