//! What both programs share as services: everything around the event's way, nothing of it.
//!
//! A program's `main` uses the modules in this order: arguments, configuration, telemetry, lifecycle; then it
//! builds its parts with a health entry and metrics each, serves the admin API and waits for the end. Nothing here
//! knows what an audit event is.

pub mod args;
pub mod config;
pub mod telemetry;

pub mod lifecycle;

pub mod health;
pub mod metrics;

pub mod admin;
pub mod problem;

pub mod backoff;
pub mod file;
