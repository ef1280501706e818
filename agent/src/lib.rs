//! The `AuditFlow` agent: what a node saw, kept until the collector says that it is stored.
//!
//! The modules stand in the order in which an event passes through them.

pub mod source;
