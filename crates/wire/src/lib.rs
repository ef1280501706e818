//! What travels between agent and collector, and what it proves.
//!
//! Fed by the agent's spool (events to seal) and by the collector's ingest (bytes from the network); feeds the
//! collector's store with verified headers and verbatim payloads, the agent with verified acknowledgements, and
//! `auditflow-collector verify` with a judgement that needs public keys alone.
//!
//! The crate is pure: no IO, no clock, no thread. It guarantees that bytes from outside are bounded before they are
//! parsed, that no input makes it panic, and that every format has exactly one encoding of a value. It does not
//! decide what is stored or sent, and it keeps nothing.
//!
//! Byte layouts are in `docs/wire.md` and at the top of each module. In the order in which data passes through:

pub mod ids;
pub mod keys;
mod layout;

pub mod payload;

pub mod facts;
pub mod header;
pub mod node_facts;

pub mod batch;
pub mod statement;

pub mod node_keys;
pub mod rotation;

pub mod export;
pub mod fold;
pub mod frame;
pub mod state;

pub mod chain;

pub mod ack;

pub mod enrol;

pub use ack::{Ack, Answer, Refusal, SignedAck};
pub use batch::{Batch, Content, Draft, EvictReason, Eviction, SealError, SignedHeader, seal};
pub use chain::{
    Checkpoint, EntryContent, EpochLedger, Evidence, Finding, Fork, Judgement, Lost, Predecessor, Report,
    SignedCheckpoint, SignedLost, Verdict, Verifier,
};
pub use enrol::{EnrolRequest, EnrolResponse, JoinToken};
pub use facts::{AckSeen, ClockCause, ClockFact, Clocks, Loss, LossReason, LossSource, TimeRange};
pub use fold::{Folded, SignedFold};
pub use frame::{FrameWriter, Part, Parts};
pub use header::{Codec, Facts, Header, Link, PayloadRef, UnknownPredecessor};
pub use ids::{
    BatchSeq, BootId, CaHash, DictionaryId, Digest, EpochId, Head, KeyId, RandomError, RuleSetVersion, Span,
};
pub use keys::{KeyError, KeyRing, NodeKey, NodePublicKey, SiteKey, SitePublicKey};
pub use layout::ParseError;
pub use node_facts::NodeFacts;
pub use node_keys::{NodeKeys, NodeRotation, NodeRotationError, NotASigner, SignedNodeRotation};
pub use payload::{Decoder, Encoded, Encoder};
pub use rotation::{Rotation, RotationError, SignedRotation, SitePins};
pub use state::{Held, SignedState, State};
pub use statement::{BadSignature, Signed};
