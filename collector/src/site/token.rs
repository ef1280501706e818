//! Join tokens: what lets a node in once. The store keeps a hash; the token itself is shown once and never again.

use std::time::Duration;

use auditflow_event::Timestamp;
use auditflow_wire::CaHash;
use auditflow_wire::enrol::JoinToken as Text;

use crate::store::JoinToken;

/// A token that was just made.
pub struct NewToken {
    /// What the store keeps.
    pub row: JoinToken,
    /// What the node is given.
    pub text: String,
}

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The operating system gave no random bytes.
    #[error("no random bytes from the operating system: check that getrandom is allowed")]
    Random(#[from] getrandom::Error),
    /// The secret is not one that a token may have.
    #[error(transparent)]
    Secret(#[from] auditflow_wire::enrol::ParseTokenError),
}

/// Makes a token for the site whose authority has this hash.
pub fn create(ca: CaHash, now: Timestamp, valid: Duration, uses: u32) -> Result<NewToken, TokenError> {
    let mut random = [0; 20];
    getrandom::fill(&mut random)?;
    let secret = data_encoding::BASE32_NOPAD.encode(&random).to_ascii_lowercase();
    let micros = i64::try_from(valid.as_micros()).unwrap_or(i64::MAX);
    let row = JoinToken {
        secret_hash: hash(&secret),
        created_at: now,
        expires_at: Timestamp::from_micros(now.as_micros().saturating_add(micros)),
        uses_left: uses,
    };
    Ok(NewToken { row, text: Text::new(ca, &secret)?.reveal() })
}

/// What a secret is found by.
pub fn hash(secret: &str) -> [u8; 32] {
    *blake3::hash(secret.as_bytes()).as_bytes()
}
