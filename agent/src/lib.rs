//! The `AuditFlow` agent: what a node saw, kept until the collector says that it is stored.
//!
//! The modules stand in the order in which an event passes through them.

pub mod clock;
pub mod config;
pub mod hardware;
pub mod identity;

pub mod decode;

pub mod kernel_rules;
pub mod netlink;

pub mod source;

pub mod enrich;

pub mod commands;

pub mod spool;
pub mod ship;
