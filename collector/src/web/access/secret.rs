//! Secrets that are shown once and kept as a hash: of sessions and of API tokens. 160 random bits each, so a plain hash
//! is enough, and finding one by its hash tells nothing about the others.

use auditflow_event::Timestamp;

use crate::store::{ApiToken, Role};

/// What an API token begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "aft_";
const DIGITS: usize = 32;

/// 32 random lowercase letters and digits.
pub(super) fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes)?;
    Ok(data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
}

/// What a secret is found by.
pub(super) fn hash(secret: &str) -> [u8; 32] {
    *blake3::hash(secret.as_bytes()).as_bytes()
}

/// Whether a text has a secret's form: checked before anything is asked of the store.
pub(super) fn is_secret(text: &str) -> bool {
    text.len() == DIGITS
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte))
}

/// An API token as it is given to programs.
pub struct ApiSecret(String);

impl ApiSecret {
    /// Reads one; none if the text can't be one.
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix(PREFIX).filter(|secret| is_secret(secret)).map(|secret| Self(secret.to_owned()))
    }

    /// What it is found by.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }

    /// The token's text. Show it once.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", self.0)
    }
}

/// Makes an API token: what the store keeps, and what the program is given.
pub fn new_api_token(
    name: &str,
    role: Role,
    created_by: &str,
    now: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<(ApiToken, ApiSecret), getrandom::Error> {
    let token = ApiToken {
        id: random()?[..12].to_owned(),
        name: name.to_owned(),
        role,
        created_by: created_by.to_owned(),
        created_at: now,
        expires_at,
        revoked_at: None,
    };
    Ok((token, ApiSecret(random()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_other_text_does_not() {
        let (token, secret) = new_api_token("ci", Role::Viewer, "admin", Timestamp::MIN, None).unwrap();
        assert_eq!(token.id.len(), 12);
        let text = secret.reveal();
        assert_eq!(ApiSecret::parse(&text).unwrap().hash(), secret.hash());
        for other in ["", "aft_", &text[4..], &text[..20], &text.to_uppercase(), &format!("{text}x")] {
            assert!(ApiSecret::parse(other).is_none(), "{other}");
        }
    }
}
