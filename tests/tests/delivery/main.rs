//! Delivery under faults: both programs as processes, killed, cut off, out of room, damaged, rolled back, cloned.
//!
//! The oracle is the same every time: every event that the node's log holds is stored once (once by its id, where
//! history was rolled back), every event stored is one of the log's, with its records as they were written; whatever
//! is missing is declared; `verify` finds the store sound, or names only what is flagged (a disk that lies can leave a
//! link to a batch that never came); and a further event gets through afterwards.
//!
//! Each test draws its moments and bytes from a seed that it prints; `AUDITFLOW_TEST_SEED` repeats one.

mod alerts;
mod ancestor;
mod cluster;
mod disk;
mod history;
mod keys;
mod kills;
mod link;
mod log;
mod mqtt;
mod postgres;
mod queues;
mod spool;
mod stored;
mod trespass;
mod undisturbed;
mod wal;
mod world;
