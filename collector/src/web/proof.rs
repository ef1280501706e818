//! Proof that an alert's events are what their node signed: the batches that they came in, verified anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use auditflow_wire::NodePublicKey;
use serde::Serialize;
use utoipa::ToSchema;

use super::show;
use crate::store::{BatchKey, EventRef, Payload, Result, Store, StoredBatch};

/// Batches verified for one alert: each may have to be read and hashed.
const BATCHES: usize = 8;

/// A batch and what was found when it was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Proof {
    /// Whose.
    pub node: String,
    /// Of which epoch (run of its agent).
    pub epoch: String,
    /// Which number.
    pub seq: u64,
    /// BLAKE3 over its header: what the node signed and the collector countersigned.
    pub digest: String,
    /// The key that it names as its signer.
    pub key: String,
    /// When it was first received.
    pub received_at: String,
    /// Whether a key of the node made the signature.
    pub signature: bool,
    /// `verified`: the payload is the signed one; `changed`: it is not; `expired` or `evicted`: it is not kept any more.
    pub payload: &'static str,
}

impl Proof {
    /// When it was received, as pages say it.
    pub fn received(&self) -> String {
        self.received_at.parse().map_or_else(|_| self.received_at.clone(), show::second)
    }

    /// Whether nothing contradicts it.
    pub fn holds(&self) -> bool {
        self.signature && self.payload != "changed"
    }
}

/// The proof of the first batches of this evidence.
pub async fn of(store: &Arc<dyn Store>, evidence: &[EventRef]) -> Result<Vec<Proof>> {
    let mut seen = BTreeSet::new();
    let keys: Vec<BatchKey> =
        evidence.iter().map(EventRef::batch).filter(|key| seen.insert(*key)).take(BATCHES).collect();
    let mut proofs = Vec::with_capacity(keys.len());
    for key in keys {
        let Some(batch) = store.batch(key).await? else { continue };
        let signers = store.node_keys(key.node).await?;
        // Hashing megabytes is not for the threads that answer.
        let verified = tokio::task::spawn_blocking(move || verify(&batch, &signers));
        if let Ok(proof) = verified.await {
            proofs.push(proof);
        }
    }
    Ok(proofs)
}

fn verify(batch: &StoredBatch, signers: &[NodePublicKey]) -> Proof {
    let header = &batch.signed.header;
    Proof {
        node: header.node.to_string(),
        epoch: header.epoch.to_string(),
        seq: header.number.get(),
        digest: batch.signed.digest().to_string(),
        key: header.key.to_string(),
        received_at: batch.received_at.to_string(),
        signature: signers.iter().any(|key| batch.signed.verify(key).is_ok()),
        payload: match &batch.payload {
            Payload::Present(bytes) if batch.signed.is_payload(bytes) => "verified",
            Payload::Present(_) => "changed",
            Payload::Evicted(_) => "evicted",
            Payload::Expired => "expired",
        },
    }
}
