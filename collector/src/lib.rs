//! The AuditFlow collector, in the order in which data passes through it.

/// What `collector.toml` may say.
pub mod config;

/// The site's authority, keys, tokens and passwords.
pub mod site;

/// Between processes.
pub mod bus;

/// From a node's frames to the store.
pub mod ingest;

/// What is held for good.
pub mod store;

/// The database server that may hold it.
pub mod database;

/// Whether it still is what nodes signed.
pub mod proof;

/// What is not held for good.
pub mod retention;

/// Which rules an event matches.
pub mod detect;

/// Which detections belong together.
pub mod correlate;

/// What people are told.
pub mod alert;

/// From stored batches to alerts.
pub mod analyse;

/// What people and programs see.
pub mod web;

/// What is counted.
pub mod metrics;

/// Every stage in order.
pub mod pipeline;

/// Everything opened, then set going.
pub mod collector;

/// What the command line can do.
pub mod commands;

#[cfg(test)]
mod contracts;

#[cfg(test)]
mod testing;
