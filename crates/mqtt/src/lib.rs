//! MQTT 3.1.1 as both programs use it: where a broker is, which topics there are, one connection to it.
//!
//! The agent publishes batches and hears acknowledgements, the collector does the reverse. A [`Connection`] is one
//! session on one socket and never more: when it ends, for whatever reason, every publish that its broker had not
//! acknowledged has failed, and nothing of it is sent again by anybody here. Whoever wants to go on opens another, when
//! it sees fit. What is durable is the agent's spool and the collector's store; a broker's `PUBACK` promises neither.

pub mod address;
pub mod connection;
pub mod topic;

pub use address::{Address, AddressError};
pub use connection::{Connection, Message, MqttError, Options};
