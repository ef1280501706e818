//! The `AuditFlow` agent: what a node saw, kept until the collector says that it is stored.
//!
//! The modules stand in the order in which an event passes through them.

pub mod agent;
pub mod pipeline;

pub mod source;

pub mod enrich;
pub mod prefilter;

pub mod spool;

pub mod ship;

pub mod kernel_rules;
pub mod netlink;

pub mod admin;
pub mod clock;
pub mod config;
pub mod decode;
pub mod hardware;
pub mod http_client;
pub mod identity;
pub mod metrics;
pub mod status;

pub mod commands;
