//! One signed statement, or an epoch's stored state.
#![no_main]

#[path = "../checks/wire.rs"]
#[allow(dead_code)]
mod wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::wire_statement(data));
