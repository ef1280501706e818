//! People and their credentials, join tokens, and settings.
//!
//! Secrets never come here: only their hashes do.

use async_trait::async_trait;
use auditflow_event::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{By, Result};

/// Users, sessions, tokens and settings. What changes one of the first three also appends to the audit trail.
#[async_trait]
pub trait PeopleStore {
    /// Adds a join token.
    async fn add_join_token(&self, token: JoinToken, by: By) -> Result<()>;

    /// A join token by the hash of its secret, also one that is spent or expired.
    async fn join_token(&self, secret_hash: [u8; 32]) -> Result<Option<JoinToken>>;

    /// Creates a user or replaces role and password; ends the user's sessions.
    async fn set_user(&self, user: User, by: By, now: Timestamp) -> Result<()>;

    /// A user by name.
    async fn user(&self, name: &str) -> Result<Option<User>>;

    /// Every user, by name.
    async fn users(&self) -> Result<Vec<User>>;

    /// Adds a session; removes those that ended before `session.created_at`.
    async fn add_session(&self, session: Session, by: By) -> Result<()>;

    /// The session with this hash and its user, if neither has ended at `now`.
    async fn session(&self, token_hash: [u8; 32], now: Timestamp) -> Result<Option<(Session, User)>>;

    /// Ends a session, if there is one of that hash.
    async fn end_session(&self, token_hash: [u8; 32], by: By, now: Timestamp) -> Result<()>;

    /// Adds an API token.
    async fn add_api_token(&self, token: ApiToken, token_hash: [u8; 32], by: By) -> Result<()>;

    /// The API token with this hash, if it has neither expired nor been revoked at `now`.
    async fn api_token(&self, token_hash: [u8; 32], now: Timestamp) -> Result<Option<ApiToken>>;

    /// Every API token, newest first.
    async fn api_tokens(&self) -> Result<Vec<ApiToken>>;

    /// Revokes an API token. False: there is none of that id, or it was revoked before.
    async fn revoke_api_token(&self, id: &str, by: By, now: Timestamp) -> Result<bool>;

    /// A setting.
    async fn setting(&self, key: &str) -> Result<Option<Value>>;

    /// Sets a setting.
    async fn set_setting(&self, key: &str, value: Value, now: Timestamp) -> Result<()>;
}

/// Lets nodes enrol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// BLAKE3 of its secret (160 random bits, so a plain hash is enough, and finding it by hash tells no timing).
    pub secret_hash: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
    /// When it stops.
    pub expires_at: Timestamp,
    /// How many nodes it still lets in.
    pub uses_left: u32,
}

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// And handle alerts and flags.
    Operator,
    /// And manage nodes, people and settings.
    Admin,
}

impl Role {
    /// As the API and the store write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin].into_iter().find(|role| role.name() == name)
    }
}

/// Somebody who may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The role.
    pub role: Role,
    /// Argon2id, as a PHC string.
    pub password_hash: String,
    /// Since when.
    pub created_at: Timestamp,
    /// Since when not any more.
    pub disabled_at: Option<Timestamp>,
}

/// A browser that somebody logged in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// BLAKE3 of the cookie's secret.
    pub token_hash: [u8; 32],
    /// Whose.
    pub user: String,
    /// Since when.
    pub created_at: Timestamp,
    /// Until when.
    pub expires_at: Timestamp,
}

/// A program that may use the API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiToken {
    /// Its public id.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// Until when; none: until revoked.
    pub expires_at: Option<Timestamp>,
    /// Since when not any more.
    pub revoked_at: Option<Timestamp>,
}
