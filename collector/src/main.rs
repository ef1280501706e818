//! The AuditFlow collector.

fn main() {}
