//! Kernel audit rules: rule files in auditctl's syntax, loaded into the kernel and restored afterwards.
//!
//! `load-rules` is a oneshot of its own with `CAP_AUDIT_CONTROL`, so that the daemon can live without the right to
//! change rules. [`syntax`] turns a file's lines into [`Line`]s, [`rule`] is one filter rule and its encoding for the
//! kernel, [`load`] applies a list of lines all or nothing and remembers what it found.

pub mod field;
pub mod load;
pub mod rule;
pub mod syntax;

pub use load::{Loaded, Plan};
pub use rule::Rule;
pub use syntax::{Line, Located, SyntaxError, parse_file};
