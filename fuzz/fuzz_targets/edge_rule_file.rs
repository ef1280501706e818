//! A file of the agent's pre-filter.
#![no_main]

#[path = "../checks/rules.rs"]
#[allow(dead_code)]
mod rules;

libfuzzer_sys::fuzz_target!(|data: &[u8]| rules::edge_rule_file(data));
