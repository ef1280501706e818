//! Proof of what is stored: what `verify`, `export` and retention have in common.
//!
//! Fed by the store with verbatim headers, payloads, folds and checkpoints; feeds `wire`'s `Verifier` with them, in
//! order, and the store with checkpoints. Nothing is signed here that was not proved by the same code that proves it to
//! people.

pub mod checkpoint;
#[cfg(test)]
mod tests;
pub mod walk;
