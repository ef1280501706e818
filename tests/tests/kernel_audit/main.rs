//! The kernel's audit events, really: rules loaded, programs run, their events found in the store, losses declared.
//!
//! As root on a kernel with audit nothing is skipped; elsewhere everything is, aloud. The tests print which modes ran.

mod delivery;
mod drift;
mod load_rules;
mod machine;
