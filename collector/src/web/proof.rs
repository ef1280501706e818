//! Proof that an alert's events are what their node signed: the batches that they came in, verified anew. Where a
//! checkpoint stands for a batch, its signature is what is left to verify.

use std::collections::BTreeSet;
use std::sync::Arc;

use auditflow_wire::{NodeKeys, SignedCheckpoint};
use serde::Serialize;
use utoipa::ToSchema;

use super::show;
use crate::site::keys::Keys;
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
    /// BLAKE3 over its header: what the node signed and the collector countersigned. Not known of a checkpointed batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The key that is named as the signer: of the node, or of the site where a checkpoint stands for the batch.
    pub key: String,
    /// When it was first received. Not known of a checkpointed batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_at: Option<String>,
    /// When the site signed that it had proved this batch, if the header is not kept any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpointed_at: Option<String>,
    /// Whether a key of the node made the signature; of a checkpointed batch, whether a key of the site did.
    pub signature: bool,
    /// `verified`: the payload is the signed one; `changed`: it is not; `expired` or `evicted`: it is not kept any more;
    /// `checkpointed`: neither is the header.
    pub payload: &'static str,
}

impl Proof {
    /// When it was received, or replaced by a checkpoint, as pages say it.
    pub fn when(&self) -> String {
        let said = self.received_at.as_ref().or(self.checkpointed_at.as_ref()).cloned().unwrap_or_default();
        said.parse().map_or(said, show::second)
    }

    /// Whether nothing contradicts it.
    pub fn holds(&self) -> bool {
        self.signature && self.payload != "changed"
    }
}

/// The proof of the first batches of this evidence.
pub async fn of(store: &Arc<dyn Store>, site: &Keys, evidence: &[EventRef]) -> Result<Vec<Proof>> {
    let mut seen = BTreeSet::new();
    let keys: Vec<BatchKey> =
        evidence.iter().map(EventRef::batch).filter(|key| seen.insert(*key)).take(BATCHES).collect();
    let mut proofs = Vec::with_capacity(keys.len());
    for key in keys {
        let Some(batch) = store.batch(key).await? else {
            let checkpoint = store.checkpoint(key.node, key.epoch).await?;
            proofs.extend(checkpoint.and_then(|checkpoint| stands_for(&checkpoint, key, site)));
            continue;
        };
        let signers = store.node_keys(key.node).await?;
        // Hashing megabytes is not for the threads that answer.
        let verified = tokio::task::spawn_blocking(move || verify(&batch, &signers));
        if let Ok(proof) = verified.await {
            proofs.push(proof);
        }
    }
    Ok(proofs)
}

/// The proof that is left of a batch, if the checkpoint stands for it.
fn stands_for(checkpoint: &SignedCheckpoint, batch: BatchKey, site: &Keys) -> Option<Proof> {
    let said = checkpoint.unverified();
    (batch.seq <= said.last.number).then(|| Proof {
        node: batch.node.to_string(),
        epoch: batch.epoch.to_string(),
        seq: batch.seq.get(),
        digest: None,
        key: checkpoint.key().to_string(),
        received_at: None,
        checkpointed_at: Some(said.time.to_string()),
        signature: (said.node, said.epoch) == (batch.node, batch.epoch)
            && site.all().any(|key| checkpoint.verify(&key).is_ok()),
        payload: "checkpointed",
    })
}

fn verify(batch: &StoredBatch, signers: &NodeKeys) -> Proof {
    let header = &batch.signed.header;
    let signer = signers.past_signer(header.key, header.epoch, header.number);
    Proof {
        node: header.node.to_string(),
        epoch: header.epoch.to_string(),
        seq: header.number.get(),
        digest: Some(batch.signed.digest().to_string()),
        key: header.key.to_string(),
        received_at: Some(batch.received_at.to_string()),
        checkpointed_at: None,
        signature: signer.is_ok_and(|key| batch.signed.verify(key).is_ok()),
        payload: match &batch.payload {
            Payload::Present(bytes) if batch.signed.is_payload(bytes) => "verified",
            Payload::Present(_) => "changed",
            Payload::Evicted(_) => "evicted",
            Payload::Expired => "expired",
        },
    }
}
