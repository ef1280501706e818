//! A log of several events.
#![no_main]

#[path = "../checks/audit_record.rs"]
#[allow(dead_code)]
mod audit_record;

libfuzzer_sys::fuzz_target!(|data: &[u8]| audit_record::assemble(data));
