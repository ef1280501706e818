//! The AuditFlow collector, in the order in which data passes through it.

pub mod store;

pub mod analyse;
