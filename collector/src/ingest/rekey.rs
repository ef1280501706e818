//! A node's new key: rotations in, a client certificate for the key in use out.
//!
//! Nobody has to be authenticated to ask: the rotations are signed by keys of the node, the certificate request by the
//! new key. Asked again, as after an answer that was lost, it answers the same.

use std::sync::Arc;

use auditflow_event::Timestamp;
use auditflow_wire::NodeRotationError;
use auditflow_wire::enrol::{RekeyRequest, RekeyResponse};

use crate::site::Site;
use crate::site::authority::RequestError;
use crate::store::{FlagKind, KeyOutcome, NewFlag, NodeStatus, Store, StoreError};

/// Why a node's new key is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RekeyError {
    /// The message is not what it should be.
    #[error("{0}")]
    Message(String),
    /// Nothing of this node is taken.
    #[error("this node is not one whose data is taken: have it approved, or join again")]
    Stranger,
    /// The rotations don't lead from a key of the node to the one that asks.
    #[error("the new key is not taken: {0}")]
    Rotation(#[from] NodeRotationError),
    /// A later rotation is known.
    #[error("the key has given way to another one since: what asks is a restored copy of the node")]
    Outdated,
    /// No more keys are kept of one node.
    #[error("the node has changed its key too often: revoke it and let it join as a new one")]
    TooMany,
    /// The certificate request can't be used.
    #[error("the certificate request cannot be used: {0}")]
    Certificate(#[from] RequestError),
    /// The store could not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes a node's new key.
pub async fn rekey(
    store: &Arc<dyn Store>,
    site: &Site,
    body: &[u8],
    now: Timestamp,
) -> Result<RekeyResponse, RekeyError> {
    let request: RekeyRequest =
        serde_json::from_slice(body).map_err(|error| RekeyError::Message(error.to_string()))?;
    request.check().map_err(|error| RekeyError::Message(error.to_string()))?;
    let Some(last) = request.rotations.last().map(|rotation| rotation.unverified().clone()) else {
        return Err(RekeyError::Message("no rotation".to_owned()));
    };
    let node = last.node;
    if !matches!(store.node_access(node).await?, Some((NodeStatus::Active, _))) {
        return Err(RekeyError::Stranger);
    }
    // First: a request that can't be signed must not change the node's key.
    let client_certificate = site.authority.client(&request.certificate_request, node, &last.next)?;
    match store.rotate_node_key(node, request.rotations, now).await? {
        KeyOutcome::Current(key) if key == last.next => {
            tracing::info!(node.id = %node, node.key = %key.id(), "a node signs with a new key");
            Ok(RekeyResponse { client_certificate })
        }
        KeyOutcome::Current(_) => Err(RekeyError::Outdated),
        KeyOutcome::TooMany => Err(RekeyError::TooMany),
        KeyOutcome::Refused(error) => {
            if let NodeRotationError::Contradiction(_) = error {
                let (epoch, detail) = (last.epoch, error.to_string());
                let kind = FlagKind::Fork;
                store.raise_flag(NewFlag { node, epoch, seq: None, kind, detail, at: now }).await?;
            }
            Err(error.into())
        }
    }
}
