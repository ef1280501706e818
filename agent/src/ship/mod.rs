//! Shipping: what the spool holds goes to the collector, what the collector signs goes to the spool.
//!
//! Fed by a [`Reader`](crate::spool::Reader) of the spool and woken when something was sealed or let go of; feeds the
//! pipeline with [`Report`]s, because only the spool's owner writes to it. What to send and when is decided by
//! [`schedule`], which does no IO; a [`Transport`] carries bytes and decides nothing. There are two: [`https`] to the
//! collector itself, and [`mqtt`] over a broker, whose word frees nothing.
//!
//! It guarantees that nothing is lost here: everything is sent from the spool until it is gone from there. It doesn't
//! guarantee order or that a batch is sent once; the collector's ledger takes care of both.

pub mod budget;
pub mod https;
pub mod keyed;
pub mod mqtt;
pub mod schedule;
pub mod shipper;

use std::future::Future;
use std::time::Duration;

use auditflow_wire::{SignedAck, SignedRotation};

use crate::spool::RowId;

pub use keyed::Keyed;
pub use schedule::Limits;
pub use shipper::{Link, Shipper, Status};

/// What the pipeline is to do with its spool. Nothing in it is proved yet: the spool checks the signatures.
#[derive(Debug, Clone)]
pub enum Report {
    /// For [`Spool::acknowledge`](crate::spool::Spool::acknowledge).
    Ack(Box<SignedAck>),
    /// For [`Spool::follow`](crate::spool::Spool::follow); the new key is to be pinned on disk as well.
    Rotation(Box<SignedRotation>),
    /// For [`Spool::give_up_payload`](crate::spool::Spool::give_up_payload).
    PayloadDamaged(RowId),
    /// For [`Spool::give_up`](crate::spool::Spool::give_up).
    Damaged(String),
}

/// A collector's answer to one frame, as far as a transport can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// A frame with acknowledgements.
    Frame(Vec<u8>),
    /// Not now; it may say for how long.
    Throttled(Option<Duration>),
    /// This node's data is not taken.
    Stranger,
    /// These bytes are not taken.
    Refused(String),
    /// A broker has taken it, which promises nothing: the collector's answer is heard later.
    Handed,
    /// More bytes than this way carries; nothing was sent.
    TooLarge {
        /// How many.
        len: usize,
        /// The bound.
        most: usize,
    },
}

/// A frame that did not arrive, or nobody knows whether it did.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No answer within the time set.
    #[error("the collector did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection could not be made, or broke.
    #[error("cannot reach the collector: {0}")]
    Connection(String),
    /// An answer that no collector gives: a wrong address, a proxy's own page, a server's fault.
    #[error("unexpected answer from the collector's address: {0}: check collector.url")]
    Answer(String),
    /// The collector does not take the node's new key.
    #[error("{0}")]
    Key(String),
    /// The broker can't be reached, or takes nothing.
    #[error("{0}")]
    Broker(String),
    /// The broker takes what is sent, and nobody answers.
    #[error(
        "the broker takes what is sent and no collector answers within {} s: is one subscribed there, and may this \
         node publish and subscribe", .0.as_secs()
    )]
    Silent(Duration),
}

/// A way to the collector. It carries frames and answers; retrying is the schedule's.
pub trait Transport: Send + Sync + 'static {
    /// Sends a frame and waits for a bounded time: for its answer, or until it is handed over to be answered later.
    fn send(&self, frame: Vec<u8>) -> impl Future<Output = Result<Reply, TransportError>> + Send;

    /// Sends a `State` frame and waits for the collector's answer, for a bounded time.
    fn ask(&self, frame: Vec<u8>) -> impl Future<Output = Result<Reply, TransportError>> + Send {
        self.send(frame)
    }

    /// The next frame that the collector sent otherwise than as an answer to one that waits for it.
    fn heard(&self) -> impl Future<Output = Vec<u8>> + Send {
        std::future::pending()
    }

    /// The collector does not know the node's key: says how it came about before the next frame.
    fn introduce(&self) {}
}

#[cfg(test)]
mod tests;
