//! The bus: RabbitMQ, where one machine is not enough. It carries batches from its MQTT plugin to the analysers, and
//! what they answer back, and every alert to whoever is to hear of it.
//!
//! It is configured by the definitions that an operator imports (`rabbitmq/definitions.json`): nothing here declares a
//! queue, an exchange or a binding, for none of our users may. A `Link`, or a `Publisher`, is one life of the way there, and ends at the
//! first thing that goes wrong; whoever wants to go on opens another, in its own time.

pub mod connections;
pub mod dead;
pub mod link;
pub mod metrics;
pub mod names;
pub mod options;
pub mod publisher;
pub mod relay;

pub use link::{BusError, Link};
pub use options::{Options, SetupError};
pub use publisher::Publisher;
