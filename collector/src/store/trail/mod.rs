//! The audit trail: what people, programs and nodes changed here, append-only and chained.
//!
//! Fed by every call of the store that changes something on somebody's behalf, in that change's own transaction; by
//! commands, for what they do outside of the store; by `web`, for whom it refused. Feeds `audit`, the API and the page.
//! It guarantees that numbers have no gap and that an entry carries the digest of the one before (`chain`). Who can write
//! the database can write the whole chain anew, save what a head that is kept elsewhere stands for: docs/audit-trail.md.

pub mod chain;

use std::fmt;
use std::net::IpAddr;

use async_trait::async_trait;
use auditflow_event::{NodeId, Timestamp};
use auditflow_wire::Digest;
use serde_json::Value;

use super::Result;
pub use chain::{Broken, TrailHead, Walk};

/// The audit trail, besides what other calls append to it.
#[async_trait]
pub trait TrailStore {
    /// Appends what was done outside of the store, or what was refused.
    async fn record(&self, act: Act) -> Result<()>;

    /// Entries that pass `filter`, newest first, at most `limit` of them, with numbers below `before`.
    async fn trail(&self, filter: TrailFilter, before: Option<u64>, limit: usize) -> Result<Vec<Entry>>;

    /// At most `limit` entries with numbers from `from` on, in their order, as they are: for a walk along the chain.
    async fn trail_from(&self, from: u64, limit: usize) -> Result<Vec<Entry>>;
}

/// Who acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// Somebody who is logged in.
    User(String),
    /// A program with an API token.
    Token {
        /// The token's public id.
        id: String,
        /// What it is for.
        name: String,
    },
    /// Somebody at the command line.
    Cli {
        /// Whom the process belongs to.
        owner: SystemUser,
        /// Who logged in, as the kernel's audit has it, if that is somebody else (as after `sudo`).
        login: Option<SystemUser>,
    },
    /// A node.
    Node(NodeId),
    /// The collector by itself.
    Collector,
    /// Nobody that is known.
    Anonymous,
}

/// A user of the operating system.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SystemUser {
    /// The number.
    pub uid: u32,
    /// The name, if there is one for the number.
    pub name: Option<String>,
}

/// Who acts, and from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Who.
    pub actor: Actor,
    /// The address, of what came over the network. Behind a proxy it is the proxy's.
    pub origin: Option<IpAddr>,
}

/// What is done. The names are in the chain and in the API: one that was ever written keeps its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Somebody logged in.
    SessionOpen,
    /// Somebody could not log in.
    SessionRefuse,
    /// Somebody logged out.
    SessionClose,
    /// Something was asked for that the role does not allow.
    AccessRefuse,
    /// A user was made.
    UserCreate,
    /// A user got another role or password, or was disabled.
    UserChange,
    /// A token that lets nodes join was made.
    JoinTokenCreate,
    /// A token for the API was made.
    ApiTokenCreate,
    /// A token for the API was revoked.
    ApiTokenRevoke,
    /// Something was asked for with a token that is unknown, expired or revoked.
    ApiTokenRefuse,
    /// A node joined.
    NodeEnrol,
    /// A node was approved or shut out.
    NodeSetStatus,
    /// A node's key gave way to another.
    NodeRotateKey,
    /// A flag was closed.
    FlagClose,
    /// An alert's status, assignee or note was changed.
    AlertChange,
    /// An alert was taken out of the lists.
    AlertDelete,
    /// An exception to a rule was written.
    RuleExclude,
    /// The site's signing key gave way to the next.
    SiteRotateKey,
    /// The store was brought to another schema.
    StoreMigrate,
    /// Store and site keys were copied.
    StoreBackup,
    /// What is stored of a node was written to a file.
    StoreExport,
    /// A message that RabbitMQ had set aside was published again.
    DeadLetterRequeue,
    /// A message that RabbitMQ had set aside was thrown away.
    DeadLetterDiscard,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was not allowed.
    Refused,
    /// It was tried and did not work out.
    Failed,
}

/// What is to be written into the trail.
#[derive(Clone, Debug)]
pub struct Act {
    /// When, by the collector's clock.
    pub at: Timestamp,
    /// Who.
    pub by: By,
    /// What.
    pub action: Action,
    /// To what: an id or a name.
    pub object: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Particulars, a JSON object of a few short values. Never a secret.
    pub detail: Value,
}

/// A line of the trail, as it is stored: texts and all, so that whatever became of it can be read and judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From 1, without gaps.
    pub number: u64,
    /// The digest of the entry before; zeros before the first.
    pub previous: Digest,
    /// This entry's own.
    pub digest: Digest,
    /// When, by the collector's clock.
    pub at: Timestamp,
    /// Who: an [`Actor`]'s text.
    pub actor: String,
    /// From which address; empty if there is none.
    pub origin: String,
    /// What: an [`Action`]'s name.
    pub action: String,
    /// To what.
    pub object: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// A JSON object.
    pub detail: String,
}

/// Which entries.
#[derive(Clone, Debug, Default)]
pub struct TrailFilter {
    /// Of this actor: its text whole, or the beginning of it up to a colon (`cli`, `user:olga`, `token:ID`).
    pub actor: Option<String>,
    /// Of this action, by its name.
    pub action: Option<String>,
    /// Written then or later.
    pub since: Option<Timestamp>,
}

impl By {
    /// The collector by itself.
    pub const COLLECTOR: Self = Self { actor: Actor::Collector, origin: None };

    /// A user, from nowhere in particular.
    pub fn user(name: impl Into<String>) -> Self {
        Self { actor: Actor::User(name.into()), origin: None }
    }
}

impl Act {
    /// What was done to something.
    pub fn done(at: Timestamp, by: By, action: Action, object: impl Into<String>, detail: Value) -> Self {
        Self { at, by, action, object: object.into(), outcome: Outcome::Done, detail }
    }
}

impl Action {
    /// Each of them.
    pub const ALL: [Self; 23] = [
        Self::SessionOpen,
        Self::SessionRefuse,
        Self::SessionClose,
        Self::AccessRefuse,
        Self::UserCreate,
        Self::UserChange,
        Self::JoinTokenCreate,
        Self::ApiTokenCreate,
        Self::ApiTokenRevoke,
        Self::ApiTokenRefuse,
        Self::NodeEnrol,
        Self::NodeSetStatus,
        Self::NodeRotateKey,
        Self::FlagClose,
        Self::AlertChange,
        Self::AlertDelete,
        Self::RuleExclude,
        Self::SiteRotateKey,
        Self::StoreMigrate,
        Self::StoreBackup,
        Self::StoreExport,
        Self::DeadLetterRequeue,
        Self::DeadLetterDiscard,
    ];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SessionOpen => "session.open",
            Self::SessionRefuse => "session.refuse",
            Self::SessionClose => "session.close",
            Self::AccessRefuse => "access.refuse",
            Self::UserCreate => "user.create",
            Self::UserChange => "user.change",
            Self::JoinTokenCreate => "join_token.create",
            Self::ApiTokenCreate => "api_token.create",
            Self::ApiTokenRevoke => "api_token.revoke",
            Self::ApiTokenRefuse => "api_token.refuse",
            Self::NodeEnrol => "node.enrol",
            Self::NodeSetStatus => "node.set_status",
            Self::NodeRotateKey => "node.rotate_key",
            Self::FlagClose => "flag.close",
            Self::AlertChange => "alert.change",
            Self::AlertDelete => "alert.delete",
            Self::RuleExclude => "rule.exclude",
            Self::SiteRotateKey => "site.rotate_key",
            Self::StoreMigrate => "store.migrate",
            Self::StoreBackup => "store.backup",
            Self::StoreExport => "store.export",
            Self::DeadLetterRequeue => "dead_letter.requeue",
            Self::DeadLetterDiscard => "dead_letter.discard",
        }
    }
}

impl Outcome {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Token { id, name } => write!(f, "token:{id}:{name}"),
            Self::Cli { owner, login: None } => write!(f, "cli:{owner}"),
            Self::Cli { owner, login: Some(login) } => write!(f, "cli:{owner}:login:{login}"),
            Self::Node(id) => write!(f, "node:{id}"),
            Self::Collector => f.write_str("collector"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

impl fmt::Display for SystemUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.name.as_deref().unwrap_or_default())
    }
}
