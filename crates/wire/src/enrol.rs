//! Enrolment: the join token and the JSON messages by which a node becomes known, and by which it changes its key.
//!
//! Fed by `auditflow-agent join` and `key rotate`, and by the collector's endpoints. The token pins the site's CA before the
//! first byte is trusted and carries the secret that allows enrolment; comparing the secret in constant time, its
//! expiry and its uses are the collector's. Messages must pass `check` before use: their bounds are there.

use std::fmt;
use std::str::FromStr;

use auditflow_event::NodeId;
use serde::{Deserialize, Serialize};

use crate::ids::CaHash;
use crate::keys::NodePublicKey;
use crate::node_keys::SignedNodeRotation;
use crate::rotation::SitePins;

/// Where a node enrols, below the collector's address.
pub const ENROL_PATH: &str = "/agent/v1/enrol";
/// Where a node presents a new key, below the collector's address. What it presents is signed by the key before, so it
/// needs no client certificate, which it has none of for its new key.
pub const KEYS_PATH: &str = "/agent/v1/keys";
/// Where anybody gets the authority's certificate; a join token's hash says whether it is the right one.
pub const CA_PATH: &str = "/agent/v1/ca.pem";
/// The most bytes of JSON that a message may have.
pub const MAX_MESSAGE_LEN: usize = 64 << 10;
/// The most bytes of JSON that a [`RekeyRequest`] may have.
pub const MAX_REKEY_LEN: usize = 256 << 10;
/// The most rotations that a node presents at once.
pub const MAX_ROTATIONS: usize = 4;

const MAX_PEM_LEN: usize = 16 << 10;
const SECRET_LEN: std::ops::RangeInclusive<usize> = 16..=128;

/// What `token create` prints and `join` takes: `AF10<ca hash, 64 hexadecimal digits>::<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which CA the node must find.
    pub ca: CaHash,
    secret: Box<str>,
}

/// Text that is no join token. Never quotes the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a join token (AF10…::…): copy the whole line that `auditflow-collector token create` printed")]
pub struct ParseTokenError;

impl JoinToken {
    const PREFIX: &'static str = "AF10";

    /// A token with this secret: 16 to 128 letters, digits, `-`, `_` or `.`.
    pub fn new(ca: CaHash, secret: &str) -> Result<Self, ParseTokenError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !SECRET_LEN.contains(&secret.len()) || !secret.bytes().all(allowed) {
            return Err(ParseTokenError);
        }
        Ok(Self { ca, secret: secret.into() })
    }

    /// The secret; compare it in constant time, and never log it.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The whole token, secret included: for the one place that is meant to show it.
    pub fn reveal(&self) -> String {
        format!("{}{}::{}", Self::PREFIX, self.ca, self.secret)
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let body = text.trim().strip_prefix(Self::PREFIX).ok_or(ParseTokenError)?;
        let (ca, secret) = body.split_once("::").ok_or(ParseTokenError)?;
        Self::new(ca.parse().map_err(|_| ParseTokenError)?, secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, …)", self.ca)
    }
}

/// What a node asks. Sent over TLS whose CA the token pinned; answers are [`EnrolResponse`].
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The token's secret.
    pub secret: String,
    /// An attribute, not an identity; 1 to 253 characters without control characters.
    pub host_name: String,
    /// What the node will sign batches with.
    pub public_key: NodePublicKey,
    /// Tells a cloned disk from the machine that it was cloned from; opaque to the collector.
    pub hardware_fingerprint: String,
    /// The agent's version.
    pub agent_version: String,
    /// A certificate signing request, PKCS#10 PEM, for the mTLS client certificate.
    pub certificate_request: String,
    /// The id under which the node has been keeping events since before it was known to any site; it is given back
    /// unless another node has it, so that those events keep their node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposed_node: Option<NodeId>,
    /// The node id it had before, if its key does not fit the hardware any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former_node: Option<NodeId>,
}

/// What the site answers.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct EnrolResponse {
    /// The node's identity from now on.
    pub node: NodeId,
    /// Whether an operator has to approve the node before its batches are taken.
    pub pending: bool,
    /// What acknowledgements are signed with, now and after the next rotation.
    pub site_keys: SitePins,
    /// The client certificate, PEM, with the chain below the CA.
    pub client_certificate: String,
    /// The CA's certificate, PEM; its hash is the token's.
    pub ca_certificate: String,
}

/// What a node asks whose key has changed.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RekeyRequest {
    /// The rotations that lead to the key in use, oldest first; those that the collector knows are welcome.
    pub rotations: Vec<SignedNodeRotation>,
    /// A certificate signing request by the key in use, PKCS#10 PEM.
    pub certificate_request: String,
}

/// What the site answers.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct RekeyResponse {
    /// The client certificate for the key in use, PEM, with the chain below the CA.
    pub client_certificate: String,
}

/// A message whose field is outside of its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("enrolment message has an invalid {field}")]
pub struct EnrolError {
    field: &'static str,
}

impl EnrolRequest {
    /// Checks every field's bounds.
    pub fn check(&self) -> Result<(), EnrolError> {
        check("secret", &self.secret, SECRET_LEN)?;
        check("host name", &self.host_name, 1..=253)?;
        check("hardware fingerprint", &self.hardware_fingerprint, 0..=256)?;
        check("agent version", &self.agent_version, 1..=64)?;
        check_pem("certificate request", &self.certificate_request)
    }
}

impl EnrolResponse {
    /// Checks every field's bounds.
    pub fn check(&self) -> Result<(), EnrolError> {
        check_pem("client certificate", &self.client_certificate)?;
        check_pem("ca certificate", &self.ca_certificate)
    }
}

impl RekeyRequest {
    /// Checks every field's bounds, and that all rotations are one node's.
    pub fn check(&self) -> Result<(), EnrolError> {
        let one_node = |pair: &[SignedNodeRotation]| match pair {
            [one, other] => one.unverified().node == other.unverified().node,
            _ => true,
        };
        let in_bounds = (1..=MAX_ROTATIONS).contains(&self.rotations.len());
        if !in_bounds || !self.rotations.windows(2).all(one_node) {
            return Err(EnrolError { field: "list of rotations" });
        }
        check_pem("certificate request", &self.certificate_request)
    }
}

impl RekeyResponse {
    /// Checks every field's bounds.
    pub fn check(&self) -> Result<(), EnrolError> {
        check_pem("client certificate", &self.client_certificate)
    }
}

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("host_name", &self.host_name)
            .field("public_key", &self.public_key)
            .field("hardware_fingerprint", &self.hardware_fingerprint)
            .field("agent_version", &self.agent_version)
            .field("former_node", &self.former_node)
            .finish_non_exhaustive()
    }
}

fn check(field: &'static str, text: &str, len: std::ops::RangeInclusive<usize>) -> Result<(), EnrolError> {
    if len.contains(&text.len()) && !text.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(EnrolError { field })
    }
}

fn check_pem(field: &'static str, text: &str) -> Result<(), EnrolError> {
    let pem = text.len() <= MAX_PEM_LEN && text.is_ascii() && text.starts_with("-----BEGIN ");
    if pem { Ok(()) } else { Err(EnrolError { field }) }
}
