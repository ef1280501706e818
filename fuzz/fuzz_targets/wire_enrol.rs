//! A join token or one of enrolment's messages.
#![no_main]

#[path = "../checks/wire.rs"]
#[allow(dead_code)]
mod wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::wire_enrol(data));
