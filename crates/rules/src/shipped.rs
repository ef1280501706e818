//! The rules that ship, as they were when the program was built. They are inside the program so that a collector or an
//! agent that is only copied to a machine detects something; directories of rules are laid over them.

include!(concat!(env!("OUT_DIR"), "/shipped.rs"));
