//! Enrolment: a join token in, a node id and a client certificate out.

use std::net::IpAddr;
use std::sync::Arc;

use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::enrol::{EnrolRequest, EnrolResponse};

use crate::site::authority::RequestError;
use crate::site::{Site, token};
use crate::store::{EnrolOutcome, Enrolment, Store, StoreError};

/// Why a node is not let in.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The message is not what it should be.
    #[error("{0}")]
    Message(String),
    /// The token is unknown, expired or used up; which of them is nobody's business.
    #[error("the join token is not valid: create another with `auditflow-collector token create`")]
    Token,
    /// The certificate request can't be used.
    #[error("the certificate request cannot be used: {0}")]
    Certificate(#[from] RequestError),
    /// A restored copy of a node that has a new key since.
    #[error(
        "this key has given way to a newer one: what asks is a restored copy of a node; move its identity.json away \
         and join again"
    )]
    KeyRetired,
    /// The store could not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: check that getrandom is allowed")]
    Random(#[from] getrandom::Error),
}

/// Lets a node in that asks from `origin`.
pub async fn enrol(
    store: &Arc<dyn Store>,
    site: &Site,
    body: &[u8],
    origin: Option<IpAddr>,
    now: Timestamp,
) -> Result<EnrolResponse, EnrolError> {
    let request: EnrolRequest =
        serde_json::from_slice(body).map_err(|error| EnrolError::Message(error.to_string()))?;
    request.check().map_err(|error| EnrolError::Message(error.to_string()))?;
    let fresh = node_id(store, request.proposed_node).await?;
    // Before the token is used up: a request that can't be signed must not cost one.
    let sign = |node| site.authority.client(&request.certificate_request, node, &request.public_key);
    let mut certificate = sign(fresh)?;
    let enrolment = Enrolment {
        node: fresh,
        token: token::hash(&request.secret),
        key: request.public_key,
        hostname: request.host_name,
        version: request.agent_version,
        fingerprint: request.hardware_fingerprint,
        former: request.former_node,
        origin,
        now,
    };
    let (node, pending) = match store.enrol(enrolment).await? {
        EnrolOutcome::Active => (fresh, false),
        EnrolOutcome::Pending => (fresh, true),
        EnrolOutcome::Known(node, pending) => {
            certificate = sign(node)?;
            (node, pending)
        }
        EnrolOutcome::TokenRefused => return Err(EnrolError::Token),
        EnrolOutcome::KeyRetired => return Err(EnrolError::KeyRetired),
    };
    tracing::info!(node.id = %node, pending, "a node enrolled");
    Ok(EnrolResponse {
        node,
        pending,
        site_keys: site.keys.get().pins(),
        client_certificate: certificate,
        ca_certificate: site.authority.pem().to_owned(),
    })
}

/// The id that the node proposes, unless another has it: what the node spooled before it enrolled is under that id.
async fn node_id(store: &Arc<dyn Store>, proposed: Option<NodeId>) -> Result<NodeId, EnrolError> {
    if let Some(proposed) = proposed
        && store.node_access(proposed).await?.is_none()
    {
        return Ok(proposed);
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(NodeId::from_bytes(id))
}
