//! The kit of the system tests and benches and of `cargo xtask demo`: both programs as processes, as a user runs them, the
//! servers that they work with, and what can go wrong between them.
//!
//! Everything is on loopback, on ports the system chose, in a folder that the caller made; what is started here ends
//! when its value is dropped.

pub mod audit_lock;
pub mod bench;
pub mod cluster;
pub mod http;
pub mod mounts;
pub mod node;
pub mod programs;
pub mod proxy;
pub mod random;
pub mod services;
pub mod wait;

pub use audit_lock::lock_kernel_audit;
pub use cluster::{Cluster, Member};
pub use node::Node;
pub use programs::{Agent, Binaries, Collector, Outcome};
pub use proxy::{Fault, Proxy};
pub use random::Random;
pub use wait::until;
