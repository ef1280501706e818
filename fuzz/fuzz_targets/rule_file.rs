//! A file of the collector's rules.
#![no_main]

#[path = "../checks/rules.rs"]
#[allow(dead_code)]
mod rules;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rules::rule_file(data));
